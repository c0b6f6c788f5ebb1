//! What flows: events, uploads, downloads and tunnels, passed on as they come and never held back.

use std::sync::Arc;
use std::time::Duration;

use difygate::server::Gate;
use difygate::simulated_dify::Traffic;
use tokio::sync::Notify;

use crate::support::{Arrived, Upstream, edge, gate_before, instances, soon, until_idle};
use crate::wire::{Wire, ask, chat_request};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_before_the_next_one_exists() {
    let next = Arc::new(Notify::new());
    let permits = next.clone();
    let upstream = Upstream::start(move |mut arrived: Arrived| {
        let next = permits.clone();
        async move {
            arrived
                .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            for event in 0..5 {
                next.notified().await;
                let event = format!("data: {event}\n\n");
                arrived.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
            }
            arrived.send("0\r\n\r\n").await;
        }
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 1, 1)).await;
    let head = wire.head().await;
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
    assert_eq!(head.header("cache-control"), Some("no-cache"));
    for event in 0..5 {
        next.notify_one();
        assert_eq!(wire.event().await, Some(event.to_string()));
    }
    assert_eq!(wire.event().await, None);
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_about_caching_its_stream_is_kept() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let headers = "Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: yes\r\nConnection: close\r\n";
        arrived.answer(headers, "data: 1\n\n").await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let answer = ask(edge(&gate), "GET /").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-accel-buffering"), Some("yes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_chat_arrives_in_order() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 50, 1)).await;
    assert_eq!(wire.head().await.status, 200);
    let mut pieces = Vec::new();
    while let Some(event) = wire.event().await {
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        pieces.extend(event["answer"].as_str().map(str::to_owned));
    }
    let expected: Vec<String> = (0..50).map(|index| format!("part {index} ")).collect();
    assert_eq!(pieces, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_sees_that_the_client_has_gone() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 10_000, 20)).await;
    assert_eq!(wire.head().await.status, 200);
    assert!(wire.event().await.is_some());
    assert_eq!((dify.tally().streams(), gate.in_flight()), (1, 1));
    drop(wire);
    soon(
        "the stream to end upstream",
        dify.tally().until(|counts| counts.streams == 0),
    )
    .await;
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_streams_through() {
    const PIECE: usize = 256 * 1024;
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    let size = 80 * PIECE as u64;
    wire.send(format!(
        "POST /v1/files/upload HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n"
    ))
    .await;
    let piece = vec![b'u'; PIECE];
    wire.send(&piece).await;
    soon(
        "the first piece upstream",
        dify.tally().until(|counts| counts.uploaded_bytes >= PIECE as u64),
    )
    .await;
    for _ in 1..80 {
        wire.send(&piece).await;
    }
    let answer = wire.answer().await;
    assert_eq!(
        answer.status, 413,
        "Dify takes 15 MiB, and says so itself: {}",
        answer.head
    );
    assert_eq!(answer.instance(), "dify-0");
    assert_eq!(dify.tally().counts().uploaded_bytes, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_download_arrives_whole() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let answer = ask(edge(&gate), "GET /files/size/20971520").await;
    assert!(answer.whole && answer.body.len() == 20_971_520 && answer.body.iter().all(|byte| *byte == b'd'));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_part_of_a_sized_answer_is_not_held_back() {
    let rest = Arc::new(Notify::new());
    let permits = rest.clone();
    let upstream = Upstream::start(move |mut arrived: Arrived| {
        let rest = permits.clone();
        async move {
            arrived.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await;
            rest.notified().await;
            arrived.send("other").await;
        }
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(wire.head().await.header("content-length"), Some("10"));
    assert_eq!(wire.read(5).await, b"first");
    rest.notify_one();
    assert_eq!(wire.read(5).await, b"other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_stays_broken_for_the_client() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    dify.set(|switches| switches.traffic = Traffic::Cut);
    let answer = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.whole, "a cut body must not look complete: {}", answer.text());
    assert_eq!(
        dify.tally().traffic(),
        1,
        "an answer that has begun is not asked for again"
    );

    let upstream = Upstream::start(async |mut arrived: Arrived| {
        arrived.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let answer = ask(edge(&gate), "GET /").await;
    assert!(answer.status == 200 && !answer.whole);
}

const UPGRADE: &str = "GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A masked text frame (RFC 6455 section 5.2) and what an echo answers to it.
fn frame(text: &str) -> (Vec<u8>, Vec<u8>) {
    let mask = [1_u8, 2, 3, 4];
    let length = u8::try_from(text.len()).unwrap();
    let masked = text.bytes().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
    let sent = [0x81, 0x80 | length].into_iter().chain(mask).chain(masked).collect();
    let echoed = [0x81, length].into_iter().chain(text.bytes()).collect();
    (sent, echoed)
}

/// Opens a tunnel and sends a first frame through it and back.
async fn tunnel(gate: &Gate) -> Wire {
    let mut wire = Wire::to(edge(gate)).await;
    wire.send(UPGRADE).await;
    let head = wire.head().await;
    assert_eq!(head.status, 101, "{}", head.head);
    let (sent, echoed) = frame("first");
    wire.send(sent).await;
    assert_eq!(wire.read(echoed.len()).await, echoed);
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_both_ways() {
    let [dify] = instances().await;
    dify.set(|switches| switches.websocket = true);
    let gate = gate_before(&[dify.address()], "").await;
    let mut wire = tunnel(&gate).await;
    for text in ["hello", "again"] {
        let (sent, echoed) = frame(text);
        wire.send(sent).await;
        assert_eq!(wire.read(echoed.len()).await, echoed);
    }
    assert_eq!(gate.in_flight(), 1);
    drop(wire);
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_hold_where_the_upstream_speaks_at_once() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let (_, echoed) = frame("first");
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec();
        arrived.send([head, echoed].concat()).await;
        arrived.closed().await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    for _ in 0..200 {
        tunnel(&gate).await;
    }
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(UPGRADE).await;
    assert_eq!(wire.head().await.status, 500, "a plain api has no WebSocket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_falls_silent_is_cut_after_the_idle_time() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "timeouts: {idle: 300ms}").await;
    dify.set(|switches| switches.ping_every = Duration::from_secs(60));
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 2, 60_000)).await;
    assert_eq!(wire.head().await.status, 200);
    let rest = wire.ended().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut stream must not look complete");
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_no_chunks_gets_none() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        arrived.send(format!("{head}3\r\none\r\n4\r\n two\r\n0\r\n\r\n")).await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET / HTTP/1.0\r\nHost: old\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!(answer.header("transfer-encoding"), None, "{}", answer.head);
    assert_eq!(answer.text(), "one two");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interim_answer_is_not_taken_for_the_answer() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        arrived.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
        arrived.answer("X-Which: last\r\n", "done").await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let answer = ask(edge(&gate), "GET /").await;
    assert_eq!((answer.status, answer.header("x-which")), (200, Some("last")));
    assert_eq!(answer.text(), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_could_end_in_two_places_is_502_and_nobody_sees_it() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";
        arrived
            .send(format!("{head}0\r\n\r\nHTTP/1.1 200 OK\r\nX-Smuggled: yes\r\n\r\n"))
            .await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let answer = ask(edge(&gate), "GET /").await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_anything_but_a_websocket_is_an_ordinary_request() {
    let upstream = Upstream::echo().await;
    let gate = gate_before(&[upstream.address], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    wire.send(format!("GET / HTTP/1.1\r\nHost: gate\r\n{upgrade}\r\n"))
        .await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 200);
    let arrived = answer.text().to_ascii_lowercase();
    for header in ["connection:", "upgrade:", "http2-settings:"] {
        assert!(!arrived.contains(header), "{arrived}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_sent_ahead_waits_for_the_tunnel() {
    let [dify] = instances().await;
    dify.set(|switches| switches.websocket = true);
    let gate = gate_before(&[dify.address()], "").await;
    for _ in 0..20 {
        let mut wire = Wire::to(edge(&gate)).await;
        let (sent, echoed) = frame("ahead");
        wire.send([UPGRADE.as_bytes(), &sent].concat()).await;
        assert_eq!(wire.head().await.status, 101);
        assert_eq!(wire.read(echoed.len()).await, echoed);
    }
}
