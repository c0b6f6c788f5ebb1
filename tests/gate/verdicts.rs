//! Who may serve, by the word of live traffic and of probes together.

use difygate::gate::state::State;
use difygate::server::Gate;
use difygate::simulated_dify::{Health, SimulatedDify, Traffic};

use crate::admin;
use crate::support::{QUICK, addresses, edge, gate_before, instances, known, until, until_state};
use crate::wire::{Wire, ask, chat_request};

/// So rarely that only traffic can be quick.
const RARE: &str = "probe: {interval: 60s, timeout: 20s}, balance: round_robin";

fn traffic(dify: &SimulatedDify) -> u64 {
    dify.tally().traffic()
}

async fn serve(gate: &Gate, requests: usize) {
    for _ in 0..requests {
        let answer = ask(edge(gate), "GET /v1/info").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grey_failure_wastes_one_request_and_nobody_sees_it() {
    let difys = instances::<3>().await;
    let gate = gate_before(&addresses(&difys), RARE).await;
    let grey = &difys[1];
    grey.set(|switches| switches.traffic = Traffic::Status(503));
    until("the grey one to be asked", async || {
        serve(&gate, 1).await;
        traffic(grey) == 1
    })
    .await;
    until_state(&gate, grey.address(), State::Ejected).await;
    serve(&gate, 30).await;
    assert_eq!(traffic(grey), 1);
    let cause = known(&gate, grey.address()).await.cause.to_string();
    assert_eq!(cause, "traffic failed while the probe passes: answered 503");
    let explained = admin(&gate, &format!("/api/v1/endpoints/{}", grey.address())).await;
    let next = explained[0]["next"].to_string();
    assert!(next.contains("traffic: held back until 20"), "{explained}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_out_after_one_attempt() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), RARE).await;
    difys[0].kill().await;
    serve(&gate, 2).await;
    until_state(&gate, difys[0].address(), State::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_held_down_for_flapping_and_well_serves_when_the_last_other_dies() {
    let difys = instances::<2>().await;
    let keys = format!("{QUICK}, flapping: {{changes: 1, hold: 600s}}, balance: round_robin");
    let gate = gate_before(&addresses(&difys), &keys).await;
    let held = difys[0].address();
    let say = |health| difys[0].set(|switches| switches.health = health);
    say(Health::failing(["database"]));
    until_state(&gate, held, State::Down).await;
    say(Health::Passing);
    until("its return", async || known(&gate, held).await.state.is_routable()).await;
    say(Health::failing(["database"]));
    until_state(&gate, held, State::Down).await;
    say(Health::Passing);
    until("a reserve", async || known(&gate, held).await.reserve).await;
    serve(&gate, 5).await;
    difys[1].kill().await;
    serve(&gate, 20).await;
    assert!(known(&gate, held).await.state.is_routable());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_everyone_fails_nobody_is_ejected_beyond_a_third() {
    let difys = instances::<3>().await;
    let gate = gate_before(&addresses(&difys), RARE).await;
    for dify in &difys {
        dify.set(|switches| switches.traffic = Traffic::Status(503));
    }
    for _ in 0..12 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 503);
    }
    let mut out = 0;
    for dify in &difys {
        out += usize::from(!known(&gate, dify.address()).await.state.is_routable());
    }
    assert_eq!(out, 1);
    for dify in &difys {
        dify.set(|switches| switches.traffic = Traffic::Normal);
    }
    serve(&gate, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_streams_that_fill_an_instance_make_it_busy_and_others_serve() {
    let difys = instances::<2>().await;
    let full = &difys[0];
    let keys = "probe: {interval: 1s, timeout: 1s}, balance: round_robin";
    let gate = gate_before(&addresses(&difys), keys).await;
    full.set(|switches| switches.slots = 10);
    let mut streams = Vec::new();
    while full.tally().streams() < 10 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(chat_request("streaming", 100_000, 20)).await;
        let head = wire.head().await;
        assert_eq!(head.status, 200);
        streams.push(wire);
    }
    until_state(&gate, full.address(), State::Busy).await;
    let before = traffic(full);
    serve(&gate, 20).await;
    assert_eq!(traffic(full), before, "extra requests go elsewhere");
    for wire in &mut streams {
        assert!(wire.event().await.is_some(), "no stream is cut");
    }
    drop(streams);
    until_state(&gate, full.address(), State::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_accuses() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), RARE).await;
    difys[1].set(|switches| switches.traffic = Traffic::Cut);
    until("a cut", async || !ask(edge(&gate), "GET /v1/info").await.whole).await;
    until_state(&gate, difys[1].address(), State::Ejected).await;
    serve(&gate, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_all_share_takes_nobody_out() {
    let difys = instances::<5>().await;
    let keys = format!("{QUICK}, components: {{database: {{shared: true}}}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    for dify in &difys {
        dify.set(|switches| {
            switches.health = Health::failing(["database"]);
            switches.minor = vec!["model_loaded".to_owned()];
        });
        // Half a dozen probes come between the first failure and the last.
        tokio::time::sleep(std::time::Duration::from_millis(130)).await;
    }
    let shared = async || {
        let status = admin(&gate, "/api/v1/status").await;
        status["upstreams"][0]["shared_failure"] == "database"
    };
    until("the shared failure", shared).await;
    // Pages that need no database are served meanwhile.
    serve(&gate, 20).await;
    for dify in &difys {
        dify.set(|switches| switches.health = Health::Passing);
    }
    let well = async || admin(&gate, "/api/v1/status").await["upstreams"][0]["shared_failure"].is_null();
    until("the end of the shared failure", well).await;
    let metrics = admin::admin(&gate, "/metrics").await.text();
    let falls: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("difygate_state_changes_total") && !line.contains("to=\"up\""))
        .collect();
    assert!(falls.is_empty(), "nobody was taken out: {falls:?}");
}

async fn admin(gate: &Gate, path: &str) -> serde_json::Value {
    admin::admin(gate, path).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_it_can_do_without_makes_it_the_lesser_choice() {
    let difys = instances::<2>().await;
    let keys = format!("{QUICK}, components: {{cache: {{on_failure: degrade}}}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    difys[0].set(|switches| switches.health = Health::failing(["cache"]));
    until_state(&gate, difys[0].address(), State::Degraded).await;
    let before = traffic(&difys[0]);
    serve(&gate, 10).await;
    assert_eq!(traffic(&difys[0]), before);
    difys[1].set(|switches| switches.health = Health::failing(["database"]));
    until_state(&gate, difys[1].address(), State::Down).await;
    serve(&gate, 10).await;
    assert_eq!(traffic(&difys[0]), before + 10, "it is better than nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_when_nobody_is_fit_is_a_choice() {
    for (keys, status) in [("all_down: closed, ", 503), ("all_down: open, ", 200), ("", 503)] {
        let [dify] = instances().await;
        let gate = gate_before(&[dify.address()], &format!("{keys}{QUICK}")).await;
        dify.set(|switches| switches.health = Health::failing(["database"]));
        until_state(&gate, dify.address(), State::Down).await;
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, status, "{keys}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_traffic_may_not_eject_the_probes_have_the_word_alone() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &format!("{RARE}, outlier: {{eject: false}}")).await;
    difys[0].set(|switches| switches.traffic = Traffic::Status(503));
    serve(&gate, 20).await;
    assert_eq!(known(&gate, difys[0].address()).await.state, State::Up);
    assert!(traffic(&difys[0]) >= 10, "each of its turns is made again elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_is_answered_brings_a_grey_endpoint_back() {
    let difys = instances::<2>().await;
    let keys = format!("{RARE}, outlier: {{hold: 50ms}}, slow_start: {{window: 0s}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    let grey = &difys[0];
    grey.set(|switches| switches.traffic = Traffic::Status(503));
    until("a trial that fails", async || {
        serve(&gate, 1).await;
        traffic(grey) >= 2
    })
    .await;
    grey.set(|switches| switches.traffic = Traffic::Normal);
    until("the return", async || {
        serve(&gate, 1).await;
        known(&gate, grey.address()).await.state == State::Up
    })
    .await;
    let cause = known(&gate, grey.address()).await.cause.to_string();
    assert_eq!(cause, "the request that tried it was answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_wait_for_a_worker_accuse_nobody_and_are_shown() {
    let difys = instances::<2>().await;
    for dify in &difys {
        dify.set(|switches| switches.workers = false);
    }
    let keys = format!("{RARE}, outlier: {{stream_silence: 200ms}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(chat_request("streaming", 3, 1)).await;
        assert_eq!(wire.head().await.status, 200);
        streams.push(wire);
    }
    let silent = async || {
        let status = admin(&gate, "/api/v1/status").await;
        let endpoints = status["upstreams"][0]["pools"][0]["endpoints"]
            .as_array()
            .unwrap()
            .clone();
        let count = endpoints.iter().map(|one| one["silent_streams"].as_u64().unwrap_or(0));
        count.sum::<u64>() == 4
    };
    until("silent streams", silent).await;
    // Each silent stream has its endpoint probed at once, and the probe passes.
    for dify in &difys {
        until("a probe", async || dify.tally().probes() > 1).await;
        assert_eq!(known(&gate, dify.address()).await.state, State::Up);
    }
    let metrics = admin::admin(&gate, "/metrics").await.text();
    let line = "difygate_silent_streams{pool=\"main\",upstream=\"dify\"} 4";
    assert!(metrics.contains(line), "{metrics}");
    for dify in &difys {
        dify.set(|switches| switches.workers = true);
    }
    for mut wire in streams {
        let mut events = 0;
        while wire.event().await.is_some() {
            events += 1;
        }
        assert!(events >= 3, "no stream is cut: {events}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_and_a_probe_without_an_answer_agree() {
    let difys = instances::<2>().await;
    // Only silence can have the endpoint probed in time, and one timeout alone takes nobody out.
    let keys = "probe: {interval: 60s, timeout: 1s, fall: {timeout: 50}}, outlier: {stream_silence: 200ms}";
    let gate = gate_before(&addresses(&difys), keys).await;
    for dify in &difys {
        dify.set(|switches| switches.ping_every = std::time::Duration::from_secs(3));
    }
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 3, 600_000)).await;
    assert_eq!(wire.head().await.status, 200);
    let frozen = difys.iter().find(|dify| dify.tally().streams() == 1).unwrap();
    // It was probed with a stream under way, so that one stream is no reason to be late.
    until("a probe beside the stream", async || {
        known(&gate, frozen.address()).await.capacity.probed() == 2
    })
    .await;
    let never = std::time::Duration::from_secs(600);
    frozen.set(|switches| (switches.probe_latency, switches.ping_every) = (never, never));
    until_state(&gate, frozen.address(), State::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_probe_is_429_is_spared() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), QUICK).await;
    difys[0].set(|switches| switches.health = Health::Status(429));
    until_state(&gate, difys[0].address(), State::Busy).await;
    let before = traffic(&difys[0]);
    serve(&gate, 10).await;
    assert_eq!(traffic(&difys[0]), before);
    difys[1].set(|switches| switches.health = Health::Status(500));
    until_state(&gate, difys[1].address(), State::Down).await;
    serve(&gate, 5).await;
}
