#!/usr/bin/env bash
# What: a server refuses a WebSocket handshake with 503 and a chunked body. node-http-proxy, and http-proxy-middleware on it, pass "Transfer-Encoding: chunked"
#   on but the body without its chunks: a client that reads it as HTTP fails with a parse error after the head.
# Versions: http-proxy 1.18.1, http-proxy-middleware 3.0.11, on Node 20.20.2.
# Guess that missed: the answer arrives as the server sent it, as it does for a plain request through the same proxy.
# For a proxy: where it stands behind one of these (development servers of web front ends do), refuse handshakes with a Content-Length.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" http-proxy@1.18.1 http-proxy-middleware@3.0.11 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const http = require('node:http');
const httpProxy = require('http-proxy');
const { createProxyMiddleware } = require('http-proxy-middleware');
const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));

function handshake(port) {
  return new Promise((resolve) => {
    const headers = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==' };
    const request = http.get({ host: '127.0.0.1', port, headers, agent: false }, (response) => {
      let body = '';
      response.on('data', (data) => { body += data; }).on('end', () => resolve(`${response.statusCode} ${body}`));
      response.on('error', (error) => resolve(`${response.statusCode}, then ${error.code}`));
    });
    request.on('error', (error) => resolve(error.code));
  });
}

(async () => {
  const refusing = http.createServer((_request, response) => response.writeHead(200).end()).on('upgrade', (_request, socket) => {
    socket.end('HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nfull\r\n0\r\n\r\n');
  });
  const target = `http://127.0.0.1:${await listen(refusing)}`;
  const plain = httpProxy.createProxyServer({ target, ws: true }).on('error', () => {});
  const middleware = createProxyMiddleware({ target, ws: true });
  const proxies = {
    'no proxy': new URL(target).port,
    'http-proxy': await listen(http.createServer((q, s) => plain.web(q, s)).on('upgrade', (q, socket, head) => plain.ws(q, socket, head))),
    'http-proxy-middleware': await listen(http.createServer((q, s) => middleware(q, s, () => {})).on('upgrade', middleware.upgrade)),
  };
  console.log(`Node ${process.version}, ${['http-proxy', 'http-proxy-middleware'].map((n) => `${n} ${require(`${n}/package.json`).version}`).join(', ')}`);
  console.log('guess: "503 full" in every line');
  const seen = [];
  for (const [name, port] of Object.entries(proxies)) {
    seen.push(await handshake(port));
    console.log(`seen: ${name}: ${seen.at(-1)}`);
  }
  process.exit(seen[0] === '503 full' && seen.slice(1).every((s) => s.includes('HPE_INVALID_CHUNK_SIZE')) ? 0 : 1);
})();
JS
timeout 50 node "$tmp/main.cjs"
