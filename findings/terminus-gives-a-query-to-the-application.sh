#!/usr/bin/env bash
# What: @godaddy/terminus answers /health. A probe of "/health?probe=1" or "/health?" is none of its business: the request goes on to the application, which
#   says 404, or, where it has a page for every path, 200 although the check fails.
# Versions: @godaddy/terminus 4.12.1 on Node 20.20.2.
# Guess that missed: the query is no part of the path, as in express, fastify and everywhere else.
# For a proxy: probers that add a query against caches (?t=...) see another page than /health. With a single-page application behind it this one is green.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" @godaddy/terminus@4.12.1 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const http = require('node:http');
const { createTerminus } = require('@godaddy/terminus');
(async () => {
  console.log(`Node ${process.version}, @godaddy/terminus ${require('@godaddy/terminus/package.json').version}`);
  console.log('guess: 503 in every line, the check fails');
  const seen = [];
  for (const [name, status] of [['application without the path', 404], ['application with a page for every path', 200]]) {
    const server = http.createServer((_request, response) => response.writeHead(status).end('page'));
    createTerminus(server, { healthChecks: { '/health': async () => { throw new Error('down'); } }, signals: [], logger: () => {} });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    for (const path of ['/health', '/health?probe=1', '/health?']) {
      const request = new Promise((resolve, reject) => http.get({ host: '127.0.0.1', port: server.address().port, path, agent: false }, resolve).on('error', reject));
      seen.push((await request).resume().statusCode);
      console.log(`seen: ${name}: ${path}: ${seen.at(-1)}`);
    }
  }
  process.exit(String(seen) === '503,404,404,503,200,200' ? 0 : 1);
})();
JS
timeout 50 node "$tmp/main.cjs"
