#!/usr/bin/env bash
# What: a WSGI application that answers HEAD as it answers GET (plain WSGI code does). waitress and cheroot send the body after the head, on a connection
#   that stays open; RFC 9110 section 9.3.2 forbids it. gunicorn leaves it out.
# Versions: waitress 3.0.2, cheroot 11.1.2, gunicorn 27.0.1 (gthread).
# Guess that missed: the server takes care of it, as it does of the length and the Date.
# For a proxy: after an answer to HEAD a kept connection may hold bytes that belong to no answer. Look before the connection is used again, and do
#   not count it as a failure of the server. Health checks by HEAD meet it first.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check gunicorn==27.0.1 waitress==3.0.2 cheroot==11.1.2 || exit 2
cat >"$tmp/app.py" <<'PY'
import sys

def app(_environ, start):
    start("200 OK", [("Content-Length", "5")])
    return [b"hello"]

if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "waitress":
        import waitress
        waitress.serve(app, host="127.0.0.1", port=port, _quiet=True)
    else:
        from cheroot.wsgi import Server
        Server(("127.0.0.1", port), app).start()
PY
cd "$tmp"
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
a=$(free); v/bin/python app.py waitress "$a" >/dev/null 2>&1 &
b=$(free); v/bin/python app.py cheroot "$b" >/dev/null 2>&1 &
c=$(free); v/bin/gunicorn --no-control-socket --log-level critical -k gthread -b "127.0.0.1:$c" app:app 2>/dev/null &
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -E '^(gunicorn|waitress|cheroot) ' | tr -s ' ' | paste -sd,
echo "guess: nothing after the head in every line"
timeout 50 v/bin/python - "waitress=$a" "cheroot=$b" "gunicorn=$c" <<'PY'
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
    conn.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    conn.settimeout(1)
    got = b""
    try:
        while data := conn.recv(4096):
            got += data
        state = "closed"
    except socket.timeout:
        state = "open"
    seen.append((name, got.partition(b"\r\n\r\n")[2], state))
    print(f"seen: {name}: {seen[-1][1]!r} after the head, connection {state} after 1 s")
sys.exit(seen != [("waitress", b"hello", "open"), ("cheroot", b"hello", "open"), ("gunicorn", b"", "open")])
PY
