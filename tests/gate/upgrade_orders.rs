//! After an upgrade the process before it still serves kept connections, waiting requests and streams. What operators order counts there as well.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use difygate::gate::direction::Traffic;
use difygate::gate::state::State;
use difygate::server::{Gate, Stopped};
use difygate::simulated_dify::SimulatedDify;
use difygate::upgrade::Predecessor;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::cutover::{FAST, cutover, say, serving, text, until_phase};
use crate::overrides::send;
use crate::support::{
    Arrived, Upstream, dify_upstream, edge, instances, settings, soon, until, until_idle, until_state,
};
use crate::wire::{Wire, chat_request};

const GET: &str = "GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n";

/// A gate that another one can take over from, and its configuration.
async fn first(folder: &Path, pools: [&SimulatedDify; 2], keys: &str) -> (Gate, String, PathBuf) {
    let socket = folder.join("upgrade.sock");
    let server = format!("server: {{upgrade_socket: {}, ", socket.display());
    let text = text(&folder.join("state"), pools, keys).replace("server: {", &server);
    (serving(&text).await, text, socket)
}

/// The gate that takes over.
async fn next(old: &Gate, text: &str, socket: &Path) -> Gate {
    let predecessor = soon("the gate to answer", Predecessor::find(socket)).await;
    let gate = Gate::start_after(settings(text), predecessor.unwrap()).unwrap();
    soon("the other gate to serve", gate.opened()).await;
    soon("the gate to hand over", old.handed_over()).await;
    gate
}

/// What a kept connection is answered.
async fn answered(kept: &mut Wire) -> (u16, String) {
    kept.send(GET).await;
    let answer = kept.answer().await;
    let instance = answer.header("x-instance").unwrap_or_default().to_owned();
    (answer.status, instance)
}

/// Waits for something, and keeps a connection from resting meanwhile: one of the old process that rests is closed.
async fn beside<T>(kept: &mut Wire, what: impl Future<Output = T>) -> T {
    let mut what = std::pin::pin!(what);
    loop {
        tokio::select! {
            done = &mut what => return done,
            () = tokio::time::sleep(Duration::from_millis(500)) => drop(answered(kept).await),
        }
    }
}

/// Whether traffic of a gate is paused.
fn is_paused(gate: &Gate) -> bool {
    let roster = gate.handle().roster.borrow().clone();
    *roster.upstreams[0].flow.world.load_full().traffic() == Traffic::Pause
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_connections_of_the_old_process_follow_every_order() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = FAST.replace("bake: 200ms", "bake: 1h");
    let (old, text, socket) = first(folder.path(), [&blue, &green], &keys).await;
    let mut kept = Wire::to(edge(&old)).await;
    assert_eq!(answered(&mut kept).await.0, 200);
    let new = beside(&mut kept, next(&old, &text, &socket)).await;
    let stop = json!({"state": "stop", "message": "Back at noon"});
    beside(&mut kept, say(&new, "dify:traffic", stop)).await;
    until("maintenance to be told", async || answered(&mut kept).await.0 == 503).await;
    say(&new, "dify:traffic", json!({"state": "run"})).await;
    until("requests to go on", async || answered(&mut kept).await.0 == 200).await;
    // A request that waits there is let go by an order that was given here.
    say(&new, "dify:traffic", json!({"state": "pause"})).await;
    until("the pause to be heard", async || is_paused(&old)).await;
    kept.send(GET).await;
    until("a request to wait", async || old.in_flight() == 1).await;
    say(&new, "dify:traffic", json!({"state": "run"})).await;
    assert_eq!(soon("its answer", kept.answer()).await.status, 200);
    // Maintenance, by the operator's word on an endpoint.
    let path = format!("/api/v1/overrides/{}", blue.address());
    let word = json!({"state": "maintenance", "reason": "a new disk"}).to_string();
    let maintained = beside(&mut kept, send(&new, "PUT", &path, &word)).await;
    assert_eq!(maintained.status, 200);
    beside(&mut kept, until_state(&old, blue.address(), State::Maintenance)).await;
    let enabled = beside(&mut kept, send(&new, "DELETE", &path, "")).await;
    assert_eq!(enabled.status, 200);
    beside(&mut kept, until_state(&old, blue.address(), State::Up)).await;
    // And a switch.
    until("blue to serve", async || {
        answered(&mut kept).await == (200, "dify-0".to_owned())
    })
    .await;
    beside(&mut kept, say(&new, "dify", json!({"to": "green", "auto": true}))).await;
    beside(&mut kept, until_phase(&new, "baking")).await;
    until("green to serve", async || answered(&mut kept).await.1 == "dify-1").await;
    beside(&mut kept, say(&new, "dify:rollback", json!({}))).await;
    until("blue to serve again", async || answered(&mut kept).await.1 == "dify-0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_over_cuts_the_streams_of_the_old_process_too() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let (old, text, socket) = first(folder.path(), [&blue, &green], FAST).await;
    let mut stream = Wire::to(edge(&old)).await;
    stream.send(chat_request("streaming", 100_000, 20)).await;
    assert_eq!(stream.head().await.status, 200);
    assert!(stream.event().await.is_some());
    let new = next(&old, &text, &socket).await;
    let leaving = async {
        let ended = old.make_way().await;
        until_idle(&old).await;
        ended
    };
    let switching = async {
        until("its stream to count in the new one", async || {
            cutover(&new).await["in_flight"]["blue"] == 1
        })
        .await;
        let start = json!({"to": "green", "auto": true, "drain": "1s"});
        assert_eq!(say(&new, "dify", start).await.status, 200);
        let mut last = None;
        while let Some(event) = stream.event().await {
            last = Some(event);
        }
        until("blue to be empty", async || {
            !cutover(&new).await["cutover"]["drained"].is_null()
        })
        .await;
        last
    };
    let (ended, last) = soon("the stream to be cut", async { tokio::join!(leaving, switching) }).await;
    let last: Value = serde_json::from_str(&last.unwrap()).unwrap();
    assert_eq!(
        (&last["event"], &last["code"]),
        (&json!("error"), &json!("gateway_drained"))
    );
    assert!(!cutover(&new).await["cutover"]["cut"].is_null());
    assert_eq!(ended, Stopped::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_reach_the_process_before_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let (first, text, socket) = first(folder.path(), [&blue, &green], FAST).await;
    let mut kept = Wire::to(edge(&first)).await;
    assert_eq!(answered(&mut kept).await.0, 200);
    let second = next(&first, &text, &socket).await;
    until("the next one to be able to take over", async || {
        Predecessor::find(&socket).await.is_ok_and(|found| found.is_some())
    })
    .await;
    let third = next(&second, &text, &socket).await;
    say(&third, "dify:traffic", json!({"state": "stop", "message": ""})).await;
    until("maintenance to be told", async || answered(&mut kept).await.0 == 503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_answer_ends_after_the_takeover_is_told_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let go_on = Arc::new(Notify::new());
    let permits = go_on.clone();
    let endpoint = Upstream::start(move |mut arrived: Arrived| {
        let go_on = permits.clone();
        async move {
            if arrived.head.starts_with("GET /slow ") {
                arrived
                    .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab")
                    .await;
                go_on.notified().await;
                arrived.send("cd").await;
            } else {
                arrived.answer("Connection: close\r\n", "{}").await;
            }
        }
    })
    .await;
    let socket = folder.path().join("upgrade.sock");
    let server = format!(
        "server: {{lame_duck: 0s, drain_timeout: 60s, upgrade_socket: {}}}",
        socket.display()
    );
    let text = format!("{server}\n{}", dify_upstream(&[endpoint.address], ""));
    let old = serving(&text).await;
    let (mut rests, mut busy) = (Wire::to(edge(&old)).await, Wire::to(edge(&old)).await);
    assert_eq!(answered(&mut rests).await.0, 200);
    busy.send(GET.replace("/v1/info", "/slow")).await;
    let head = busy.head().await;
    assert_eq!(
        (head.status, head.header("connection")),
        (200, Some("keep-alive")),
        "it was to be kept"
    );
    assert_eq!(busy.read(2).await, b"ab");
    let _new = next(&old, &text, &socket).await;
    let leaving = tokio::spawn(async move { old.make_way().await });
    // Who rests for long is closed; who is answered meanwhile is not yet.
    assert_eq!(rests.ended().await, b"");
    go_on.notify_one();
    assert_eq!(busy.read(2).await, b"cd");
    busy.send(GET).await;
    let answer = busy.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(soon("the old gate to end", leaving).await.unwrap(), Stopped::Drained);
}
