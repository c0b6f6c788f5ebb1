#!/usr/bin/env bash
# What: a WebSocket server closes cleanly with a Close frame that has no code. RFC 6455 section 7.1.5: the code is then 1005. aiohttp's client tells 1006
#   (abnormal closure), the code of a connection that broke; websockets tells 1005.
# Versions: aiohttp 3.14.5, websockets 17.4.
# Guess that missed: 1005 from both.
# For a proxy: clients that reconnect on 1006 only reconnect after such a close as well. Always close with a code, 1000 or 1001.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check aiohttp==3.14.5 websockets==17.4 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, base64, hashlib, sys
import aiohttp, websockets

async def serve(reader, writer):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(":")[1].strip() for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n\x88\x00")
        await asyncio.wait_for(reader.read(100), 3)
    except (asyncio.IncompleteReadError, asyncio.TimeoutError, asyncio.CancelledError, ConnectionError):
        pass
    writer.close()

async def main():
    print(f"aiohttp {aiohttp.__version__}, websockets {websockets.__version__}")
    print("guess: 1005 from both")
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await asyncio.wait_for(socket.receive(), 5)
        first = int(socket.close_code)
    async with websockets.connect(url) as socket:
        await asyncio.wait_for(socket.wait_closed(), 5)
        second = int(socket.close_code)
    print(f"seen: aiohttp {first}, websockets {second}")
    return (first, second) != (1006, 1005)

sys.exit(asyncio.run(main()))
PY
