#!/usr/bin/env bash
# What: Java's HttpClient takes at most eight interim responses (1xx) to a request, over HTTP/1.1 and HTTP/2. The ninth fails the request with a
#   ProtocolException, though the 200 follows.
# Versions: OpenJDK 17.0.15 (Debian's java and javac, 17 or later).
# Guess that missed: interim responses are skipped without a count; their very use is to be repeated while a long job goes on ("102 Processing").
# For a proxy: interim responses that a server sends as a sign of life every few seconds end a long request after the eighth. Drop repeated ones.
set -euo pipefail
command -v javac >/dev/null || { echo "needs a JDK"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cat >"$tmp/Main.java" <<'JAVA'
import java.net.*;
import java.net.http.*;
import java.time.Duration;

public class Main {
    static String ask(int interim) throws Exception {
        ServerSocket server = new ServerSocket(0, 5, InetAddress.getByName("127.0.0.1"));
        Thread thread = new Thread(() -> {
            try (Socket conn = server.accept()) {
                conn.getInputStream().read(new byte[65536]);
                String answer = "HTTP/1.1 102 Processing\r\n\r\n".repeat(interim) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                conn.getOutputStream().write(answer.getBytes());
                conn.getInputStream().read();
            } catch (java.io.IOException gone) {
                // The client has closed the connection.
            }
        });
        thread.setDaemon(true);
        thread.start();
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        URI uri = URI.create("http://127.0.0.1:" + server.getLocalPort() + "/");
        HttpRequest request = HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(5)).build();
        try {
            return "" + client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode();
        } catch (java.io.IOException e) {
            return e.getClass().getSimpleName() + ": " + e.getMessage();
        }
    }

    public static void main(String[] args) throws Exception {
        System.out.println("Java " + System.getProperty("java.version") + " java.net.http.HttpClient");
        System.out.println("guess: 200 after any number of interim responses");
        String eight = ask(8), nine = ask(9);
        System.out.println("seen: 8 x 102, then 200: " + eight);
        System.out.println("seen: 9 x 102, then 200: " + nine);
        System.exit(eight.equals("200") && nine.startsWith("ProtocolException: Too many interim responses") ? 0 : 1);
    }
}
JAVA
javac -d "$tmp" "$tmp/Main.java"
timeout 50 java -cp "$tmp" Main
