//! What happens when an instance fails: who notices, what goes elsewhere, and what is never sent twice.

use std::time::Duration;

use difygate::gate::state::State;
use difygate::server::Stopped;
use difygate::simulated_dify::{Health, SimulatedDify, Traffic};
use tokio::io::AsyncReadExt;

use crate::support::{
    Arrived, QUICK, Upstream, addresses, dify_upstream, edge, gate, gate_before, instances, soon, until, until_idle,
    until_state,
};
use crate::wire::{Answer, Wire, ask, ask_with, chat, chat_request};

/// So rarely that traffic meets a failure before a probe does.
const RARE: &str = "probe: {interval: 60s, timeout: 20s}";

async fn post(at: std::net::SocketAddr) -> Answer {
    ask_with(at, "POST /v1/chat-messages", "", &chat("blocking", 1, 1)).await
}

fn traffic(difys: &[SimulatedDify]) -> u64 {
    difys.iter().map(|dify| dify.tally().traffic()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_503_on_the_probe_path_takes_an_endpoint_out_and_a_pass_takes_it_back() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), QUICK).await;
    let sick = &difys[0];
    sick.set(|switches| switches.health = Health::failing(["database"]));
    until_state(&gate, sick.address(), State::Down).await;
    let before = sick.tally().traffic();
    for _ in 0..10 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-1");
    }
    assert_eq!(sick.tally().traffic(), before);
    sick.set(|switches| switches.health = Health::Passing);
    until_state(&gate, sick.address(), State::Ramping).await;
    let back = async || ask(edge(&gate), "GET /v1/info").await.instance() == "dify-0";
    until("traffic to come back", back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_503_in_traffic_is_answered_elsewhere_whatever_the_method() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &format!("{RARE}, balance: round_robin")).await;
    difys[0].set(|switches| switches.traffic = Traffic::Status(503));
    for _ in 0..4 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-1");
        assert_eq!(post(edge(&gate)).await.instance(), "dify-1");
    }
    assert!(difys[0].tally().traffic() > 0);
    assert_eq!(difys[1].tally().executed(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_everyone_answers_503_the_client_gets_the_last_one() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), RARE).await;
    for dify in &difys {
        dify.set(|switches| switches.traffic = Traffic::Status(503));
    }
    let answer = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "simulated"));
    assert_eq!(traffic(&difys), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_was_sent_is_not_sent_again_and_a_question_is() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), RARE).await;
    for dify in &difys {
        dify.set(|switches| switches.traffic = Traffic::Close);
    }
    let answer = post(edge(&gate)).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_failed"));
    assert_eq!(traffic(&difys), 1, "a POST goes out once");
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 502);
    assert_eq!(traffic(&difys), 3, "a GET goes to both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_never_sent_again_whatever_its_method() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), RARE).await;
    for (sent, traffic_of_both) in [(1, Traffic::Close), (2, Traffic::Status(503))] {
        for dify in &difys {
            dify.set(|switches| switches.traffic = traffic_of_both);
        }
        assert!(ask(edge(&gate), "GET /triggers/webhook/abc").await.status >= 500);
        assert_eq!(traffic(&difys), sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_made_elsewhere_whatever_is_sent() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), &format!("{RARE}, balance: round_robin")).await;
    difys[0].kill().await;
    for _ in 0..3 {
        assert_eq!(post(edge(&gate)).await.instance(), "dify-1");
        assert_eq!(
            ask(edge(&gate), "DELETE /v1/conversations/1").await.instance(),
            "dify-1"
        );
        assert_eq!(ask(edge(&gate), "GET /triggers/webhook/abc").await.instance(), "dify-1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_endpoint_that_refuses_connections_is_503_in_the_shape_of_difys_errors() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], RARE).await;
    dify.kill().await;
    let answer = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "upstream_unreachable"));
    // Traffic and the probe that it caused agree, so nobody is asked in vain again.
    until("the verdict", async || post(edge(&gate)).await.code() == "no_endpoint").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_wait_on_a_frozen_endpoint_are_rescued_and_prompts_stay() {
    let difys = instances::<2>().await;
    let [frozen, fit] = &difys;
    let keys = "balance: round_robin, probe: {interval: 1s, timeout: 1s}";
    let gate = gate_before(&addresses(&difys), keys).await;
    frozen.freeze();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n").await;
        waiting.push(wire);
    }
    let mut prompts = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(chat_request("blocking", 1, 1)).await;
        prompts.push(wire);
    }
    until("only the frozen endpoint to be waited for", async || {
        fit.tally().executed() + u64::from(gate.in_flight()) >= 2
    })
    .await;
    for wire in &mut waiting {
        assert_eq!(wire.answer().await.instance(), "dify-1", "a GET that waits is rescued");
    }
    until_state(&gate, frozen.address(), State::Down).await;
    assert!(fit.tally().executed() <= 2);
    frozen.thaw();
    for wire in &mut prompts {
        assert_eq!(
            wire.answer().await.status,
            200,
            "a prompt waits for the one that may be running it"
        );
    }
    let executed = difys.iter().map(|dify| dify.tally().executed()).sum::<u64>();
    assert_eq!(executed, 2, "two prompts run twice in all, once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_begin_in_time_is_504_for_a_prompt_and_asked_elsewhere_for_a_question() {
    let difys = instances::<2>().await;
    let keys = format!("{RARE}, balance: round_robin, timeouts: {{first_byte: 1s}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    difys[0].set(|switches| switches.traffic = Traffic::Hang);
    for _ in 0..2 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-1");
    }
    difys[1].set(|switches| switches.traffic = Traffic::Hang);
    let answer = post(edge(&gate)).await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_is_given_up_before_the_endpoint_gives_it_up() {
    let [dify] = instances().await;
    dify.set(|switches| switches.keep_alive = Duration::from_secs(4));
    let gate = gate_before(&[dify.address()], &format!("{RARE}, timeouts: {{pool_idle: 500ms}}")).await;
    for _ in 0..5 {
        assert_eq!(post(edge(&gate)).await.status, 200);
        assert_eq!(post(edge(&gate)).await.status, 200);
        soon(
            "the kept connection to end",
            dify.tally().until(|counts| counts.connections == 0),
        )
        .await;
    }
    let counts = dify.tally().counts();
    assert_eq!(counts.executed, 10);
    assert!(
        counts.accepted < 10,
        "connections are kept: {} for 10 requests",
        counts.accepted
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_under_way_after_every_client_has_gone() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), RARE).await;
    for dify in &difys {
        dify.set(|switches| switches.traffic = Traffic::Hang);
    }
    let mut clients = Vec::new();
    for request in [
        "GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        chat_request("streaming", 1, 1),
    ] {
        for _ in 0..10 {
            let mut wire = Wire::to(edge(&gate)).await;
            wire.send(&request).await;
            clients.push(wire);
        }
    }
    until("all requests to be under way", async || gate.in_flight() == 20).await;
    drop(clients);
    until_idle(&gate).await;
    assert!(
        gate.handle()
            .roster
            .borrow()
            .endpoints
            .iter()
            .all(|endpoint| endpoint.in_flight.get() == 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_lets_a_stream_end() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 40, 20)).await;
    assert_eq!(wire.head().await.status, 200);
    let reading = async {
        let mut events = 0;
        while wire.event().await.is_some() {
            events += 1;
        }
        events
    };
    let (stopped, events) = tokio::join!(gate.stop(), reading);
    assert_eq!(stopped, Stopped::Drained);
    assert_eq!(events, 43, "40 pieces, the start and two ends");
    let refused = tokio::net::TcpStream::connect(edge(&gate)).await;
    assert!(refused.is_err(), "nobody is let in any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_the_drain_timeout_is_cut_and_counted() {
    let [dify] = instances().await;
    let text = format!(
        "server: {{lame_duck: 0s, drain_timeout: 300ms}}\n{}",
        dify_upstream(&[dify.address()], "")
    );
    let gate = gate(&text).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(chat_request("streaming", 10_000, 20)).await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(soon("the stop", gate.stop()).await, Stopped::Cut(1));
    drop(gate);
    let rest = String::from_utf8(wire.ended().await).unwrap();
    assert!(
        rest.contains("\"code\":\"gateway_drained\"") && rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_breaks_costs_a_question_nothing() {
    // Each connection carries one answer and breaks when it is asked again.
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        arrived.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let _ = arrived.stream.read_u8().await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    for _ in 0..5 {
        wire.send("GET / HTTP/1.1\r\nHost: gate\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
}
