#!/usr/bin/env bash
# What: the third form of date in HTTP, "Sun Nov  6 08:49:37 1994", which RFC 9110 section 5.6.7 says a recipient MUST accept and read as UTC. In a process with
#   TZ=Asia/Shanghai a 503 says by such a date to come again in 4 s: got, ky and axios-retry come again at once, undici's RetryAgent after 0.5 s; and to
#   http-cache-semantics an answer that expires in an hour is stale. With the usual form all of them are right.
# Versions: got 14.6.6, ky 1.14.3, axios-retry 4.5.0 on axios 1.21.1, undici 7.30.2, http-cache-semantics 4.3.0, on Node 20.20.2.
# Guess that missed: libraries whose field is HTTP read all three forms alike, whatever the time zone.
# For a proxy: write Retry-After in seconds, never as a date, and pass dates on in the form of RFC 5322 ("Sun, 06 Nov 1994 08:49:37 GMT").
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" got@14.6.6 ky@1.14.3 axios@1.21.1 axios-retry@4.5.0 undici@7.30.2 http-cache-semantics@4.3.0 >/dev/null || exit 2
cat >"$tmp/main.mjs" <<'JS'
import http from 'node:http';
import { readFileSync } from 'node:fs';
import axios from 'axios';
import axiosRetry from 'axios-retry';
import CachePolicy from 'http-cache-semantics';
import got from 'got';
import ky from 'ky';
import { Agent, RetryAgent, fetch } from 'undici';

const names = ['got', 'ky', 'axios-retry', 'undici', 'http-cache-semantics'];
const version = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
const usual = (date) => date.toUTCString();
const asctime = (date) => {
  const [day, number, month, year, time] = date.toUTCString().replace(',', '').split(' ');
  return `${day} ${month} ${String(Number(number)).padStart(2)} ${time} ${year}`;
};
const times = new Map();
let form;
const server = http.createServer((request, response) => {
  times.set(request.url, [...(times.get(request.url) ?? []), performance.now()]);
  response.writeHead(503, { 'retry-after': form(new Date(Date.now() + 4000)) });
  response.end();
}).listen(0, '127.0.0.1', async () => {
  const url = `http://127.0.0.1:${server.address().port}/`;
  const client = axios.create();
  axiosRetry(client, { retries: 1 });
  console.log(`Node ${process.version}, TZ=${process.env.TZ}, ${names.map((name) => `${name} ${version(name)}`).join(', ')}`);
  console.log('guess: again after 3 to 4 s, fresh for 3600 s, in both lines');
  const right = [];
  for (form of [usual, asctime]) {
    times.clear();
    const calls = [got(url + 'got', { retry: { limit: 1 } }), ky(url + 'ky', { retry: 1 }), client.get(url + 'axios-retry'),
      fetch(url + 'undici', { dispatcher: new RetryAgent(new Agent(), { maxRetries: 1 }) })];
    await Promise.allSettled(calls);
    const expires = new Date(Date.now() + 3600000);
    const policy = new CachePolicy({ url: '/', method: 'GET', headers: {} }, { status: 200, headers: { date: usual(new Date()), expires: form(expires) } });
    const waits = names.slice(0, 4).map((name) => (times.get('/' + name)[1] - times.get('/' + name)[0]) / 1000);
    const fresh = policy.timeToLive() / 1000;
    console.log(`seen: "${form(expires)}": ${names.slice(0, 4).map((name, i) => `${name} ${waits[i].toFixed(1)} s`).join(', ')}, fresh for ${Math.round(fresh)} s`);
    right.push(waits.every((wait) => wait > 2.5) && fresh > 3500, waits.every((wait) => wait < 2) && fresh === 0);
  }
  process.exit(String(right) === 'true,false,false,true' ? 0 : 1);
});
JS
TZ=Asia/Shanghai timeout 50 node "$tmp/main.mjs"
