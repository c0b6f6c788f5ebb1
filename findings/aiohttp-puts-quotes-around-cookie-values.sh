#!/usr/bin/env bash
# What: a server sets "node=a/b==" (a base64 value; "/" and "=" need no quotes by RFC 6265). aiohttp's client sends back node="a/b==", with quotes that were not
#   there. From an address in place of a name, http://127.0.0.1, it keeps no cookie at all. requests, httpx and tough-cookie send back what they got.
# Versions: aiohttp 3.14.5, requests 2.34.2, httpx 0.28.1.
# Guess that missed: a client sends a cookie's value back as it came, also to an address.
# For a proxy: a cookie that keeps clients at a server must survive this: letters, digits and "-" alone, and quotes taken off when it is read. Clients of
#   the address have no such cookie.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check aiohttp==3.14.5 requests==2.34.2 httpx==0.28.1 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, http.server, importlib.metadata, sys, threading
import aiohttp, httpx, requests

got = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        got.append(self.headers.get("Cookie"))
        self.send_response(200)
        self.send_header("Set-Cookie", "node=a/b==; Path=/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

async def by_aiohttp(url):
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(url):
                pass

def by_requests(url):
    with requests.Session() as session:
        session.trust_env = False
        session.get(url), session.get(url)

def by_httpx(url):
    with httpx.Client(trust_env=False) as client:
        client.get(url), client.get(url)

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "requests", "httpx")))
print("guess: node=a/b== in every line")
seen = []
for name, call in (("aiohttp", lambda url: asyncio.run(by_aiohttp(url))), ("requests", by_requests), ("httpx", by_httpx)):
    for host in ("localhost", "127.0.0.1"):
        call(f"http://{host}:{server.server_port}/")
        seen.append(got[-1])
        print(f"seen: {name}, {host}: {got[-1] or 'no cookie'}")
sys.exit(seen != ['node="a/b=="', None] + ["node=a/b=="] * 4)
PY
