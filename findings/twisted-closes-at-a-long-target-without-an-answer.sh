#!/usr/bin/env bash
# What: a GET whose target has 17,000 characters. Twisted's web server, and so daphne, closes the connection without one byte of an answer.
#   At 20,000 gunicorn, aiohttp and Node say 414, 400 or 431; waitress, cheroot, hypercorn and uvicorn serve it.
# Versions: Twisted 26.10.0; beside it waitress 3.0.2 (daphne 4.2.3 was seen by hand).
# Guess that missed: 414 (RFC 9110 section 15.5.15), or the answer.
# For a proxy: a close without an answer is the sign of a dying server. One user's long search link, sent again to the next endpoint like any GET, makes
#   each of them look broken: limit the length of targets in the proxy to what the servers take, and answer 414 there.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check twisted==26.10.0 waitress==3.0.2 || exit 2
cat >"$tmp/app.py" <<'PY'
def wsgi(_environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PY
cd "$tmp"
timeout 50 v/bin/python - <<'PY'
import importlib.metadata, os, socket, subprocess, sys, time

COMMANDS = {
    "twisted": ["v/bin/twist", "web", "--listen", "tcp:{}:interface=127.0.0.1", "--wsgi", "app.wsgi"],
    "waitress": ["v/bin/waitress-serve", "--host=127.0.0.1", "--port={}", "app:wsgi"],
}
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in COMMANDS))
print("guess: 414 or 200 in every line")
seen = []
for name, command in COMMANDS.items():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen([part.format(port) for part in command], env={**os.environ, "PYTHONPATH": "."}, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        for length in (16000, 17000):
            for _ in range(150):
                try:
                    conn = socket.create_connection(("127.0.0.1", port), 8)
                    break
                except OSError:
                    time.sleep(0.1)
            conn.sendall(b"GET /?q=" + b"a" * (length - 4) + b" HTTP/1.1\r\nHost: host\r\nConnection: close\r\n\r\n")
            got = b""
            try:
                while data := conn.recv(4096):
                    got += data
            except ConnectionResetError:
                pass
            seen.append(got[9:12].decode())
            print(f"seen: {name}, {length} characters: {seen[-1] or 'closed, no answer'}")
    finally:
        server.kill()
        server.wait()
sys.exit(seen != ["200", "", "200", "200"])
PY
