#!/usr/bin/env bash
# What: "Accept-Encoding: gzip;q=0", which says "no gzip" (RFC 9110 section 12.5.3). starlette's GZipMiddleware, aiohttp's
#   enable_compression() and flask-compress answer with gzip all the same. "deflate;q=0.1, gzip;q=1" gets deflate from aiohttp, whose choice is its own order.
# Versions: starlette 1.10.0, aiohttp 3.14.5, flask-compress 1.25.
# Guess that missed: weights are read: no coding at q=0, and the one with the higher weight of two.
# For a proxy: to have an answer unpacked, say "identity" alone or send no Accept-Encoding; a weight of 0 does not keep every server from compressing.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check starlette==1.10.0 httpx==0.28.1 aiohttp==3.14.5 flask-compress==1.25 || exit 2
timeout 50 "$tmp/v/bin/python" -W ignore - <<'PY'
import asyncio, importlib.metadata, sys
import aiohttp
from aiohttp import web
from flask import Flask
from flask_compress import Compress
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

TEXT = "x" * 5000
ASKED = ["gzip;q=0", "identity", "deflate;q=0.1, gzip;q=1", "gzip"]
app = Starlette(routes=[Route("/", lambda _request: PlainTextResponse(TEXT))])
app.add_middleware(GZipMiddleware)
starlette = TestClient(app)
flask = Flask("app")
flask.config["COMPRESS_MIMETYPES"] = ["text/plain"]
Compress(flask)
flask.add_url_rule("/", "text", lambda: (TEXT, {"Content-Type": "text/plain"}))

async def by_aiohttp():
    async def handle(_request):
        response = web.Response(text=TEXT)
        response.enable_compression()
        return response

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    codings = []
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        for value in ASKED:
            async with session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/", headers={"Accept-Encoding": value}) as response:
                codings.append(response.headers.get("Content-Encoding"))
    await runner.cleanup()
    return codings

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("starlette", "aiohttp", "flask-compress")))
print("asked:", ASKED)
print("guess: [None, None, 'gzip', 'gzip'] in every line")
seen = {
    "starlette": [starlette.get("/", headers={"Accept-Encoding": value}).headers.get("content-encoding") for value in ASKED],
    "aiohttp": asyncio.run(by_aiohttp()),
    "flask-compress": [flask.test_client().get("/", headers={"Accept-Encoding": value}).headers.get("Content-Encoding") for value in ASKED],
}
for name, codings in seen.items():
    print(f"seen: {name}: {codings}")
sys.exit(seen != {"starlette": ["gzip", None, "gzip", "gzip"], "aiohttp": ["gzip", None, "deflate", "gzip"], "flask-compress": ["gzip", None, "gzip", "gzip"]})
PY
