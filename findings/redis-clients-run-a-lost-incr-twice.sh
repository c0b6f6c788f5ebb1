#!/usr/bin/env bash
# What: a proxy between client and Redis closes the connection after the server has run INCR, before its reply is through. With default settings redis-py
#   and ioredis send the command again: the counter goes up by two, the caller gets 2 and no error. LPUSH (a task queue) and MULTI/EXEC pipelines of
#   redis-py likewise.
# Versions: redis-py 8.1.0, ioredis 6.0.0, Debian's redis-server 7.0.15.
# Guess that missed: only the connecting is retried; a command whose fate is unknown raises ConnectionError.
# For a proxy: cutting a TCP connection that has a command under way is not a clean failure for these clients, it doubles writes. Drain, and cut
#   when nothing is under way.
set -euo pipefail
command -v redis-server >/dev/null && command -v node >/dev/null || { echo "needs redis-server and node"; exit 2; }
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check redis==8.1.0 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" ioredis@6.0.0 >/dev/null || exit 2
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --port "$port" --bind 127.0.0.1 --save "" --dir "$tmp" >/dev/null &
cat >"$tmp/main.cjs" <<'JS'
const module_ = require('ioredis');
const client = new (module_.Redis || module_)(Number(process.argv[2]), '127.0.0.1');
client.on('error', () => {});
client.incr('ioredis').then((n) => console.log('returns', n), (e) => console.log('raises', e.message)).then(() => process.exit(0));
JS
redis-server --version | cut -d' ' -f1-3
timeout 50 "$tmp/v/bin/python" - "$port" "$tmp/main.cjs" <<'PY'
import socket, subprocess, sys, threading, time
import redis

PORT = int(sys.argv[1])
cut = {"left": 0}
proxy = socket.create_server(("127.0.0.1", 0))

def carry(client):
    with client, socket.create_connection(("127.0.0.1", PORT)) as server:
        try:
            while data := client.recv(65536):
                server.sendall(data)
                reply = server.recv(65536)
                if any(word in data.upper() for word in (b"INCR", b"LPUSH", b"EXEC")) and cut["left"]:
                    cut["left"] -= 1
                    return
                client.sendall(reply)
        except OSError:
            pass

def run():
    while True:
        threading.Thread(target=carry, args=(proxy.accept()[0],), daemon=True).start()

threading.Thread(target=run, daemon=True).start()
direct = redis.Redis(port=PORT)
for _ in range(100):
    try:
        direct.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
through = proxy.getsockname()[1]
client = redis.Redis(port=through)
client.ping()

def attempt(call):
    cut["left"] = 1
    try:
        return f"returns {call()}"
    except redis.RedisError as error:
        return f"raises {type(error).__name__}"

def pipeline():
    pipe = client.pipeline()
    pipe.incr("pipeline")
    return pipe.execute()

print("redis-py", redis.__version__ + ", ioredis 6.0.0")
print("guess: each raises an error, and each value is 1")
incr, push, pipe = attempt(lambda: client.incr("incr")), attempt(lambda: client.lpush("queue", "task")), attempt(pipeline)
cut["left"] = 1
node = subprocess.check_output(["node", sys.argv[2], str(through)], text=True, timeout=20).strip()
seen = (int(direct.get("incr")), direct.llen("queue"), int(direct.get("pipeline")), int(direct.get("ioredis")))
print(f"seen: redis-py INCR {incr}, value {seen[0]}")
print(f"seen: redis-py LPUSH {push}, length {seen[1]}")
print(f"seen: redis-py pipeline {pipe}, value {seen[2]}")
print(f"seen: ioredis INCR {node}, value {seen[3]}")
sys.exit(seen != (2, 2, 2, 2))
PY
