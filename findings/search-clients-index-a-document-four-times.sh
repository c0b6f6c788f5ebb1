#!/usr/bin/env bash
# What: index() without an id, a POST that makes the server choose one. When the answer is a 502, or the connection ends after the request was taken,
#   elasticsearch-py and opensearch-py with nothing set send it three times more, with no pause. A server that had stored each has the document four times.
# Versions: elasticsearch 9.5.1, opensearch-py 3.2.0.
# Guess that missed: a POST whose fate is unknown raises at once; only what may be repeated (GET, or PUT with an id) is sent again.
# For a proxy: in front of these stores 502 and a cut connection do not stop a client, they multiply its writes. Send no such request to another node, and
#   end connections only where nothing is under way.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check elasticsearch==9.5.1 opensearch-py==3.2.0 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import http.server, importlib.metadata, logging, socket, sys, threading
from elasticsearch import Elasticsearch
from opensearchpy import OpenSearch

logging.disable(logging.CRITICAL)
stored = []
cut = False

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        stored.append(self.rfile.read(int(self.headers["Content-Length"])))
        if cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(502)
        self.send_header("Content-Length", "2")
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("elasticsearch", "opensearch-py")))
print("guess: stored once in every line")
seen = []
for cut in (False, True):
    for name, call in (("elasticsearch", lambda: Elasticsearch(url).index(index="notes", document={"text": "a"})),
                       ("opensearch-py", lambda: OpenSearch(url).index(index="notes", body={"text": "a"}))):
        stored.clear()
        try:
            call()
            result = "no error"
        except Exception as error:
            result = f"raises {type(error).__name__}"
        print(f"seen: {name}, {'connection cut' if cut else '502'}: stored {len(stored)} times, then {result}")
        seen.append(len(stored))
sys.exit(seen != [4] * 4)
PY
