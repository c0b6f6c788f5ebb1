#!/usr/bin/env bash
# What: a server refuses a WebSocket handshake with 503 and Retry-After. A client of @fastify/http-proxy gets 101 all the same, and after it a close frame with
#   code 1011 and the reason "unexpected response": onopen fires, and neither the status nor Retry-After is to be had.
# Versions: @fastify/http-proxy 11.6.3, fastify 5.12.8, ws 8.23.0 as the client, on Node 20.20.2.
# Guess that missed: the proxy shakes hands with the server first and passes its 503 on.
# For a proxy: behind such a gateway no refusal is seen as one. A client whose pause starts anew with each open comes again at once.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" fastify@5.12.8 @fastify/http-proxy@11.6.3 ws@8.23.0 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const http = require('node:http');
const fastify = require('fastify');
const WebSocket = require('ws');
const refusing = http.createServer().on('upgrade', (_request, socket) => {
  socket.end('HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
}).listen(0, '127.0.0.1', async () => {
  const { port } = refusing.address();
  const gateway = fastify();
  gateway.register(require('@fastify/http-proxy'), { upstream: `http://127.0.0.1:${port}`, websocket: true });
  const url = await gateway.listen({ port: 0, host: '127.0.0.1' });
  console.log(`Node ${process.version}, @fastify/http-proxy ${require('@fastify/http-proxy/package.json').version}, ws ${require('ws/package.json').version}`);
  console.log('guess: "refused 503" in both lines');
  const seen = [];
  for (const [name, target] of [['server', `ws://127.0.0.1:${port}/`], ['gateway', url.replace('http', 'ws')]]) {
    const events = await new Promise((resolve) => {
      const list = [];
      const client = new WebSocket(target);
      client.on('open', () => list.push('open')).on('close', (code, reason) => resolve([...list, `close ${code} "${reason}"`]));
      client.on('unexpected-response', (_request, response) => resolve([`refused ${response.statusCode}`])).on('error', () => {});
    });
    console.log(`seen: ${name}: ${events.join(', ')}`);
    seen.push(events.join(', ').replace(/ ".*/, ''));
  }
  process.exit(String(seen) === 'refused 503,open, close 1011' ? 0 : 1);
});
JS
timeout 50 node "$tmp/main.cjs"
