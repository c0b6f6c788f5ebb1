#!/usr/bin/env bash
# What: an answer with "Content-Encoding: x-gzip", which RFC 9110 section 8.4.1.3 says to take for gzip. httpx, aiohttp, httplib2 and tornado return the
#   compressed bytes as the body, with no error. requests (urllib3), Node's fetch and curl unpack it.
# Versions: httpx 0.28.1, aiohttp 3.14.5, httplib2 0.32.1, tornado 6.6.1, requests 2.34.2, urllib3 2.8.0, Node 20.20.2, Debian's curl 7.88.1.
# Guess that missed: clients that unpack gzip unpack x-gzip.
# For a proxy: one that compresses says "gzip"; one that looks into answers (a health check, an event stream's last event) must know both names.
set -euo pipefail
command -v node >/dev/null && command -v curl >/dev/null || { echo "needs node and curl"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check httpx==0.28.1 aiohttp==3.14.5 httplib2==0.32.1 tornado==6.6.1 requests==2.34.2 urllib3==2.8.0 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, gzip, http.server, importlib.metadata, subprocess, sys, threading
import aiohttp, httplib2, httpx, requests, tornado.httpclient

BODY = gzip.compress(b"hello")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Encoding", self.path[1:])
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

def run(coroutine):
    return asyncio.run(coroutine)

async def by_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.read()

async def by_tornado(url):
    return (await tornado.httpclient.AsyncHTTPClient().fetch(url)).body

CLIENTS = {
    "httpx": lambda url: httpx.get(url, trust_env=False).content,
    "aiohttp": lambda url: run(by_aiohttp(url)),
    "httplib2": lambda url: httplib2.Http().request(url)[1],
    "tornado": lambda url: run(by_tornado(url)),
    "requests": lambda url: requests.get(url, proxies={"http": ""}).content,
    "node fetch": lambda url: subprocess.check_output(["node", "-e", f"fetch('{url}').then((r) => r.text()).then((t) => process.stdout.write(t))"], timeout=20),
    "curl": lambda url: subprocess.check_output(["curl", "-s", "--noproxy", "*", "--compressed", url], timeout=20),
}
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in [*list(CLIENTS)[:5], "urllib3"]))
print("guess: hello, hello in every line")
seen = {}
for name, call in CLIENTS.items():
    bodies = [call(f"http://127.0.0.1:{server.server_port}/{coding}") for coding in ("gzip", "x-gzip")]
    seen[name] = ["hello" if body == b"hello" else "compressed bytes" if body == BODY else repr(body) for body in bodies]
    print(f"seen: {name}: gzip: {seen[name][0]}, x-gzip: {seen[name][1]}")
raw, good = ["hello", "compressed bytes"], ["hello", "hello"]
sys.exit(list(seen.values()) != [raw] * 4 + [good] * 3)
PY
