#!/usr/bin/env bash
# What: one .env file, four readers. PASSWORD=top#secret, unquoted: npm's dotenv and Node's --env-file read "top"; python-dotenv and a shell read "top#secret".
#   TOKEN='a${PASSWORD}b', in single quotes: python-dotenv puts the password in; the three others take it as it stands.
# Versions: dotenv 18.0.10 (npm) and --env-file, Node 20.20.2; python-dotenv 1.2.4; bash.
# Guess that missed: as in a shell (and in docker compose), # begins a comment only after a blank, and single quotes keep everything.
# For a proxy: a secret that the API (Python), the web front end (Node) and a check in a shell read from one file may be three secrets. Put values with # into
#   quotes and avoid ${ in them; a check that fails with "wrong password" here need not be wrong itself.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check python-dotenv==1.2.4 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" dotenv@18.0.10 >/dev/null || exit 2
cd "$tmp"
printf '%s\n' 'PASSWORD=top#secret' "TOKEN='a\${PASSWORD}b'" >.env
env -u PASSWORD -u TOKEN timeout 50 v/bin/python - <<'PY'
import importlib.metadata, json, subprocess, sys
from dotenv import dotenv_values

def run(*command):
    return subprocess.check_output(command, text=True, timeout=20).strip().splitlines()[-1]

SHOW = "console.log(JSON.stringify([process.env.PASSWORD, process.env.TOKEN]))"
DOTENV = "const e = require('dotenv').parse(require('fs').readFileSync('.env')); console.log(JSON.stringify([e.PASSWORD, e.TOKEN]))"
dotenv = run("node", "-p", "require('dotenv/package.json').version")
print(f"python-dotenv {importlib.metadata.version('python-dotenv')}, dotenv {dotenv}, Node {run('node', '--version')}")
EXPECTED = ["top#secret", "a${PASSWORD}b"]
print("guess:", EXPECTED, "in every line")
values = dotenv_values(".env")
seen = {
    "bash": run("bash", "-c", 'set -a; . ./.env; printf "%s\\t%s\\n" "$PASSWORD" "$TOKEN"').split("\t"),
    "dotenv (npm)": json.loads(run("node", "-e", DOTENV)),
    "node --env-file": json.loads(run("node", "--env-file=.env", "-e", SHOW)),
    "python-dotenv": [values["PASSWORD"], values["TOKEN"]],
}
for name, pair in seen.items():
    print(f"seen: {name}: {pair}")
cut = ["top", "a${PASSWORD}b"]
sys.exit(list(seen.values()) != [EXPECTED, cut, cut, ["top#secret", "atop#secretb"]])
PY
