#!/usr/bin/env bash
# What: a block of an event stream that has an id or an event name but no data (servers send it to move Last-Event-ID) is no event by the HTML standard.
#   httpx-sse yields one, with empty data; event.json() then raises. "retry: -5" is taken as a wait of minus five, where the standard takes digits only.
# Versions: httpx-sse 0.4.3 with httpx 0.28.1; sseclient-py 1.9.0 with requests 2.34.2 yields no event there.
# Guess that missed: only blocks with data come out, and a retry that is no number is ignored.
# For a proxy: one that resumes or marks streams with blocks of its own breaks such clients.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check httpx==0.28.1 httpx-sse==0.4.3 sseclient-py==1.9.0 requests==2.34.2 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import http.server, importlib.metadata, sys, threading
import httpx, httpx_sse, requests, sseclient

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'id: 7\n\nevent: mark\n\nretry: -5\ndata: {"a": 1}\n\n')
    def log_message(self, *_args):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
print(*(f"{name} {importlib.metadata.version(name)}" for name in ("httpx", "httpx-sse", "sseclient-py")))
print("guess: one event each, without a retry")
with httpx.Client(timeout=5) as client, httpx_sse.connect_sse(client, "GET", url) as source:
    first = [(e.event, e.data, e.id, e.retry) for e in source.iter_sse()]
second = [(e.event, e.data) for e in sseclient.SSEClient(requests.get(url, stream=True, timeout=5)).events()]
print("seen: httpx-sse:", first)
print("seen: sseclient-py:", second)
want = [("message", "", "7", None), ("mark", "", "7", None), ("message", '{"a": 1}', "7", -5)]
sys.exit(not (first == want and second == [("message", '{"a": 1}')]))
PY
