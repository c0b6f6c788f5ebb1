#!/usr/bin/env bash
# What: "GET http://other.example/ HTTP/1.1" with "Host: mine.example". RFC 9112 section 3.2.2: the Host field is to be ignored then. HAProxy answers 400; with
#   equal names it passes the request on.
# Versions: HAProxy 2.6.12 (Debian 12).
# Guess that missed: HAProxy goes by the target, as nginx, Caddy and Envoy do.
# For a proxy: one behind HAProxy never sees such requests, one in its place does; behind it they reach applications that take the whole URL for a path
#   (uvicorn with h11, hypercorn) or the Host for the truth (gunicorn). Rewrite both to the target's name, or refuse as HAProxy does.
set -euo pipefail
command -v haproxy >/dev/null || { echo "needs haproxy"; exit 2; }
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
front=$(free)
cat >"$tmp/haproxy.cfg" <<CONF
defaults
  mode http
  timeout client 5s
  timeout connect 5s
  timeout server 5s
frontend f
  bind 127.0.0.1:$front
  http-request return status 200 content-type text/plain lf-string "host %[req.hdr(host)]"
CONF
haproxy -f "$tmp/haproxy.cfg" >/dev/null 2>&1 &
haproxy -v | head -n 1
echo "guess: 200 in both lines"
timeout 50 python3 - "$front" <<'PY'
import socket, sys, time

seen = []
for host in (b"other.example", b"mine.example"):
    for _ in range(100):
        try:
            conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
            break
        except OSError:
            time.sleep(0.1)
    conn.sendall(b"GET http://other.example/ HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    seen.append(conn.recv(4096)[9:12].decode())
    print(f"seen: target http://other.example/, Host {host.decode()}: {seen[-1]}")
sys.exit(seen != ["200", "400"])
PY
