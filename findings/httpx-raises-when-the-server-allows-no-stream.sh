#!/usr/bin/env bash
# What: a server sets SETTINGS_MAX_CONCURRENT_STREAMS to 0 on an open HTTP/2 connection, for a moment, as RFC 9113 section 5.1.2 allows for busy servers.
#   httpx's next request raises "LocalProtocolError: Max outbound streams is 0, 0 open" instead of waiting or opening another connection.
# Versions: httpx 0.28.1 with httpcore 1.0.9 and h2 4.4.1.
# Guess that missed: the pool treats the connection as full (it does at 1 and more) and opens another. Node waits until the limit is raised again.
# For a proxy: hold clients back by GOAWAY or 503; a limit of 0 is an error to its clients.
set -euo pipefail
command -v openssl >/dev/null || { echo "needs openssl"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check httpx==0.28.1 httpcore==1.0.9 h2==4.4.1 hpack==4.2.0 hyperframe==6.1.0 || exit 2
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$tmp/key.pem" -out "$tmp/cert.pem" -days 2 -subj /CN=localhost 2>/dev/null
cd "$tmp"
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, ssl, struct, sys
import h2, httpcore, httpx
from hpack import Encoder

def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

async def serve(reader, writer):
    encoder = Encoder()
    try:
        await reader.readexactly(24)
        writer.write(frame(4, 0, 0))
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == 4 and not flags & 1:
                writer.write(frame(4, 1, 0))
            if kind == 1:
                writer.write(frame(1, 5, stream, encoder.encode([(":status", "204")])) + frame(4, 0, 0, struct.pack(">HI", 3, 0)))
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        writer.close()

async def main():
    print(f"httpx {httpx.__version__}, httpcore {httpcore.__version__}, h2 {h2.__version__}")
    print("guess: 204 twice, the second on another connection")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain("cert.pem", "key.pem")
    tls.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    seen = []
    async with httpx.AsyncClient(http2=True, verify=False, timeout=5) as client:
        for _ in range(2):
            try:
                seen.append(str((await client.get(url)).status_code))
            except Exception as error:
                seen.append(f"{type(error).__name__}: {error}")
            print("seen:", seen[-1])
            await asyncio.sleep(0.2)
    return not (seen[0] == "204" and seen[1].startswith("LocalProtocolError: Max outbound streams"))

sys.exit(asyncio.run(main()))
PY
