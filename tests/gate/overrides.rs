//! The operator's word, by the API and by the command.

use difygate::gate::state::State;
use difygate::simulated_dify::SimulatedDify;
use serde_json::{Value, json};

use crate::cli::run;
use crate::support::{QUICK, addresses, edge, gate_before, instances, known, until, until_state};
use crate::wire::{Answer, Wire, ask, chat_request};
use difygate::server::Gate;

pub(crate) async fn send(gate: &Gate, method: &str, path: &str, body: &str) -> Answer {
    let mut wire = Wire::to(gate.admin()).await;
    let length = body.len();
    wire.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
    .await;
    wire.answer().await
}

fn path(dify: &SimulatedDify) -> String {
    format!("/api/v1/overrides/{}", dify.address())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_endpoint_keeps_its_streams_and_gets_nothing_new() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), QUICK).await;
    let mut streams = Vec::new();
    while difys[0].tally().streams() < 1 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(chat_request("streaming", 100_000, 20)).await;
        assert_eq!(wire.head().await.status, 200);
        streams.push(wire);
    }
    let body = json!({"state": "draining", "reason": "a new image", "for": "1h"}).to_string();
    let answer = send(&gate, "PUT", &path(&difys[0]), &body).await;
    assert_eq!(answer.status, 200);
    let outcome = answer.json();
    assert_eq!(outcome["warnings"], json!([]));
    let effect = &outcome["endpoints"][0];
    assert_eq!(
        (&effect["state"], &effect["in_flight"]),
        (&json!("draining"), &json!(1))
    );
    assert_eq!(
        (&effect["routable_before"], &effect["routable_after"]),
        (&json!(2), &json!(1))
    );
    let before = difys[0].tally().traffic();
    for _ in 0..20 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    assert_eq!(difys[0].tally().traffic(), before);
    for wire in &mut streams {
        for _ in 0..5 {
            assert!(wire.event().await.is_some(), "its stream goes on");
        }
    }
    let listed = send(&gate, "GET", "/api/v1/overrides", "").await.json();
    assert_eq!(listed[0]["reason"], "a new image");
    assert!(listed[0]["until"].is_string());
    assert_eq!(send(&gate, "DELETE", &path(&difys[0]), "").await.status, 200);
    assert!(known(&gate, difys[0].address()).await.state.is_routable());
    assert_eq!(send(&gate, "GET", "/api/v1/overrides", "").await.json(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_may_be_drained_and_the_operator_is_told() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], QUICK).await;
    let body = json!({"state": "maintenance", "reason": "the night shift"}).to_string();
    let dry = send(&gate, "PUT", &format!("{}?dry_run=true", path(&dify)), &body)
        .await
        .json();
    assert_eq!(dry["dry_run"], true);
    assert!(dry["warnings"][0].as_str().unwrap().contains("last endpoint"), "{dry}");
    assert_eq!(known(&gate, dify.address()).await.state, State::Up, "it was only asked");
    assert_eq!(send(&gate, "PUT", &path(&dify), &body).await.status, 200);
    let refused = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_is_none_is_refused() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], QUICK).await;
    let nowhere = "/api/v1/overrides/10.9.9.9:80".to_owned();
    let good = r#"{"state": "draining", "reason": "x"}"#;
    for (path, body, status, hint) in [
        (path(&dify), "", 400, "send {"),
        (path(&dify), "[]", 400, "send {"),
        (path(&dify), r#"{"state": "draining"}"#, 400, "reason"),
        (path(&dify), r#"{"state": "draining", "reason": "  "}"#, 400, "reason"),
        (path(&dify), r#"{"state": "draining", "reason": "a\nb"}"#, 400, "reason"),
        (path(&dify), r#"{"state": "down", "reason": "x"}"#, 400, "maintenance"),
        (
            path(&dify),
            r#"{"state": "draining", "reason": "x", "for": "soon"}"#,
            400,
            "for",
        ),
        (
            path(&dify),
            r#"{"state": "draining", "reason": "x", "for": "0s"}"#,
            400,
            "for",
        ),
        (
            path(&dify),
            r#"{"state": "draining", "reason": "x", "till": "1h"}"#,
            400,
            "till",
        ),
        (nowhere, good, 404, "10.9.9.9:80"),
        (format!("{}?pool=green", path(&dify)), good, 404, "no endpoint"),
    ] {
        let answer = send(&gate, "PUT", &path, body).await;
        assert_eq!(answer.status, status, "{body}");
        let message = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains(hint), "{message}");
    }
    let foreign = "Sec-Fetch-Site: cross-site\r\n";
    let mut wire = Wire::to(gate.admin()).await;
    let length = good.len();
    wire.send(format!(
        "PUT {} HTTP/1.1\r\nHost: localhost\r\n{foreign}Content-Length: {length}\r\nConnection: close\r\n\r\n{good}",
        path(&dify)
    ))
    .await;
    assert_eq!(wire.answer().await.status, 403);
    assert_eq!(known(&gate, dify.address()).await.state, State::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_drains_maintains_and_enables() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), QUICK).await;
    let (admin, endpoint) = (format!("http://{}", gate.admin()), difys[0].address().to_string());
    let command = async |words: &[&str]| run(&[&["endpoint"], words, &["--admin", &admin]].concat()).await;
    let (code, out, _) = command(&["drain", &endpoint, "--for", "30m", "--reason", "a new image"]).await;
    assert_eq!(code, 0);
    assert!(
        out.contains("is draining: 1 of its pool take traffic (2 before)"),
        "{out}"
    );
    let explained = run(&["explain", &endpoint, "--admin", &admin]).await.1;
    assert!(explained.contains("by the operator: a new image"), "{explained}");
    assert!(
        explained.contains(&format!("difygate endpoint enable {endpoint}")),
        "{explained}"
    );
    let (code, out, _) = command(&["maintain", &endpoint, "--reason", "a new disk", "--json"]).await;
    let outcome: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &outcome["endpoints"][0]["state"]), (0, &json!("maintenance")));
    let (code, _, err) = command(&["drain", &difys[1].address().to_string(), "--reason", "x", "--dry-run"]).await;
    assert!(code == 0 && err.contains("nothing is left"), "{err}");
    assert_eq!(command(&["enable", &endpoint]).await.0, 0);
    until_state(&gate, difys[0].address(), State::Ramping).await;
    until("the end of the word", async || {
        known(&gate, difys[0].address()).await.overridden.is_none()
    })
    .await;
    assert_eq!(command(&["drain", &endpoint]).await.0, 2, "a reason is asked for");
    assert_eq!(
        command(&["drain", &endpoint, "--reason", "x", "--for", "soon"]).await.0,
        2
    );
    let (code, _, err) = command(&["enable", "10.9.9.9:80"]).await;
    assert!(code == 1 && err.contains("10.9.9.9:80"), "{err}");
}
