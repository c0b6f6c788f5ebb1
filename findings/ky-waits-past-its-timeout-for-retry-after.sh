#!/usr/bin/env bash
# What: ky with nothing set has a timeout of 10 s, by its documentation for a response including any retries. A GET that is answered 503 with "Retry-After: 15"
#   has no result after 10 s, nor after 14: ky sleeps, and sends the request again after 15 s. A server that gives no answer is given up after 10 s.
# Versions: ky 1.14.3 on Node 20.20.2.
# Guess that missed: TimeoutError (or the 503) after 10 s at the latest.
# For a proxy: Retry-After is no hint for such a client but a sleep that nothing bounds. Keep it small.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" ky@1.14.3 >/dev/null || exit 2
cat >"$tmp/main.mjs" <<'JS'
import http from 'node:http';
import { readFileSync } from 'node:fs';
import ky from 'ky';
const times = [];
const server = http.createServer((request, response) => {
  if (request.url === '/hangs') return;
  times.push(performance.now());
  response.writeHead(503, { 'retry-after': '15' });
  response.end();
}).listen(0, '127.0.0.1', async () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  const version = JSON.parse(readFileSync(new URL('node_modules/ky/package.json', import.meta.url))).version;
  console.log(`Node ${process.version}, ky ${version}`);
  console.log('guess: both end within 10 s');
  const start = performance.now();
  const ends = {};
  for (const path of ['/hangs', '/busy']) {
    ky(url + path).then((r) => r.status, (e) => e.name).then((what) => { ends[path] = [what, (performance.now() - start) / 1000]; });
  }
  await new Promise((resolve) => setTimeout(resolve, 18000));
  const again = times.length > 1 ? (times[1] - times[0]) / 1000 : 0;
  console.log(`seen: no answer: ${ends['/hangs']?.[0]} after ${ends['/hangs']?.[1].toFixed(1)} s`);
  console.log(`seen: 503, Retry-After 15: ${ends['/busy'] ?? 'still waiting'} after 18 s, second request after ${again.toFixed(1)} s`);
  process.exit(ends['/hangs']?.[0] === 'TimeoutError' && !ends['/busy'] && Math.round(again) === 15 ? 0 : 1);
});
JS
timeout 50 node "$tmp/main.mjs"
