#!/usr/bin/env bash
# What: the PROXY protocol's "no address" forms, which load balancers send for their own health checks (HAProxy's send-proxy-v2: the command LOCAL). gunicorn
#   --proxy-protocol gives the application a REMOTE_ADDR of None for LOCAL (PEP 3333 wants strings), and answers 400 to "PROXY UNKNOWN" of version 1.
# Versions: gunicorn 27.0.1 (gthread).
# Guess that missed: both are served with the connection's own address, as section 2 of the protocol demands and nginx, HAProxy and Envoy do.
# For a proxy: applications that use the address (a log line, a rate limit) answer 500 to the balancer's check alone, and the server is taken out. Send the
#   address of the check itself instead of LOCAL to such servers.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check gunicorn==27.0.1 || exit 2
cd "$tmp"
cat >app.py <<'PY'
def app(environ, start):
    body = repr(environ.get("REMOTE_ADDR")).encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
PY
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
v/bin/gunicorn --no-control-socket --log-level critical --proxy-protocol -k gthread -b "127.0.0.1:$port" app:app >/dev/null 2>&1 &
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep gunicorn | tr -s ' '
echo "guess: 200 '127.0.0.1' for LOCAL and UNKNOWN"
timeout 50 python3 - "$port" <<'PY'
import socket, struct, sys, time

addresses = socket.inet_aton("10.1.2.3") + socket.inet_aton("10.9.9.9") + struct.pack(">HH", 1111, 80)
HEADERS = {"version 1 TCP4": b"PROXY TCP4 10.1.2.3 10.9.9.9 1111 80\r\n", "version 1 UNKNOWN": b"PROXY UNKNOWN\r\n",
           "version 2 PROXY": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + addresses, "version 2 LOCAL": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"}
seen = []
for name, header in HEADERS.items():
    for _ in range(150):
        try:
            conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
            break
        except OSError:
            time.sleep(0.1)
    conn.sendall(header + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    got = b""
    while data := conn.recv(4096):
        got += data
    status = got[9:12].decode()
    seen.append(f"{status} REMOTE_ADDR {got.partition(bytes([13, 10, 13, 10]))[2].decode()}" if status == "200" else status)
    print(f"seen: {name}: {seen[-1]}")
sys.exit(seen != ["200 REMOTE_ADDR '10.1.2.3'", "400", "200 REMOTE_ADDR '10.1.2.3'", "200 REMOTE_ADDR None"])
PY
