//! What an endpoint's traffic comes to: the sums by which a cutover is judged.

use std::time::Duration;

use difygate::simulated_dify::Traffic;

use crate::support::{Arrived, QUICK, Upstream, edge, gate_before, instances, nobody, tally, until, until_idle};
use crate::wire::{Wire, ask, chat_request};

/// Ejects nobody.
const LENIENT: &str = "outlier: {eject: false}";

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_counted_and_those_of_5xx_are_errors() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], LENIENT).await;
    for _ in 0..3 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    assert_eq!(ask(edge(&gate), "GET /v1/nothing").await.status, 404);
    dify.set(|switches| switches.traffic = Traffic::Status(500));
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 500);
    dify.set(|switches| switches.traffic = Traffic::Status(503));
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 503);
    until_idle(&gate).await;
    let tally = tally(&gate, dify.address());
    assert_eq!((tally.requests, tally.errors, tally.connects), (6, 2, 0));
    assert_eq!(tally.first_byte.iter().sum::<u64>(), 6);
    assert_eq!((tally.streams, tally.aborts, tally.silent), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_answers_nothing_and_a_client_that_leaves_is_nobodys_fault() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        if arrived.head.contains("/waits ") {
            arrived.closed().await;
        }
    })
    .await;
    let gate = gate_before(&[upstream.address], LENIENT).await;
    assert_eq!(ask(edge(&gate), "POST /closes").await.status, 502);
    assert_eq!(tally(&gate, upstream.address).errors, 1);
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET /waits HTTP/1.1\r\nHost: h\r\n\r\n").await;
    until("the request upstream", async || upstream.arrivals() == 2).await;
    drop(wire);
    until_idle(&gate).await;
    let tally = tally(&gate, upstream.address);
    assert_eq!((tally.requests, tally.errors), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_do_not_come_about_are_counted_apart() {
    let (health, nobody) = (Upstream::echo().await, nobody());
    let keys = format!("{LENIENT}, probe: {{port: {}}}", health.address.port());
    let gate = gate_before(&[nobody], &keys).await;
    assert_eq!(ask(edge(&gate), "GET /").await.code(), "upstream_unreachable");
    let tally = tally(&gate, nobody);
    assert_eq!((tally.requests, tally.errors, tally.connects), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_its_last_event_is_aborted_unless_the_client_left() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], QUICK).await;
    let sums = || tally(&gate, dify.address());
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 2, 1)).await;
    assert!(wire.answer().await.whole);
    until_idle(&gate).await;
    assert_eq!((sums().streams, sums().aborts), (1, 0));

    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 1_000, 20)).await;
    assert!(wire.event().await.is_some());
    drop(wire);
    until_idle(&gate).await;
    assert_eq!((sums().streams, sums().aborts), (2, 0));

    dify.set(|switches| switches.traffic = Traffic::RedisDown(Duration::from_millis(10)));
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 2, 1)).await;
    assert!(wire.answer().await.whole, "a lone ping and a clean end");
    until_idle(&gate).await;
    assert_eq!((sums().streams, sums().aborts), (3, 1));

    dify.set(|switches| switches.traffic = Traffic::Normal);
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 1_000, 20)).await;
    assert!(wire.event().await.is_some());
    dify.kill().await;
    wire.ended().await;
    until_idle(&gate).await;
    assert_eq!((sums().streams, sums().aborts), (4, 2));
    assert_eq!((sums().requests, sums().errors), (4, 0), "all of them were answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_is_counted_once() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        arrived.send(format!("{head}event: ping\n\n")).await;
        arrived.closed().await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "outlier: {stream_silence: 3s}").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(tally(&gate, upstream.address).silent, 0);
    until("it to be noticed", async || tally(&gate, upstream.address).silent == 1).await;
    drop(wire);
    until_idle(&gate).await;
    let tally = tally(&gate, upstream.address);
    assert_eq!((tally.streams, tally.aborts, tally.silent), (1, 0, 1));
}
