//! What an endpoint is sent of a request: its cookies, its target, and what is said of the way that it came.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use difygate::server::Gate;
use http::Request;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::{Upstream, dify_upstream, edge, gate, soon};
use crate::wire::{Answer, Wire};

/// A body that the gate does not take in before it sends the request on.
const LARGE: usize = 70_000;

/// The request line and the headers that an endpoint got, as it tells them.
struct Sent(String);

impl Sent {
    fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
        Self(answer.text())
    }

    fn target(&self) -> &str {
        let line = self.0.lines().next().unwrap();
        line.split_once(' ').unwrap().1.strip_suffix(" HTTP/1.1").unwrap()
    }

    fn lines(&self, name: &str) -> Vec<&str> {
        let lines = self.0.lines().filter_map(|line| line.split_once(": "));
        let found = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value).collect()
    }

    /// Lines that say something of the scheme.
    fn schemes(&self) -> Vec<String> {
        let says = |line: &String| {
            ["proto", "ssl", "scheme", "https"]
                .iter()
                .any(|word| line.contains(word))
        };
        let lines = self.0.lines().skip(1).map(str::to_ascii_lowercase);
        lines.filter(says).collect()
    }
}

/// A gate before an endpoint that tells what it got, which speaks HTTP/2 in the clear.
async fn before_echo(keys: &str, upstream: &str) -> (Gate, Upstream) {
    let echo = Upstream::echo().await;
    let listener = "listeners: [{address: \"127.0.0.1:8080\", http2: cleartext}]\n";
    let gate = gate(&format!("{listener}{keys}{}", dify_upstream(&[echo.address], upstream))).await;
    (gate, echo)
}

/// What is sent on of a request in HTTP/1.1 with these header lines.
async fn by_http1(edge: SocketAddr, target: &str, headers: &str, length: usize) -> Sent {
    let mut wire = Wire::to(edge).await;
    wire.send(format!(
        "POST {target} HTTP/1.1\r\nHost: dify.example\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    ))
    .await;
    // The endpoint answers before it has read all.
    wire.offer(vec![b'x'; length]).await;
    Sent::of(&wire.answer().await)
}

/// The same in HTTP/2.
async fn by_http2(edge: SocketAddr, target: &str, headers: &[(&str, &str)], length: usize) -> Sent {
    let stream = TcpStream::connect(edge).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut request = Request::post(format!("http://dify.example{target}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, mut out) = client.send_request(request.body(()).unwrap(), false).unwrap();
    // The endpoint may have answered before, which ends the stream.
    let _ = out.send_data(Bytes::from(vec![b'x'; length]), true);
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let mut told = Vec::new();
    while let Some(part) = soon("a part", body.data()).await {
        told.extend_from_slice(&part.unwrap());
    }
    Sent(String::from_utf8(told).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_that_a_client_splits_arrive_as_one_line() {
    let (gate, _echo) = before_echo("", "").await;
    let split = [
        ("cookie", "access_token=a"),
        ("x-between", "1"),
        ("cookie", "difygate_pool_dify=blue.7.forged"),
        ("cookie", "csrf_token=b"),
        ("cookie", "refresh_token=c; locale=zh"),
    ];
    let lines: String = split
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let joined = ["access_token=a; csrf_token=b; refresh_token=c; locale=zh"];
    for length in [2, LARGE] {
        let sent = by_http2(edge(&gate), "/x", &split, length).await;
        assert_eq!(sent.lines("cookie"), joined);
        let sent = by_http1(edge(&gate), "/x", &lines, length).await;
        assert_eq!(sent.lines("cookie"), joined);
        let one = by_http2(edge(&gate), "/x", &[("cookie", "a=1;b=2")], length).await;
        assert_eq!(one.lines("cookie"), ["a=1;b=2"], "one line stays as it is");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_cookies_are_one_header_to_the_limits() {
    let (gate, _echo) = before_echo("", "").await;
    let crumbs: Vec<String> = (0..150).map(|number| format!("c{number}=v")).collect();
    let split: Vec<(&str, &str)> = crumbs.iter().map(|crumb| ("cookie", crumb.as_str())).collect();
    let sent = by_http2(edge(&gate), "/x", &split, 2).await;
    assert_eq!(sent.lines("cookie"), [crumbs.join("; ")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_chooses_the_endpoint_wherever_it_stands() {
    let (one, two) = (Upstream::echo().await, Upstream::echo().await);
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", http2: cleartext}}]\n{}",
        dify_upstream(&[one.address, two.address], "balance: {hash: {cookie: session}}")
    );
    let gate = gate(&text).await;
    for number in 0..8 {
        let session = format!("session={number}");
        let before = one.arrivals();
        by_http1(edge(&gate), "/x", &format!("Cookie: a=1; {session}\r\n"), 2).await;
        let by_one = one.arrivals() > before;
        let before = one.arrivals();
        by_http2(edge(&gate), "/x", &[("cookie", "a=1"), ("cookie", &session)], 2).await;
        assert_eq!(one.arrivals() > before, by_one, "{session}");
    }
    assert!(one.arrivals() > 0 && two.arrivals() > 0, "both are chosen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_the_scheme_in_any_way_and_the_endpoint_is_told_once() {
    let (gate, _echo) = before_echo("trusted_proxies: [\"127.0.0.1\"]\n", "").await;
    for (headers, scheme) in [
        ("", "http"),
        ("X-Forwarded-Proto: https\r\n", "https"),
        ("X-Forwarded-Proto: HTTPS\r\n", "https"),
        ("X-Forwarded-Proto: https, http\r\n", "https"),
        ("X-Forwarded-Proto: wss\r\n", "https"),
        ("X-Forwarded-Proto: ws\r\n", "http"),
        ("X-Forwarded-Proto: nonsense\r\n", "http"),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", "https"),
        ("X-Forwarded-Ssl: on\r\n", "https"),
        ("X-Forwarded-Protocol: ssl\r\n", "https"),
        ("X-Forwarded-Scheme: https\r\nX-Scheme: https\r\n", "https"),
        ("X-Url-Scheme: https\r\n", "https"),
        ("Front-End-Https: on\r\n", "https"),
        ("Forwarded: proto=https\r\n", "https"),
        (
            "Forwarded: for=203.0.113.9;proto=https;host=h, for=127.0.0.1;proto=http\r\n",
            "https",
        ),
        // Contradictions: what proxies set and overwrite counts.
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n", "https"),
        (
            "X-Forwarded-Ssl: on\r\nX-Forwarded-Proto: http\r\nForwarded: proto=https\r\n",
            "http",
        ),
    ] {
        for length in [2, LARGE] {
            let sent = by_http1(edge(&gate), "/x", headers, length).await;
            assert_eq!(sent.schemes(), [format!("x-forwarded-proto: {scheme}")], "{headers:?}");
            let port = if scheme == "https" { "443" } else { "80" };
            assert_eq!(sent.lines("x-forwarded-port"), [port], "{headers:?}");
        }
    }
    let forwarded = "Forwarded: for=203.0.113.9;proto=https, for=127.0.0.1\r\nX-Forwarded-For: 203.0.113.9\r\n";
    let sent = by_http1(edge(&gate), "/x", forwarded, 2).await;
    assert_eq!(sent.lines("forwarded"), ["for=203.0.113.9, for=127.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_says_nothing_of_the_scheme() {
    let (gate, _echo) = before_echo("", "").await;
    for header in [
        "X-Forwarded-Proto",
        "X-Forwarded-Ssl",
        "X-Forwarded-Protocol",
        "X-Forwarded-Scheme",
        "X-Url-Scheme",
        "X-Scheme",
        "Front-End-Https",
        "Forwarded",
    ] {
        for value in ["https", "on", "ssl", "proto=https"] {
            let sent = by_http1(edge(&gate), "/x", &format!("{header}: {value}\r\n"), 2).await;
            assert_eq!(sent.schemes(), ["x-forwarded-proto: http"], "{header}: {value}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_is_the_one_that_the_client_used() {
    let (strict, _echo) = before_echo("", "").await;
    let (trusting, _echo) = before_echo("trusted_proxies: [\"127.0.0.1\"]\n", "").await;
    for (gate, host, headers, port) in [
        (&strict, "dify.example", "", "80"),
        (&strict, "dify.example:8080", "", "8080"),
        (&strict, "[2001:db8::1]:8443", "", "8443"),
        (&strict, "dify.example:8080", "X-Forwarded-Port: 1\r\n", "8080"),
        (&trusting, "inner:8080", "X-Forwarded-Port: 8443\r\n", "8443"),
        (&trusting, "inner:8080", "X-Forwarded-Port: 443, 80\r\n", "443"),
        (&trusting, "dify.example", "X-Forwarded-Proto: https\r\n", "443"),
        (
            &trusting,
            "inner:8080",
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: dify.example:9443\r\n",
            "9443",
        ),
        (
            &trusting,
            "inner:8080",
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: dify.example\r\n",
            "443",
        ),
    ] {
        let mut wire = Wire::to(edge(gate)).await;
        wire.send(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
        ))
        .await;
        let sent = Sent::of(&wire.answer().await);
        assert_eq!(sent.lines("x-forwarded-port"), [port], "{host} {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_within_tls_is_not_sent_there_again_however_its_proxy_says_so() {
    let echo = Upstream::echo().await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", redirect_to_https: true}}]\ntrusted_proxies: [\"127.0.0.1\"]\n{}",
        dify_upstream(&[echo.address], "")
    );
    let gate = gate(&text).await;
    for (headers, status) in [
        ("", 308),
        ("X-Forwarded-Proto: http\r\n", 308),
        ("X-Forwarded-Proto: HTTPS\r\n", 200),
        ("X-Forwarded-Proto: https, http\r\n", 200),
        ("X-Forwarded-Ssl: on\r\n", 200),
        ("X-Forwarded-Protocol: ssl\r\n", 200),
        ("Forwarded: for=203.0.113.9;proto=https\r\n", 200),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(format!(
            "GET /a?q=张{{}} HTTP/1.1\r\nHost: dify.example\r\nConnection: close\r\n{headers}\r\n"
        ))
        .await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{headers:?}");
        if status == 308 {
            let location = answer.header("location");
            assert_eq!(location, Some("https://dify.example/a?q=%E5%BC%A0%7B%7D"));
        }
    }
}

/// Queries that a URL would encode, and which clients send as they are.
const RAW: [&str; 4] = [
    "/v1/messages?user=张三&first_id=",
    "/x?q={'a':[1,2]}|\\^`~!$&()*+,;=:@/?%zz%",
    "/x?名=值",
    "/files/a%2Fb?name=\u{fc}ber\u{10ffff}",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_query_arrives_byte_for_byte() {
    let (gate, _echo) = before_echo("", "").await;
    for target in RAW {
        for length in [2, LARGE] {
            let sent = by_http1(edge(&gate), target, "", length).await;
            assert_eq!(sent.target(), target);
            let sent = by_http2(edge(&gate), target, &[], length).await;
            assert_eq!(sent.target(), target, "HTTP/2");
        }
    }
    let text = "routes: [{path: /api, strip_prefix: true, upstream: dify}]\n";
    let (gate, _echo) = before_echo(text, "").await;
    let sent = by_http1(edge(&gate), "/api/x?q=张", "", 2).await;
    assert_eq!(sent.target(), "/x?q=张");
}

/// An endpoint that records the targets that it gets, byte for byte.
async fn recording() -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let targets = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let recorded = targets.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let recorded = recorded.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = Vec::new();
                stream.read_until(b'\n', &mut line).await.ok()?;
                let target = line.split(|byte| *byte == b' ').nth(1)?.to_vec();
                while !line.ends_with(b"\r\n\r\n") {
                    stream.read_until(b'\n', &mut line).await.ok()?;
                }
                if target != b"/healthz" {
                    recorded.lock().unwrap().push(target);
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                stream.write_all(answer).await.ok()
            });
        }
    });
    (address, targets)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_a_query_arrives_or_is_refused() {
    let (address, targets) = recording().await;
    let gate = gate(&dify_upstream(&[address], "")).await;
    for byte in 0..=u8::MAX {
        let target = [&b"/x?a"[..], &[byte], b"b"].concat();
        let mut wire = Wire::to(edge(&gate)).await;
        let rest = b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        wire.send([b"GET ", &target[..], rest].concat()).await;
        let answer = wire.answer().await;
        let came = targets.lock().unwrap().pop();
        if byte.is_ascii_control() || byte == b' ' {
            assert_eq!((answer.status, came), (400, None), "{byte:#x}");
            assert!(
                !answer.code().is_empty() && answer.header("x-request-id").is_some(),
                "{byte:#x}"
            );
        } else if byte == b'#' {
            assert_eq!(
                (answer.status, came),
                (200, Some(b"/x?a".to_vec())),
                "a fragment is none of it"
            );
        } else {
            assert_eq!((answer.status, came), (200, Some(target)), "{byte:#x}");
        }
    }
    // In a path it is refused, by an answer of the gate's own.
    for byte in [b'"', b'<', b'>', b'`', b'{', b'\\', 0x80, 0xff] {
        let mut wire = Wire::to(edge(&gate)).await;
        let rest = b"b?x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        wire.send([b"GET /a", &[byte][..], rest].concat()).await;
        let answer = wire.answer().await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "target_byte"),
            "{byte:#x}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_may_send_json_in_a_query() {
    let (address, targets) = recording().await;
    let gate = gate(&dify_upstream(&[address], "")).await;
    let target = "/v1/messages?inputs={\"name\":\"张三\",\"tags\":[<1>]}&user=\u{10ffff}";
    let output = Command::new("curl")
        .args(["--silent", "--fail", "--globoff", "--noproxy", "*"])
        .arg(format!("http://{}{target}", edge(&gate)))
        .output();
    assert!(soon("curl", output).await.unwrap().status.success());
    let came = targets.lock().unwrap().pop();
    assert_eq!(
        came.map(|target| String::from_utf8(target).unwrap()).as_deref(),
        Some(target)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_query_opens_nothing() {
    let echo = Upstream::echo().await;
    let text = format!(
        "probe_guard: {{allow: [\"192.0.2.0/24\"]}}\n{}",
        dify_upstream(&[echo.address], "")
    );
    let gate = gate(&text).await;
    for (target, status) in [
        ("/healthz?张", 404),
        ("/%68ealthz?q={}", 404),
        ("/张", 400),
        ("/healthz/张?x", 400),
        ("/{x}?y", 400),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
            .await;
        assert_eq!(wire.answer().await.status, status, "{target}");
    }
    assert_eq!(echo.arrivals(), 0);
}
