//! Traffic that is paused or stopped: requests wait or are told, streams go on, and the gate's own answers come as ever.

use difygate::gate::direction::{Direction, Share, Split, Traffic};
use difygate::gate::names::PoolName;
use difygate::server::Gate;
use tokio::task::JoinSet;

use crate::support::{addresses, blue_green, direct, edge, gate, instances, soon, until, until_idle};
use crate::wire::{Wire, ask, ask_with, chat_request};
use difygate::simulated_dify::SimulatedDify;

async fn two(more: &str) -> (Gate, [SimulatedDify; 2]) {
    let difys: [SimulatedDify; 2] = instances().await;
    let [blue, green] = addresses(&difys)[..] else {
        panic!("two");
    };
    (
        gate(&format!("{}{more}", blue_green(&[blue], &[green], ""))).await,
        difys,
    )
}

fn to(pool: &str, traffic: Traffic) -> Direction {
    Direction {
        traffic,
        ..Direction::to(PoolName::new(pool))
    }
}

fn stop(message: &str) -> Traffic {
    Traffic::Stop {
        message: message.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_wait_and_go_where_traffic_goes_then() {
    let (gate, difys) = two("").await;
    direct(&gate, to("blue", Traffic::Pause)).await;
    let edge = edge(&gate);
    let mut waiting = JoinSet::new();
    for number in 0..100 {
        waiting.spawn(async move {
            match number % 3 {
                0 => ask(edge, "GET /v1/info").await,
                1 => ask_with(edge, "POST /v1/messages/1/feedbacks", "", "{}").await,
                _ => ask_with(edge, "POST /v1/files/upload", "", &"u".repeat(100_000)).await,
            }
        });
    }
    until("all of them to wait", async || gate.in_flight() == 100).await;
    assert_eq!(difys[0].tally().traffic() + difys[1].tally().traffic(), 0);
    direct(&gate, to("green", Traffic::Run)).await;
    while let Some(answer) = soon("an answer", waiting.join_next()).await {
        let answer = answer.unwrap();
        assert!(matches!(answer.status, 200 | 201), "{}", answer.head);
        assert_eq!(answer.instance(), difys[1].name());
    }
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_drawn_before_the_wait_is_forgotten() {
    let (gate, difys) = two("").await;
    let share = Share {
        pool: PoolName::new("green"),
        percent: 0,
        split: Split::Cookie,
        deployment: "dify".to_owned(),
        cutover: 1,
    };
    let paused = Direction {
        share: Some(share),
        ..to("blue", Traffic::Pause)
    };
    direct(&gate, paused).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n").await;
    until("it to wait", async || gate.in_flight() == 1).await;
    direct(&gate, to("green", Traffic::Run)).await;
    let answer = wire.answer().await;
    assert_eq!(
        (answer.instance(), answer.header("set-cookie")),
        (difys[1].name(), None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_longer_than_is_allowed() {
    let (gate, difys) = two("cutover: {longest_pause: 200ms}\n").await;
    direct(&gate, to("blue", Traffic::Pause)).await;
    for request in ["GET /v1/info", "POST /v1/chat-messages"] {
        let answer = ask_with(
            edge(&gate),
            request,
            "",
            &"{}".repeat(if request.starts_with('P') { 50_000 } else { 0 }),
        )
        .await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "paused"));
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(difys[0].tally().traffic(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_let_go() {
    let (gate, difys) = two("").await;
    direct(&gate, to("blue", Traffic::Pause)).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 1, 1)).await;
    until("it to wait", async || gate.in_flight() == 1).await;
    drop(wire);
    until_idle(&gate).await;
    direct(&gate, to("blue", Traffic::Run)).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    assert_eq!(difys[0].tally().executed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_becomes_a_stop_is_told_to_those_who_wait() {
    let (gate, _difys) = two("").await;
    direct(&gate, to("blue", Traffic::Pause)).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n").await;
    until("it to wait", async || gate.in_flight() == 1).await;
    direct(&gate, to("blue", stop("Back at noon."))).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "maintenance"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_on_and_the_gate_itself_answers() {
    let (gate, _difys) = two("").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 40, 10)).await;
    assert!(wire.event().await.is_some());
    for traffic in [Traffic::Pause, stop("")] {
        direct(&gate, to("blue", traffic)).await;
        assert!(wire.event().await.is_some());
        let health = ask(edge(&gate), "GET /healthz").await;
        assert_eq!(
            (health.status, health.json()["status"].as_str()),
            (200, Some("healthy"))
        );
        let hidden = ask_with(edge(&gate), "GET /healthz", "X-Forwarded-For: 203.0.113.7\r\n", "").await;
        assert_eq!(hidden.status, 404);
        let preview = ask_with(edge(&gate), "GET /v1/info", "X-Difygate-Pool: green\r\n", "").await;
        assert_eq!(preview.status, 200, "who looks at the new pool does not wait");
    }
    let mut last = String::new();
    while let Some(event) = wire.event().await {
        last = event;
    }
    assert!(last.contains("workflow_finished"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maintenance_says_why_to_programs_and_to_people() {
    let (gate, difys) = two("").await;
    direct(&gate, to("blue", stop("We move <b>house</b> & more."))).await;
    let answer = ask(edge(&gate), "POST /v1/chat-messages").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "maintenance"));
    assert_eq!(answer.json()["message"], "We move <b>house</b> & more.");
    assert!(answer.header("retry-after").is_some());
    let browser = "Accept: text/html,application/xhtml+xml;q=0.9\r\n";
    let answer = ask_with(edge(&gate), "GET /apps", browser, "").await;
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(answer.status == 503 && answer.header("retry-after").is_some());
    assert!(
        answer.text().contains("We move &lt;b&gt;house&lt;/b&gt; &amp; more."),
        "{}",
        answer.text()
    );
    let answer = ask_with(edge(&gate), "GET /apps", "Accept: application/json, text/html\r\n", "").await;
    assert_eq!(answer.code(), "maintenance");
    let large = ask_with(edge(&gate), "POST /v1/files/upload", "", &"u".repeat(100_000)).await;
    assert_eq!(large.status, 503);
    direct(&gate, to("blue", stop(""))).await;
    assert!(
        ask(edge(&gate), "GET /").await.json()["message"]
            .as_str()
            .unwrap()
            .contains("maintenance")
    );
    assert_eq!(difys[0].tally().traffic(), 0);
    direct(&gate, to("blue", Traffic::Run)).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
}
