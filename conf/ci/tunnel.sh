#!/bin/sh
# Lets a runner that is not on the gate's machine reach the admin API, which listens on loopback only: an ssh tunnel, which ends with the job. It also
# takes difygate from that machine, so that both speak of the same things. `release.sh` and the rollback come after it.
#
#   GATE_SSH       who and where, such as release@gate.example.com; without it nothing is done: the job runs on the gate's machine
#   GATE_SSH_KEY   the private key, or the file that it is in
#   GATE_HOST_KEY  the machine's line of known_hosts: `ssh-keyscan gate.example.com`, compared by hand
#   BIN            where difygate is put (./bin)
set -eu
umask 077

if [ -z "${GATE_SSH:-}" ]; then
  echo "tunnel: no GATE_SSH, so the admin API is taken to be on this machine" >&2
  exit 0
fi
: "${GATE_SSH_KEY:?is not set}" "${GATE_HOST_KEY:?is not set}" "${BIN:=bin}"

private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
# ssh takes no key whose file others may read, and none without a last line end.
if [ -f "$GATE_SSH_KEY" ]; then GATE_SSH_KEY=$(cat "$GATE_SSH_KEY"); fi
printf '%s\n' "$GATE_SSH_KEY" | tr -d '\r' >"$private/key"
unset GATE_SSH_KEY
printf '%s\n' "$GATE_HOST_KEY" >"$private/known_hosts"
set -- -i "$private/key" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o "UserKnownHostsFile=$private/known_hosts"

mkdir -p "$BIN"
scp -q "$@" "$GATE_SSH:/usr/local/bin/difygate" "$BIN/difygate"
chmod 755 "$BIN/difygate"
# -f: it goes to the background once the port is open, and so this ends.
ssh -f -N -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 -L 9900:127.0.0.1:9900 "$@" "$GATE_SSH"
echo "tunnel: the admin API of $GATE_SSH is at http://127.0.0.1:9900" >&2
