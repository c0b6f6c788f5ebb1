//! A dependency that all endpoints share is away: users get an answer soon, few requests are sent on, and all is as before once it is back.

use std::net::SocketAddr;
use std::time::Duration;

use difygate::server::Gate;
use difygate::simulated_dify::{Health, SimulatedDify, Traffic};

use crate::admin::admin;
use crate::support::{QUICK, addresses, edge, gate, gate_before, instances, until};
use crate::wire::{Answer, Wire, ask, ask_with, chat};

/// Longer than any test waits.
const HANGS: Traffic = Traffic::RedisDown(Duration::from_secs(600));

fn shared(component: &str) -> String {
    format!("{QUICK}, components: {{{component}: {{shared: true}}}}")
}

fn lack(difys: &[SimulatedDify], component: &str, traffic: Traffic) {
    for dify in difys {
        dify.set(|switches| {
            switches.health = Health::failing([component]);
            switches.traffic = traffic;
        });
    }
}

fn recover(difys: &[SimulatedDify]) {
    for dify in difys {
        dify.set(|switches| {
            switches.health = Health::Passing;
            switches.traffic = Traffic::Normal;
        });
    }
}

async fn until_named(gate: &Gate, component: &str) {
    until("the shared failure", async || {
        admin(gate, "/api/v1/status").await.json()["upstreams"][0]["shared_failure"] == component
    })
    .await;
}

async fn until_over(gate: &Gate) {
    until("its end", async || {
        admin(gate, "/api/v1/status").await.json()["upstreams"][0]["shared_failure"].is_null()
    })
    .await;
}

async fn prompt(at: SocketAddr) -> Answer {
    let json = "Content-Type: application/json\r\n";
    ask_with(at, "POST /v1/chat-messages", json, &chat("blocking", 1, 1)).await
}

fn assert_told(answer: &Answer, component: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (503, "dependency_failed"));
    let text = answer.text();
    assert!(text.contains(component), "{text}");
    assert_eq!(answer.header("retry-after"), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_on_an_endpoint_that_has_the_dependency_goes_on_waiting() {
    let difys = instances::<3>().await;
    let gate = gate_before(&addresses(&difys), &shared("cache")).await;
    let able = &difys[2];
    able.set(|switches| switches.traffic = Traffic::Hang);
    let (at, before) = (edge(&gate), able.tally().traffic());
    let mut asking = Vec::new();
    until("a request to wait there", async || {
        asking.push(tokio::spawn(async move { ask(at, "GET /v1/info").await.status }));
        able.tally().traffic() > before
    })
    .await;
    lack(&difys[..2], "cache", HANGS);
    until_named(&gate, "cache").await;
    able.set(|switches| switches.traffic = Traffic::Normal);
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_told_which_dependency_fails_and_nothing_is_started_for_them() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &shared("cache")).await;
    lack(&difys, "cache", HANGS);
    until_named(&gate, "cache").await;
    let before: u64 = difys.iter().map(|dify| dify.tally().counts().executed).sum();
    let at = edge(&gate);
    let asked: Vec<_> = (0..60)
        .map(|number| {
            tokio::spawn(async move {
                if number % 3 == 0 {
                    prompt(at).await
                } else {
                    ask(at, "GET /v1/info").await
                }
            })
        })
        .collect();
    // The one that tries is given up after two seconds and told the same.
    for answer in asked {
        assert_told(&answer.await.unwrap(), "cache");
    }
    let after: u64 = difys.iter().map(|dify| dify.tally().counts().executed).sum();
    assert_eq!(before, after, "no prompt ran for nobody");
    recover(&difys);
    until_over(&gate).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    assert_eq!(prompt(edge(&gate)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_may_be_sent_again_is_told_at_once() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &shared("cache")).await;
    for dify in &difys {
        dify.set(|switches| switches.traffic = HANGS);
    }
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n").await;
        waiting.push(wire);
    }
    until("all of them to wait", async || {
        difys.iter().map(|dify| dify.tally().traffic()).sum::<u64>() == 8
    })
    .await;
    lack(&difys, "cache", HANGS);
    for wire in &mut waiting {
        assert_told(&wire.answer().await, "cache");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_do_without_the_dependency_is_served() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &shared("search")).await;
    lack(&difys, "search", Traffic::Normal);
    until_named(&gate, "search").await;
    assert_told(&prompt(edge(&gate)).await, "search");
    for _ in 0..10 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    assert_eq!(prompt(edge(&gate)).await.status, 200, "ten good answers let it try");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_comes_at_once_is_asked_for_once_a_second() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &shared("database")).await;
    lack(&difys, "database", Traffic::DatabaseDown);
    until_named(&gate, "database").await;
    let mut told = 0;
    for _ in 0..40 {
        let answer = ask(edge(&gate), "GET /v1/info").await;
        told += usize::from(answer.status == 503);
    }
    assert!(told >= 30, "{told} of 40");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_dependency_serves_alone() {
    let difys = instances::<3>().await;
    let gate = gate_before(&addresses(&difys), &shared("database")).await;
    lack(&difys[..2], "database", Traffic::DatabaseDown);
    until_named(&gate, "database").await;
    for _ in 0..20 {
        let answer = ask(edge(&gate), "GET /v1/info").await;
        assert_eq!((answer.status, answer.instance()), (200, "dify-2"));
    }
    assert_eq!(prompt(edge(&gate)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_may_send_all_or_nothing() {
    for (rule, expected) in [("open", 500), ("closed", 503)] {
        let difys = instances::<2>().await;
        let keys = format!("{}, all_down: {rule}", shared("database"));
        let gate = gate_before(&addresses(&difys), &keys).await;
        lack(&difys, "database", Traffic::DatabaseDown);
        until_named(&gate, "database").await;
        for _ in 0..20 {
            let answer = ask(edge(&gate), "GET /v1/info").await;
            assert_eq!(answer.status, expected, "{rule}");
            assert!(
                rule == "open" || answer.text().contains("failed: database"),
                "{}",
                answer.text()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_that_has_the_dependency_stands_in() {
    let difys = instances::<3>().await;
    let [first, second, spare] = [0, 1, 2].map(|number| difys[number].address());
    let gate = gate(&format!(
        "upstreams: {{dify: {{{}, active: main, fallback: [spare], pools: {{main: {{endpoints: [\"{first}\", \"{second}\"]}}, spare: {{endpoints: [\"{spare}\"]}}}}}}}}\n",
        shared("database")
    ))
    .await;
    lack(&difys[..2], "database", Traffic::DatabaseDown);
    until_named(&gate, "database").await;
    let answer = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!((answer.status, answer.instance()), (200, "dify-2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_on_an_endpoint_that_is_found_to_lack_it_later_is_told_as_well() {
    let difys = instances::<3>().await;
    let gate = gate_before(&addresses(&difys), &shared("cache")).await;
    // The service beside the last one repeats an older answer.
    lack(&difys[..2], "cache", HANGS);
    difys[2].set(|switches| switches.traffic = HANGS);
    until_named(&gate, "cache").await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n").await;
        waiting.push(wire);
    }
    until("all of them to wait there", async || difys[2].tally().traffic() == 4).await;
    lack(&difys[2..], "cache", HANGS);
    for wire in &mut waiting {
        assert_told(&wire.answer().await, "cache");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_elsewhere_for_it_is_told_when_that_endpoint_lacks_it_too() {
    let difys = instances::<3>().await;
    let gate = gate_before(&addresses(&difys), &shared("cache")).await;
    for dify in &difys {
        dify.set(|switches| switches.traffic = HANGS);
    }
    let mut waiting = Vec::new();
    for _ in 0..9 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n").await;
        waiting.push(wire);
    }
    // The service beside the last one repeats an older answer, so what waits on the others goes there.
    lack(&difys[..2], "cache", HANGS);
    until("all of them to wait on the last one", async || {
        difys[2].tally().traffic() == 9
    })
    .await;
    lack(&difys[2..], "cache", HANGS);
    for wire in &mut waiting {
        assert_told(&wire.answer().await, "cache");
    }
}
