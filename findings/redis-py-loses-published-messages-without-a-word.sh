#!/usr/bin/env bash
# What: a subscriber reads pubsub.listen() of redis-py through a proxy that ends the connection (a restart, a failover). Nothing is raised: the loop connects
#   and subscribes again by itself and goes on. What was published in between is gone; the only trace is a second message of type "subscribe".
# Versions: redis-py 8.1.0, Debian's redis-server 7.0.15.
# Guess that missed: listen() raises ConnectionError, so that the caller knows of the gap.
# For a proxy: streams that are fed by Redis (a worker publishes, the API subscribes) miss their middle when a connection to Redis is cut, and nobody sees an
#   error: the client waits for an end event that was published during the gap. No health check shows it.
set -euo pipefail
command -v redis-server >/dev/null || { echo "needs redis-server"; exit 2; }
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check redis==8.1.0 || exit 2
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --port "$port" --bind 127.0.0.1 --save "" --dir "$tmp" >/dev/null &
redis-server --version | cut -d' ' -f1-3
timeout 50 "$tmp/v/bin/python" - "$port" <<'PY'
import socket, sys, threading, time
import redis

PORT = int(sys.argv[1])
pairs, open_again = [], threading.Event()
open_again.set()
proxy = socket.create_server(("127.0.0.1", 0))

def carry(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass

def run():
    while True:
        client = proxy.accept()[0]
        open_again.wait()
        server = socket.create_connection(("127.0.0.1", PORT))
        pairs.append((client, server))
        for ends in ((client, server), (server, client)):
            threading.Thread(target=carry, args=ends, daemon=True).start()

threading.Thread(target=run, daemon=True).start()
direct = redis.Redis(port=PORT)
for _ in range(100):
    try:
        direct.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
pubsub = redis.Redis(port=proxy.getsockname()[1]).pubsub()
pubsub.subscribe("run")
seen = []

def listen():
    try:
        for message in pubsub.listen():
            seen.append(message["type"] if message["type"] == "subscribe" else message["data"].decode())
    except redis.RedisError as error:
        seen.append(type(error).__name__)

threading.Thread(target=listen, daemon=True).start()

def publish(data, receivers):
    for _ in range(50):
        if direct.pubsub_numsub("run")[0][1] == receivers:
            break
        time.sleep(0.1)
    return direct.publish("run", data)

print("redis-py", redis.__version__)
print("guess: ['subscribe', 'one', 'ConnectionError']")
publish("one", 1)
time.sleep(0.3)
open_again.clear()
for pair in pairs:
    for end in pair:
        end.shutdown(socket.SHUT_RDWR)
publish("two", 0)
open_again.set()
publish("three", 1)
time.sleep(0.5)
print("seen:", seen)
sys.exit(seen != ["subscribe", "one", "subscribe", "three"])
PY
