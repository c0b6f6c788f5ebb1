#!/usr/bin/env bash
# What: a server sends an interim response (102, 103 or any 1xx but 100) and then 200. requests hands the caller the interim response as the
#   answer: status 103, an empty body, no error. So does everything on Python's http.client, which skips 100 only.
# Versions: requests 2.34.2, urllib3 2.8.0, Python 3.11.
# Guess that missed: the client skips every 1xx and returns the 200, as RFC 9110 section 15.2 demands and as curl, httpx and aiohttp do.
# For a proxy: an interim response that the client did not ask for is not harmless. Pass on no 102 or 103 by default, and make none.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check requests==2.34.2 urllib3==2.8.0 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import platform, socket, sys, threading
import requests, urllib3

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
INTERIM = {102: b"HTTP/1.1 102 Processing\r\n\r\n", 103: b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"}
server = socket.create_server(("127.0.0.1", 0))

def run():
    for _ in INTERIM:
        conn, _addr = server.accept()
        head = conn.recv(65536)
        conn.sendall(INTERIM[int(head.split(b"/")[1][:3])] + OK)
        conn.close()

threading.Thread(target=run, daemon=True).start()
print(f"requests {requests.__version__}, urllib3 {urllib3.__version__}, Python {platform.python_version()}")
print("guess: status 200, body 'ok', whatever 1xx came before")
seen = []
for status in INTERIM:
    answer = requests.get(f"http://127.0.0.1:{server.getsockname()[1]}/{status}", timeout=5)
    print(f"seen: {status} then 200 gives status {answer.status_code}, body {answer.content!r}")
    seen.append((answer.status_code, answer.content))
sys.exit(seen != [(102, b""), (103, b"")])
PY
