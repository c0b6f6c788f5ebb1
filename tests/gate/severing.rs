//! The end of a drain: what the old pool still serves is ended, as well as it can be, and nobody else notices.

use std::sync::Arc;

use bytes::Bytes;
use difygate::gate::direction::Direction;
use difygate::gate::names::PoolName;
use difygate::server::Gate;
use difygate::upstream::Severed;
use difygate::upstream::streams::Kind;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::admin::admin;
use crate::authority::Authority;
use crate::endpoints_http2::client;
use crate::support::{
    Arrived, Upstream, blue_green, direct, edge, gate, instances, sever, soon, streams, tally, until, until_idle,
};
use crate::tls::listener;
use crate::wire::{Wire, ask, ask_with, chat, chat_request};

pub(crate) const SSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n";
pub(crate) const ASK: &str = "POST /v1/chat-messages HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// An endpoint that answers with these header lines, sends `first`, and `rest` when it is told to.
pub(crate) async fn in_two_parts(
    headers: &'static str,
    first: &'static str,
    rest: &'static str,
) -> (Upstream, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let permits = go_on.clone();
    let upstream = Upstream::start(move |mut arrived: Arrived| {
        let go_on = permits.clone();
        async move {
            arrived.send(format!("{headers}\r\n{}", chunk(first))).await;
            go_on.notified().await;
            arrived.send(chunk(rest)).await;
            arrived.closed().await;
        }
    })
    .await;
    (upstream, go_on)
}

/// A gate with one endpoint in each pool.
async fn before(blue: &Upstream, green: &Upstream) -> Gate {
    gate(&blue_green(&[blue.address], &[green.address], "")).await
}

fn cut(gate: &Gate, streams: usize, requests: usize) {
    assert_eq!(sever(gate, "blue"), Severed { streams, requests });
}

/// Waits until so many cuts were counted.
async fn until_cut(gate: &Gate, cuts: usize) {
    until_idle(gate).await;
    let line = format!("difygate_streams_cut_total{{pool=\"blue\",reason=\"drained\",upstream=\"dify\"}} {cuts}");
    until(&line, async || admin(gate, "/metrics").await.text().contains(&line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_between_two_events_gets_a_last_one_and_a_clean_end() {
    let [blue, green] = instances().await;
    let gate = gate(&blue_green(&[blue.address()], &[green.address()], "")).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 10_000, 10)).await;
    assert_eq!(wire.head().await.status, 200);
    assert!(wire.event().await.is_some());
    let listed = streams(&gate).list();
    assert_eq!(listed.len(), 1);
    let about = &listed[0].about;
    assert_eq!(
        (about.method.as_str(), about.path.as_str(), about.kind),
        ("POST", "/v1/chat-messages", Kind::Sse)
    );
    let task = listed[0].task().unwrap().to_owned();
    direct(&gate, Direction::to(PoolName::new("green"))).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), green.name());
    assert!(wire.event().await.is_some(), "it goes on where it is");
    cut(&gate, 1, 0);
    let last = loop {
        let event: Value = serde_json::from_str(&wire.event().await.unwrap()).unwrap();
        if event["event"] == "error" {
            break event;
        }
    };
    assert_eq!(
        (&last["code"], &last["status"]),
        (&"gateway_drained".into(), &503.into())
    );
    assert_eq!(last["task_id"], task.as_str());
    assert_eq!(wire.event().await, None, "a clean end");
    until_cut(&gate, 1).await;
    assert!(streams(&gate).list().is_empty());
    let tally = tally(&gate, blue.address());
    assert_eq!(
        (tally.streams, tally.aborts, tally.errors),
        (1, 0, 0),
        "the endpoint is not to blame"
    );

    direct(&gate, Direction::to(PoolName::new("blue"))).await;
    let served = chat("streaming", 3, 1);
    let answer = ask_with(edge(&gate), "POST /v1/chat-messages", "", &served).await;
    assert!(
        answer.whole && answer.instance() == blue.name(),
        "it serves what comes later"
    );
    assert!(answer.text().contains("message_end"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_under_way_is_not_broken() {
    let first = "data: {\"event\": \"message\", \"task_id\": \"t-1\", \"answer\": \"beg";
    let (blue, go_on) = in_two_parts(SSE, first, "in\"}\n\ndata: {\"event\": \"message\"").await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(ASK).await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(wire.chunk().await, Some(Some(first.into())));
    cut(&gate, 1, 0);
    go_on.notify_one();
    assert_eq!(wire.chunk().await, Some(Some(b"in\"}\n\n".to_vec())));
    let last = String::from_utf8(wire.chunk().await.unwrap().unwrap()).unwrap();
    assert!(
        last.starts_with("data: {\"event\":\"error\"") && last.ends_with("\"task_id\":\"t-1\"}\n\n"),
        "{last}"
    );
    assert_eq!(wire.chunk().await, Some(None), "a clean end");
    until_cut(&gate, 1).await;
    wire.send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 200, "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_never_ends_is_broken_off_and_does_not_look_complete() {
    let (blue, _go_on) = in_two_parts(SSE, "data: {\"answer\": \"beg", "").await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(ASK).await;
    assert_eq!(wire.head().await.status, 200);
    assert!(wire.chunk().await.is_some());
    cut(&gate, 1, 0);
    cut(&gate, 0, 0);
    assert_eq!(wire.ended().await, b"", "neither a last event nor a last chunk");
    until_cut(&gate, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_broken_off() {
    let gzip = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n";
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    for (headers, streams, requests) in [(gzip, 1, 0), (json, 0, 1)] {
        let (blue, _go_on) = in_two_parts(headers, "data: 1\n\n", "").await;
        let gate = before(&blue, &Upstream::echo().await).await;
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(ASK).await;
        assert_eq!(wire.head().await.status, 200);
        assert!(wire.chunk().await.is_some());
        cut(&gate, streams, requests);
        assert_eq!(wire.ended().await, b"");
        until_cut(&gate, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_last_event_has_come_is_told_nothing_more() {
    let (blue, _go_on) = in_two_parts(SSE, "data: {\"event\": \"message_end\"}\n\n", "").await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(ASK).await;
    assert_eq!(wire.head().await.status, 200);
    assert!(wire.chunk().await.is_some());
    cut(&gate, 1, 0);
    assert_eq!(wire.chunk().await, Some(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_is_504_and_is_not_sent_again() {
    let blue = Upstream::start(async |mut arrived: Arrived| arrived.closed().await).await;
    let green = Upstream::echo().await;
    let gate = before(&blue, &green).await;
    for (number, request) in [ASK, "GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n"]
        .into_iter()
        .enumerate()
    {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(request).await;
        until("the request upstream", async || blue.arrivals() == number + 1).await;
        // The gate may have sent it and not wait yet.
        cut(&gate, 0, 1);
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (504, "gateway_drained"));
    }
    until_cut(&gate, 2).await;
    assert_eq!(green.arrivals(), 0);
    let tally = tally(&gate, blue.address);
    assert_eq!((tally.requests, tally.errors), (0, 0), "the endpoint is not to blame");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_pools_go_on() {
    let [blue, green] = instances().await;
    let gate = gate(&blue_green(&[blue.address()], &[green.address()], "")).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 30, 10)).await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(sever(&gate, "green"), Severed::default());
    assert_eq!(sever(&gate, "nothing"), Severed::default());
    let mut events = Vec::new();
    while let Some(event) = wire.event().await {
        events.push(event);
    }
    assert!(events.last().unwrap().contains("workflow_finished"));
}

/// A large or chunked request goes by the framework's way.
pub(crate) const CHUNKED: &str =
    "POST /v1/chat-messages HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_streamed_requests_get_their_last_event_too() {
    let first = "data: {\"event\": \"message\", \"task_id\": \"t-1\", \"answer\": \"beg";
    let (blue, go_on) = in_two_parts(SSE, first, "in\"}\n\ndata: {\"event\": \"message\"").await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(CHUNKED).await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(wire.chunk().await, Some(Some(first.into())));
    assert_eq!(streams(&gate).list()[0].task(), Some("t-1"));
    cut(&gate, 1, 0);
    go_on.notify_one();
    let mut rest = String::new();
    while let Some(chunk) = wire.chunk().await.expect("no break") {
        rest += std::str::from_utf8(&chunk).unwrap();
    }
    assert!(rest.contains("in\"}\n\ndata: {\"event\":\"error\""), "{rest}");
    assert!(!rest.contains("\"event\": \"message\""), "{rest}");
    until_cut(&gate, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_of_a_streamed_request_gets_its_last_event_after_a_while() {
    let (blue, _go_on) = in_two_parts(SSE, "data: {\"event\": \"message\"}\n\n", "").await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(CHUNKED).await;
    assert_eq!(wire.head().await.status, 200);
    assert!(wire.event().await.is_some());
    cut(&gate, 1, 0);
    let last = wire.event().await.unwrap();
    assert!(last.contains("gateway_drained"), "{last}");
    assert_eq!(wire.event().await, None, "the answer ends");
    until_cut(&gate, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_requests_that_wait_are_504_too() {
    let blue = Upstream::start(async |mut arrived: Arrived| arrived.closed().await).await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(CHUNKED).await;
    until("the request upstream", async || blue.arrivals() == 1).await;
    cut(&gate, 0, 1);
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "gateway_drained"));
    until_cut(&gate, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_http2_ends_well() {
    let [blue, green] = instances().await;
    let authority = Authority::new();
    let certificate = authority.shown("gate", &["dify.example.com"]);
    let pools = blue_green(&[blue.address()], &[green.address()], "");
    let gate = gate(&format!("{}{pools}", listener(&certificate, ""))).await;
    let mut client = client(edge(&gate), &authority).await;
    let request = http::Request::post("https://dify.example.com/v1/chat-messages");
    let body = Bytes::from(chat("streaming", 10_000, 10));
    let request = request.header("content-length", body.len()).body(()).unwrap();
    let (answer, mut out) = client.send_request(request, false).unwrap();
    out.send_data(body, true).unwrap();
    let answer = soon("the head", answer).await.unwrap();
    let mut body = answer.into_body();
    let (mut text, mut severed) = (Vec::new(), false);
    while let Some(part) = soon("a part", body.data()).await {
        let part = part.expect("no reset");
        body.flow_control().release_capacity(part.len()).unwrap();
        text.extend_from_slice(&part);
        if !std::mem::replace(&mut severed, true) {
            cut(&gate, 1, 0);
        }
    }
    let text = String::from_utf8(text).unwrap();
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert!(
        last.starts_with("data: {\"event\":\"error\"") && last.contains("gateway_drained"),
        "{last}"
    );
    assert!(soon("the end", body.trailers()).await.unwrap().is_none());
    until_cut(&gate, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_can_be_ended_alone() {
    let [blue, green] = instances().await;
    let gate = gate(&blue_green(&[blue.address()], &[green.address()], "")).await;
    let mut wires = [Wire::to(edge(&gate)).await, Wire::to(edge(&gate)).await];
    for wire in &mut wires {
        wire.send(chat_request("streaming", 10_000, 10)).await;
        assert!(wire.event().await.is_some());
    }
    let first = streams(&gate).list()[0].id;
    assert!(streams(&gate).end(first) && !streams(&gate).end(first));
    while wires[0].event().await.is_some() {}
    assert!(wires[1].event().await.is_some());
    until("one to be left", async || streams(&gate).list().len() == 1).await;
    let metrics = admin(&gate, "/metrics").await.text();
    assert!(
        metrics.contains("reason=\"operator\",upstream=\"dify\"} 1"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_told_in_the_access_log() {
    let (blue, green) = (
        Upstream::start(async |mut arrived: Arrived| arrived.closed().await).await,
        Upstream::echo().await,
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let pools = blue_green(&[blue.address], &[green.address], "");
    let gate = gate(&format!("log: {{access: {}, sample: 0.0}}\n{pools}", file.display())).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(ASK).await;
    until("the request upstream", async || blue.arrivals() == 1).await;
    cut(&gate, 0, 1);
    let id = wire.answer().await.header("x-request-id").unwrap().to_owned();
    until("the line", async || {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .into_iter()
            .any(|line| line["request_id"] == id.as_str() && line["end"] == "cut" && line["pool"] == "blue")
    })
    .await;
}

pub(crate) const UPGRADE: &str = "GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// The close frame that a client is told with: not masked, code 1012.
pub(crate) const GOODBYE: &[u8] = b"\x88\x10\x03\xf4out of service";

/// An endpoint with a WebSocket that sends `first`, and `rest` when it is told to; it hands on all that it is sent.
pub(crate) async fn tunnel(
    first: &'static [u8],
    rest: &'static [u8],
) -> (Upstream, Arc<Notify>, mpsc::UnboundedReceiver<Vec<u8>>) {
    let go_on = Arc::new(Notify::new());
    let (heard, hears) = mpsc::unbounded_channel();
    let permits = go_on.clone();
    let upstream = Upstream::start(move |mut arrived: Arrived| {
        let (go_on, heard) = (permits.clone(), heard.clone());
        async move {
            arrived.send([SWITCHED.as_bytes(), first].concat()).await;
            if !rest.is_empty() {
                go_on.notified().await;
                arrived.send(rest).await;
            }
            let mut sent = Vec::new();
            let _ = arrived.stream.read_to_end(&mut sent).await;
            heard.send(sent).unwrap();
        }
    })
    .await;
    (upstream, go_on, hears)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_websocket_are_told() {
    let (blue, _, mut hears) = tunnel(b"\x81\x02hi", b"").await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(UPGRADE).await;
    assert_eq!(wire.head().await.status, 101);
    assert_eq!(wire.read(4).await, b"\x81\x02hi");
    assert_eq!(streams(&gate).list()[0].about.kind, Kind::Websocket);
    cut(&gate, 1, 0);
    assert_eq!(wire.read(GOODBYE.len()).await, GOODBYE);
    wire.send(b"\x88\x82\x00\x00\x00\x00\x03\xf4").await;
    assert_eq!(wire.ended().await, b"");
    until_cut(&gate, 1).await;
    let heard = soon("the end upstream", hears.recv()).await.unwrap();
    let [0x88, 0x82, mask @ .., high, low] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!(
        [high ^ mask[0], low ^ mask[1]],
        1001_u16.to_be_bytes(),
        "masked, as a client's frames are"
    );
    let tally = tally(&gate, blue.address);
    assert_eq!((tally.streams, tally.aborts), (0, 0), "no event stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_under_way_is_not_broken() {
    let (blue, go_on, _hears) = tunnel(b"\x81\x05hel", b"lo\x81\x05again").await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(UPGRADE).await;
    assert_eq!(wire.head().await.status, 101);
    assert_eq!(wire.read(5).await, b"\x81\x05hel");
    cut(&gate, 1, 0);
    go_on.notify_one();
    assert_eq!(wire.read(2).await, b"lo");
    assert_eq!(wire.read(GOODBYE.len()).await, GOODBYE);
    wire.ended().await;
    until_cut(&gate, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_never_ends_is_broken_off() {
    let (blue, go_on, mut hears) = tunnel(b"\x81\x7e\xff\xff half of it", b"never").await;
    let gate = before(&blue, &Upstream::echo().await).await;
    let mut wire = Wire::to(edge(&gate)).await;
    // What the client sent is half a frame as well.
    wire.send([UPGRADE.as_bytes(), b"\x81\x85\x00\x00"].concat()).await;
    assert_eq!(wire.head().await.status, 101);
    assert_eq!(wire.read(15).await, b"\x81\x7e\xff\xff half of it");
    cut(&gate, 1, 0);
    assert_eq!(wire.ended().await, b"", "no other frame within a frame");
    until_cut(&gate, 1).await;
    go_on.notify_one();
    let heard = soon("the end upstream", hears.recv()).await.unwrap();
    assert!(b"\x81\x85\x00\x00".starts_with(&heard), "{heard:?}");
}

/// An endpoint that never stops to send `part`, in chunks, after this head.
async fn flood(head: &'static str, part: &'static [u8]) -> Upstream {
    Upstream::start(move |mut arrived: Arrived| async move {
        arrived.send(head).await;
        while arrived.stream.write_all(part).await.is_ok() {}
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_pauses_and_who_never_reads_are_broken_off_in_time() {
    // Two chunks of an event that has no end.
    let sse = flood(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        b"data: on and on and on\n",
    )
    .await;
    // A frame of nearly 2^63 bytes.
    let websocket = flood(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\u{2}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}",
        &[b'w'; 4096],
    )
    .await;
    for (blue, request) in [(sse, ASK), (websocket, UPGRADE)] {
        let gate = before(&blue, &Upstream::echo().await).await;
        // One reads all that comes, the other nothing.
        let (mut reads, mut idles) = (Wire::to(edge(&gate)).await, Wire::to(edge(&gate)).await);
        reads.send(request).await;
        assert!(reads.head().await.status < 300);
        idles.send(request).await;
        until("both to stream", async || streams(&gate).list().len() == 2).await;
        cut(&gate, 2, 0);
        reads.ended().await;
        until_cut(&gate, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_streams_are_ended_well_while_others_are_served() {
    let [blue, green] = instances().await;
    let gate = gate(&blue_green(&[blue.address()], &[green.address()], "")).await;
    let edge = edge(&gate);
    let mut old = JoinSet::new();
    for _ in 0..100 {
        old.spawn(async move {
            let mut wire = Wire::to(edge).await;
            wire.send(chat_request("streaming", 10_000, 20)).await;
            wire.answer().await
        });
    }
    until("all of them to stream", async || streams(&gate).list().len() == 100).await;
    direct(&gate, Direction::to(PoolName::new("green"))).await;
    let new: Vec<_> = (0..20)
        .map(|_| ask_with(edge, "POST /v1/chat-messages", "", "{\"response_mode\": \"streaming\"}"))
        .collect();
    cut(&gate, 100, 0);
    for answer in new {
        let answer = answer.await;
        assert!(answer.whole && answer.instance() == green.name() && answer.text().contains("message_end"));
    }
    while let Some(answer) = soon("an end", old.join_next()).await {
        let answer = answer.unwrap();
        assert!(answer.whole, "a clean end");
        let text = answer.text();
        let events: Vec<&str> = text.trim_end().split("\n\n").collect();
        let (last, before) = events.split_last().unwrap();
        assert!(last.contains("gateway_drained"), "{last}");
        let parts = before.iter().filter_map(|event| event.strip_prefix("data: "));
        let parts = parts.map(|event| serde_json::from_str::<Value>(event).expect("whole events"));
        let said: Vec<String> = parts
            .filter_map(|event| event["answer"].as_str().map(str::to_owned))
            .collect();
        let expected: Vec<String> = (0..said.len()).map(|index| format!("part {index} ")).collect();
        assert_eq!(said, expected, "nothing is lost and nothing comes twice");
    }
    until_cut(&gate, 100).await;
}
