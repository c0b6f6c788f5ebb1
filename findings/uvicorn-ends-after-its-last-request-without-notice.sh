#!/usr/bin/env bash
# What: a worker that ends after so many requests, against leaks. gunicorn's gthread worker says "Connection: close" in its last answer. uvicorn with
#   --limit-max-requests says nothing in it and closes the kept connection a moment later: a request that is sent meanwhile is lost, and a POST is sent again by
#   nobody. With two workers and a limit of 20, 6 of 150 POSTs in a row from a client that does not retry failed.
# Versions: uvicorn 0.54.0 (h11 0.16.0, and httptools 0.9.0), gunicorn 27.0.1.
# Guess that missed: a server that knows which answer is its last says so in it (RFC 9112 section 9.6 asks for it).
# For a proxy: an endpoint of this kind breaks kept connections again and again in good health. Such a break says nothing against it; where it can be
#   set, use no kept connections for requests that may not be sent twice.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 h11==0.16.0 httptools==0.9.0 gunicorn==27.0.1 || exit 2
cat >"$tmp/app.py" <<'PY'
def wsgi(environ, start):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
PY
cd "$tmp"
timeout 50 v/bin/python - <<'PY'
import http.client, importlib.metadata, os, signal, socket, subprocess, sys, time

LIMIT = 5
COMMANDS = {
    "uvicorn, h11": ["v/bin/uvicorn", "--http", "h11", "--lifespan", "off", "--limit-max-requests", str(LIMIT), "--log-level", "critical", "--port", "{}", "app:asgi"],
    "uvicorn, httptools": ["v/bin/uvicorn", "--http", "httptools", "--lifespan", "off", "--limit-max-requests", str(LIMIT), "--log-level", "critical",
                           "--port", "{}", "app:asgi"],
    "gunicorn, gthread": ["v/bin/gunicorn", "--no-control-socket", "--max-requests", str(LIMIT), "-k", "gthread", "-b", "127.0.0.1:{}", "app:wsgi"],
}
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("uvicorn", "h11", "httptools", "gunicorn")))
print(f"guess: answer {LIMIT} says close in every line")
seen = []
for name, command in COMMANDS.items():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen([part.format(port) for part in command], env={**os.environ, "PYTHONPATH": "."}, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        conn = http.client.HTTPConnection("127.0.0.1", port, timeout=8)
        for _ in range(150):
            try:
                conn.connect()
                break
            except OSError:
                time.sleep(0.1)
        answers = 0
        while answers < LIMIT + 3:
            conn.request("POST", "/", body=b"order")
            answer = conn.getresponse()
            answer.read()
            answers += 1
            if answer.will_close:
                break
            if answers >= LIMIT:
                conn.sock.settimeout(2)
                try:
                    if conn.sock.recv(1, socket.MSG_PEEK) == b"":
                        break
                except (TimeoutError, ConnectionResetError):
                    pass
        notice = answer.getheader("Connection")
        print(f"seen: {name}: connection over after answer {answers}, its Connection header: {notice}")
        seen.append((answers, (notice or "").lower() == "close"))
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
sys.exit(seen != [(LIMIT, False), (LIMIT, False), (LIMIT, True)])
PY
