#!/usr/bin/env bash
# What: a gRPC server with the standard health service, no call under way but one client that watches its health (Health/Watch, as gRPC's own client-side
#   health checking does). enter_graceful_shutdown() tells it NOT_SERVING, and then server.stop(5) takes all 5 s: the Watch counts as a call that runs. Without
#   a watcher stop(5) is over at once.
# Versions: grpcio 1.85.3, grpcio-health-checking 1.85.1.
# Guess that missed: the health service ends its watches once it has told them, so that a server with nothing to do stops at once.
# For a proxy: with one watcher every stop of such a server lasts as long as it may. Check by Health/Check, or set the grace to what a stop may cost.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check grpcio==1.85.3 grpcio-health-checking==1.85.1 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import concurrent.futures, importlib.metadata, sys, time
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("grpcio", "grpcio-health-checking")))
print("guess: both stops take less than a second")
NAMES = health_pb2.HealthCheckResponse.ServingStatus
took = []
for watched in (False, True):
    server, servicer = grpc.server(concurrent.futures.ThreadPoolExecutor(4)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        told = [NAMES.Name(stub.Check(health_pb2.HealthCheckRequest()).status)]
        watch = stub.Watch(health_pb2.HealthCheckRequest()) if watched else None
        if watched:
            told = [NAMES.Name(next(watch).status)]
        servicer.enter_graceful_shutdown()
        if watched:
            told.append(NAMES.Name(next(watch).status))
        start = time.monotonic()
        server.stop(5).wait()
        took.append(time.monotonic() - start)
        print(f"seen: {'with' if watched else 'without'} a watcher: told {told}, stop(5) takes {took[-1]:.1f} s")
sys.exit(not (took[0] < 2 and took[1] > 4.5))
PY
