//! While two releases live: files that only the other one has, and runs that are stopped where they go on.

use difygate::gate::direction::{Direction, Traffic};
use difygate::gate::names::PoolName;
use difygate::server::Gate;
use difygate::simulated_dify::SimulatedDify;

use crate::support::{
    Arrived, Upstream, blue_green, direct, edge, gate, instances, nobody, streams, tally, until_idle,
};
use crate::wire::{Wire, ask, ask_with, chat_request};

/// One instance of each release, before which blue is active.
async fn releases(keys: &str) -> (Gate, [SimulatedDify; 2]) {
    let difys: [SimulatedDify; 2] = instances().await;
    for (dify, build) in difys.iter().zip(["old", "new"]) {
        dify.set(|switches| switches.build = Some(build.to_owned()));
    }
    let text = blue_green(&[difys[0].address()], &[difys[1].address()], keys);
    (gate(&text).await, difys)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_other_release_is_found() {
    let (gate, [blue, green]) = releases("").await;
    for (active, other) in [("blue", &green), ("green", &blue)] {
        direct(&gate, Direction::to(PoolName::new(active))).await;
        for (build, owner) in [("old", &blue), ("new", &green)] {
            let before = other.tally().traffic();
            for method in ["GET", "HEAD"] {
                let mut wire = Wire::to(edge(&gate)).await;
                wire.send(format!(
                    "{method} /_next/static/{build}/main.js?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"
                ))
                .await;
                let head = wire.head().await;
                assert_eq!((head.status, head.instance()), (200, owner.name()), "{method} {build}");
            }
            let expected = if owner.name() == other.name() { 2 } else { 0 };
            assert_eq!(other.tally().traffic() - before, expected, "only for what is not there");
        }
    }
    let answer = ask(edge(&gate), "GET /_next/static/old/main.js").await;
    assert_eq!(answer.text(), "// of old");
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_nobody_has_is_404_after_one_look_each() {
    let (gate, [blue, green]) = releases("").await;
    let answer = ask(edge(&gate), "GET /_next/static/ancient/main.js").await;
    assert_eq!(
        (answer.status, answer.instance()),
        (404, blue.name()),
        "as the pool that serves says it"
    );
    assert!(answer.whole && answer.text().contains("404"));
    assert_eq!((blue.tally().traffic(), green.tally().traffic()), (1, 1));
    until_idle(&gate).await;
    let tally = tally(&gate, green.address());
    assert_eq!((tally.requests, tally.errors), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_and_methods_are_not_looked_for_elsewhere() {
    let (gate, [_blue, green]) = releases("").await;
    for request in [
        "GET /v1/nothing",
        "POST /_next/static/new/main.js",
        "GET /x/_next/static/new/main.js",
        "GET /v1/nothing?/_next/static/",
    ] {
        ask(edge(&gate), request).await;
    }
    assert_eq!(green.tally().traffic(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_fails_takes_nothing_away() {
    let (gate, [blue, green]) = releases("outlier: {eject: false}").await;
    for traffic in [
        difygate::simulated_dify::Traffic::Close,
        difygate::simulated_dify::Traffic::Status(500),
        difygate::simulated_dify::Traffic::Status(503),
    ] {
        green.set(|switches| switches.traffic = traffic);
        let answer = ask(edge(&gate), "GET /_next/static/new/main.js").await;
        assert_eq!((answer.status, answer.instance()), (404, blue.name()), "{traffic:?}");
        assert!(answer.whole);
    }
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_other_pool_lives_nothing_is_looked_for() {
    let missing = Upstream::start(async |mut arrived: Arrived| {
        arrived
            .send("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone")
            .await;
    })
    .await;
    let gate = gate(&blue_green(&[missing.address], &[nobody()], "")).await;
    let answer = ask(edge(&gate), "GET /_next/static/new/main.js").await;
    assert_eq!((answer.status, answer.text().as_str()), (404, "none"));
    assert_eq!(missing.arrivals(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_stopped_while_users_are_moved() {
    let (gate, [blue, _green]) = releases("").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 10_000, 10)).await;
    assert!(wire.event().await.is_some());
    let task = streams(&gate).list()[0].task().unwrap().to_owned();
    direct(&gate, Direction::to(PoolName::new("green"))).await;
    let answer = ask_with(edge(&gate), &format!("POST /v1/chat-messages/{task}/stop"), "", "{}").await;
    assert_eq!((answer.status, answer.instance()), (200, blue.name()));
    let mut last = String::new();
    while let Some(event) = wire.event().await {
        last = event;
    }
    assert!(last.contains("stopped"), "{last}");
}

/// An endpoint that answers with its pool's name, and whose chats tell of the task `t-1` and never end.
async fn chatting(pool: &'static str) -> Upstream {
    Upstream::start(move |mut arrived: Arrived| async move {
        if !arrived.head.starts_with("POST /v1/chat-messages ") {
            return arrived.answer("Connection: close\r\n", pool).await;
        }
        arrived
            .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"task_id\": \"t-1\"}\n\n")
            .await;
        arrived.closed().await;
    })
    .await
}

/// A gate whose traffic was moved from blue to green while blue runs a task; it ends with the client that is returned.
async fn moved(traffic: Traffic) -> (Gate, [Upstream; 2], Wire) {
    let pools = [chatting("blue").await, chatting("green").await];
    let gate = gate(&blue_green(&[pools[0].address], &[pools[1].address], "")).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("POST /v1/chat-messages HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    assert!(wire.event().await.is_some());
    let direction = Direction {
        traffic,
        ..Direction::to(PoolName::new("green"))
    };
    direct(&gate, direction).await;
    (gate, pools, wire)
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_go_where_the_run_goes_on_and_nothing_else_does() {
    let (gate, _pools, wire) = moved(Traffic::Run).await;
    for (asked, pool) in [
        ("POST /v1/chat-messages/t-1/stop", "blue"),
        ("POST /api/completion-messages/t-1/stop?x=1", "blue"),
        ("POST /console/api/apps/1/chat-messages/t-1/stop", "blue"),
        ("POST /console/api/apps/1/workflow-runs/tasks/t-1/stop", "blue"),
        ("POST /v1/workflows/tasks/t-1/stop", "blue"),
        ("POST /v1/chat-messages/unknown/stop", "green"),
        ("POST /v1/chat-messages//stop", "green"),
        ("POST /stop", "green"),
        ("POST /v1/chat-messages/t-1/stop/more", "green"),
        ("POST /v1/other/t-1/stop", "green"),
        ("GET /v1/chat-messages/t-1/stop", "green"),
    ] {
        let answer = ask_with(edge(&gate), asked, "", "{\"user\": \"u\"}").await;
        assert_eq!(answer.text(), pool, "{asked}");
    }
    drop(wire);
    until_idle(&gate).await;
    let over = ask_with(edge(&gate), "POST /v1/chat-messages/t-1/stop", "", "{}").await;
    assert_eq!(over.text(), "green", "what is over is nobody's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_can_be_stopped_while_traffic_is_not_let_on() {
    for traffic in [Traffic::Pause, Traffic::Stop { message: String::new() }] {
        let (gate, _pools, _wire) = moved(traffic).await;
        let answer = ask_with(edge(&gate), "POST /v1/chat-messages/t-1/stop", "", "{}").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "blue"));
    }
}
