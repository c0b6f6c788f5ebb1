#!/usr/bin/env bash
# What: "redis-cli ping", the health check of many compose files. When Redis answers with an error, "-NOAUTH" or "-MISCONF" (it cannot save, so it takes no
#   writes), redis-cli prints it and exits 0: healthy. A wrong password by -a likewise. With -e the exit code is 1.
# Versions: Debian's redis-tools and redis-server 7.0.15.
# Guess that missed: an error reply is a failed command, so the exit code is not 0.
# For a proxy: compare the answer with PONG (redis-cli -e, or `grep -qx PONG`). A check by exit code alone passes on a Redis that refuses everything.
set -euo pipefail
command -v redis-server >/dev/null && command -v redis-cli >/dev/null || { echo "needs redis-server and redis-cli"; exit 2; }
tmp=$(mktemp -d)
trap 'kill -9 $(jobs -p) 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
free() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
locked=$(free) full=$(free)
mkdir "$tmp/gone"
redis-server --port "$locked" --bind 127.0.0.1 --save "" --dir "$tmp" --requirepass example >/dev/null &
redis-server --port "$full" --bind 127.0.0.1 --save "3600 1" --dir "$tmp/gone" >/dev/null &
for port in "$locked" "$full"; do
  for _ in $(seq 100); do redis-cli -p "$port" ping >/dev/null 2>&1 && break; sleep 0.1; done
done
rmdir "$tmp/gone"
redis-cli -p "$full" bgsave >/dev/null
for _ in $(seq 50); do redis-cli -p "$full" ping | grep -q MISCONF && break; sleep 0.1; done
redis-cli --version
echo "guess: exit code 1 in the first three lines"
seen=
look() {
  local code=0 answer
  answer=$("$@" 2>&1) || code=$?
  answer=${answer//$'\n'/; }
  echo "seen: $code from: ${*/$locked/LOCKED} -> ${answer:0:60}" | sed "s/$full/FULL/"
  seen+="$code "
}
look redis-cli -p "$locked" ping
look redis-cli -a wrong --no-auth-warning -p "$locked" ping
look redis-cli -p "$full" ping
look redis-cli -e -p "$locked" ping
look redis-cli -e -p "$full" ping
[ "$seen" = "0 0 0 1 1 " ] || exit 1
