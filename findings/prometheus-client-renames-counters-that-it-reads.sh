#!/usr/bin/env bash
# What: prometheus_client's parser of the text format gives a counter's sample another name than stands in the text: "# TYPE a counter" and "a 1" come out
#   as "a_total".
# Versions: prometheus_client 0.26.0.
# Guess that missed: a parser returns the names that it reads; the text format, unlike OpenMetrics, demands no "_total".
# For a proxy: name each counter ..._total, or checks and federation scripts that read its metrics with this library look for a name that is not there.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check prometheus_client==0.26.0 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import importlib.metadata, sys
from prometheus_client.parser import text_string_to_metric_families

TEXT = "# TYPE proxy_requests counter\nproxy_requests 1\n# TYPE proxy_open gauge\nproxy_open 2\n"
print("prometheus_client", importlib.metadata.version("prometheus_client"))
print("guess: ['proxy_requests', 'proxy_open']")
seen = [sample.name for family in text_string_to_metric_families(TEXT) for sample in family.samples]
print("seen:", seen)
sys.exit(seen != ["proxy_requests_total", "proxy_open"])
PY
