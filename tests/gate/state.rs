//! What outlives a process: the operators' words.

use std::path::Path;
use std::time::{Duration, Instant};

use difygate::gate::state::State;
use difygate::server::{Gate, StartError};
use difygate::simulated_dify::SimulatedDify;
use serde_json::{Value, json};

use crate::admin::{admin, metric};
use crate::overrides::send;
use crate::support::{QUICK, addresses, dify_upstream, edge, instances, known, ready, settings, until};
use crate::wire::ask;

fn text(folder: &Path, difys: &[SimulatedDify]) -> String {
    format!(
        "server: {{lame_duck: 0s, state_dir: {}}}\n{}",
        folder.display(),
        dify_upstream(&addresses(difys), QUICK)
    )
}

async fn say(gate: &Gate, dify: &SimulatedDify, word: Value) {
    let path = format!("/api/v1/overrides/{}", dify.address());
    assert_eq!(send(gate, "PUT", &path, &word.to_string()).await.status, 200);
}

async fn kept(folder: &Path, holds: impl Fn(&Value) -> bool) {
    until("the overrides to be kept", async || {
        let text = std::fs::read_to_string(folder.join("overrides.json")).unwrap_or_default();
        serde_json::from_str(&text).is_ok_and(|kept| holds(&kept))
    })
    .await;
}

fn count(kept: &Value) -> usize {
    kept.as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_outlive_the_process_and_end_when_they_were_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let difys = instances::<3>().await;
    let text = text(&state, &difys);
    let gate = ready(Gate::start(settings(&text)).unwrap()).await;
    assert_eq!(
        std::fs::read_dir(&state).unwrap().count(),
        0,
        "there is nothing to keep"
    );
    say(
        &gate,
        &difys[0],
        json!({"state": "draining", "reason": "a new \"disk\"", "for": "1h"}),
    )
    .await;
    say(
        &gate,
        &difys[1],
        json!({"state": "maintenance", "reason": "a new image", "for": "10s"}),
    )
    .await;
    kept(&state, |kept| count(kept) == 2).await;
    // Two more rounds of probes, so that a time that began anew would be a later one.
    let asked = difys[0].tally().probes();
    until("two more probes", async || difys[0].tally().probes() >= asked + 3).await;
    #[allow(clippy::disallowed_methods)] // the time by which the gate's own is judged
    let restarted = Instant::now();
    drop(gate);
    let gate = ready(Gate::start(settings(&text)).unwrap()).await;
    let word = known(&gate, difys[0].address()).await;
    assert_eq!(word.state, State::Draining);
    assert_eq!(word.cause.to_string(), "by the operator: a new \"disk\"");
    let word = word.overridden.unwrap();
    assert!(word.since < restarted, "by the time of day");
    let hour = Duration::from_secs(3_600);
    assert!(word.until.unwrap() < restarted + hour, "it does not begin anew");
    until("the other one to end", async || {
        known(&gate, difys[1].address()).await.state.is_routable()
    })
    .await;
    kept(&state, |kept| count(kept) == 1 && kept[0]["state"] == "draining").await;
    let path = format!("/api/v1/overrides/{}", difys[0].address());
    assert_eq!(send(&gate, "DELETE", &path, "").await.status, 200);
    kept(&state, |kept| count(kept) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_on_an_endpoint_that_is_yet_to_be_discovered_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let difys = instances::<2>().await;
    let list = folder.path().join("endpoints");
    let text = format!(
        "server: {{lame_duck: 0s, state_dir: {0}/state}}\nupstreams: {{dify: {{{QUICK}, pools: {{main: {{file: {0}/endpoints}}}}}}}}\n",
        folder.path().display()
    );
    let write = |difys: &[SimulatedDify]| {
        let lines: Vec<String> = difys.iter().map(|dify| format!("{}\n", dify.address())).collect();
        std::fs::write(&list, lines.concat()).unwrap();
    };
    write(&difys);
    let gate = Gate::start(settings(&text)).unwrap();
    until("both to be found", async || {
        gate.handle().mailbox.known().await.unwrap().len() == 2
    })
    .await;
    say(&gate, &difys[1], json!({"state": "draining", "reason": "a new disk"})).await;
    kept(&folder.path().join("state"), |kept| count(kept) == 1).await;
    drop(gate);
    write(&difys[..1]);
    let gate = Gate::start(settings(&text)).unwrap();
    until("one to be found", async || {
        gate.handle().mailbox.known().await.unwrap().len() == 1
    })
    .await;
    write(&difys);
    until("the other to be found", async || {
        gate.handle().mailbox.known().await.unwrap().len() == 2
    })
    .await;
    assert_eq!(known(&gate, difys[1].address()).await.state, State::Draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_set_aside_and_the_gate_serves() {
    let folder = tempfile::tempdir().unwrap();
    let difys = instances::<1>().await;
    let word = |address: &str, state: &str| json!({"upstream": "dify", "pool": "main", "address": address, "state": state, "reason": "r", "since": "yesterday", "until": null});
    let address = difys[0].address().to_string();
    let strange = json!([word("nowhere", "draining"), word(&address, "asleep")]).to_string();
    for text_kept in ["[{", "{}", "[1]", strange.as_str()] {
        std::fs::write(folder.path().join("overrides.json"), text_kept).unwrap();
        let gate = ready(Gate::start(settings(&text(folder.path(), &difys))).unwrap()).await;
        assert!(
            known(&gate, difys[0].address()).await.state.is_routable(),
            "{text_kept}"
        );
        if text_kept != strange {
            let aside = folder.path().join("overrides.json.unreadable");
            assert_eq!(std::fs::read_to_string(aside).unwrap(), text_kept);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_lines_that_cannot_be_written_are_counted_and_a_file_that_was_moved_away_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let difys = instances::<1>().await;
    let before = dify_upstream(&addresses(&difys), QUICK);
    let gate = ready(Gate::start(settings(&format!("log: {{access: /dev/full}}\n{before}"))).unwrap()).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    until("the line to be counted", async || {
        metric(&gate, "difygate_access_lines_dropped_total", "").await == 1.0
    })
    .await;
    let path = folder.path().join("access.log");
    let text = format!("log: {{access: {}}}\n{before}", path.display());
    let gate = ready(Gate::start(settings(&text)).unwrap()).await;
    let lines = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    until("a line", async || lines(&path) == 1).await;
    let away = folder.path().join("access.log.1");
    std::fs::rename(&path, &away).unwrap();
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    until("a line in the new file", async || lines(&path) == 1).await;
    assert_eq!(lines(&away), 1);
    assert_eq!(metric(&gate, "difygate_access_lines_dropped_total", "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_an_error_and_one_that_fails_later_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let difys = instances::<1>().await;
    match Gate::start(settings(&text(Path::new("/proc/difygate"), &difys))) {
        Err(StartError::State(e)) => assert!(e.to_string().contains("/proc"), "{e}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
    let gate = ready(Gate::start(settings(&text(folder.path(), &difys))).unwrap()).await;
    // A folder stands where the document is to be.
    std::fs::create_dir(folder.path().join("overrides.json.new")).unwrap();
    say(&gate, &difys[0], json!({"state": "draining", "reason": "a new disk"})).await;
    until("the failure to be counted", async || {
        let metrics = admin(&gate, "/metrics").await.text();
        metrics.contains("difygate_state_write_failures_total 1\n")
    })
    .await;
    assert_eq!(
        known(&gate, difys[0].address()).await.state,
        State::Draining,
        "it is in force all the same"
    );
}
