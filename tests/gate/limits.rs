//! What a client may ask of a listener, and what it gets beyond.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::admin::metric;
use crate::support::{
    Arrived, QUICK, Upstream, addresses, dify_upstream, edge, gate, instances, soon, until, until_idle,
};
use crate::wire::{Wire, ask, ask_with};

/// A gate with these limits before one upstream.
async fn limited(limits: &str, upstream: &Upstream) -> difygate::server::Gate {
    gate(&format!(
        "listeners: [{{address: \"127.0.0.1:8080\", limits: {{{limits}}}}}]\n{}",
        dify_upstream(&[upstream.address], "")
    ))
    .await
}

/// How often a limit was met.
async fn met(gate: &difygate::server::Gate, limit: &str) -> f64 {
    metric(gate, "difygate_", &format!("limit=\"{limit}\"")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_with_the_status_that_says_so() {
    let upstream = Upstream::echo().await;
    let gate = limited("uri: 100, headers: 1KiB, fields: 20", &upstream).await;
    let long = |length: usize| "x".repeat(length);
    for (status, limit, request, headers) in [
        (200, "", format!("GET /{}", long(99)), String::new()),
        (414, "uri_too_long", format!("GET /{}", long(100)), String::new()),
        (414, "uri_too_long", format!("GET /?{}", long(99)), String::new()),
        (200, "", "GET /".to_owned(), format!("A: {}\r\n", long(800))),
        (
            431,
            "headers_too_large",
            "GET /".to_owned(),
            format!("A: {}\r\n", long(1_000)),
        ),
        (431, "headers_too_large", "GET /".to_owned(), "A: 1\r\n".repeat(20)),
    ] {
        let (before, arrived) = (met(&gate, limit).await, upstream.arrivals());
        let answer = ask_with(edge(&gate), &request, &headers, "").await;
        assert_eq!(answer.status, status, "{request} {headers}: {}", answer.text());
        if status != 200 {
            assert_eq!(answer.code(), limit);
            assert_eq!(met(&gate, limit).await, before + 1.0);
            assert_eq!(upstream.arrivals(), arrived);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_too_often_is_told_when_to_ask_again() {
    let upstream = Upstream::echo().await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", limits: {{client_rate: {{requests: 2, per: 3m, burst: 6}}}}}}]\n\
         trusted_proxies: [127.0.0.0/8]\n{}routes: [{{path: /login, upstream: dify, client_rate: {{requests: 1, per: 1h}}}}, {{upstream: dify}}]\n",
        dify_upstream(&[upstream.address], "")
    );
    let gate = gate(&text).await;
    let from = async |client: &str, path: &str| {
        ask_with(
            edge(&gate),
            &format!("GET {path}"),
            &format!("X-Forwarded-For: {client}\r\n"),
            "",
        )
        .await
    };
    assert_eq!(from("192.0.2.1", "/login").await.status, 200);
    let refused = from("192.0.2.1", "/login").await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_requests".to_owned()));
    assert_eq!(
        refused.header("retry-after"),
        Some("120"),
        "some clients do not ask again where they are told to wait for longer"
    );
    for _ in 0..4 {
        assert_eq!(
            from("192.0.2.1", "/v1/x").await.status,
            200,
            "other paths have the listener's limit alone"
        );
    }
    let refused = from("192.0.2.1", "/v1/x").await;
    assert_eq!(refused.status, 429);
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=90).contains(&wait), "{wait}");
    assert_eq!(from("192.0.2.2", "/login").await.status, 200, "everybody has their own");
    for host in 1..=6 {
        assert_eq!(from(&format!("2001:db8:0:1::{host}"), "/v1/x").await.status, 200);
    }
    assert_eq!(
        from("2001:db8:0:1:9::9", "/v1/x").await.status,
        429,
        "of IPv6 a subscriber has a network"
    );
    assert_eq!(from("2001:db8:0:2::1", "/v1/x").await.status, 200);
    assert_eq!(met(&gate, "client_rate").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_connections_and_no_more() {
    let upstream = Upstream::echo().await;
    let gate = limited("client_connections: 3", &upstream).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(wire.answer().await.status, 200);
        open.push(wire);
    }
    let mut beyond = Wire::to(edge(&gate)).await;
    assert!(soon("the fourth to be closed", beyond.ended()).await.is_empty());
    assert_eq!(met(&gate, "client_connections").await, 1.0);
    open.pop();
    until("room for another", async || {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.offer("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await;
        wire.try_head().await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let upstream = Upstream::start(async |mut arrived: Arrived| arrived.closed().await).await;
    let gate = limited("grace: 300ms, min_rate: 100", &upstream).await;
    for (framing, first) in [
        ("Content-Length: 100", "x".to_owned()),
        ("Content-Length: 10000000", "x".to_owned()),
        ("Transfer-Encoding: chunked", "1\r\nx\r\n".to_owned()),
        ("Transfer-Encoding: chunked", String::new()),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(format!("POST /v1/x HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{first}"))
            .await;
        let answer = wire.answer().await;
        assert_eq!(
            (answer.status, answer.code()),
            (408, "request_timeout".to_owned()),
            "{framing}"
        );
        soon("the connection to be closed", wire.ended()).await;
    }
    // A trickle is no progress.
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("POST /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let trickle = async {
        while wire.offer("1\r\nx\r\n").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the trickle to be cut", trickle).await;
    until_idle(&gate).await;
    assert_eq!(met(&gate, "body_rate").await, 5.0);
    let state = crate::support::known(&gate, upstream.address).await;
    assert!(
        state.cause.to_string().contains("passed"),
        "no endpoint is blamed: {}",
        state.cause
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_that_keeps_the_rate_arrives() {
    let difys = instances::<1>().await;
    let gate = gate(&format!(
        "listeners: [{{address: \"127.0.0.1:8080\", limits: {{grace: 300ms, min_rate: 10}}}}]\n{}",
        dify_upstream(&addresses(&difys), QUICK)
    ))
    .await;
    let body = crate::wire::chat("blocking", 1, 1);
    for framing in ["length", "chunks"] {
        let mut wire = Wire::to(edge(&gate)).await;
        let head = if framing == "length" {
            format!("Content-Length: {}", body.len())
        } else {
            "Transfer-Encoding: chunked".to_owned()
        };
        wire.send(format!(
            "POST /v1/chat-messages HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
        ))
        .await;
        for piece in body.as_bytes().chunks(20) {
            let text = std::str::from_utf8(piece).unwrap();
            let piece = if framing == "length" {
                text.to_owned()
            } else {
                format!("{:x}\r\n{text}\r\n", text.len())
            };
            wire.send(piece).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if framing == "chunks" {
            wire.send("0\r\n\r\n").await;
        }
        assert_eq!(wire.answer().await.status, 200, "{framing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_is_given_up() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let body = "x".repeat(64 << 20);
        arrived.answer("", &body).await;
    })
    .await;
    let gate = limited("grace: 300ms, min_rate: 100KiB", &upstream).await;
    let stream = TcpStream::connect(edge(&gate)).await.unwrap();
    stream.writable().await.unwrap();
    stream.try_write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    until("the request to be under way", async || gate.in_flight() == 1).await;
    until_idle(&gate).await;
    assert_eq!(met(&gate, "read_rate").await, 1.0);
    drop(stream);
    // Whoever takes it gets it, also in sips, if they are large enough.
    let mut stream = TcpStream::connect(edge(&gate)).await.unwrap();
    stream
        .try_write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut all = 0;
    let mut sip = vec![0; 1 << 20];
    loop {
        match soon("more", stream.read(&mut sip)).await.unwrap() {
            0 => break,
            taken => all += taken,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(all > 64 << 20, "{all}");
    assert_eq!(ask(edge(&gate), "GET /healthz").await.status, 200);
}
