#!/usr/bin/env bash
# What: the Forwarded field in valid forms that are less usual. forwarded-parse (npm) throws at an empty element (", ,", RFC 9110 section 5.6.1) and at an
#   empty pair (";;" or a ";" at the end, RFC 7239 section 4). hypercorn's ProxyFixMiddleware keeps the quotes: the client is '"[2001:db8::1]:4711"', and the
#   scheme '"https"'; and it does not know "For=", though names have no case.
# Versions: forwarded-parse 2.2.0 on Node 20.20.2, hypercorn 0.18.0.
# Guess that missed: both read each of these forms.
# For a proxy: write Forwarded in its plainest form, lower-case names, one pair after another, no quotes but where they must be, or X-Forwarded-* alone.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check hypercorn==0.18.0 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" forwarded-parse@2.2.0 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const parse = require('forwarded-parse');
try {
  const last = parse(process.argv[2]).at(-1);
  console.log(`${last.for} ${last.proto}`);
} catch (error) {
  console.log(error.message);
}
JS
timeout 50 "$tmp/v/bin/python" - "$tmp/main.cjs" <<'PY'
import asyncio, importlib.metadata, subprocess, sys
from hypercorn.middleware import ProxyFixMiddleware

def by_hypercorn(value):
    result = []

    async def app(scope, _receive, _send):
        result.append(f"{scope['client'][0]} {scope['scheme']}")

    scope = {"type": "http", "client": ("198.51.100.9", 1), "scheme": "http", "headers": [(b"forwarded", value.encode())]}
    asyncio.run(ProxyFixMiddleware(app, mode="modern", trusted_hops=1)(scope, None, None))
    return result[0]

print(f"forwarded-parse 2.2.0, hypercorn {importlib.metadata.version('hypercorn')}")
CASES = {
    "for=192.0.2.1;proto=https": "192.0.2.1 https",
    "For=192.0.2.1;Proto=https": "192.0.2.1 https",
    'for="[2001:db8::1]:4711";proto="https"': "[2001:db8::1]:4711 https",
    "for=192.0.2.1;;proto=https;": "192.0.2.1 https",
    "for=192.0.2.8, ,for=192.0.2.1;proto=https": "192.0.2.1 https",
}
seen = []
for value, guess in CASES.items():
    node = subprocess.check_output(["node", sys.argv[1], value], text=True, timeout=20).strip()
    print(f"Forwarded: {value}\n  guess: {guess}\n  seen: forwarded-parse: {node}\n  seen: hypercorn: {by_hypercorn(value)}")
    seen += [node == guess, by_hypercorn(value) == guess]
sys.exit(seen != [True, True, True, False, True, False, False, True, False, True])
PY
