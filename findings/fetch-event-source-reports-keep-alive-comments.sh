#!/usr/bin/env bash
# What: an event stream that holds comment lines only (": ping" and a blank line, the usual sign of life) makes @microsoft/fetch-event-source call
#   onmessage for each comment, with empty data. A handler that does JSON.parse(message.data) throws at the first one, and that ends the stream.
# Versions: @microsoft/fetch-event-source 2.0.1 on Node 20.20.2.
# Guess that missed: a block without a data field is no event (the HTML standard's dispatch step; eventsource 5.1.5 and undici give none).
# For a proxy: put no comments into a stream that the server did not send; a proxy's keep-alive belongs below HTTP.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" @microsoft/fetch-event-source@2.0.1 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const http = require('node:http');
const { fetchEventSource } = require('@microsoft/fetch-event-source');
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
globalThis.window = { fetch, setTimeout, clearTimeout };
const server = http.createServer((_q, s) => {
  s.writeHead(200, { 'content-type': 'text/event-stream' });
  s.end(': ping\n\n: ping\n\ndata: {}\n\n');
}).listen(0, '127.0.0.1', async () => {
  console.log(`Node ${process.version}, fetch-event-source ${require('@microsoft/fetch-event-source/package.json').version}`);
  console.log('guess: one message, "{}"');
  const seen = [];
  await fetchEventSource(`http://127.0.0.1:${server.address().port}/`, { onmessage: (m) => seen.push(m.data) });
  console.log('seen:', seen.length, 'messages:', JSON.stringify(seen));
  process.exit(JSON.stringify(seen) === '["","","{}"]' ? 0 : 1);
});
JS
timeout 50 node "$tmp/main.cjs"
