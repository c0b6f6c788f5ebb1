#!/usr/bin/env bash
# What: GET of a URL whose query is escaped, as signed links are: "?key=a%2Fb%3Ac&name=%27x%27". aiohttp's client sends "?key=a/b:c&name='x'": reserved characters,
#   which RFC 3986 section 2.2 does not hold equal to their escapes, come out plain. requests, httpx, Node's fetch and curl send what they were given.
# Versions: aiohttp 3.14.5 with yarl 1.25.1, requests 2.34.2, httpx 0.28.1, Node 20.20.2, Debian's curl 7.88.1.
# Guess that missed: a client sends a URL that is escaped as it is.
# For a proxy: a signature over the target fails, and a cache, a limit or a hash by target knows two names of one thing, by the client alone. Hold them
#   together only where the server does.
set -euo pipefail
command -v node >/dev/null && command -v curl >/dev/null || { echo "needs node and curl"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check aiohttp==3.14.5 yarl==1.25.1 requests==2.34.2 httpx==0.28.1 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, http.server, importlib.metadata, subprocess, sys, threading
import aiohttp, httpx, requests

got = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        got.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

async def by_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.get(url):
        pass

CLIENTS = {
    "aiohttp": lambda url: asyncio.run(by_aiohttp(url)),
    "requests": lambda url: requests.get(url, proxies={"http": ""}),
    "httpx": lambda url: httpx.get(url, trust_env=False),
    "node fetch": lambda url: subprocess.run(["node", "-e", f'fetch("{url}")'], check=True, timeout=20),
    "curl": lambda url: subprocess.run(["curl", "-s", "--noproxy", "*", url], check=True, timeout=20),
}
TARGET = "/file?key=a%2Fb%3Ac&name=%27x%27"
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "yarl", "requests", "httpx")))
print("guess:", TARGET, "in every line")
for name, call in CLIENTS.items():
    call(f"http://127.0.0.1:{server.server_port}{TARGET}")
    print(f"seen: {name}: {got[-1]}")
sys.exit(got != ["/file?key=a/b:c&name='x'"] + [TARGET] * 4)
PY
