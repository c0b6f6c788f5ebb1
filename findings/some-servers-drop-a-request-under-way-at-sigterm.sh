#!/usr/bin/env bash
# What: a server, started by its own command, gets SIGTERM 0.7 s after a request that takes 2 s. waitress and cheroot end at once and
#   close the connection with no answer. So does daphne, with exit code 0, as after a stop in good order. gunicorn answers it and then ends.
# Versions: waitress 3.0.2, cheroot 11.1.2, gunicorn 27.0.1 (gthread); daphne 4.2.3 was seen by hand.
# Guess that missed: as with gunicorn, uvicorn, granian and hypercorn, what is under way is answered first.
# For a proxy: a stop of such a server is no drain: each request under way becomes a 502, and no exit code tells. Move traffic away first and let requests end.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check waitress==3.0.2 cheroot==11.1.2 gunicorn==27.0.1 || exit 2
cat >"$tmp/app.py" <<'PY'
import time

def wsgi(_environ, start):
    time.sleep(2)
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PY
cd "$tmp"
timeout 50 v/bin/python - <<'PY'
import importlib.metadata, signal, socket, subprocess, sys, time

COMMANDS = {
    "waitress": ["v/bin/waitress-serve", "--host=127.0.0.1", "--port={}", "app:wsgi"],
    "cheroot": ["v/bin/cheroot", "--bind", "127.0.0.1:{}", "app:wsgi"],
    "gunicorn": ["v/bin/gunicorn", "--no-control-socket", "-k", "gthread", "-b", "127.0.0.1:{}", "app:wsgi"],
}
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in COMMANDS))
print("guess: 200 in every line")
seen = {}
for name, command in COMMANDS.items():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen([part.format(port) for part in command], env={"PYTHONPATH": "."}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(150):
            try:
                conn = socket.create_connection(("127.0.0.1", port), 8)
                break
            except OSError:
                time.sleep(0.1)
        conn.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        time.sleep(0.7)
        server.send_signal(signal.SIGTERM)
        start, got = time.monotonic(), b""
        try:
            while data := conn.recv(4096):
                got += data
        except ConnectionResetError:
            pass
        took = time.monotonic() - start
        code = server.wait(10)
    finally:
        server.kill()
    seen[name] = got[9:12].decode()
    print(f"seen: {name}: {seen[name] or 'no answer'} {took:.1f} s after the signal, exit code {code}")
sys.exit(seen != {"waitress": "", "cheroot": "", "gunicorn": "200"})
PY
