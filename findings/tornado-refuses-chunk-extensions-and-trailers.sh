#!/usr/bin/env bash
# What: Tornado's server answers a chunked request with 400 if a chunk has an extension or a trailer field stands behind the last chunk. Tornado's
#   client fails on such a response: "Connection closed". Both are valid HTTP/1.1 (RFC 9112 sections 7.1.1 and 7.1.2).
# Versions: tornado 6.6.1. gunicorn's worker class "tornado" has the same server.
# Guess that missed: extensions are skipped and trailers dropped, as in every other Python server.
# For a proxy: drop both on the way to a server; passed on (as HAProxy does with trailers) they turn good requests into 400.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check tornado==6.6.1 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, logging, sys
import tornado.httpserver, tornado.netutil, tornado.web
from tornado.httpclient import AsyncHTTPClient

logging.disable(logging.CRITICAL)
BODIES = {
    "plain": b"2\r\nok\r\n0\r\n\r\n",
    "chunk extension": b"2;name=value\r\nok\r\n0\r\n\r\n",
    "trailer": b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
}

class Echo(tornado.web.RequestHandler):
    def post(self):
        self.write(self.request.body)

async def as_server(body):
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server = tornado.httpserver.HTTPServer(tornado.web.Application([(".*", Echo)]))
    server.add_sockets(sockets)
    reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    server.stop()
    return line.split()[1].decode()

async def as_client(body):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        await writer.drain()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        return str((await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/", request_timeout=5)).code)
    except Exception as error:
        return type(error).__name__
    finally:
        server.close()

async def main():
    print("tornado", tornado.version)
    print("guess: 200 in every line")
    seen = {}
    for name, body in BODIES.items():
        seen[name] = (await as_server(body), await as_client(body))
        print(f"seen: {name}: server answers {seen[name][0]}, client gets {seen[name][1]}")
    want = ("400", "HTTPStreamClosedError")
    return seen != {"plain": ("200", "200"), "chunk extension": want, "trailer": want}

sys.exit(asyncio.run(main()))
PY
