#!/usr/bin/env bash
# What: uvicorn gets SIGTERM while an event stream of eight events is under way. An EventSourceResponse of sse-starlette ends at once, in the middle and
#   without the last chunk, although uvicorn would wait for it without any limit; the same stream from Starlette's own StreamingResponse comes whole.
# Versions: sse-starlette 3.7.0, starlette 1.10.0, uvicorn 0.54.0.
# Guess that missed: the server's graceful stop decides, so both streams end by themselves before the process does.
# For a proxy: a server that is asked to stop may break its streams at that moment, and a client takes each for a failure. Take it out and wait until its
#   streams have ended before the signal is sent; a drain in the server does not do it.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check sse-starlette==3.7.0 starlette==1.10.0 uvicorn==0.54.0 || exit 2
cat >"$tmp/app.py" <<'PY'
import asyncio
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

async def events(form):
    for number in range(8):
        yield {"data": str(number)} if form == "sse" else f"data: {number}\n\n"
        await asyncio.sleep(0.5)

async def sse(_request):
    return EventSourceResponse(events("sse"))

async def plain(_request):
    return StreamingResponse(events("plain"), media_type="text/event-stream")

app = Starlette(routes=[Route("/sse", sse), Route("/plain", plain)])
PY
cd "$tmp"
timeout 50 v/bin/python - <<'PY'
import importlib.metadata, signal, socket, subprocess, sys, threading, time

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("sse-starlette", "starlette", "uvicorn")))
print("guess: 8 events and the last chunk in both lines")
seen = []
for path in ("sse", "plain"):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen(["v/bin/uvicorn", "--port", str(port), "--log-level", "critical", "app:app"])
    try:
        for _ in range(150):
            try:
                conn = socket.create_connection(("127.0.0.1", port), 10)
                break
            except OSError:
                time.sleep(0.1)
        conn.sendall(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        got = conn.recv(65536)
        threading.Timer(1.2, server.send_signal, (signal.SIGTERM,)).start()
        while data := conn.recv(65536):
            got += data
        server.wait(10)
    finally:
        server.kill()
    count, whole = got.count(b"data:"), got.endswith(b"\r\n0\r\n\r\n")
    print(f"seen: {path}: {count} events, {'whole' if whole else 'no last chunk'}")
    seen.append((count < 8, whole))
sys.exit(seen != [(True, False), (False, True)])
PY
