#!/usr/bin/env bash
# What: py-healthcheck with nothing set runs a check once and answers from memory for 27 s if it passed, for 9 s if it failed. A dependency that dies right after
#   a probe is healthy for 26 s more, whatever the prober's interval; one that is back is ill for 8 s more. A failure is 500, not 503.
# Versions: py-healthcheck 1.10.1 with flask 3.1.3 (its clock is moved on, nothing waits).
# Guess that missed: each request to the health endpoint runs the checks.
# For a proxy: three failures in a row at 1 s each do not mean three looks at the dependency. Read what the endpoint says of its time ("timestamp"), turn the
#   memory off (success_ttl=None, failed_ttl=None), or count its 27 s into how long an outage may last unseen.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check py-healthcheck==1.10.1 flask==3.1.3 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import importlib.metadata, logging, sys, time
from flask import Flask
from healthcheck import HealthCheck

logging.disable(logging.CRITICAL)
state = {"alive": True, "runs": 0}
real, ahead = time.time, 0.0
time.time = lambda: real() + ahead

def database():
    state["runs"] += 1
    return state["alive"], "database"

def client(**options):
    app, health = Flask("app"), HealthCheck(**options)
    health.add_check(database)
    app.add_url_rule("/health", "health", view_func=lambda: health.run())
    return app.test_client()

def look(prober, moment, alive):
    global ahead
    ahead, state["alive"] = moment, alive
    return prober.get("/health").status_code

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("py-healthcheck", "flask")))
print("guess: [200, 503, 503, 503, 503, 503, 200, 200] at 0, 1, 10, 20, 26, 28, 30 and 38 s, 8 runs")
prober = client()
seen = [look(prober, 0, True), *(look(prober, moment, False) for moment in (1, 10, 20, 26, 28)), look(prober, 30, True), look(prober, 38, True)]
print(f"seen: nothing set: {seen}, {state['runs']} runs")
state["runs"] = 0
prober = client(success_ttl=None, failed_ttl=None)
without = [look(prober, 50, True), look(prober, 51, False), look(prober, 52, True)]
print(f"seen: no memory: {without}, {state['runs']} runs")
sys.exit((seen, without) != ([200, 200, 200, 200, 200, 500, 500, 200], [200, 500, 200]))
PY
