#!/usr/bin/env bash
# What: a form with one text field of 1.5 MB; no limit on the whole body is set. flask takes it urlencoded and answers 413 to the same field as
#   multipart (400,000 bytes pass); starlette answers 400 to both; busboy, on which multer is built, delivers the first 1,048,576 bytes and
#   raises nothing.
# Versions: flask 3.1.3 with werkzeug 3.1.9, starlette 1.10.0 with python-multipart 0.0.34, busboy 1.6.0 on Node 20.20.2.
# Guess that missed: the field arrives whole; a limit that holds is one on the body, says 413, and does not ask how the form is written.
# For a proxy: 413 and 400 can come from behind it for bodies far below its own limit, for Flask by the form of the request. A limit in
#   the proxy does not replace those of the application.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check flask==3.1.3 werkzeug==3.1.9 starlette==1.10.0 httpx==0.28.1 python-multipart==0.0.34 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" busboy@1.6.0 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const busboy = require('busboy');
const type = process.argv[2];
const parser = busboy({ headers: { 'content-type': type } });
parser.on('field', (_name, value) => console.log(value.length)).on('error', (error) => console.log(error.message));
process.stdin.pipe(parser);
JS
timeout 50 "$tmp/v/bin/python" -W ignore - "$tmp/main.cjs" <<'PY'
import importlib.metadata, subprocess, sys
from flask import Flask, request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

app = Flask("app")
app.add_url_rule("/", "form", lambda: str(len(request.form["text"])), methods=["POST"])

async def form(request):
    async with request.form() as fields:
        return PlainTextResponse(str(len(fields["text"])))

starlette = TestClient(Starlette(routes=[Route("/", form, methods=["POST"])]))

def by_flask(body, kind):
    answer = app.test_client().post("/", data=body, content_type=kind)
    return f"{answer.status_code} {answer.text if answer.status_code == 200 else ''}".strip()

def by_starlette(body, kind):
    answer = starlette.post("/", content=body, headers={"Content-Type": kind})
    return f"{answer.status_code} {answer.text if answer.status_code == 200 else ''}".strip()

def by_busboy(body, kind):
    return subprocess.run(["node", sys.argv[1], kind], input=body, capture_output=True, check=True, timeout=20).stdout.decode().strip()

SIZE = 1500000
TEXT = b"x" * SIZE
FORMS = {
    "application/x-www-form-urlencoded": b"text=" + TEXT,
    "multipart/form-data; boundary=b": b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\n' + TEXT + b"\r\n--b--\r\n",
}
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("flask", "werkzeug", "starlette", "python-multipart")), "busboy 1.6.0")
print(f"guess: {SIZE} in every line")
seen = []
for kind, body in FORMS.items():
    for name, read in (("flask", by_flask), ("starlette", by_starlette), ("busboy", by_busboy)):
        seen.append(read(body, kind))
        print(f"seen: {name}, {kind.partition(';')[0]}: {seen[-1]}")
sys.exit(seen != [f"200 {SIZE}", "400", "1048576", "413", "400", "1048576"])
PY
