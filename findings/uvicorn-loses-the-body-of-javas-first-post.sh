#!/usr/bin/env bash
# What: Java's HttpClient offers HTTP/2 with its first cleartext request ("Upgrade: h2c"), bodies included; so does `curl --http2`. uvicorn with httptools
#   answers 200 in HTTP/1.1, as it may, but the application gets an empty body. uvicorn with h11 passes the whole body.
# Versions: uvicorn 0.54.0, httptools 0.9.0, h11 0.16.0; OpenJDK 17.0.15.
# Guess that missed: an upgrade that the server does not know changes nothing (RFC 9110 section 7.8), as with nine other servers that were asked.
# For a proxy: take "Upgrade" (all but websocket) and "HTTP2-Settings" off each request. Caddy 2.11 passes "Upgrade: h2c" on.
set -euo pipefail
command -v javac >/dev/null || { echo "needs a JDK"; exit 2; }
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/v"
"$tmp/v/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0 || exit 2
cat >"$tmp/app.py" <<'PY'
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d bytes" % len(body)})
PY
cat >"$tmp/Main.java" <<'JAVA'
import java.net.URI;
import java.net.http.*;
import java.time.Duration;

public class Main {
    public static void main(String[] args) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(args[0])).timeout(Duration.ofSeconds(5))
            .POST(HttpRequest.BodyPublishers.ofString("hello")).build();
        HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + ", the application got " + answer.body());
    }
}
JAVA
javac -d "$tmp" "$tmp/Main.java"
"$tmp/v/bin/pip" list --disable-pip-version-check 2>/dev/null | grep -E '^(uvicorn|httptools|h11) ' | tr -s ' ' | paste -sd,
java -version 2>&1 | head -n 1
echo "guess: 200 and 5 bytes from both"
seen=""
for parser in h11 httptools; do
  port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
  "$tmp/v/bin/uvicorn" --app-dir "$tmp" --log-level critical --http "$parser" --port "$port" app:app &
  for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
  got=$(timeout 20 java -cp "$tmp" Main "http://127.0.0.1:$port/" 2>&1)
  echo "seen: uvicorn --http $parser: $got"
  seen="$seen$got;"
done
[ "$seen" = "200, the application got 5 bytes;200, the application got 0 bytes;" ]
