#!/usr/bin/env bash
# What: an upstream answers GET with 503 and "Retry-After: 2". @fastify/http-proxy does not pass it on: it sends the request ten times more
#   within a fifth of a second, and then passes the last 503. Without Retry-After it takes a second and a half for the same. POST is asked once.
# Versions: @fastify/http-proxy 11.6.3, fastify 5.12.8, on Node 20.20.2.
# Guess that missed: a reverse proxy passes an upstream's 503 on; if it does try again, it waits as long as Retry-After says.
# For a proxy: behind such a gateway each refused GET arrives eleven times, at the moment when there is no room. Count refusals and limits in requests of
#   clients with that in mind, refuse early, and set retryMethods: [] in the gateway.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" fastify@5.12.8 @fastify/http-proxy@11.6.3 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const http = require('node:http');
const fastify = require('fastify');
let times = [];
let headers = {};
const upstream = http.createServer((request, response) => {
  times.push(performance.now());
  request.resume();
  response.writeHead(503, headers);
  response.end('full');
}).listen(0, '127.0.0.1', async () => {
  const gateway = fastify();
  gateway.register(require('@fastify/http-proxy'), { upstream: `http://127.0.0.1:${upstream.address().port}` });
  const url = await gateway.listen({ port: 0, host: '127.0.0.1' });
  console.log(`Node ${process.version}, @fastify/http-proxy ${require('@fastify/http-proxy/package.json').version}`);
  console.log('guess: 1 request each time');
  const seen = [];
  for (const [method, after] of [['GET', '2'], ['GET', undefined], ['POST', '2']]) {
    times = [];
    headers = after ? { 'retry-after': after } : {};
    const { status } = await fetch(url, { method });
    seen.push(times.length);
    const took = times.at(-1) - times[0];
    console.log(`seen: ${method}, Retry-After ${after ?? 'absent'}: ${times.length} requests in ${(took / 1000).toFixed(1)} s, then ${status}`);
    if (took > 2000) seen.push('waited');
  }
  process.exit(String(seen) === '11,11,1' ? 0 : 1);
});
JS
timeout 50 node "$tmp/main.cjs"
