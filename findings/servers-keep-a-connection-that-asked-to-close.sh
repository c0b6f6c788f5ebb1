#!/usr/bin/env bash
# What: a request says "Connection: TE, close", a list, as RFC 9110 section 7.6.1 allows and Perl's LWP sends. gunicorn's gthread worker answers
#   "Connection: keep-alive" and keeps the connection; tornado, waitress and cheroot keep it too. All of them heed a plain "Connection: close".
# Versions: gunicorn 27.0.1, tornado 6.6.1, waitress 3.0.2, cheroot 11.1.2.
# Guess that missed: every server closes after the answer (RFC 9112 section 9.6).
# For a proxy: one that closes its own end must not wait for the server to do so, and should send the one word "close" upstream.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check gunicorn==27.0.1 tornado==6.6.1 waitress==3.0.2 cheroot==11.1.2 || exit 2
cat >"$tmp/app.py" <<'PY'
import sys

def app(_environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]

if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "waitress":
        import waitress
        waitress.serve(app, host="127.0.0.1", port=port, _quiet=True)
    elif kind == "cheroot":
        from cheroot.wsgi import Server
        Server(("127.0.0.1", port), app).start()
    else:
        import asyncio, tornado.web

        class Ok(tornado.web.RequestHandler):
            def get(self):
                self.write("ok")

        async def main():
            tornado.web.Application([(".*", Ok)]).listen(port, "127.0.0.1")
            await asyncio.Event().wait()
        asyncio.run(main())
PY
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
cd "$tmp"
ports=""
for kind in gthread tornado waitress cheroot; do
  port=$(free)
  if [ "$kind" = gthread ]; then
    v/bin/gunicorn --no-control-socket --log-level critical -k gthread -b "127.0.0.1:$port" app:app 2>/dev/null &
  else
    v/bin/python app.py "$kind" "$port" >/dev/null 2>&1 &
  fi
  ports="$ports $kind=$port"
done
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -E '^(gunicorn|tornado|waitress|cheroot) ' | tr -s ' ' | paste -sd,
echo "guess: closed in every line"
timeout 50 v/bin/python - $ports <<'PY'
import socket, sys, time

def ask(port, option):
    for _ in range(100):
        try:
            conn = socket.create_connection(("127.0.0.1", port), 5)
            break
        except OSError:
            time.sleep(0.1)
    conn.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: " + option + b"\r\n\r\n")
    conn.settimeout(1)
    got = b""
    try:
        while data := conn.recv(4096):
            got += data
        return got[9:12].decode() + " closed"
    except socket.timeout:
        return got[9:12].decode() + " kept open for 1 s"

seen = []
for arg in sys.argv[1:]:
    name, port = arg.split("=")
    for option in (b"close", b"TE, close"):
        seen.append(ask(int(port), option))
        print(f"seen: {name}: Connection: {option.decode()}: {seen[-1]}")
sys.exit(seen != ["200 closed", "200 kept open for 1 s"] * 4)
PY
