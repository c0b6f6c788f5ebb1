#!/usr/bin/env bash
# What: undici's RetryAgent with nothing set. After five vain retries of a GET that is answered 503 the caller gets no response: request() throws
#   RequestRetryError and fetch() "fetch failed", as if the network were down; the body of the last answer is not to be read. A POST is not retried, but its
#   503 is thrown away just the same.
# Versions: undici 7.30.2 on Node 20.20.2.
# Guess that missed: when the retries are used up, the last response is returned, as axios, got and urllib3 hand it over (the first two within their error).
# For a proxy: what the body of a refusal says (which component, what code) never reaches these callers. Six requests arrive for one.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" undici@7.30.2 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const http = require('node:http');
const { Agent, RetryAgent, fetch, request } = require('undici');
let count = 0;
const server = http.createServer((incoming, response) => {
  count++;
  incoming.resume();
  response.writeHead(503, { 'retry-after': '1', 'content-type': 'application/json' });
  response.end('{"code":"full"}');
}).listen(0, '127.0.0.1', async () => {
  const url = `http://127.0.0.1:${server.address().port}/`;
  const dispatcher = new RetryAgent(new Agent());
  console.log(`Node ${process.version}, undici ${require('undici/package.json').version}`);
  console.log('guess: 503 with its body in every line');
  const calls = {
    'request GET': async () => { const r = await request(url, { dispatcher }); return `${r.statusCode} ${await r.body.text()}`; },
    'fetch GET': async () => { const r = await fetch(url, { dispatcher }); return `${r.status} ${await r.text()}`; },
    'request POST': async () => { const r = await request(url, { dispatcher, method: 'POST' }); return `${r.statusCode} ${await r.body.text()}`; },
    'fetch POST': async () => { const r = await fetch(url, { dispatcher, method: 'POST' }); return `${r.status} ${await r.text()}`; },
  };
  const seen = await Promise.all(Object.entries(calls).slice(0, 2).map(async ([name, call]) => [name, await call().catch((e) => `throws ${e.message}`)]));
  const gets = count;
  for (const name of ['request POST', 'fetch POST']) seen.push([name, await calls[name]().catch((e) => `throws ${e.message}`)]);
  for (const [name, what] of seen) console.log(`seen: ${name}: ${what}`);
  console.log(`seen: ${gets} requests for two GETs, ${count - gets} for two POSTs`);
  const told = ['throws Request failed', 'throws fetch failed', 'throws Request failed', 'throws fetch failed'];
  process.exit(JSON.stringify([seen.map((s) => s[1]), gets, count - gets]) === JSON.stringify([told, 12, 2]) ? 0 : 1);
});
JS
timeout 50 node "$tmp/main.cjs"
