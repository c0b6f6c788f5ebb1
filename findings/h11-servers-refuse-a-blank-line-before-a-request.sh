#!/usr/bin/env bash
# What: a CRLF before the request line. RFC 9112 section 2.2: a server "SHOULD ignore at least one empty line (CRLF) received prior to the request-line",
#   for clients that send one behind a body. uvicorn with h11 and hypercorn (h11 as well) answer 400 and close; uvicorn with httptools takes it.
# Versions: uvicorn 0.54.0, hypercorn 0.18.0, h11 0.16.0, httptools 0.9.0.
# Guess that missed: all take it, as gunicorn, granian, aiohttp, Node, tornado, waitress and cheroot do.
# For a proxy: take the blank line off between two requests of one connection; the server behind may break the second.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 hypercorn==0.18.0 h11==0.16.0 httptools==0.9.0 || exit 2
cat >"$tmp/app.py" <<'PY'
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
PY
cd "$tmp"
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
a=$(free); v/bin/uvicorn --log-level critical --http h11 --port "$a" app:app &
b=$(free); v/bin/uvicorn --log-level critical --http httptools --port "$b" app:app &
c=$(free); PYTHONPATH=. v/bin/hypercorn --log-level critical -b "127.0.0.1:$c" app:app >/dev/null 2>&1 &
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(uvicorn|hypercorn|h11|httptools) ' | tr -s ' ' | paste -sd,
echo "guess: 200 in every line"
timeout 50 v/bin/python - "uvicorn-h11=$a" "uvicorn-httptools=$b" "hypercorn=$c" <<'PY'
import socket, sys, time

seen = []
for arg in sys.argv[1:]:
    name, port = arg.split("=")
    for _ in range(150):
        try:
            conn = socket.create_connection(("127.0.0.1", int(port)), 5)
            break
        except OSError:
            time.sleep(0.1)
    conn.sendall(b"\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    seen.append(conn.recv(4096)[9:12].decode())
    print(f"seen: {name}: {seen[-1]}")
sys.exit(seen != ["400", "200", "400"])
PY
