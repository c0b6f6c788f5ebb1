//! Connections of clients: requests that are sent ahead, directions that end, heads that cannot be read, and how a connection ends.

use std::sync::Arc;

use difygate::gate::direction::{Direction, Traffic};
use difygate::gate::names::PoolName;
use difygate::server::Gate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::admin::admin;
use crate::support::{
    Arrived, QUICK, Upstream, blue_green, dify_upstream, direct, edge, gate, soon, until, until_idle,
};
use crate::wire::Wire;

async fn before(upstream: &Upstream, listener: &str) -> Gate {
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\"{listener}}}]\n{}",
        dify_upstream(&[upstream.address], QUICK)
    );
    gate(&text).await
}

/// An endpoint that answers each request with its path once `go` says so.
async fn held() -> (Upstream, Arc<tokio::sync::Semaphore>) {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gone = go.clone();
    let upstream = Upstream::start(move |mut arrived: Arrived| {
        let go = gone.clone();
        async move {
            go.acquire().await.unwrap().forget();
            let path = arrived.head.split(' ').nth(1).unwrap().to_owned();
            arrived.answer("Connection: close\r\n", &path).await;
        }
    });
    (upstream.await, go)
}

async fn sent(gate: &Gate, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(edge(gate)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_sent_ahead_are_answered_in_turn_with_their_bodies() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let body = match arrived.head.find("Content-Length: ") {
            Some(at) => {
                let length = arrived.head[at + 16..].split("\r\n").next().unwrap().parse().unwrap();
                arrived.read(length).await
            }
            None => Vec::new(),
        };
        let path = arrived.head.split(' ').nth(1).unwrap().to_owned();
        let said = format!("{path}{}", String::from_utf8_lossy(&body));
        arrived.answer("Connection: close\r\n", &said).await;
    })
    .await;
    let gate = before(&upstream, "").await;
    for step in [1, 17, 64, 10_000] {
        let mut requests = String::new();
        for number in 0..10 {
            requests += &match number % 3 {
                0 => format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"),
                1 => format!("POST /{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"),
                _ => format!("GET /{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"),
            };
        }
        let mut wire = Wire::to(edge(&gate)).await;
        for segment in requests.as_bytes().chunks(step) {
            wire.send(segment).await;
        }
        for number in 0..10 {
            let body = if number % 3 == 1 { "body" } else { "" };
            assert_eq!(wire.answer().await.text(), format!("/{number}{body}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_direction_gets_its_answer() {
    let (upstream, go) = held().await;
    let gate = before(&upstream, "").await;
    let length = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for (arrivals, request) in (1..).zip([
        "GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a HTTP/1.0\r\n\r\n",
        length,
        chunked,
    ]) {
        let mut stream = sent(&gate, request).await;
        stream.shutdown().await.unwrap();
        until("it to arrive", async || upstream.arrivals() == arrivals).await;
        // Longer than the gate waits before it asks whether the client is still there.
        if !request.contains("HTTP/1.0") {
            let mut interim = [0; 28];
            soon("an interim answer", stream.read_exact(&mut interim))
                .await
                .unwrap();
            assert_eq!(&interim, b"HTTP/1.1 103 Early Hints\r\n\r\n");
        }
        go.add_permits(1);
        let mut answer = String::new();
        soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("/a"),
            "{answer}"
        );
    }
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_connection_is_found_out() {
    let (upstream, _go) = held().await;
    let gate = before(&upstream, "").await;
    for request in [
        "GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let stream = sent(&gate, request).await;
        until("it to be under way", async || gate.in_flight() == 1).await;
        drop(stream);
        until_idle(&gate).await;
    }
}

/// Requests that wait before anything of them is sent.
const WAITING: [&str; 4] = [
    "POST /v1/chat-messages HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    "GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    "POST /v1/files HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
];

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_traffic_is_paused_is_sent_nowhere() {
    let upstream = Upstream::echo().await;
    let gate = gate(&blue_green(&[upstream.address], &[upstream.address], QUICK)).await;
    let to = |traffic| Direction {
        traffic,
        ..Direction::to(PoolName::new("blue"))
    };
    direct(&gate, to(Traffic::Pause)).await;
    let large = format!(
        "POST /v1/files HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n{}",
        "x".repeat(50_000)
    );
    for request in WAITING.into_iter().chain([large.as_str()]) {
        let stream = sent(&gate, request).await;
        until("it to wait", async || gate.in_flight() == 1).await;
        drop(stream);
        until_idle(&gate).await;
    }
    let mut stays = Wire::to(edge(&gate)).await;
    stays.send(WAITING[3]).await;
    until("it to wait", async || gate.in_flight() == 1).await;
    direct(&gate, to(Traffic::Run)).await;
    stays.send("0\r\n\r\n").await;
    assert_eq!(stays.answer().await.status, 200);
    assert_eq!(upstream.arrivals(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_queue_is_sent_nowhere() {
    let (upstream, go) = held().await;
    let keys = format!("{QUICK}, limits: {{in_flight: 1, queue: 10, queue_timeout: 60s}}");
    let gate = gate(&dify_upstream(&[upstream.address], &keys)).await;
    let mut first = Wire::to(edge(&gate)).await;
    first.send("GET /first HTTP/1.1\r\nHost: h\r\n\r\n").await;
    until("it to arrive", async || upstream.arrivals() == 1).await;
    for request in WAITING {
        let stream = sent(&gate, request).await;
        until("it to wait", async || gate.in_flight() == 2).await;
        drop(stream);
        until("it to be dropped", async || gate.in_flight() == 1).await;
    }
    go.add_permits(10);
    assert_eq!(first.answer().await.text(), "/first");
    until_idle(&gate).await;
    assert_eq!(upstream.arrivals(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_cannot_be_read_is_answered_in_the_shape_of_difys_errors() {
    let upstream = Upstream::echo().await;
    let gate = before(&upstream, "").await;
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(300));
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "x".repeat(200_000));
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(200_000));
    for (request, status, code) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "host"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "host"),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400, "malformed"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA b\r\n\r\n", 400, "malformed"),
        ("GET /\r\n\r\n", 400, "malformed"),
        ("hello\r\n\r\n", 400, "malformed"),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", 405, "method_not_served"),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            400,
            "content_length",
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            400,
            "transfer_encoding",
        ),
        (
            "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "transfer_encoding",
        ),
        (many.as_str(), 431, "headers_too_large"),
        (large.as_str(), 431, "headers_too_large"),
        (target.as_str(), 414, "uri_too_long"),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.offer(request).await;
        let answer = wire.answer().await;
        let told = (answer.status, answer.code());
        assert_eq!(told, (status, code.to_owned()), "{}", &request[..request.len().min(80)]);
        assert!(answer.header("x-request-id").is_some());
    }
    assert_eq!(upstream.arrivals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_without_host_is_sent_on_with_one() {
    let upstream = Upstream::echo().await;
    let gate = before(&upstream, "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET /x HTTP/1.0\r\n\r\n").await;
    let head = wire.answer().await.text();
    assert!(
        head.contains(&format!("Host: {}\r\n", edge(&gate))) || head.contains(&format!("host: {}\r\n", edge(&gate))),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_begins_while_the_gate_stops_says_close() {
    let (upstream, go) = held().await;
    let text = format!(
        "server: {{lame_duck: 60s, drain_timeout: 60s}}\n{}",
        dify_upstream(&[upstream.address], QUICK)
    );
    let gate = Arc::new(gate(&text).await);
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n").await;
    until("it to arrive", async || upstream.arrivals() == 1).await;
    let stopping = tokio::spawn({
        let gate = gate.clone();
        async move { gate.stop().await }
    });
    until("it to be not ready", async || {
        admin(&gate, "/readyz").await.status == 503
    })
    .await;
    go.add_permits(1);
    assert_eq!(wire.answer().await.header("connection"), Some("close"));
    assert!(wire.ended().await.is_empty());
    stopping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_direction_within_its_answer_gets_the_rest() {
    let (upstream, go) = {
        let go = Arc::new(tokio::sync::Semaphore::new(0));
        let rest = go.clone();
        let upstream = Upstream::start(move |mut arrived: Arrived| {
            let rest = rest.clone();
            async move {
                arrived
                    .send("HTTP/1.1 200 OK\r\nContent-Length: 100005\r\n\r\nfirst")
                    .await;
                rest.acquire().await.unwrap().forget();
                // An endpoint that is not read any more says so by an error.
                let _ = arrived.stream.write_all(&[b'x'; 100_000]).await;
            }
        });
        (upstream.await, go)
    };
    let gate = before(&upstream, "").await;
    let mut stream = sent(&gate, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"first") {
        soon("the first part", stream.read_buf(&mut answer)).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    go.add_permits(1);
    answer.clear();
    soon("the rest", stream.read_to_end(&mut answer)).await.unwrap();
    assert!(
        answer.iter().filter(|byte| **byte == b'x').count() == 100_000,
        "{}",
        answer.len()
    );
    // One that has closed its connection is found out all the same.
    let mut stream = sent(&gate, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut part = [0; 64];
    soon("the first part", stream.read(&mut part)).await.unwrap();
    drop(stream);
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_whichever_line_of_its_request_says_so() {
    let upstream = Upstream::start(async |mut arrived: Arrived| arrived.answer("", "ok").await).await;
    let gate = before(&upstream, "").await;
    for (lines, ends) in [
        ("Connection: keep-alive\r\nConnection: close\r\n", true),
        ("Connection: close\r\nConnection: keep-alive\r\n", true),
        ("Connection: keep-alive, Close\r\n", true),
        ("Connection: keep-alive\r\n", false),
        ("", false),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(format!("GET /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await;
        let answer = wire.answer().await;
        assert_eq!(
            (answer.text().as_str(), answer.header("connection") == Some("close")),
            ("ok", ends),
            "{lines}"
        );
        if ends {
            assert!(wire.ended().await.is_empty(), "{lines}");
        }
    }
}
