//! The end of the gate's own drain, when it stops or another process has taken over: what is left is ended as at the end of a cutover's drain, and
//! the gate waits for it.

use difygate::gate::direction::{Direction, Traffic};
use difygate::gate::names::PoolName;
use difygate::server::{Gate, Stopped};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::admin::admin;
use crate::reload::Filed;
use crate::severing::{ASK, CHUNKED, GOODBYE, SSE, UPGRADE, in_two_parts, tunnel};
use crate::support::{Arrived, Upstream, dify_upstream, direct, edge, gate, instances, nobody, soon, until};
use crate::wire::{Wire, chat_request};

/// A gate that drains for a moment only.
fn hasty(upstreams: &str) -> String {
    format!("server: {{lame_duck: 0s, drain_timeout: 300ms}}\n{upstreams}")
}

async fn hasty_gate(upstream: &Upstream) -> Gate {
    gate(&hasty(&dify_upstream(&[upstream.address], ""))).await
}

/// Stops a gate, as SIGTERM does or as another process does that has taken over.
async fn end(gate: &Gate, replaced: bool) -> Stopped {
    let ending = async {
        if replaced {
            gate.make_way().await
        } else {
            gate.stop().await
        }
    };
    soon("the gate to stop", ending).await
}

async fn was_counted(gate: &Gate, cuts: usize) {
    let metrics = admin(gate, "/metrics").await.text();
    let line = format!("difygate_streams_cut_total{{pool=\"main\",reason=\"shutdown\",upstream=\"dify\"}} {cuts}\n");
    assert!(metrics.contains(&line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_gets_a_last_event_and_a_clean_end() {
    for replaced in [false, true] {
        let [dify] = instances().await;
        let gate = gate(&hasty(&dify_upstream(&[dify.address()], ""))).await;
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(chat_request("streaming", 10_000, 20)).await;
        assert_eq!(wire.head().await.status, 200);
        assert_eq!(end(&gate, replaced).await, Stopped::Cut(1));
        let mut last = None;
        while let Some(event) = wire.event().await {
            last = Some(event);
        }
        let last: Value = serde_json::from_str(&last.unwrap()).unwrap();
        assert_eq!(
            (&last["event"], &last["code"]),
            (&"error".into(), &"gateway_drained".into())
        );
        assert!(last["message"].as_str().unwrap().contains("gateway"), "{last}");
        assert!(last["task_id"].is_string(), "{last}");
        was_counted(&gate, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_told_by_a_close_frame() {
    for replaced in [false, true] {
        let (endpoint, _, mut hears) = tunnel(b"\x81\x02hi", b"").await;
        let gate = hasty_gate(&endpoint).await;
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(UPGRADE).await;
        assert_eq!(wire.head().await.status, 101);
        assert_eq!(wire.read(4).await, b"\x81\x02hi");
        assert_eq!(end(&gate, replaced).await, Stopped::Cut(1));
        assert_eq!(wire.read(GOODBYE.len()).await, GOODBYE);
        assert_eq!(wire.ended().await, b"");
        let heard = soon("the end upstream", hears.recv()).await.unwrap();
        assert!(heard.starts_with(b"\x88\x82"), "{heard:?}");
        was_counted(&gate, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_answer_are_504() {
    let endpoint = Upstream::start(async |mut arrived: Arrived| arrived.closed().await).await;
    let gate = hasty_gate(&endpoint).await;
    let mut wires = Vec::new();
    for request in [ASK, "GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n", CHUNKED] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(request).await;
        wires.push((wire, request.starts_with("GET")));
    }
    until("all of them upstream", async || endpoint.arrivals() == 3).await;
    assert_eq!(end(&gate, false).await, Stopped::Cut(3));
    for (mut wire, is_question) in wires {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (504, "gateway_drained"));
        assert_eq!(answer.header("retry-after"), None, "it may be running");
        let again = answer.header("x-should-retry");
        assert_eq!(again, (!is_question).then_some("false"), "no SDK runs a prompt twice");
    }
    was_counted(&gate, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_were_sent_nowhere_may_come_again() {
    let endpoint = Upstream::start(async |mut arrived: Arrived| arrived.closed().await).await;
    let keys = "limits: {in_flight: 1, queue: 8, queue_timeout: 60s}";
    let gate = gate(&hasty(&dify_upstream(&[endpoint.address], keys))).await;
    let get = "GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n";
    let uploading = "POST /v1/chat-messages HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{";
    let mut first = Wire::to(edge(&gate)).await;
    first.send(get).await;
    until("the first one upstream", async || endpoint.arrivals() == 1).await;
    let mut waiting = Vec::new();
    for request in [get, uploading] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(request).await;
        waiting.push(wire);
    }
    until("both to wait", async || gate.in_flight() == 3).await;
    direct(
        &gate,
        Direction {
            traffic: Traffic::Pause,
            ..Direction::to(PoolName::new("main"))
        },
    )
    .await;
    let mut paused = Wire::to(edge(&gate)).await;
    paused.send(get).await;
    waiting.push(paused);
    until("another one to be held", async || gate.in_flight() == 4).await;
    assert_eq!(end(&gate, false).await, Stopped::Cut(4));
    assert_eq!(first.answer().await.status, 504);
    for mut wire in waiting {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "shutting_down"));
        assert_eq!(answer.header("retry-after"), Some("2"));
    }
    assert_eq!(endpoint.arrivals(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_configuration_named_is_waited_for_and_ended_too() {
    let (endpoint, _go_on) = in_two_parts(SSE, "data: {\"event\": \"message\"}\n\n", "never").await;
    let other = |name: &str| {
        format!(
            "upstreams: {{{name}: {{pools: {{main: {{endpoints: [\"{}\"]}}}}}}}}\n",
            nobody()
        )
    };
    let filed = Filed::start(&hasty(&dify_upstream(&[endpoint.address], ""))).await;
    let mut wire = Wire::to(edge(&filed.gate)).await;
    wire.send(ASK).await;
    assert_eq!(wire.head().await.status, 200);
    assert!(wire.event().await.is_some());
    for name in ["second", "third"] {
        filed.reload(&hasty(&other(name))).await.unwrap();
    }
    assert_eq!(filed.gate.in_flight(), 1);
    assert_eq!(end(&filed.gate, false).await, Stopped::Cut(1));
    let last = wire.event().await.unwrap();
    assert!(last.contains("gateway_drained"), "{last}");
    assert_eq!(wire.event().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_with_nothing_under_way_ends_at_once_though_a_client_stays() {
    let [dify] = instances().await;
    let gate = gate(&hasty(&dify_upstream(&[dify.address()], ""))).await;
    let idle = TcpStream::connect(edge(&gate)).await.unwrap();
    assert_eq!(end(&gate, false).await, Stopped::Drained);
    drop(idle);
}
