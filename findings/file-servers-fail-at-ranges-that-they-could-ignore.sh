#!/usr/bin/env bash
# What: a file of 5000 bytes and a Range that the server may answer with the whole file. "items=0-4" (an unknown unit, which RFC 9110 section 14.2 says MUST be
#   ignored): starlette answers 400, werkzeug and aiohttp 416. "bytes=-9000" (the last 9000 bytes: by section 14.1.2 the whole file): werkzeug answers 416.
#   "bytes=0-0,-1" (two ranges): werkzeug and aiohttp answer 416.
# Versions: starlette 1.10.0, werkzeug 3.1.9 with flask 3.1.3, aiohttp 3.14.5.
# Guess that missed: 200 or 206 in every case; a range that a server does not serve is ignored.
# For a proxy: a 4xx to a GET of a file that is there and readable is no sign of a fault, and probes should send no Range.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check starlette==1.10.0 httpx==0.28.1 flask==3.1.3 werkzeug==3.1.9 aiohttp==3.14.5 || exit 2
cd "$tmp"
timeout 50 v/bin/python -W ignore - <<'PY'
import asyncio, importlib.metadata, os, sys
import aiohttp
from aiohttp import web
from flask import Flask, send_file
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route
from starlette.testclient import TestClient

with open("file.bin", "wb") as file:
    file.write(b"0123456789" * 500)
RANGES = ["bytes=0-4", "items=0-4", "bytes=-9000", "bytes=0-0,-1"]
starlette = TestClient(Starlette(routes=[Route("/", lambda _request: FileResponse("file.bin"))]))
flask = Flask("app", root_path=".")
flask.add_url_rule("/", "file", lambda: send_file(os.path.abspath("file.bin")))

async def by_aiohttp():
    app = web.Application()
    app.router.add_get("/", lambda _request: asyncio.sleep(0, web.FileResponse("file.bin")))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    statuses = []
    async with aiohttp.ClientSession() as session:
        for value in RANGES:
            async with session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/", headers={"Range": value}) as response:
                statuses.append(response.status)
    await runner.cleanup()
    return statuses

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("starlette", "werkzeug", "flask", "aiohttp")))
print("ranges:", RANGES)
print("guess: 200 or 206 everywhere")
seen = {
    "starlette": [starlette.get("/", headers={"Range": value}).status_code for value in RANGES],
    "werkzeug": [flask.test_client().get("/", headers={"Range": value}).status_code for value in RANGES],
    "aiohttp": asyncio.run(by_aiohttp()),
}
for name, statuses in seen.items():
    print(f"seen: {name}: {statuses}")
sys.exit(seen != {"starlette": [206, 400, 206, 206], "werkzeug": [206, 416, 416, 416], "aiohttp": [206, 416, 206, 416]})
PY
