#!/usr/bin/env bash
# What: "GET http://host/items HTTP/1.1", which RFC 9112 section 3.2.2 says a server MUST accept. With uvicorn on h11, hypercorn and gunicorn's asgi worker
#   the application gets the path "http://host/items", so its router answers 404. cheroot answers 400. uvicorn on httptools and waitress
#   give it "/items".
# Versions: uvicorn 0.54.0 (h11 0.16.0, httptools 0.9.0), hypercorn 0.18.0, gunicorn 27.0.1, waitress 3.0.2, cheroot 11.1.2.
# Guess that missed: the server makes "/items" of it, whatever it is built on.
# For a proxy: clients that take it for a forward proxy send this form. Send origin-form on to every endpoint; what one server forgives another does not know,
#   and "404 on this endpoint alone" is hard to find.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 h11==0.16.0 httptools==0.9.0 hypercorn==0.18.0 gunicorn==27.0.1 \
  waitress==3.0.2 cheroot==11.1.2 || exit 2
cat >"$tmp/app.py" <<'PY'
def wsgi(environ, start):
    path = environ["PATH_INFO"].encode()
    start("200 OK" if path == b"/items" else "404 Not Found", [("Content-Length", str(len(path)))])
    return [path]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    path = scope["path"].encode()
    length = (b"content-length", str(len(path)).encode())
    await send({"type": "http.response.start", "status": 200 if path == b"/items" else 404, "headers": [length]})
    await send({"type": "http.response.body", "body": path})
PY
cd "$tmp"
timeout 50 v/bin/python - <<'PY'
import importlib.metadata, os, signal, socket, subprocess, sys, time

GUNICORN = ["v/bin/gunicorn", "--no-control-socket", "--log-level", "critical", "-b", "127.0.0.1:{}"]
COMMANDS = {
    "uvicorn, h11": ["v/bin/uvicorn", "--http", "h11", "--port", "{}", "--log-level", "critical", "app:asgi"],
    "hypercorn": ["v/bin/hypercorn", "-b", "127.0.0.1:{}", "--log-level", "CRITICAL", "app:asgi"],
    "gunicorn, asgi": GUNICORN + ["-k", "asgi", "app:asgi"],
    "cheroot": ["v/bin/cheroot", "--bind", "127.0.0.1:{}", "app:wsgi"],
    "uvicorn, httptools": ["v/bin/uvicorn", "--http", "httptools", "--port", "{}", "--log-level", "critical", "app:asgi"],
    "waitress": ["v/bin/waitress-serve", "--host=127.0.0.1", "--port={}", "app:wsgi"],
}
names = dict.fromkeys(name.partition(",")[0] for name in COMMANDS)
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in [*names, "h11", "httptools"]))
print("guess: 200 /items in every line")
seen = {}
for name, command in COMMANDS.items():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen([part.format(port) for part in command], env={**os.environ, "PYTHONPATH": "."}, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                conn = socket.create_connection(("127.0.0.1", port), 8)
                break
            except OSError:
                time.sleep(0.1)
        conn.sendall(b"GET http://host/items HTTP/1.1\r\nHost: host\r\nConnection: close\r\n\r\n")
        got = b""
        while data := conn.recv(4096):
            got += data
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    seen[name] = got[9:12].decode()
    body = got.partition(b"\r\n\r\n")[2].decode()
    print(f"seen: {name}: {seen[name]} {body}")
sys.exit(list(seen.values()) != ["404"] * 3 + ["400"] + ["200"] * 2)
PY
