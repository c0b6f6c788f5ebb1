#!/usr/bin/env bash
# What: a response with "Content-Encoding: gzip" and "Content-Length: 0" makes httplib2 raise a ValueError of range().
# Versions: httplib2 0.32.1.
# Guess that missed: no body is an empty body; requests, httpx, aiohttp and curl return b"".
# For a proxy: drop Content-Encoding where the body is taken off or was empty.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check httplib2==0.32.1 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import http.server, sys, threading
import httplib2

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_args):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("httplib2", httplib2.__version__)
print("guess: status 200 and an empty body")
try:
    answer, body = httplib2.Http(timeout=5).request(f"http://127.0.0.1:{server.server_port}/")
    seen = f"{answer.status} {body!r}"
except Exception as error:
    seen = f"{type(error).__name__}: {error}"
print("seen:", seen)
sys.exit(not seen.startswith("ValueError"))
PY
