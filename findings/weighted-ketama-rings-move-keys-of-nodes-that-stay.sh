#!/usr/bin/env bash
# What: a ketama ring of six nodes with weights 1 to 6. One node is removed, and keys move that belonged to none but the others: from a node that stays to
#   another that stays. uhashring (hash_fn "ketama") and npm's hashring do the same, in the same number: a node's points follow its share of the total
#   weight, so all shares change. With equal weights no such key moves, nor with uhashring's default ring.
# Versions: uhashring 2.5 (PyPI), hashring 3.2.0 (npm, Node 20.20.2).
# Guess that missed: removing a node moves its own keys and no others; that is what consistent hashing is chosen for.
# For a proxy: with weights by share a drain of one server takes caches and sessions from servers that nothing happened to. Count a node's points by its own
#   weight alone.
set -euo pipefail
command -v node >/dev/null || { echo "needs node"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check uhashring==2.5 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" hashring@3.2.0 >/dev/null || exit 2
cat >"$tmp/main.cjs" <<'JS'
const HashRing = require('hashring');
const result = [];
for (const weight of [() => 1, (i) => i + 1]) {
  const ring = new HashRing(Object.fromEntries([0, 1, 2, 3, 4, 5].map((i) => [`node${i}`, { weight: weight(i) }])));
  const keys = Array.from({ length: 20000 }, (_, i) => `key${i}`);
  const before = keys.map((key) => ring.get(key));
  ring.remove('node3');
  const others = keys.map((key, i) => [before[i], ring.get(key)]).filter(([old]) => old !== 'node3');
  result.push([others.filter(([old, now]) => old !== now).length, others.length]);
}
console.log(JSON.stringify(result));
JS
timeout 50 "$tmp/v/bin/python" - "$tmp/main.cjs" <<'PY'
import importlib.metadata, json, subprocess, sys
from uhashring import HashRing

KEYS = [f"key{i}" for i in range(20000)]

def moved(weights, **options):
    ring = HashRing({f"node{i}": {"weight": weight} for i, weight in enumerate(weights)}, **options)
    before = {key: ring.get_node(key) for key in KEYS}
    ring.remove_node("node3")
    others = [key for key in KEYS if before[key] != "node3"]
    return [sum(before[key] != ring.get_node(key) for key in others), len(others)]

print(f"uhashring {importlib.metadata.version('uhashring')}, hashring 3.2.0")
print("guess: 0 keys of other nodes move in every line")
equal, weighted = [1] * 6, [1, 2, 3, 4, 5, 6]
node = json.loads(subprocess.check_output(["node", sys.argv[1]], text=True, timeout=30))
seen = {
    "uhashring ketama, equal weights": moved(equal, hash_fn="ketama"),
    "hashring, equal weights": node[0],
    "uhashring ketama, weights 1 to 6": moved(weighted, hash_fn="ketama"),
    "hashring, weights 1 to 6": node[1],
    "uhashring default, weights 1 to 6": moved(weighted),
}
for name, (count, total) in seen.items():
    print(f"seen: {name}: {count} of {total} keys of other nodes move")
counts = [count for count, _total in seen.values()]
sys.exit(not (counts[0] == counts[1] == counts[4] == 0 and counts[2] == counts[3] > 0))
PY
