#!/usr/bin/env bash
# What: aiohttp-retry's RetryClient with nothing set sends a POST that was answered 500, 502, 503 or 504 twice more, after 0.2 and 0.4 s, whatever
#   Retry-After says.
# Versions: aiohttp-retry 2.9.1 on aiohttp 3.14.5.
# Guess that missed: POST is left alone, as in urllib3, httpx-retries, got, ky, axios-retry and undici, and Retry-After is waited for.
# For a proxy: a 502 or 504 to a POST that an instance may be running makes this client run it three times. A proxy cannot tell the client from others, so
#   the less often it gives such an answer the better.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check aiohttp==3.14.5 aiohttp-retry==2.9.1 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, importlib.metadata, sys, time
from aiohttp import web
from aiohttp_retry import RetryClient

async def main():
    times = []

    async def handle(request):
        times.append(time.monotonic())
        await request.read()
        return web.Response(status=int(request.path[1:]), headers={"Retry-After": "5"})

    app = web.Application()
    app.router.add_route("*", "/{status}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp-retry", "aiohttp")))
    print("guess: 1 request in every line")
    seen = []
    async with RetryClient() as client:
        for status in (500, 502, 503, 504, 429):
            times.clear()
            async with client.post(f"http://127.0.0.1:{port}/{status}", data=b"order"):
                gaps = [round(b - a, 1) for a, b in zip(times, times[1:])]
                print(f"seen: POST answered {status}: {len(times)} requests, {gaps} s apart")
                seen.append(len(times))
    await runner.cleanup()
    return seen

sys.exit(asyncio.run(main()) != [3, 3, 3, 3, 1])
PY
