//! Full is not sick: an instance without room for its probe keeps what it serves, gets no more than it can take, and is never out.

use std::net::SocketAddr;

use difygate::gate::state::State;
use difygate::server::Gate;
use difygate::simulated_dify::{Health, SimulatedDify};

use crate::admin::admin;
use crate::support::{addresses, edge, gate_before, instances, known, nobody, until, until_state};
use crate::wire::{Wire, ask, chat_request};

const KEYS: &str = "probe: {interval: 300ms, timeout: 300ms}, limits: {queue_timeout: 50ms}";

/// A stream that says nothing for ten minutes but its first ping.
async fn quiet(edge: SocketAddr) -> Option<Wire> {
    let mut wire = Wire::to(edge).await;
    wire.send(chat_request("streaming", 1, 600_000)).await;
    let head = wire.head().await;
    (head.status == 200).then_some(wire)
}

/// Waits until `count` more probes of an instance have failed.
async fn failing_probes(gate: &Gate, dify: &SimulatedDify, count: usize) {
    let last = known(gate, dify.address()).await.history.back().map(|record| record.at);
    until("failing probes", async || {
        let known = known(gate, dify.address()).await;
        let failed = known
            .history
            .iter()
            .filter(|record| Some(record.at) > last && !record.report.outcome.is_pass());
        failed.count() >= count
    })
    .await;
}

/// The changes of endpoints to `ejected` or `down`, of which there must be none.
async fn blamed(gate: &Gate) -> Vec<String> {
    let metrics = admin(gate, "/metrics").await.text();
    let changes = metrics
        .lines()
        .filter(|line| line.starts_with("difygate_state_changes_total"));
    let to = |line: &&str| {
        ["ejected", "down"]
            .iter()
            .any(|to| line.contains(&format!("to=\"{to}\"")))
    };
    changes.filter(to).map(str::to_owned).collect()
}

/// Gives an instance ten places, fills them with streams, and waits until eight probes have found no room beside them.
async fn fill(gate: &Gate, full: &SimulatedDify) -> Vec<Wire> {
    full.set(|switches| switches.slots = 10);
    let mut streams = Vec::new();
    while full.tally().streams() < 10 {
        streams.extend(quiet(edge(gate)).await);
    }
    until_state(gate, full.address(), State::Busy).await;
    failing_probes(gate, full, 8).await;
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_quiet_streams_fill_an_instance_and_take_nobody_out() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &format!("{KEYS}, balance: round_robin")).await;
    let full = &difys[0];
    let streams = fill(&gate, full).await;
    let now = known(&gate, full.address()).await;
    assert_eq!(now.state, State::Busy, "{}", now.cause);
    assert_eq!(
        now.cause.to_string(),
        "full: the probe found no room beside 10 under way"
    );
    let before = full.tally().traffic();
    for _ in 0..10 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    assert_eq!(full.tally().traffic(), before, "the others take what comes");
    drop(streams);
    until_state(&gate, full.address(), State::Up).await;
    assert_eq!(blamed(&gate).await, Vec::<String>::new());
}

/// The sidecar's answers come from another port, and tell nothing of the room of the instance.
#[tokio::test(flavor = "multi_thread")]
async fn probes_of_a_sidecar_tell_nothing_of_the_room_of_an_instance() {
    let difys = instances::<2>().await;
    for dify in &difys {
        dify.set(|switches| switches.health = Health::Real);
    }
    let keys = format!(
        "probe: {{preset: dify, port: {}, interval: 300ms, timeout: 300ms}}",
        nobody().port()
    );
    let gate = gate_before(&addresses(&difys), &keys).await;
    let full = &difys[0];
    let _streams = fill(&gate, full).await;
    let now = known(&gate, full.address()).await;
    assert_eq!(now.state, State::Busy, "{}", now.cause);
    assert_eq!(now.capacity.limit(), Some(9), "one place is the probe's");
    assert_eq!(blamed(&gate).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_full_alone_is_told_of_as_full_and_serves_again_at_once() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], KEYS).await;
    dify.set(|switches| switches.slots = 10);
    let mut streams = Vec::new();
    while dify.tally().streams() < 10 {
        streams.extend(quiet(edge(&gate)).await);
    }
    until_state(&gate, dify.address(), State::Busy).await;
    failing_probes(&gate, &dify, 8).await;
    let refused = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (503, Some("overloaded"))
    );
    let explained = admin(&gate, &format!("/api/v1/endpoints/{}", dify.address()))
        .await
        .text();
    assert!(
        explained.contains("capacity: it is given 9 requests at a time"),
        "{explained}"
    );
    // Nine leave the probe its place.
    streams.truncate(8);
    until_state(&gate, dify.address(), State::Up).await;
    let answer = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(blamed(&gate).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_503_beyond_its_limit_is_given_what_it_takes() {
    let difys = instances::<2>().await;
    for dify in &difys {
        // As uvicorn, which notices at once that a client has left.
        dify.set(|switches| {
            switches.limit_concurrency = 7;
            switches.ping_every = std::time::Duration::from_millis(100);
        });
    }
    let gate = gate_before(&addresses(&difys), KEYS).await;
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.extend(quiet(edge(&gate)).await);
    }
    // Six each are what they take, and one place is the probe's.
    assert!((10..=12).contains(&streams.len()), "{}", streams.len());
    for _ in 0..3 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 503);
    }
    for dify in &difys {
        let known = known(&gate, dify.address()).await;
        assert!(known.state.tier().is_some(), "{}", known.cause);
    }
    streams.truncate(2);
    // The server notices that clients have left at its next ping.
    until("room for twenty in a row", async || {
        for _ in 0..20 {
            if ask(edge(&gate), "GET /v1/info").await.status != 200 {
                return false;
            }
        }
        true
    })
    .await;
    assert_eq!(blamed(&gate).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_server_has_taken_in_is_not_sent_elsewhere() {
    let difys = instances::<2>().await;
    let keys = format!("{KEYS}, balance: {{hash: {{header: x-key}}}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    for dify in &difys {
        dify.set(|switches| {
            switches.limit_concurrency = 7;
            switches.latency = std::time::Duration::from_secs(600);
        });
    }
    // Six with the same key go to the same instance, and the probe is the one too many.
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\nX-Key: a\r\n\r\n").await;
        waiting.push(wire);
    }
    let taken = || difys.each_ref().map(|dify| dify.tally().traffic());
    until("all of them to be taken in", async || taken().iter().sum::<u64>() == 6).await;
    let full = usize::from(taken()[0] == 0);
    assert_eq!(taken()[full], 6);
    difys[1 - full].set(|switches| switches.latency = std::time::Duration::ZERO);
    until_state(&gate, difys[full].address(), State::Busy).await;
    failing_probes(&gate, &difys[full], 3).await;
    assert_eq!(taken()[1 - full], 0, "they are being answered where they are");
    difys[full].set(|switches| switches.latency = std::time::Duration::ZERO);
    for wire in &mut waiting {
        assert_eq!(wire.answer().await.status, 200);
    }
    assert_eq!(blamed(&gate).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_instance_that_still_accepts_gets_nothing_new() {
    let difys = instances::<2>().await;
    let keys = "probe: {interval: 1s, timeout: 1s}, balance: round_robin, timeouts: {first_byte: 600s}";
    let gate = gate_before(&addresses(&difys), keys).await;
    let leaving = &difys[0];
    leaving.set(|switches| {
        switches.drains_open = true;
        switches.last_call = std::time::Duration::ZERO;
    });
    // Something to drain for, that was probed with it under way.
    let mut streams = Vec::new();
    while leaving.tally().streams() < 1 {
        streams.extend(quiet(edge(&gate)).await);
    }
    until("a probe beside the stream", async || {
        known(&gate, leaving.address()).await.capacity.probed() >= 2
    })
    .await;
    let stopping = leaving.stop();
    let noticing = async {
        until("it to be kept away", async || {
            !known(&gate, leaving.address()).await.state.is_routable()
        })
        .await;
        let now = known(&gate, leaving.address()).await;
        assert_eq!(
            now.cause.to_string(),
            "the probe is overdue, and was answered at once before"
        );
        // Each prompt is answered: none is sent where nobody answers.
        for _ in 0..10 {
            let mut wire = Wire::to(edge(&gate)).await;
            wire.send(chat_request("blocking", 1, 1)).await;
            assert_eq!(wire.head().await.status, 200);
        }
        drop(streams);
    };
    tokio::join!(stopping, noticing);
}
