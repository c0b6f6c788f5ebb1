#!/usr/bin/env bash
# What: over HTTP/2 httpx begins to upload before it has read the server's SETTINGS. If they lower the initial window (SETTINGS_INITIAL_WINDOW_SIZE
#   below 65,535), the window of the stream is negative for a while, which RFC 9113 section 6.9.2 foresees. httpx does not wait for it to grow: every
#   body above 64 KiB fails at once with "LocalProtocolError: Cannot send ... flow control window is -...".
# Versions: httpx 0.28.1 with httpcore 1.0.9 and h2 4.4.1. httpx2 2.16.2 uploads all of it.
# Guess that missed: the client waits for WINDOW_UPDATE, as curl, Node and Java do.
# For a proxy: announce a window of 65,535 bytes or more to clients, and never lower it on an open connection. (nginx's http2_body_preread_size below 64k
#   lowers it.)
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

def server_with(window):
    async def serve(reader, writer):
        got, encoder = 0, Encoder()
        try:
            await reader.readexactly(24)
            writer.write(frame(4, 0, 0, struct.pack(">HI", 4, window)))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind == 4 and not flags & 1:
                    writer.write(frame(4, 1, 0))
                if kind == 0:
                    got += len(payload)
                    if payload:
                        credit = struct.pack(">I", len(payload))
                        writer.write(frame(8, 0, stream, credit) + frame(8, 0, 0, credit))
                    if flags & 1:
                        writer.write(frame(1, 4, stream, encoder.encode([(":status", "200")])) + frame(0, 1, stream, b"%d" % got))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()
    return serve

async def ask(window, size):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain("cert.pem", "key.pem")
    tls.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(server_with(window), "127.0.0.1", 0, ssl=tls)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        async with httpx.AsyncClient(http2=True, verify=False, timeout=5) as client:
            answer = await client.post(url, content=b"x" * size)
            return f"{answer.status_code}, {answer.text} bytes arrived"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        server.close()

async def main():
    print(f"httpx {httpx.__version__}, httpcore {httpcore.__version__}, h2 {h2.__version__}")
    print("guess: 200 in every line")
    seen = []
    for window, size in ((65535, 200000), (16384, 60000), (16384, 200000)):
        seen.append(await ask(window, size))
        print(f"seen: initial window {window}, body of {size}: {seen[-1]}")
    return not (seen[0].startswith("200") and seen[1].startswith("200") and "flow control window is -" in seen[2])

sys.exit(asyncio.run(main()))
PY
