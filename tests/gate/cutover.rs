//! Cutovers over the admin API: users move from one pool to another, and back, without losing a stream; and what was said and done outlives the process.

use std::path::Path;

use difygate::server::{Gate, StartError};
use difygate::simulated_dify::{Health, SimulatedDify};
use serde_json::{Value, json};

use crate::admin::{admin, metric};
use crate::support::{QUICK, edge, instances, ready, settings, until};
use crate::wire::{Answer, Wire, ask, chat_request};

/// Terms under which a cutover takes a moment.
pub(crate) const FAST: &str = "rise: 1, prepare: 20s, verify: 20s, bake: 200ms, hold: 1h, min_samples: 0";

/// A gate before two pools of one instance each, which keeps its state in `folder`.
pub(crate) fn text(folder: &Path, [blue, green]: [&SimulatedDify; 2], keys: &str) -> String {
    format!(
        "server: {{lame_duck: 0s, state_dir: {}}}\ncutover: {{{keys}}}\nupstreams: {{dify: {{{QUICK}, pools: {{blue: {{endpoints: [\"{}\"]}}, green: {{endpoints: [\"{}\"]}}}}}}}}\n",
        folder.display(),
        blue.address(),
        green.address()
    )
}

pub(crate) async fn started(folder: &Path, pools: [&SimulatedDify; 2], keys: &str) -> Gate {
    serving(&text(folder, pools, keys)).await
}

/// A gate that serves: on a starved machine the first probes may come too late to count.
pub(crate) async fn serving(text: &str) -> Gate {
    let gate = ready(Gate::start(settings(text)).unwrap()).await;
    until("the gate to serve", async || {
        ask(edge(&gate), "GET /v1/info").await.status == 200
    })
    .await;
    gate
}

/// Sends a verb with further header lines.
async fn say_with(gate: &Gate, target: &str, headers: &str, body: &Value) -> Answer {
    let mut wire = Wire::to(gate.admin()).await;
    let body = body.to_string();
    let length = body.len();
    wire.send(format!(
        "POST /api/v1/cutovers/{target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    ))
    .await;
    wire.answer().await
}

pub(crate) async fn say(gate: &Gate, target: &str, body: Value) -> Answer {
    say_with(gate, target, "", &body).await
}

/// Sends a verb that is refused; the status and the message.
async fn refused(gate: &Gate, target: &str, headers: &str, body: Value) -> (u16, String) {
    let answer = say_with(gate, target, headers, &body).await;
    let said = answer.json();
    (answer.status, said["error"].as_str().unwrap().to_owned())
}

pub(crate) async fn cutover(gate: &Gate) -> Value {
    admin(gate, "/api/v1/cutovers/dify").await.json()
}

pub(crate) async fn until_phase(gate: &Gate, phase: &str) -> Value {
    let mut last = Value::Null;
    let what = format!("the cutover to be {phase}");
    until(&what, async || {
        last = cutover(gate).await;
        last["phase"] == phase
    })
    .await;
    last
}

pub(crate) async fn served_by(gate: &Gate) -> String {
    ask(edge(gate), "GET /v1/info").await.instance().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_move_once_every_gate_passes_and_streams_stay_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], FAST).await;
    assert_eq!(served_by(&gate).await, "dify-0");
    let mut stream = Wire::to(edge(&gate)).await;
    stream.send(chat_request("streaming", 10_000, 20)).await;
    assert_eq!(stream.head().await.status, 200);
    assert!(stream.event().await.is_some());
    let answer = say(
        &gate,
        "dify:start",
        json!({"to": "green", "auto": true, "by": "ann", "reason": "release 7"}),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let committed = until_phase(&gate, "committed").await;
    assert_eq!(committed["active"], "green");
    assert_eq!(committed["weights"], json!({"blue": 0, "green": 100}));
    assert_eq!(committed["in_flight"]["blue"], 1);
    assert_eq!(committed["cutover"]["drained"], Value::Null);
    assert_eq!(served_by(&gate).await, "dify-1");
    assert!(stream.event().await.is_some(), "the stream goes on");
    let of_blue = "pool=\"blue\"";
    assert_eq!(
        metric(&gate, "difygate_streams_under_way{kind=\"sse\"", of_blue).await,
        1.0
    );
    assert_eq!(
        metric(&gate, "difygate_streams_under_way{kind=\"websocket\"", of_blue).await,
        0.0
    );
    let phases: Vec<&str> = committed["cutover"]["log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["phase"].as_str().unwrap())
        .collect();
    assert_eq!(phases, ["preparing", "verifying", "ready", "baking", "committed"]);
    drop(stream);
    until("the old pool to be empty", async || {
        !cutover(&gate).await["cutover"]["drained"].is_null()
    })
    .await;
    let status = admin(&gate, "/api/v1/status").await.json();
    assert_eq!(status["upstreams"][0]["active"], "green");
    assert_eq!(status["upstreams"][0]["phase"], "committed");
    assert_eq!(say(&gate, "dify:promote", json!({})).await.status, 200);
    until_phase(&gate, "retired").await;
    assert_eq!(
        metric(&gate, "difygate_cutover_total", "result=\"committed\"").await,
        1.0
    );
    assert_eq!(metric(&gate, "difygate_cutover_weight", "pool=\"green\"").await, 100.0);
    let audit = admin(&gate, "/api/v1/audit").await.json();
    let entries: Vec<difygate::audit::AuditEntry> = serde_json::from_value(audit).unwrap();
    assert_eq!(difygate::audit::broken(&entries), None);
    assert_eq!(
        (entries[0].actor.as_str(), entries[0].reason.as_str()),
        ("ann", "release 7")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_moves_while_a_gate_does_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = FAST.replace("verify: 20s", "verify: 1s");
    let of_health = QUICK.replace("probe: {", "probe: {path: /health, ");
    let text = text(folder.path(), [&blue, &green], &keys).replace(QUICK, &of_health);
    let gate = serving(&text).await;
    for (version, phase) in [("9.9.9", "failed"), ("1.14.2", "committed")] {
        let start = json!({"to": "green", "auto": true, "expect_version": version});
        assert_eq!(say(&gate, "dify", start).await.status, 200);
        let ended = until_phase(&gate, phase).await;
        let log = ended["cutover"]["log"].as_array().unwrap().clone();
        let evidence = log.iter().map(Value::to_string).collect::<String>();
        let words = if phase == "failed" {
            "is 1.14.2, expected 9.9.9"
        } else {
            "every endpoint is 1.14.2"
        };
        assert!(evidence.contains(words), "{evidence}");
    }
    drop(gate);
    std::fs::remove_dir_all(folder.path()).unwrap();
    green.set(|switches| switches.health = Health::Status(503));
    let keys = FAST.replace("prepare: 20s", "prepare: 1s");
    let gate = started(folder.path(), [&blue, &green], &keys).await;
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    let failed = until_phase(&gate, "failed").await;
    let why = failed["cutover"]["log"].as_array().unwrap().last().unwrap()["why"].to_string();
    assert!(why.contains("was not healthy within 1s"), "{why}");
    assert_eq!(served_by(&gate).await, "dify-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_takes_everything_back_and_so_does_a_new_pool_that_dies() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], &FAST.replace("bake: 200ms", "bake: 1h")).await;
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    until_phase(&gate, "baking").await;
    assert_eq!(served_by(&gate).await, "dify-1");
    let mut stream = Wire::to(edge(&gate)).await;
    stream.send(chat_request("streaming", 100_000, 20)).await;
    assert_eq!(stream.head().await.status, 200);
    let of_green = async || metric(&gate, "difygate_cutover_in_flight", "pool=\"green\"").await;
    until("the stream to be counted", async || of_green().await == 1.0).await;
    assert_eq!(say(&gate, "dify:rollback", json!({"reason": "no"})).await.status, 200);
    assert_eq!(served_by(&gate).await, "dify-0", "it is in force once it is answered");
    until_phase(&gate, "rolled_back").await;
    // What is over is measured no more, and what is under way still counts.
    until("gates to be gone", async || {
        !admin(&gate, "/metrics").await.text().contains("difygate_cutover_gate{")
    })
    .await;
    assert_eq!(of_green().await, 1.0);
    drop(stream);
    until("the stream to count no more", async || of_green().await == 0.0).await;
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    until_phase(&gate, "baking").await;
    green.set(|switches| switches.health = Health::Status(503));
    let back = until_phase(&gate, "rolled_back").await;
    let why = back["cutover"]["log"].as_array().unwrap()[4]["why"].to_string();
    assert!(why.contains("healthy: fail (0 of 1 endpoints are fit"), "{why}");
    assert_eq!(served_by(&gate).await, "dify-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_outlives_the_process_and_a_damaged_record_lets_no_gate_begin() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let pools = [&blue, &green];
    let gate = started(folder.path(), pools, FAST).await;
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    let before = until_phase(&gate, "committed").await;
    drop(gate);
    let gate = started(folder.path(), pools, FAST).await;
    assert_eq!(served_by(&gate).await, "dify-1");
    let after = until_phase(&gate, "committed").await;
    assert_eq!(after["cutover"]["started"], before["cutover"]["started"]);
    drop(gate);
    let without = text(folder.path(), pools, FAST).replace("green:", "red:");
    match Gate::start(settings(&without)) {
        Err(StartError::Cutover(why)) => assert!(why.contains("pool `green`"), "{why}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started with users nowhere"),
    }
    let renamed = format!(
        "deployments: {{all: {{upstreams: [dify]}}}}\n{}",
        text(folder.path(), pools, FAST)
    );
    match Gate::start(settings(&renamed)) {
        Err(StartError::Cutover(why)) => assert!(
            why.contains("a cutover of `dify` has moved dify to pool `green`"),
            "{why}"
        ),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started with users elsewhere"),
    }
    let told = renamed.replace("pools:", "active: green, pools:");
    drop(serving(&told).await);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("cutover-dify") {
            std::fs::write(path, "{\"schema\":").unwrap();
        }
    }
    match Gate::start(settings(&text(folder.path(), pools, FAST))) {
        Err(e @ StartError::Cutover(_)) => assert!(e.to_string().contains("cutover-dify.json"), "{e}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started over what it cannot read"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], &FAST.replace("bake: 200ms", "bake: 1h")).await;
    for (target, body, status, words) in [
        (
            "dify",
            json!({"to": "red"}),
            422,
            "dify has no pool `red`; it has: blue, green",
        ),
        ("dify", json!({"to": "blue"}), 422, "`blue` is active already"),
        ("dify", json!({}), 400, "`to` is missing"),
        ("dify", json!({"to": "green", "bake": "soon"}), 400, "`bake`"),
        (
            "dify",
            json!({"to": "green", "steps": [{"percent": 0}]}),
            400,
            "`steps[0].percent` is 0",
        ),
        ("dify", json!({"to": "green", "tp": 1}), 400, "unknown field"),
        (
            "dify",
            json!({"to": "green", "reason": "a\nb"}),
            400,
            "`reason` is one line",
        ),
        ("dify:jump", json!({}), 400, "`jump` is no verb"),
        (
            "dify:traffic",
            json!({"state": "off"}),
            400,
            "traffic is run, pause or stop",
        ),
        ("api", json!({"to": "green"}), 404, "there are: dify"),
        ("dify:promote", json!({}), 409, "no cutover was ever started"),
        ("dify:rollback", json!({}), 409, "no cutover was ever started"),
    ] {
        let (code, error) = refused(&gate, target, "", body).await;
        assert_eq!(code, status, "{target}: {error}");
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(cutover(&gate).await["epoch"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_moved_to_a_pool_without_an_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let list = folder.path().join("green.txt");
    std::fs::write(&list, "").unwrap();
    let text = text(folder.path(), [&blue, &green], FAST);
    let written = format!("endpoints: [\"{}\"]", green.address());
    let text = text.replace(&written, &format!("file: {}", list.display()));
    let gate = serving(&text).await;
    let (code, error) = refused(&gate, "dify", "", json!({"to": "green", "auto": true})).await;
    assert_eq!(code, 422);
    assert!(error.contains("pool `green` of dify has no endpoint"), "{error}");
    std::fs::write(&list, format!("{}\n", green.address())).unwrap();
    until("green to be found", async || {
        gate.handle().mailbox.known().await.unwrap().len() == 2
    })
    .await;
    assert_eq!(
        say(&gate, "dify", json!({"to": "green", "auto": true})).await.status,
        200
    );
    until_phase(&gate, "committed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_can_be_tried_repeated_and_tied_to_what_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], &FAST.replace("bake: 200ms", "bake: 1h")).await;
    let dry = say(&gate, "dify:start?dry_run=true", json!({"to": "green"}))
        .await
        .json();
    assert_eq!(
        (&dry["dry_run"], &dry["changed"], &dry["phase"]),
        (&json!(true), &json!(true), &json!("preparing"))
    );
    assert_eq!(
        (&dry["gates"][0]["name"], &dry["gates"][0]["verdict"]),
        (&json!("health"), &json!("pass"))
    );
    let now = cutover(&gate).await;
    assert_eq!((&now["epoch"], &now["gates"]), (&json!(0), &json!([])));
    let start = json!({"to": "green", "auto": true});
    let key = "Idempotency-Key: build-7\r\n";
    assert_eq!(say_with(&gate, "dify", key, &start).await.json()["repeated"], false);
    assert_eq!(say_with(&gate, "dify", key, &start).await.json()["repeated"], true);
    let (code, error) = refused(&gate, "dify", key, json!({"to": "green"})).await;
    assert_eq!(code, 422, "{error}");
    let (code, error) = refused(&gate, "dify", "", start.clone()).await;
    assert_eq!(code, 409);
    assert!(error.contains("cutover 1 is under way"), "{error}");
    until_phase(&gate, "baking").await;
    let (code, error) = refused(&gate, "dify:rollback", "If-Match: \"1\"\r\n", json!({})).await;
    assert_eq!(code, 412, "{error}");
    assert_eq!(served_by(&gate).await, "dify-1");
    let epoch = cutover(&gate).await["epoch"].clone();
    let matching = format!("If-Match: \"{epoch}\"\r\n");
    assert_eq!(
        say_with(&gate, "dify:rollback", &matching, &json!({})).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_of_a_deployment_move_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let [blue_api, green_api, blue_web, green_web] = instances().await;
    let upstream = |name: &str, [blue, green]: [&SimulatedDify; 2]| {
        format!(
            "  {name}: {{{QUICK}, pools: {{blue: {{endpoints: [\"{}\"]}}, green: {{endpoints: [\"{}\"]}}}}}}\n",
            blue.address(),
            green.address()
        )
    };
    let text = format!(
        "server: {{lame_duck: 0s, state_dir: {}}}\ncutover: {{{FAST}}}\ndeployments: {{dify: {{upstreams: [api, web]}}}}\nroutes: [{{path: /v1, upstream: api}}, {{path: /, upstream: web}}]\nupstreams:\n{}{}",
        folder.path().display(),
        upstream("api", [&blue_api, &green_api]),
        upstream("web", [&blue_web, &green_web])
    );
    green_web.set(|switches| switches.health = Health::Status(503));
    let gate = serving(&text).await;
    let (code, error) = refused(&gate, "api", "", json!({"to": "green"})).await;
    assert!(code == 404 && error.contains("moves with deployment `dify`"), "{error}");
    assert_eq!(
        say(&gate, "dify", json!({"to": "green", "auto": true})).await.status,
        200
    );
    let whose = async || {
        let api = ask(edge(&gate), "GET /v1/info").await.instance().to_owned();
        (api, ask(edge(&gate), "GET /apps").await.instance().to_owned())
    };
    until("one of them to be unfit", async || {
        cutover(&gate).await["gates"][0]["verdict"] == "fail"
    })
    .await;
    assert_eq!(
        whose().await,
        ("dify-0".to_owned(), "dify-2".to_owned()),
        "neither moves alone"
    );
    green_web.set(|switches| switches.health = Health::Passing);
    until_phase(&gate, "committed").await;
    assert_eq!(whose().await, ("dify-1".to_owned(), "dify-3".to_owned()));
    let status = admin(&gate, "/api/v1/status").await.json();
    for upstream in status["upstreams"].as_array().unwrap() {
        assert_eq!(
            (&upstream["active"], &upstream["phase"]),
            (&json!("green"), &json!("committed"))
        );
    }
}
