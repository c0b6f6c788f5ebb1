//! Restarts: who asks for them, and that no traffic moves for it.

use difygate::gate::state::State;
use difygate::simulated_dify::SimulatedDify;

use crate::admin::admin;
use crate::support::{QUICK, Upstream, addresses, edge, gate_before, instances, known, until, until_state};
use crate::wire::ask;
use crate::{overrides, support};
use difygate::server::Gate;

const LIVE: &str =
    "probe: {path: /health, initial_delay: 0s, interval: 50ms, timeout: 50ms, fall: {default: 3, timeout: 100}}";

async fn restarts(gate: &Gate, outcome: &str) -> usize {
    let metrics = admin(gate, "/metrics").await.text();
    let beginning = "difygate_restarts_wanted_total{";
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with(beginning) && line.contains(&format!("outcome=\"{outcome}\"")));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok())
        .sum()
}

fn dies(dify: &SimulatedDify) {
    dify.set(|switches| switches.alive = false);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_live_is_restarted_by_command_once_and_keeps_its_traffic() {
    let difys = instances::<2>().await;
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("restarted");
    let command = format!(
        "command: [sh, -c, \"echo $0 >> {}\", \"{{endpoint}} of {{upstream}}/{{pool}}\"]",
        told.display()
    );
    let keys = format!("{QUICK}, live: {{{LIVE}, restart: {{{command}, pause: 1h, apart: 0s}}}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    dies(&difys[0]);
    until("too many restarts to be wanted", async || {
        restarts(&gate, "too_soon").await >= 3
    })
    .await;
    assert_eq!(restarts(&gate, "asked").await, 1);
    let lines = || std::fs::read_to_string(&told).unwrap_or_default();
    until("the command to have run", async || lines().ends_with('\n')).await;
    assert_eq!(lines(), format!("{} of dify/main\n", difys[0].address()));
    assert_eq!(
        known(&gate, difys[0].address()).await.state,
        State::Up,
        "readiness alone moves traffic"
    );
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_and_neighbours_wait_their_turn() {
    let difys = instances::<3>().await;
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let hook = Upstream::start(move |mut arrived| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(arrived.head.clone());
            arrived.answer("Connection: close\r\n", "{}").await;
        }
    })
    .await;
    let restart = format!("webhook: \"http://{}/restart\", pause: 1h, apart: 1h", hook.address);
    let keys = format!("{QUICK}, live: {{{LIVE}, restart: {{{restart}}}}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    difys.iter().for_each(dies);
    let head = support::soon("the webhook", bodies.recv()).await.unwrap();
    assert!(head.starts_with("POST /restart HTTP/1.1\r\n"), "{head}");
    until("the neighbours to wait", async || {
        restarts(&gate, "neighbour").await >= 2
    })
    .await;
    assert_eq!((restarts(&gate, "asked").await, hook.arrivals()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_is_told_of_and_an_operator_at_work_is_left_alone() {
    let difys = instances::<2>().await;
    let restart = "command: [/nowhere/restart], pause: 1h, apart: 0s";
    let keys = format!("{QUICK}, live: {{{LIVE}, restart: {{{restart}}}}}");
    let gate = gate_before(&addresses(&difys), &keys).await;
    let word = r#"{"state": "maintenance", "reason": "a new disk"}"#;
    let answer = overrides::send(&gate, "PUT", &format!("/api/v1/overrides/{}", difys[1].address()), word).await;
    assert_eq!(answer.status, 200);
    until_state(&gate, difys[1].address(), State::Maintenance).await;
    difys.iter().for_each(dies);
    until("the hook to fail", async || restarts(&gate, "failed").await == 1).await;
    until("the operator to be left alone", async || {
        restarts(&gate, "overridden").await >= 1
    })
    .await;
    assert_eq!(restarts(&gate, "asked").await, 0);
}
