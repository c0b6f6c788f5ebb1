#!/usr/bin/env bash
# What: prometheus_client's start_http_server(). Every path is answered 200 with the metrics: /healthz, /ready, /nothing, not /metrics alone.
# Versions: prometheus_client 0.26.0.
# Guess that missed: 404 for all but /metrics (and perhaps /).
# For a proxy: an HTTP check of a worker by a health path that it does not have is green for as long as the thread of the exporter lives. Look for a word in
#   the body that only the right page has.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check prometheus_client==0.26.0 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import importlib.metadata, sys, urllib.error, urllib.request
from prometheus_client import start_http_server

server, _thread = start_http_server(0, addr="127.0.0.1")
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print("prometheus_client", importlib.metadata.version("prometheus_client"))
print("guess: 200 for /metrics, 404 for the others")
seen = []
for path in ("/metrics", "/healthz", "/ready", "/nothing/at/all"):
    try:
        with opener.open(f"http://127.0.0.1:{server.server_port}{path}") as response:
            seen.append((response.status, b"python_info" in response.read()))
    except urllib.error.HTTPError as error:
        seen.append((error.code, False))
    print(f"seen: {path}: {seen[-1][0]}{', the metrics' if seen[-1][1] else ''}")
server.shutdown()
sys.exit(seen != [(200, True)] * 4)
PY
