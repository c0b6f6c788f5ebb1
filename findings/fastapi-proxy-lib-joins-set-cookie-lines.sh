#!/usr/bin/env bash
# What: a reverse proxy made with fastapi-proxy-lib. Two Set-Cookie lines of the server reach the client as one, "a=1; Path=/, b=2; Path=/", of which a browser
#   keeps the first cookie alone. "/files/a%2Fb?q=c%20d" reaches the server as "/files/a/b?q=c+d".
# Versions: fastapi-proxy-lib 0.3.0 on httpx 0.28.1 and uvicorn 0.54.0.
# Guess that missed: what a reverse proxy has no reason to touch passes as it came; RFC 9110 section 5.3 forbids to join Set-Cookie.
# For a proxy: behind or before such a one, put what must arrive into one cookie (a login of Dify's console sets several), and no escaped slash into a path.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check fastapi-proxy-lib==0.3.0 fastapi==0.165.0 httpx==0.28.1 uvicorn==0.54.0 || exit 2
cat >"$tmp/app.py" <<'PY'
import os
from fastapi_proxy_lib.fastapi.app import reverse_http_app

app = reverse_http_app(base_url=os.environ["SERVER"])
PY
cd "$tmp"
timeout 50 v/bin/python - <<'PY'
import http.client, http.server, importlib.metadata, os, socket, subprocess, sys, threading, time

got = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        got.append(self.path)
        self.send_response(200)
        self.send_header("Set-Cookie", "a=1; Path=/")
        self.send_header("Set-Cookie", "b=2; Path=/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
proxy = subprocess.Popen(["v/bin/uvicorn", "--port", str(port), "--log-level", "critical", "app:app"],
                         env={**os.environ, "SERVER": f"http://127.0.0.1:{server.server_port}/", "NO_PROXY": "*"})
TARGET = "/files/a%2Fb?q=c%20d"
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("fastapi-proxy-lib", "httpx", "uvicorn")))
print(f"guess: {TARGET} reaches the server, two lines of Set-Cookie the client, in both lines")
seen = []
try:
    for name, target in (("server itself", server.server_port), ("through the proxy", port)):
        for _ in range(200):
            try:
                conn = http.client.HTTPConnection("127.0.0.1", target, timeout=10)
                conn.connect()
                break
            except OSError:
                time.sleep(0.1)
        conn.request("GET", TARGET)
        cookies = conn.getresponse().headers.get_all("Set-Cookie")
        seen += [got[-1], cookies]
        print(f"seen: {name}: server gets {got[-1]}, client gets {cookies}")
finally:
    proxy.kill()
    proxy.wait()
sys.exit(seen != [TARGET, ["a=1; Path=/", "b=2; Path=/"], "/files/a/b?q=c+d", ["a=1; Path=/, b=2; Path=/"]])
PY
