#!/usr/bin/env bash
# What: HTTPAdapter(max_retries=3) of requests, and urllib3's PoolManager with nothing set at all. A GET that is answered 503 with "Retry-After: 1" is sent
#   three times more, each after the second that it was told, and takes three seconds. The same 503 without Retry-After is returned at once, and a POST in
#   either case.
# Versions: requests 2.34.2, urllib3 2.8.0.
# Guess that missed: no status is retried. requests' documentation of max_retries speaks of lookups, connections and connection timeouts alone, and
#   urllib3's status_forcelist is empty by default.
# For a proxy: Retry-After alone decides whether these clients come again, four requests for one. With 30 s a call that has no timeout for the whole blocks
#   for a minute and a half; leave the header out where coming again is of no use.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check requests==2.34.2 urllib3==2.8.0 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import http.server, sys, threading, time
import requests, urllib3

count = 0
after = None

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        global count
        count += 1
        self.send_response(503)
        if after:
            self.send_header("Retry-After", after)
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
session = requests.Session()
session.trust_env = False
session.mount("http://", requests.adapters.HTTPAdapter(max_retries=3))
print(f"requests {requests.__version__}, urllib3 {urllib3.__version__}")
print("guess: 1 request in every line")
seen = []
for name, call in (("requests, max_retries=3", lambda method: session.request(method, url).status_code),
                   ("urllib3, nothing set", lambda method: urllib3.PoolManager().request(method, url).status)):
    for method, after in (("GET", "1"), ("GET", None), ("POST", "1")):
        count, start = 0, time.monotonic()
        status = call(method)
        print(f"seen: {name}: {method}, Retry-After {after}: {count} requests, {status} after {time.monotonic() - start:.1f} s")
        seen.append(count)
sys.exit(seen != [4, 1, 1] * 2)
PY
