//! Who takes the next request, and what happens when everyone has enough.

use std::time::Duration;

use difygate::gate::state::State;
use difygate::server::Gate;
use difygate::simulated_dify::{Health, SimulatedDify, Traffic};

use crate::admin::admin;
use crate::support::{
    QUICK, addresses, edge, gate, gate_before, instances, known, soon, until, until_idle, until_state,
};
use crate::wire::{Wire, ask, ask_with, chat_request};

fn traffic(dify: &SimulatedDify) -> u64 {
    dify.tally().traffic()
}

async fn stream(edge: std::net::SocketAddr) -> Wire {
    let mut wire = Wire::to(edge).await;
    wire.send(chat_request("streaming", 100_000, 20)).await;
    assert_eq!(wire.head().await.status, 200);
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_requests_wait_for_room_and_then_are_refused() {
    let difys = instances::<2>().await;
    let keys = format!("{QUICK}, limits: {{in_flight: 2, queue: 1, queue_timeout: 5s}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(stream(edge(&gate)).await);
    }
    assert_eq!(
        [2, 2],
        [0, 1].map(|index: usize| difys[index].tally().streams()),
        "each has its share"
    );
    let refused = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    assert_eq!(refused.json()["code"], "overloaded");

    // One waits, the next finds the queue full, and the first is served when a stream ends.
    let address = edge(&gate);
    let waiting = tokio::spawn(async move { ask(address, "GET /v1/info").await.status });
    until("one to wait", async || {
        let metrics = admin(&gate, "/metrics").await.text();
        metrics.contains("difygate_queued{upstream=\"dify\"} 1")
    })
    .await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 503);
    streams.pop();
    assert_eq!(soon("room", waiting).await.unwrap(), 200);
    let metrics = admin(&gate, "/metrics").await.text();
    for reason in ["queue_full", "queue_timeout"] {
        let line = format!("difygate_overflows_total{{reason=\"{reason}\",upstream=\"dify\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }
    for wire in &mut streams {
        assert!(wire.event().await.is_some(), "no stream is cut");
    }
    drop(streams);
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_hold_with_one_request_at_a_time() {
    let difys = instances::<2>().await;
    let text = format!(
        "upstreams: {{dify: {{{QUICK}, pools: {{main: {{endpoints: [{{address: \"{}\", weight: 3}}, \"{}\"]}}}}}}}}\n",
        difys[0].address(),
        difys[1].address()
    );
    let gate = gate(&text).await;
    for _ in 0..400 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    let heavier = traffic(&difys[0]);
    assert!((250..=350).contains(&heavier), "{heavier} of 400");
}

/// Two instances, of which the second is in its slow start with a tenth of its share, and streams on the first.
async fn ramping(difys: &[SimulatedDify; 2], keys: &str, streams: usize) -> (Gate, Vec<Wire>) {
    let keys = format!("{QUICK}, slow_start: {{window: 600s, floor: 10}}{keys}");
    difys[1].set(|switches| switches.health = Health::failing(["database"]));
    let gate = gate_before(&addresses(difys), &keys).await;
    until_state(&gate, difys[1].address(), State::Down).await;
    let mut open = Vec::new();
    for _ in 0..streams {
        open.push(stream(edge(&gate)).await);
    }
    difys[1].set(|switches| switches.health = Health::Passing);
    until_state(&gate, difys[1].address(), State::Ramping).await;
    (gate, open)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_endpoint_gets_little_while_one_in_its_slow_start_has_nothing() {
    let difys = instances::<2>().await;
    let (gate, _streams) = ramping(&difys, "", 40).await;
    for _ in 0..50 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    let idle = traffic(&difys[1]);
    assert!(idle >= 35, "{idle} of 50");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_start_refuses_nobody_while_its_endpoint_has_room() {
    let difys = instances::<2>().await;
    let limits = ", limits: {in_flight: 10, queue: 0}";
    let (gate, mut streams) = ramping(&difys, limits, 10).await;
    // The first one is full, and a tenth of ten is one.
    for _ in 0..10 {
        streams.push(stream(edge(&gate)).await);
    }
    assert_eq!(difys.each_ref().map(|dify| dify.tally().streams()), [10, 10]);
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_empties_elsewhere_when_its_endpoint_goes_down() {
    let difys = instances::<2>().await;
    difys[1].set(|switches| switches.health = Health::failing(["database"]));
    let keys = format!("{QUICK}, limits: {{in_flight: 1, queue_timeout: 9s}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    until_state(&gate, difys[1].address(), State::Down).await;
    let _stream = stream(edge(&gate)).await;
    let address = edge(&gate);
    let waiting = tokio::spawn(async move { ask(address, "GET /v1/info").await.status });
    difys[1].set(|switches| switches.health = Health::Passing);
    assert_eq!(soon("the return of the other", waiting).await.unwrap(), 200);
    assert_eq!(traffic(&difys[1]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_streams_on_every_instance_turn_the_rest_away_and_nothing_collapses() {
    let difys = instances::<2>().await;
    let keys = "probe: {interval: 1s, timeout: 1s}, balance: round_robin, limits: {queue_timeout: 100ms}";
    let gate = gate_before(&addresses(&difys), keys).await;
    let mut streams = Vec::new();
    for dify in &difys {
        dify.set(|switches| switches.slots = 10);
    }
    while difys.iter().any(|dify| dify.tally().streams() < 10) {
        streams.push(stream(edge(&gate)).await);
    }
    // Two probes in a row that find no place tell how many there are.
    for dify in &difys {
        let path = format!("/api/v1/endpoints/{}", dify.address());
        until("its room to be known", async || {
            admin(&gate, &path)
                .await
                .text()
                .contains("it is given 9 requests at a time")
        })
        .await;
    }
    for _ in 0..5 {
        let refused = ask(edge(&gate), "GET /v1/info").await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    }
    for wire in &mut streams {
        assert!(wire.event().await.is_some(), "no stream is cut");
    }
    for dify in &difys {
        assert_eq!(known(&gate, dify.address()).await.state, State::Busy);
    }
    drop(streams);
    for dify in &difys {
        until_state(&gate, dify.address(), State::Up).await;
    }
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_meets_the_same_endpoint_until_that_one_is_out() {
    let difys = instances::<3>().await;
    for (hash, header) in [
        ("{header: X-App-Id}", "X-App-Id: "),
        ("{cookie: sid}", "Cookie: a=b; sid="),
    ] {
        let keys = format!("{QUICK}, balance: {{hash: {hash}}}");
        let gate = gate_before(&addresses(&difys), &keys).await;
        let home = async |key: &str| {
            let before: Vec<u64> = difys.iter().map(traffic).collect();
            let answer = ask_with(edge(&gate), "GET /v1/info", &format!("{header}{key}\r\n"), "").await;
            assert_eq!(answer.status, 200);
            (0..difys.len())
                .find(|index| traffic(&difys[*index]) > before[*index])
                .unwrap()
        };
        let keys: Vec<String> = (0..20).map(|key| format!("app-{key}")).collect();
        let mut homes = Vec::new();
        for key in &keys {
            homes.push(home(key).await);
        }
        assert!((0..3).all(|index| homes.contains(&index)), "{homes:?}");
        for (key, expected) in keys.iter().zip(&homes) {
            assert_eq!(home(key).await, *expected);
        }
        difys[0].set(|switches| switches.health = Health::failing(["database"]));
        until_state(&gate, difys[0].address(), State::Down).await;
        for (key, before) in keys.iter().zip(&homes) {
            let now = home(key).await;
            assert!(
                if *before == 0 { now != 0 } else { now == *before },
                "only the keys of the one that is out move"
            );
        }
        difys[0].set(|switches| switches.health = Health::Passing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stays_however_much_it_brings_unless_a_bound_is_set() {
    let difys = instances::<3>().await;
    for (bound, alone) in [("", true), (", bound: 125", false)] {
        let keys = format!("{QUICK}, balance: {{hash: {{header: X-App-Id}}{bound}}}");
        let gate = gate_before(&addresses(&difys), &keys).await;
        let mut streams = Vec::new();
        for _ in 0..6 {
            let mut wire = Wire::to(edge(&gate)).await;
            let request = chat_request("streaming", 1_000, 20).replace("Host: h", "Host: h\r\nX-App-Id: app-1");
            wire.send(request).await;
            assert_eq!(wire.head().await.status, 200);
            streams.push(wire);
        }
        let serving = difys.iter().filter(|dify| dify.tally().streams() > 0).count();
        assert_eq!(serving == 1, alone, "{bound}");
        drop(streams);
        until("the streams to be gone", async || {
            difys.iter().all(|dify| dify.tally().streams() == 0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_time_a_slow_endpoint_gets_little_and_is_not_forgotten() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &format!("{QUICK}, balance: ewma")).await;
    difys[0].set(|switches| switches.traffic = Traffic::RedisDown(Duration::from_millis(300)));
    for _ in 0..60 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    let [slow, quick] = [0, 1].map(|index: usize| traffic(&difys[index]));
    assert!((1..=15).contains(&slow) && quick >= 45, "{slow} and {quick}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_stands_in_while_the_active_one_has_nobody() {
    let difys = instances::<2>().await;
    let text = format!(
        "upstreams: {{dify: {{{QUICK}, all_down: open, fallback: [spare], pools: {{main: {{endpoints: [\"{}\"]}}, spare: {{endpoints: [\"{}\"]}}}}}}}}\n",
        difys[0].address(),
        difys[1].address()
    );
    let gate = gate(&text).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    assert_eq!([traffic(&difys[0]), traffic(&difys[1])], [1, 0]);
    difys[0].set(|switches| switches.health = Health::failing(["database"]));
    until_state(&gate, difys[0].address(), State::Down).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    assert_eq!([traffic(&difys[0]), traffic(&difys[1])], [1, 1]);
    let metrics = admin(&gate, "/metrics").await.text();
    assert!(
        metrics.contains("difygate_fallback_active{pool=\"spare\",upstream=\"dify\"} 1"),
        "{metrics}"
    );
    difys[0].set(|switches| switches.health = Health::Passing);
    until_state(&gate, difys[0].address(), State::Up).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    assert_eq!([traffic(&difys[0]), traffic(&difys[1])], [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_much_later_loses_weight_where_latency_counts() {
    let difys = instances::<3>().await;
    let keys = format!("{QUICK}, balance: round_robin, outlier: {{latency: {{factor: 4, eject_after: 1h}}}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    difys[1].set(|switches| switches.latency = Duration::from_millis(500));
    let address = edge(&gate);
    let load = tokio::spawn(async move {
        loop {
            ask(address, "GET /v1/info").await;
        }
    });
    let slow = async || {
        let path = format!("/api/v1/endpoints/{}", difys[1].address());
        admin(&gate, &path)
            .await
            .text()
            .contains("answers much later than the others and has 25 %")
    };
    tokio::time::timeout(Duration::from_secs(120), async {
        while !slow().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the slow one to lose weight");
    load.abort();
    assert_eq!(known(&gate, difys[1].address()).await.state, State::Up);
}
