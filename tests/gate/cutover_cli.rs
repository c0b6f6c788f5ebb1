//! Cutovers as a release pipeline meets them: the real binary, its exit codes, and what it prints where.

use std::path::Path;
use std::process::Output;

use difygate::gate::state::State;
use difygate::server::Gate;
use difygate::simulated_dify::{Health, SimulatedDify};
use serde_json::Value;

use crate::cli::difygate;
use crate::cutover::{serving, text, until_phase};
use crate::support::{QUICK, edge, instances, soon, until, until_state};
use crate::wire::{Wire, ask, chat_request};

const FAST: &str = "rise: 1, prepare: 20s, verify: 20s, bake: 200ms, min_samples: 0";
/// For who waits until a gate has failed.
const STRICT: &str = "rise: 1, prepare: 6s, verify: 6s, bake: 200ms, min_samples: 0";

/// A gate whose probes ask `path`: Dify's own names a version, and that of its image tells of faults.
async fn started(folder: &Path, pools: [&SimulatedDify; 2], path: &str, keys: &str) -> Gate {
    let probing = QUICK.replace("probe: {", &format!("probe: {{path: {path}, "));
    let text = text(folder, pools, keys).replace(QUICK, &probing);
    serving(&text).await
}

/// Runs the command against a gate: its code, its output, and what it complained.
async fn run(gate: &Gate, words: &[&str]) -> (i32, String, String) {
    run_in(gate, None, words).await
}

/// Runs it as a job of a pipeline's run.
async fn run_in(gate: &Gate, job: Option<&str>, words: &[&str]) -> (i32, String, String) {
    let admin = format!("http://{}", gate.admin());
    let mut command = difygate(words);
    command.env("DIFYGATE_ADMIN", admin).env("DIFYGATE_ACTOR", "ann");
    for name in ["GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILD_TAG"] {
        command.env_remove(name);
    }
    command.envs(job.map(|job| ("GITHUB_RUN_ID", job)));
    let output: Output = soon("the command to end", command.output()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_shows_its_way_and_ends_when_the_old_pool_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], "/health", FAST).await;
    let switch = [
        "switch",
        "dify",
        "--to",
        "green",
        "--expect-version",
        "1.14.2",
        "--wait",
        "drained",
        "--timeout",
        "30s",
        "--reason",
        "release 118",
    ];
    let (code, out, err) = run(&gate, &switch).await;
    assert_eq!(code, 0, "{err}");
    for words in ["preparing", "every gate passes", "baking", "the bake was good", "ann"] {
        assert!(err.contains(words), "{words} is missing in {err}");
    }
    assert!(out.starts_with("# Cutover 1 of dify: committed"), "{out}");
    assert!(
        out.contains("| reason | release 118 |") && out.contains("every endpoint is 1.14.2"),
        "{out}"
    );
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-1");
    let (code, _, err) = run(&gate, &switch).await;
    assert_eq!(code, 0);
    assert!(err.contains("`green` is active already"), "{err}");
    let mut other = switch;
    other[5] = "2.0.0";
    let (code, _, err) = run(&gate, &other).await;
    assert_eq!(code, 3);
    assert!(err.contains("is 1.14.2"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], "/healthz", STRICT).await;
    let (code, _, err) = run(&gate, &["switch", "dify", "--to", "green", "--expect-version", "9"]).await;
    assert_eq!(code, 3, "a gate fails and nothing moves: {err}");
    assert!(err.contains("names no version"), "{err}");
    let (code, _, err) = run(&gate, &["switch", "dify", "--to", "red"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("dify has no pool `red`"), "{err}");
    let start = [
        "cutover",
        "start",
        "dify",
        "--to",
        "green",
        "--wait",
        "ready",
        "--timeout",
        "20s",
    ];
    assert_eq!(run(&gate, &start).await.0, 0);
    let (code, _, err) = run(&gate, &["switch", "dify", "--to", "green"]).await;
    assert_eq!(code, 5, "another one is under way: {err}");
    let (code, out, _) = run(&gate, &["cutover", "promote", "dify", "--dry-run", "--json"]).await;
    let dry: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &dry["phase"], &dry["dry_run"]),
        (0, &"baking".into(), &true.into())
    );
    green.set(|switches| switches.health = Health::Status(503));
    until_state(&gate, green.address(), State::Down).await;
    let (code, _, err) = run(&gate, &["cutover", "promote", "dify"]).await;
    assert!(
        code == 3 && err.contains("a gate does not pass, nothing has moved"),
        "{code}: {err}"
    );
    let (code, out, _) = run(&gate, &["cutover", "status"]).await;
    assert!(
        code == 0 && out.contains("dify (dify): ready, active pool blue"),
        "{out}"
    );
    assert_eq!(run(&gate, &["cutover", "abort", "dify"]).await.0, 0);
    assert_eq!(run(&gate, &["cutover", "promote", "dify"]).await.0, 5);
    assert_eq!(
        run(&gate, &["cutover", "start", "dify", "--to", "green", "--steps", "0%"])
            .await
            .0,
        2
    );
    assert_eq!(
        run(&gate, &["switch", "dify", "--to", "green", "--wait", "soon"])
            .await
            .0,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_hears_of_a_way_back_and_of_time_that_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(
        folder.path(),
        [&blue, &green],
        "/healthz",
        &FAST.replace("bake: 200ms", "bake: 1h"),
    )
    .await;
    let switch = ["switch", "dify", "--to", "green", "--timeout", "3s"];
    let (code, _, err) = run(&gate, &switch).await;
    assert_eq!(code, 6, "{err}");
    assert!(err.contains("the cutover goes on by itself"), "{err}");
    until_phase(&gate, "baking").await;
    let mut stream = Wire::to(edge(&gate)).await;
    stream.send(chat_request("streaming", 10_000, 20)).await;
    assert_eq!(stream.head().await.status, 200);
    let (code, out, _) = run(&gate, &["cutover", "rollback", "dify", "--reason", "slow"]).await;
    assert!(code == 0 && out.contains("rolled back: slow"), "{out}");
    assert!(stream.event().await.is_some(), "its stream goes on");
    let (code, out, _) = run(&gate, &["cutover", "inflight", "dify", "--pool", "green"]).await;
    assert!(code == 0 && out.starts_with("green: 1 under way"), "{out}");
    assert!(out.contains("sse") && out.contains("POST /v1/chat-messages"), "{out}");
    let waiting = [
        "switch",
        "dify",
        "--to",
        "green",
        "--wait",
        "committed",
        "--timeout",
        "20s",
    ];
    let killer = async {
        until_phase(&gate, "baking").await;
        green.set(|switches| switches.health = Health::Status(503));
    };
    let ((code, out, err), ()) = tokio::join!(run(&gate, &waiting), killer);
    assert_eq!(code, 4, "{err}");
    assert!(out.contains("rolled_back"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_run_again_follows_what_it_began_and_tries_again_what_came_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = STRICT.replace("bake: 200ms", "bake: 15s");
    let gate = started(folder.path(), [&blue, &green], "/healthz", &keys).await;
    green.set(|switches| switches.health = Health::Status(503));
    let switch = ["switch", "dify", "--to", "green", "--timeout", "40s"];
    let again = async |job: &'static str| run_in(&gate, Some(job), &switch).await;
    assert_eq!(again("118").await.0, 3);
    green.set(|switches| switches.health = Health::Passing);
    until_state(&gate, green.address(), State::Up).await;
    let hasty = [
        "switch",
        "dify",
        "--to",
        "green",
        "--timeout",
        "40s",
        "--wait",
        "flipped",
    ];
    assert_eq!(run_in(&gate, Some("118"), &hasty).await.0, 0, "it tries again");
    let (code, _, err) = again("119").await;
    assert!(code == 5 && err.contains("is under way"), "another job's: {err}");
    let (code, out, err) = again("118").await;
    assert!(code == 0 && out.contains("committed"), "{code} {err}");
    let view = crate::admin::admin(&gate, "/api/v1/cutovers/dify").await.json();
    assert!(view["cutover"]["id"].as_u64() < view["epoch"].as_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_long_ago_hears_that_another_cutover_was_started_since() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], "/healthz", FAST).await;
    let switch = |pool: &'static str| ["switch", "dify", "--to", pool, "--timeout", "40s"];
    assert_eq!(run_in(&gate, Some("118"), &switch("green")).await.0, 0);
    assert_eq!(run(&gate, &["cutover", "promote", "dify"]).await.0, 0);
    until("green to be alone", async || {
        let view = crate::admin::admin(&gate, "/api/v1/cutovers/dify").await.json();
        view["phase"] == "retired"
    })
    .await;
    assert_eq!(run_in(&gate, Some("119"), &switch("blue")).await.0, 0);
    let (code, _, err) = run_in(&gate, Some("118"), &switch("green")).await;
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("another cutover was started since"), "{err}");
}
