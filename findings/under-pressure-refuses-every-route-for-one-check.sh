#!/usr/bin/env bash
# What: @fastify/under-pressure with a healthCheck that fails. Not the status route alone answers 503: every route of the server does, with Retry-After: 10,
#   until the check passes again.
# Versions: @fastify/under-pressure 9.2.0, fastify 5.12.8, on Node 20.20.2.
# Guess that missed: the health check decides what the health route says; the rest is refused under pressure (event loop, heap) alone.
# For a proxy: with such servers a dependency's failure reaches clients though no proxy has taken the server out, and where all servers share it, all refuse.
#   Check a dependency that only some routes need by another way.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" fastify@5.12.8 @fastify/under-pressure@9.2.0 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const fastify = require('fastify');
(async () => {
  console.log(`Node ${process.version}, @fastify/under-pressure ${require('@fastify/under-pressure/package.json').version}`);
  console.log('guess: /status 503, / 200 while the check fails');
  let healthy = true;
  const app = fastify();
  app.register(require('@fastify/under-pressure'), { healthCheck: async () => healthy, healthCheckInterval: 100, exposeStatusRoute: true });
  app.get('/', async () => 'hello');
  const url = await app.listen({ port: 0, host: '127.0.0.1' });
  const seen = [];
  for (healthy of [true, false, true]) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const answers = await Promise.all(['/status', '/'].map((path) => fetch(url + path)));
    seen.push(...answers.map((answer) => answer.status));
    console.log(`seen: check ${healthy ? 'passes' : 'fails'}: /status ${answers[0].status}, / ${answers[1].status}, Retry-After ${answers[1].headers.get('retry-after')}`);
  }
  process.exit(String(seen) === '200,200,503,503,200,200' ? 0 : 1);
})();
JS
timeout 50 node "$tmp/main.cjs"
