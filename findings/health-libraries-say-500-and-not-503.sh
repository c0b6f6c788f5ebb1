#!/usr/bin/env bash
# What: a check fails. django-health-check answers 500, to HEAD too, and so does lightship for "not ready yet", "not ready" and "shutting down", the states of
#   every start and stop; lightship's /live is 500 as well while it shuts down. @godaddy/terminus says 503.
# Versions: django-health-check 4.8.0 with django 5.2.19, lightship 9.0.3 and @godaddy/terminus 4.12.1 on Node 20.20.2.
# Guess that missed: 503 in every case; 500 is for a fault within the health check itself.
# For a proxy: take any 5xx of a health endpoint for "no", and do not take 500 for a broken endpoint that may be passed over.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check django-health-check==4.8.0 django==5.2.19 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" lightship@9.0.3 @godaddy/terminus@4.12.1 >/dev/null || exit 2
cat >"$tmp/main.mjs" <<'JS'
import http from 'node:http';
import { createRequire } from 'node:module';
import { createLightship } from 'lightship';

const { createTerminus } = createRequire(import.meta.url)('@godaddy/terminus');
const lightship = await createLightship({ detectKubernetes: false, port: 0, signals: [], terminate: () => {} });
const status = async (port, path) => (await fetch(`http://127.0.0.1:${port}${path}`)).status;
const server = http.createServer((_request, response) => response.end());
createTerminus(server, { healthChecks: { '/health': async () => { throw new Error('down'); } }, signals: [], logger: () => {} });
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const terminus = await status(server.address().port, '/health');
const states = [];
const look = async () => states.push(await status(lightship.server.address().port, '/ready'), await status(lightship.server.address().port, '/live'));
await look();
lightship.signalReady();
await look();
lightship.signalNotReady();
await look();
lightship.registerShutdownHandler(() => new Promise((resolve) => setTimeout(resolve, 1000)));
lightship.shutdown().catch(() => {});
await new Promise((resolve) => setTimeout(resolve, 200));
await look();
console.log(JSON.stringify([states, terminus]));
process.exit();
JS
cat >"$tmp/urls.py" <<'PY'
import dataclasses
from django.urls import path
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable
from health_check.views import HealthCheckView

@dataclasses.dataclass
class Database(HealthCheck):
    async def run(self):
        raise ServiceUnavailable("down")

urlpatterns = [path("health", HealthCheckView.as_view(checks=[Database]))]
PY
cd "$tmp"
PYTHONPATH=. timeout 50 v/bin/python - <<'PY'
import importlib.metadata, json, logging, subprocess, sys
import django
from django.conf import settings

settings.configure(ALLOWED_HOSTS=["*"], INSTALLED_APPS=["health_check"], ROOT_URLCONF="urls")
django.setup()
logging.disable(logging.CRITICAL)
from django.test import Client

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("django-health-check", "django")), "lightship 9.0.3, terminus 4.12.1")
print("guess: 503 wherever it is not 200, and lightship's /live always 200")
client = Client(headers={"accept": "text/plain"})
seen = [client.get("/health").status_code, client.head("/health").status_code]
print(f"seen: django-health-check, failing check: GET {seen[0]}, HEAD {seen[1]}")
states, terminus = json.loads(subprocess.check_output(["node", "main.mjs"], text=True, timeout=30, stderr=subprocess.DEVNULL).splitlines()[-1])
for name, pair in zip(("starting", "ready", "not ready", "shutting down"), zip(states[::2], states[1::2])):
    print(f"seen: lightship, {name}: /ready {pair[0]}, /live {pair[1]}")
print(f"seen: terminus, failing check: {terminus}")
sys.exit((seen, states, terminus) != ([500, 500], [500, 200, 200, 200, 500, 200, 500, 500], 503))
PY
