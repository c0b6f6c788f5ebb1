#!/usr/bin/env bash
# What: express-http-proxy with nothing set reads a request's whole body before it asks the server, and answers 413 where it has more than 1 MiB, though nothing
#   in the proxy looks at the body. The answer goes through as a stream.
# Versions: express-http-proxy 2.1.2, express 5.3.0, on Node 20.20.2.
# Guess that missed: what nobody looks at is passed on as it comes, of any length.
# For a proxy: a 413, and an upload that reaches the server in one piece after a long silence, can come from a gateway in front; set parseReqBody: false there.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" express@5.3.0 express-http-proxy@2.1.2 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const http = require('node:http');
const express = require('express');
const proxy = require('express-http-proxy');
console.error = () => {};
const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));
let reached = 0;
(async () => {
  const server = http.createServer((request, response) => {
    reached = performance.now();
    request.resume().on('end', () => response.end('ok'));
  });
  const target = `http://127.0.0.1:${await listen(server)}`;
  const gateways = { 'nothing set': {}, 'parseReqBody: false': { parseReqBody: false } };
  console.log(`Node ${process.version}, express-http-proxy ${require('express-http-proxy/package.json').version}, express ${require('express/package.json').version}`);
  console.log('guess: 200, and the server is asked at once, in every line');
  const seen = [];
  for (const [name, options] of Object.entries(gateways)) {
    const app = express();
    app.use(proxy(target, options));
    const port = await listen(http.createServer(app));
    for (const size of [1000000, 1100000]) {
      const start = performance.now();
      reached = 0;
      const status = await new Promise((resolve, reject) => {
        const request = http.request({ host: '127.0.0.1', port, method: 'POST', agent: false, headers: { 'content-length': size } },
          (response) => resolve(response.resume().statusCode));
        request.on('error', reject);
        request.write(Buffer.alloc(size / 2));
        setTimeout(() => request.end(Buffer.alloc(size / 2)), 1000);
      });
      const when = reached ? (reached - start < 500 ? 'at once' : 'when the body is complete') : 'never';
      console.log(`seen: ${name}, ${size} bytes sent in two parts 1 s apart: ${status}, the server is asked ${when}`);
      seen.push(`${status} ${when}`);
    }
  }
  process.exit(String(seen) === '200 when the body is complete,413 never,200 at once,200 at once' ? 0 : 1);
})();
JS
timeout 50 node "$tmp/main.cjs"
