#!/usr/bin/env bash
# What: two valid event streams (HTML standard, section 9.2.5: one byte order mark is skipped at the start, lines end with LF, CRLF or CR, also mixed). Behind a
#   byte order mark httpx-sse and sseclient-py lose the first event. Where a line ends with LF and the blank one with CRLF, sseclient-py makes one event of two.
#   eventsource-parser (npm) reads both.
# Versions: httpx-sse 0.4.3 on httpx 0.28.1, sseclient-py 1.9.0, eventsource-parser 3.1.1 on Node 20.20.2.
# Guess that missed: three events of each stream for every client.
# For a proxy: put nothing before the first byte of a stream, and end both lines of an event that it adds alike.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check httpx==0.28.1 httpx-sse==0.4.3 sseclient-py==1.9.0 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" eventsource-parser@3.1.1 >/dev/null || exit 2
cat >"$tmp/main.mjs" <<'JS'
import { createParser } from 'eventsource-parser';
const events = [];
const parser = createParser({ onEvent: (event) => events.push(event.data) });
parser.feed(new TextDecoder().decode(Buffer.from(process.argv[2], 'hex')));
console.log(JSON.stringify(events));
JS
timeout 50 "$tmp/v/bin/python" - "$tmp/main.mjs" <<'PY'
import importlib.metadata, json, subprocess, sys
import httpx, httpx_sse, sseclient

def by_httpx_sse(stream):
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=stream)
    with httpx.Client(transport=httpx.MockTransport(lambda _request: answer)) as client, httpx_sse.connect_sse(client, "GET", "http://a/") as source:
        return [event.data for event in source.iter_sse()]

CLIENTS = {
    "httpx-sse": by_httpx_sse,
    "sseclient-py": lambda stream: [event.data for event in sseclient.SSEClient(iter([stream])).events()],
    "eventsource-parser": lambda stream: json.loads(subprocess.check_output(["node", sys.argv[1], stream.hex()], text=True, timeout=20)),
}
STREAMS = {
    "one line end": b"data: one\n\ndata: two\n\ndata: three\n\n",
    "byte order mark": b"\xef\xbb\xbfdata: one\n\ndata: two\n\ndata: three\n\n",
    "LF, then CRLF": b"data: one\n\r\ndata: two\n\ndata: three\n\n",
}
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("httpx-sse", "sseclient-py")), "eventsource-parser 3.1.1")
ALL = ["one", "two", "three"]
print("guess:", ALL, "in every line")
seen = []
for title, stream in STREAMS.items():
    for name, read in CLIENTS.items():
        seen.append(read(stream))
        print(f"seen: {title}: {name}: {seen[-1]}")
sys.exit(seen != [ALL, ALL, ALL, ALL[1:], ALL[1:], ALL, ALL, ["one\ntwo", "three"], ALL])
PY
