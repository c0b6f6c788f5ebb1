#!/usr/bin/env bash
# What: a gzip body of two members (what `cat a.gz b.gz` or a log that is compressed piece by piece gives, RFC 1952 section 2.2). httpx returns the
#   first member's text only, with status 200 and no error. requests returns both.
# Versions: httpx 0.28.1; requests 2.34.2 with urllib3 2.8.0.
# Guess that missed: every client joins the members. treq 26.7 and httplib2 0.32 cut it short too; libcurl 8.23 refuses it.
# For a proxy: one that compresses must end a response as one gzip stream, with a sync flush between parts, never a new member for each part.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check httpx==0.28.1 requests==2.34.2 urllib3==2.8.0 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import gzip, http.server, sys, threading
import httpx, requests

BODY = gzip.compress(b"one ") + gzip.compress(b"two")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)
    def log_message(self, *_args):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
print(f"httpx {httpx.__version__}, requests {requests.__version__}")
print("guess: both return 'one two'")
a, b = httpx.get(url, timeout=5), requests.get(url, timeout=5)
print(f"seen: httpx {a.status_code} {a.text!r}; requests {b.status_code} {b.text!r}")
sys.exit((a.text, b.text) != ("one ", "one two"))
PY
