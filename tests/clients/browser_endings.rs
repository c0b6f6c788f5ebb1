//! How Chromium takes it when nobody is fit and when what a page reads is cut: its `EventSource` and its WebSocket.

use difygate::simulated_dify::{Cluster, SimulatedDify};
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::net::TcpListener;

use crate::browser::{Reports, chromium};
use crate::endings::{Origin, QUICK, asked_everyone, cut_of, url};
use crate::origins;

const PAGE: &str = r#"<!doctype html><title>page</title><script>
let last = Promise.resolve();
const report = (event, more = {}) => {
  last = last.then(() => fetch("/report", {method: "POST", body: JSON.stringify({event, ...more})}));
};
const source = new EventSource("/events");
let pieces = 0;
source.onopen = () => { pieces = 0; report("open"); };
source.onmessage = () => { if (pieces++ === 0) report("piece"); };
source.onerror = error => report("error", {state: source.readyState, data: error.data ?? null});
const talk = () => {
  const socket = new WebSocket("ws://" + location.host + "/socket.io/");
  socket.onopen = () => socket.send("hello");
  socket.onmessage = event => report("heard", {data: event.data});
  socket.onclose = event => report("closed", {code: event.code, reason: event.reason, clean: event.wasClean});
};
source.addEventListener("message", talk, {once: true});
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_pages_event_source_comes_again_and_its_websocket_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(false).await;
    let dify = SimulatedDify::start(&Cluster::new(), "dify-0").await.unwrap();
    dify.set(|switches| switches.websocket = true);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = format!(
        "routes:\n- {{path: /, upstream: dify}}\n- {{path: /events, upstream: events}}\n- {{path: /report, upstream: reports}}\n- {{path: /page, answer: {{content_type: text/html, body: {}}}}}\n",
        serde_json::to_string(PAGE).unwrap()
    );
    let others = format!(
        "{QUICK}, pools: {{main: {{endpoints: [\"{}\"]}}}}}}, events: {{{QUICK}, pools: {{main: {{endpoints: [\"{}\"]}}}}}}, reports: {{probe: {{path: /}}, pools: {{main: {{endpoints: [\"{}\"]}}}}}}, other: {{probe: {{path: /healthz}}",
        dify.address(),
        origin.address,
        listener.local_addr().unwrap()
    );
    let mut reports = Reports::take(listener);
    let gate = asked_everyone(origins::gate(&[dify.address()], &others, &keys)).await;
    let mut browser = chromium(&folder);
    browser.arg(format!("{}/page", url(&gate))).stdout(Stdio::null());
    let _browser = browser.spawn().unwrap();
    reports.tell("open").await;
    let told = reports.tell("error").await;
    assert_eq!(told["state"], 0, "it connects again: {told}");
    origin.set_healthy(true);
    // It may ask once more before the gate knows.
    let mut told = reports.next().await;
    while told["event"] != "piece" {
        assert_ne!(told["state"], 2, "it never closes: {told}");
        told = reports.next().await;
    }
    assert_eq!(reports.tell("heard").await["data"], "hello");
    cut_of(&gate, "dify");
    let told = reports.tell("closed").await;
    let expected = json!({"event": "closed", "code": 1012, "reason": "out of service", "clean": true});
    assert_eq!(told, expected);
    cut_of(&gate, "events");
    let told = reports.tell("error").await;
    let data: Value = serde_json::from_str(told["data"].as_str().unwrap()).unwrap();
    assert_eq!(data["code"], "gateway_drained");
    assert_eq!(reports.tell("error").await["state"], 0, "the end");
    reports.tell("open").await;
    reports.tell("piece").await;
    assert_eq!(origin.asked(), ["GET /events", "GET /events"]);
}
