#!/usr/bin/env bash
# What: a server announces its end over HTTP/2 the graceful way, GOAWAY(NO_ERROR) with the highest stream number (RFC 9113 section 6.8), and then answers the
#   request under way. undici with allowH2 fails that request: 'HTTP/2: "GOAWAY" frame received with code 0'. Node's own http2 client gets the 200.
# Versions: undici 7.30.2 on Node 20.20.2. undici 8.13.1 gets the 200.
# Guess that missed: the request goes on, the next one takes a new connection.
# For a proxy: GOAWAY at the start of a drain breaks requests of such clients, streams included. Send it when nothing is under way, where a connection is
#   let go, and at the end of the drain to the rest.
set -euo pipefail
command -v node >/dev/null && command -v openssl >/dev/null || { echo "needs node and openssl"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" undici@7.30.2 >/dev/null || exit 2
cd "$tmp"
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost 2>/dev/null
cat >main.cjs <<'JS'
const fs = require('node:fs');
const http2 = require('node:http2');
const { Agent, request } = require('undici');
process.on('warning', () => {});
const server = http2.createSecureServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') });
server.on('stream', (stream) => {
  stream.on('error', () => {});
  stream.session.goaway(0, 2 ** 31 - 1);
  setTimeout(() => { if (!stream.destroyed) { stream.respond({ ':status': 200 }); stream.end('ok'); } }, 200);
});
server.on('sessionError', () => {});
server.listen(0, '127.0.0.1', async () => {
  const url = `https://localhost:${server.address().port}`;
  console.log(`Node ${process.version}, undici ${require('undici/package.json').version}`);
  console.log('guess: 200 from both');
  const own = await new Promise((done) => {
    const client = http2.connect(url, { rejectUnauthorized: false });
    client.on('error', () => {});
    client.request({ ':path': '/' }).on('response', (h) => done(String(h[':status']))).on('error', (e) => done(e.message)).end();
  });
  let got;
  try {
    const r = await request(url, { dispatcher: new Agent({ allowH2: true, connect: { rejectUnauthorized: false } }) });
    await r.body.text();
    got = String(r.statusCode);
  } catch (e) { got = e.message; }
  console.log('seen: node:http2:', own);
  console.log('seen: undici:', got);
  process.exit(own === '200' && got === 'HTTP/2: "GOAWAY" frame received with code 0' ? 0 : 1);
});
JS
timeout 50 node --no-warnings main.cjs
