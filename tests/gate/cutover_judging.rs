//! What a cutover is judged by: traffic, smoke requests, hooks, alerts; and what becomes of streams when a drain is over.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use difygate::server::Gate;
use difygate::simulated_dify::Traffic;
use serde_json::{Value, json};

use crate::admin::metric;
use crate::cutover::{FAST, cutover, say, served_by, started, until_phase};
use crate::overrides::send;
use crate::support::{Arrived, Upstream, edge, instances, until, until_idle};
use crate::wire::{Wire, ask, ask_with, chat, chat_request};

fn why(view: &Value) -> String {
    let log = view["cutover"]["log"].as_array().unwrap();
    log.iter()
        .map(|entry| format!("{}\n", entry["why"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pool_that_fails_requests_is_left_again_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = "rise: 1, bake: 1h, min_samples: 5, triggers: {window: 2s}";
    let gate = started(folder.path(), [&blue, &green], keys).await;
    for _ in 0..20 {
        let answer = ask(edge(&gate), "GET /v1/info").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    until_phase(&gate, "baking").await;
    assert_eq!(served_by(&gate).await, "dify-1");
    green.set(|switches| switches.traffic = Traffic::Status(503));
    let executed = blue.tally().executed() + green.tally().executed();
    let mut prompts = 0;
    until("the gate to go back", async || {
        assert_eq!(
            ask(edge(&gate), "GET /v1/info").await.status,
            200,
            "the old pool stands by"
        );
        let prompt = ask_with(
            edge(&gate),
            "POST /v1/chat-messages",
            "Content-Type: application/json\r\nAuthorization: Bearer app-x\r\n",
            &chat("blocking", 1, 1),
        )
        .await;
        assert_eq!(prompt.status, 200, "{}", prompt.text());
        prompts += 1;
        cutover(&gate).await["phase"] == "rolled_back"
    })
    .await;
    let back = cutover(&gate).await;
    assert!(
        why(&back).contains("errors: fail (100.0 %, at most 2.0 %)"),
        "{}",
        why(&back)
    );
    assert_eq!(served_by(&gate).await, "dify-0");
    let ran = blue.tally().executed() + green.tally().executed() - executed;
    assert_eq!(ran, prompts, "no prompt ran twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_cutover_was_taken_back_for_is_not_held_against_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = "rise: 1, bake: 1h, min_samples: 5, triggers: {window: 500ms}";
    let gate = started(folder.path(), [&blue, &green], keys).await;
    let start = json!({"to": "green", "auto": true});
    say(&gate, "dify", start.clone()).await;
    until_phase(&gate, "baking").await;
    green.set(|switches| switches.traffic = Traffic::Status(503));
    until("the gate to go back", async || {
        ask(edge(&gate), "GET /v1/info").await;
        cutover(&gate).await["phase"] == "rolled_back"
    })
    .await;
    green.set(|switches| switches.traffic = Traffic::Normal);
    let again = say(&gate, "dify", start).await;
    assert_eq!(again.status, 200, "{}", again.text());
    until("the second cutover to be judged by its own requests", async || {
        ask(edge(&gate), "GET /v1/info").await;
        let view = cutover(&gate).await;
        assert!(!why(&view).contains("errors: fail"), "{}", why(&view));
        let triggers = view["triggers"].as_array().unwrap();
        triggers
            .iter()
            .any(|trigger| trigger["name"] == "errors" && trigger["verdict"] == "pass")
    })
    .await;
    assert_eq!(served_by(&gate).await, "dify-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_of_requests_that_all_fail_is_never_a_good_bake() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    // At the most ten requests in a window, and twenty are needed to judge by.
    let keys = "rise: 1, bake: 3s, min_samples: 20, triggers: {window: 200ms}";
    let gate = started(folder.path(), [&blue, &green], keys).await;
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    until_phase(&gate, "baking").await;
    green.set(|switches| switches.traffic = Traffic::Status(503));
    until("the gate to go back", async || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ask(edge(&gate), "GET /v1/info").await;
        let view = cutover(&gate).await;
        assert_ne!(view["phase"], "committed", "{}", why(&view));
        view["phase"] == "rolled_back"
    })
    .await;
    assert!(why(&cutover(&gate).await).contains("errors: fail (100.0 %"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_without_requests_is_made_longer_and_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = "rise: 1, bake: 300ms, min_samples: 20, triggers: {window: 100ms}, steps: [{percent: 50, hold: 10ms}]";
    let gate = started(folder.path(), [&blue, &green], keys).await;
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    // Enough requests in the share, and none in the bake.
    until("the share to grow", async || {
        ask(edge(&gate), "GET /v1/info").await;
        cutover(&gate).await["cutover"]["percent"] == 100
    })
    .await;
    let mut frozen = Value::Null;
    until("it to freeze", async || {
        frozen = cutover(&gate).await;
        assert_ne!(frozen["phase"], "committed", "{}", why(&frozen));
        frozen["phase"] == "frozen"
    })
    .await;
    let words = "of 20 requests in the bake): promote, or roll back";
    assert!(why(&frozen).contains(words), "{}", why(&frozen));
    assert_eq!(frozen["cutover"]["extensions"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_migration_barrier_nothing_goes_back_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = "rise: 1, bake: 1h, min_samples: 5, triggers: {window: 2s}";
    let gate = started(folder.path(), [&blue, &green], keys).await;
    let start = json!({"to": "green", "auto": true, "migration": "barrier"});
    assert_eq!(say(&gate, "dify", start).await.status, 200);
    until_phase(&gate, "baking").await;
    green.set(|switches| switches.traffic = Traffic::Status(503));
    until("it to freeze", async || {
        assert_eq!(served_by(&gate).await, "dify-1", "the old one must not serve");
        cutover(&gate).await["phase"] == "frozen"
    })
    .await;
    let refused = say(&gate, "dify:rollback", json!({})).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("force"), "{}", refused.text());
    assert_eq!(say(&gate, "dify:rollback", json!({"force": true})).await.status, 200);
    assert_eq!(served_by(&gate).await, "dify-0");
}

/// Somebody who is asked: answers with a status that can be changed, and remembers what was posted.
async fn hook(status: &Arc<AtomicU16>, heard: &Arc<Mutex<Vec<Value>>>) -> Upstream {
    let (status, heard) = (status.clone(), heard.clone());
    Upstream::start(move |mut arrived: Arrived| {
        let (status, heard) = (status.clone(), heard.clone());
        async move {
            let length = arrived
                .head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            let body = arrived.read(length.unwrap().parse().unwrap()).await;
            heard.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            let status = status.load(Ordering::SeqCst);
            arrived
                .send(format!(
                    "HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                ))
                .await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn smoke_requests_and_hooks_hold_a_cutover_and_take_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let (confirmed, bad) = (Arc::new(AtomicU16::new(403)), Arc::new(AtomicU16::new(404)));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (confirm, rollback) = (hook(&confirmed, &heard).await, hook(&bad, &heard).await);
    let event = hook(&Arc::new(AtomicU16::new(204)), &heard).await;
    let keys = format!(
        "rise: 1, bake: 1h, min_samples: 0, triggers: {{window: 100ms}}, smoke: [{{path: /v1/info, warm_up: 3}}], hooks: [{{when: confirm, webhook: \"http://{}/a\"}}, {{when: rollback, webhook: \"http://{}/b\"}}, {{when: event, webhook: \"http://{}/c\"}}]",
        confirm.address, rollback.address, event.address
    );
    green.set(|switches| switches.traffic = Traffic::Status(500));
    let gate = started(folder.path(), [&blue, &green], &keys).await;
    say(&gate, "dify", json!({"to": "green", "auto": true, "by": "ann"})).await;
    let gate_says = async |name: &str, words: &str| {
        let words = words.to_owned();
        until(&words, async || {
            let view = cutover(&gate).await;
            let gates = view["gates"].as_array().unwrap();
            let found = gates.iter().find(|gate| gate["name"] == name);
            found.is_some_and(|gate| gate.to_string().contains(&words))
        })
        .await;
    };
    gate_says("smoke", "GET /v1/info on dify/").await;
    gate_says("confirm", "it answered 403").await;
    assert!(
        green.tally().requests("/v1/info") >= 4,
        "three to warm it, and the one that counts"
    );
    green.set(|switches| switches.traffic = Traffic::Normal);
    gate_says("smoke", "1 requests were answered as expected").await;
    assert_eq!(served_by(&gate).await, "dify-0");
    confirmed.store(200, Ordering::SeqCst);
    until_phase(&gate, "baking").await;
    assert_eq!(served_by(&gate).await, "dify-1");
    bad.store(200, Ordering::SeqCst);
    let back = until_phase(&gate, "rolled_back").await;
    assert!(
        why(&back).contains("rollback: fail (hook 1 wants it taken back)"),
        "{}",
        why(&back)
    );
    until("every step to be told", async || {
        let heard = heard.lock().unwrap();
        let phases = [
            "preparing",
            "verifying",
            "ready",
            "baking",
            "rolling_back",
            "rolled_back",
        ];
        phases.iter().all(|phase| {
            let mut told = heard.iter().filter(|told| told["event"] == "event");
            told.any(|told| told["phase"] == *phase && told["by"] == "ann" && told["to"] == "green")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_comes_before_a_flip_whose_gates_are_being_asked() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let asked = Arc::new(AtomicU16::new(0));
    let hook = {
        let asked = asked.clone();
        Upstream::start(move |mut arrived: Arrived| {
            let before = asked.fetch_add(1, Ordering::SeqCst);
            async move {
                // The first round of a cutover is confirmed at once, the one before the flip late.
                if before % 2 == 1 {
                    tokio::time::sleep(Duration::from_secs(4)).await;
                }
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                arrived.send(answer).await;
            }
        })
        .await
    };
    let keys = format!(
        "rise: 1, bake: 1h, min_samples: 0, hooks: [{{when: confirm, timeout: 30s, webhook: \"http://{}/a\"}}]",
        hook.address
    );
    let gate = started(folder.path(), [&blue, &green], &keys).await;
    for (auto, rounds) in [(false, 2), (true, 4)] {
        say(&gate, "dify", json!({"to": "green", "auto": auto})).await;
        let promote = async {
            if auto {
                return None;
            }
            until_phase(&gate, "ready").await;
            Some(say(&gate, "dify:promote", json!({})).await)
        };
        let abort = async {
            until("the gates to be asked", async || asked.load(Ordering::SeqCst) == rounds).await;
            say(&gate, "dify:abort", json!({})).await
        };
        let (promoted, aborted) = tokio::join!(promote, abort);
        assert_eq!(
            (aborted.status, &aborted.json()["phase"]),
            (200, &json!("failed")),
            "nothing has moved"
        );
        if let Some(promoted) = promoted {
            assert_eq!(promoted.status, 409, "{}", promoted.text());
        }
        assert_eq!(served_by(&gate).await, "dify-0");
    }
}

/// Posts an alert as Alertmanager does; the names that heed it.
async fn alert(gate: &Gate, status: &str, name: &str) -> Value {
    let labels = json!({"alertname": "DifySlow", "cutover": name});
    let alerts = json!([{"status": status, "labels": labels, "fingerprint": "5ef77f1f8a3ecf8d"}]);
    let body = json!({"version": "4", "status": status, "alerts": alerts}).to_string();
    let answer = send(gate, "POST", "/api/v1/alerts", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["heeded"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_takes_a_watched_cutover_back() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], &FAST.replace("bake: 200ms", "bake: 1h")).await;
    assert_eq!(alert(&gate, "firing", "other").await, json!([]));
    assert_eq!(send(&gate, "POST", "/api/v1/alerts", "fire!").await.status, 400);
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    until_phase(&gate, "baking").await;
    assert_eq!(alert(&gate, "resolved", "dify").await, json!(["dify"]));
    assert_eq!(cutover(&gate).await["phase"], "baking");
    assert_eq!(alert(&gate, "firing", "dify").await, json!(["dify"]));
    let back = until_phase(&gate, "rolled_back").await;
    assert!(
        why(&back).contains("alarm: fail (alertmanager: DifySlow)"),
        "{}",
        why(&back)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_fires_before_the_flip_holds_it_until_it_is_resolved() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = FAST.replace("bake: 200ms", "bake: 1h");
    let gate = started(folder.path(), [&blue, &green], &keys).await;
    say(&gate, "dify", json!({"to": "green"})).await;
    until_phase(&gate, "ready").await;
    alert(&gate, "firing", "dify").await;
    let refused = say(&gate, "dify:promote", json!({})).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(
        refused.text().contains("alarm: fail (alertmanager: DifySlow)"),
        "{}",
        refused.text()
    );
    // It is remembered by the next process as well, and by the next cutover.
    drop(gate);
    let gate = started(folder.path(), [&blue, &green], &keys).await;
    assert_eq!(say(&gate, "dify:promote", json!({})).await.status, 409);
    say(&gate, "dify:abort", json!({})).await;
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    until("the gate to be held", async || {
        let view = cutover(&gate).await;
        view["phase"] == "verifying" && view["gates"].to_string().contains("alertmanager: DifySlow")
    })
    .await;
    assert_eq!(served_by(&gate).await, "dify-0");
    alert(&gate, "resolved", "dify").await;
    until_phase(&gate, "baking").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_when_the_drain_is_over_ends_in_the_words_of_dify() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let gate = started(folder.path(), [&blue, &green], FAST).await;
    let mut stream = Wire::to(edge(&gate)).await;
    stream.send(chat_request("streaming", 100_000, 20)).await;
    assert_eq!(stream.head().await.status, 200);
    let task = loop {
        let event: Value = serde_json::from_str(&stream.event().await.unwrap()).unwrap_or_default();
        if let Some(task) = event["task_id"].as_str() {
            break task.to_owned();
        }
    };
    let is_drained = AtomicBool::new(false);
    let start = json!({"to": "green", "auto": true, "drain": "1s"});
    assert_eq!(say(&gate, "dify", start).await.status, 200);
    let mut last = Value::Null;
    while let Some(event) = stream.event().await {
        last = serde_json::from_str(&event).unwrap_or_default();
        is_drained.store(last["code"] == "gateway_drained", Ordering::SeqCst);
    }
    assert!(is_drained.load(Ordering::SeqCst), "{last}");
    assert_eq!(
        (&last["event"], &last["task_id"], &last["status"]),
        (&json!("error"), &json!(task), &json!(503))
    );
    until_idle(&gate).await;
    until("it to be drained", async || {
        !cutover(&gate).await["cutover"]["drained"].is_null()
    })
    .await;
    let view = cutover(&gate).await;
    assert!(
        why(&view).contains("still deliver: a quarter of the drain more"),
        "{}",
        why(&view)
    );
    assert!(!view["cutover"]["cut"].is_null());
    assert_eq!(metric(&gate, "difygate_streams_cut_total", "pool=\"blue\"").await, 1.0);
}

/// The pool that a browser's cookie names, and who answers it.
async fn browse(gate: &difygate::server::Gate, cookie: Option<&str>) -> (String, String) {
    let header = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let answer = ask_with(edge(gate), "GET /v1/info", &header, "").await;
    assert_eq!(answer.status, 200);
    let given = answer.header("set-cookie").and_then(|line| line.split(';').next());
    (
        given.or(cookie).unwrap_or_default().to_owned(),
        answer.instance().to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_keeps_its_browsers_also_through_a_restart_and_grows_once_it_was_seen_at_work() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let keys = "rise: 1, bake: 1h, min_samples: 10, steps: [{percent: 50, hold: 100ms}]";
    let gate = started(folder.path(), [&blue, &green], keys).await;
    say(&gate, "dify", json!({"to": "green", "auto": true})).await;
    let shifting = until_phase(&gate, "shifting").await;
    assert_eq!(shifting["weights"], json!({"blue": 50, "green": 50}));
    // Nobody goes to green yet, so the share does not grow though its time is over.
    until("the share to wait", async || {
        let view = cutover(&gate).await;
        why(&view).contains("its time is over, but it waits for a gate: samples: inconclusive (0 of 10")
    })
    .await;
    let mut browsers = Vec::new();
    while !(browsers.iter().any(|(_, who)| who == "dify-0") && browsers.iter().any(|(_, who)| who == "dify-1")) {
        browsers.push(browse(&gate, None).await);
        assert!(browsers.len() < 60, "both are met");
    }
    drop(gate);
    let gate = started(folder.path(), [&blue, &green], keys).await;
    until_phase(&gate, "shifting").await;
    for (cookie, who) in &browsers {
        assert!(cookie.starts_with("difygate_pool_dify="), "{cookie}");
        assert_eq!(browse(&gate, Some(cookie)).await.1, *who, "it stays where it was");
    }
    let of_green = browsers.iter().find(|(_, who)| who == "dify-1").unwrap();
    until("the share to grow", async || {
        browse(&gate, Some(&of_green.0)).await;
        cutover(&gate).await["phase"] == "baking"
    })
    .await;
    for (cookie, _) in &browsers {
        assert_eq!(browse(&gate, Some(cookie)).await.1, "dify-1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_was_confirmed_grows_and_a_dry_run_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let [blue, green] = instances().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let confirm = hook(&Arc::new(AtomicU16::new(200)), &heard).await;
    let keys = format!(
        "rise: 1, bake: 1h, min_samples: 0, triggers: {{window: 100ms}}, steps: [{{percent: 50, hold: 500ms}}], hooks: [{{when: confirm, webhook: \"http://{}/a\"}}]",
        confirm.address
    );
    let gate = started(folder.path(), [&blue, &green], &keys).await;
    say(&gate, "dify", json!({"to": "green"})).await;
    until_phase(&gate, "ready").await;
    let before = heard.lock().unwrap().len();
    let dry = say(&gate, "dify:promote?dry_run=true", json!({})).await;
    assert_eq!((dry.status, &dry.json()["phase"]), (200, &json!("shifting")));
    assert_eq!(heard.lock().unwrap().len(), before, "nobody was asked");
    assert_eq!(say(&gate, "dify:promote", json!({})).await.status, 200);
    assert!(heard.lock().unwrap().len() > before);
    until_phase(&gate, "baking").await;
}
