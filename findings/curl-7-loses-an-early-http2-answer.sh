#!/usr/bin/env bash
# What: over HTTP/2 a server may answer an upload before it has read it and then end the stream with RST_STREAM(NO_ERROR). RFC 9113 section 8.1: "Clients
#   MUST NOT discard responses as a result of receiving such a RST_STREAM". Debian's curl 7.88.1 discards it: exit code 92, no status, no body.
#   libcurl 8.23.0 returns the 413.
# Versions: curl 7.88.1 (Debian 12); pycurl 7.49.0 with libcurl 8.23.0.
# Guess that missed: a client built on nghttp2 knows this rule; over HTTP/1.1 the same curl shows the 413.
# For a proxy: a 401 or 413 before the end of an upload over HTTP/2 may look like a broken connection. Read on for a while (at least the window that
#   was granted), and reset only then.
set -euo pipefail
command -v curl >/dev/null && command -v openssl >/dev/null || { echo "needs curl and openssl"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check pycurl==7.49.0 hpack==4.2.0 || exit 2
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$tmp/key.pem" -out "$tmp/cert.pem" -days 2 -subj /CN=localhost 2>/dev/null
cd "$tmp"
curl --version | head -n 1 | cut -d' ' -f1-4
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, io, ssl, struct, subprocess, sys
import pycurl
from hpack import Encoder

BODY = b"x" * 1048576

def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

async def serve(reader, writer):
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
                await asyncio.sleep(0.2)
                answer = frame(1, 4, stream, Encoder().encode([(":status", "413")])) + frame(0, 1, stream, b"too large")
                writer.write(answer + frame(3, 0, stream, struct.pack(">I", 0)))
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        writer.close()

def old(url):
    run = subprocess.run(["curl", "-sk", "--http2", "-m", "5", "-H", "Expect:", "--data-binary", "@-", "-w", "%{http_code}", "-o", "/dev/null", url],
                         input=BODY, capture_output=True)
    return f"exit {run.returncode}, status {run.stdout.decode()}"

def new(url):
    curl, out = pycurl.Curl(), io.BytesIO()
    for option, value in ((pycurl.URL, url), (pycurl.WRITEDATA, out), (pycurl.SSL_VERIFYPEER, 0), (pycurl.SSL_VERIFYHOST, 0), (pycurl.TIMEOUT, 5),
                          (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS), (pycurl.POST, 1), (pycurl.POSTFIELDSIZE, len(BODY)),
                          (pycurl.READDATA, io.BytesIO(BODY)), (pycurl.HTTPHEADER, ["Expect:"])):
        curl.setopt(option, value)
    try:
        curl.perform()
        return f"exit 0, status {curl.getinfo(pycurl.RESPONSE_CODE)}"
    except pycurl.error as error:
        return f"exit {error.args[0]}"

async def main():
    print(pycurl.version.split(" OpenSSL")[0])
    print("guess: status 413 from both")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain("cert.pem", "key.pem")
    tls.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    seen = await asyncio.to_thread(old, url), await asyncio.to_thread(new, url)
    print("seen: curl:", seen[0])
    print("seen: pycurl:", seen[1])
    return seen != ("exit 92, status 000", "exit 0, status 413")

sys.exit(asyncio.run(main()))
PY
