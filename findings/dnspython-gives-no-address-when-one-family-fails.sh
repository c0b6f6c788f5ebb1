#!/usr/bin/env bash
# What: a name whose A query is answered and whose AAAA query gets SERVFAIL (common with broken middleboxes). dnspython's resolve_name() raises
#   NoNameservers; the IPv4 address is lost. aiodns' getaddrinfo returns it.
# Versions: dnspython 2.9.2, aiodns 4.0.4.
# Guess that missed: what one family gave is returned, as getaddrinfo of c-ares does.
# For a proxy: one that resolves its servers must keep the addresses of the family that answers, and not call a name dead for the other.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check aiodns==4.0.4 dnspython==2.9.2 || exit 2
timeout 50 "$tmp/v/bin/python" - <<'PY'
import asyncio, importlib.metadata, socket, sys, threading
import aiodns, dns.exception, dns.message, dns.nameserver, dns.resolver, dns.rrset

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
port = sock.getsockname()[1]

def run():
    while True:
        data, peer = sock.recvfrom(4096)
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        if query.question[0].rdtype == 28:
            answer.set_rcode(2)
        else:
            answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.1"))
        sock.sendto(answer.to_wire(), peer)

threading.Thread(target=run, daemon=True).start()
print(*(f"{name} {importlib.metadata.version(name)}" for name in ("dnspython", "aiodns")))
print("guess: 192.0.2.1 from both")
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = [dns.nameserver.Do53Nameserver("127.0.0.1", port)]
try:
    first = str(list(resolver.resolve_name("name.test").addresses()))
except dns.exception.DNSException as error:
    first = type(error).__name__

async def with_aiodns():
    resolver = aiodns.DNSResolver(nameservers=[f"127.0.0.1:{port}"])
    found = await resolver.getaddrinfo("name.test", family=socket.AF_UNSPEC, port=80, type=socket.SOCK_STREAM)
    return [node.addr[0].decode() for node in found.nodes]

second = asyncio.run(with_aiodns())
print(f"seen: dnspython {first}, aiodns {second}")
sys.exit((first, second) != ("NoNameservers", ["192.0.2.1"]))
PY
