//! What the gate tells of itself: the admin API, metrics, and the access log.

use difygate::gate::state::State;
use difygate::server::Gate;
use difygate::simulated_dify::{Health, Traffic};
use serde_json::Value;

use crate::support::{
    QUICK, Upstream, addresses, dify_upstream, edge, gate, gate_before, instances, nobody, settings, soon, until,
    until_state,
};
use crate::wire::{Answer, Wire, ask, ask_with, chat, chat_request};

/// Asks the admin API with further header lines.
async fn admin_with(gate: &Gate, path: &str, host: &str, headers: &str) -> Answer {
    let mut wire = Wire::to(gate.admin()).await;
    wire.send(format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
    ))
    .await;
    wire.answer().await
}

pub(crate) async fn admin(gate: &Gate, path: &str) -> Answer {
    admin_with(gate, path, "localhost", "").await
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// What a metric says, over all its series that hold `label`.
pub(crate) async fn metric(gate: &Gate, name: &str, label: &str) -> f64 {
    let metrics = admin(gate, "/metrics").await.text();
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_has_the_documented_shape() {
    let difys = instances::<2>().await;
    difys[1].set(|switches| switches.health = Health::failing(["database"]));
    let gate = gate_before(&addresses(&difys), QUICK).await;
    until_state(&gate, difys[1].address(), State::Down).await;
    let answer = admin(&gate, "/api/v1/status").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let status = answer.json();
    assert_eq!(
        keys(&status),
        ["version", "uptime_seconds", "config", "guard", "upstreams"]
    );
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(keys(&status["config"]), ["path", "generation", "loaded_at"]);
    let upstream = &status["upstreams"][0];
    assert_eq!(keys(upstream), ["name", "active", "phase", "shared_failure", "pools"]);
    assert_eq!(
        (&upstream["name"], &upstream["active"], &upstream["phase"]),
        (&"dify".into(), &"main".into(), &"steady".into())
    );
    assert_eq!(
        (&upstream["pools"][0]["name"], &upstream["pools"][0]["weight"]),
        (&"main".into(), &100.into())
    );
    let [up, down] = [0, 1].map(|index| upstream["pools"][0]["endpoints"][index].clone());
    let fields = [
        "address",
        "state",
        "routable",
        "since",
        "cause",
        "in_flight",
        "components",
        "last_probe",
    ];
    assert_eq!(keys(&up), fields);
    assert_eq!(up["address"], difys[0].address().to_string());
    assert_eq!(
        (&up["state"], &up["routable"], &up["cause"]),
        (&"up".into(), &true.into(), &"probe passed".into())
    );
    assert_eq!(up["components"]["database"], true);
    assert_eq!((&down["state"], &down["routable"]), (&"down".into(), &false.into()));
    assert_eq!(down["components"]["database"], false);
    let probe = &down["last_probe"];
    for field in ["at", "outcome", "class", "status", "took_ms", "failed", "version"] {
        assert!(probe.get(field).is_some(), "{field} is missing in {probe}");
    }
    assert_eq!(
        (&probe["outcome"], &probe["class"], &probe["status"]),
        (&"fail".into(), &"status".into(), &503.into())
    );
    assert_eq!(probe["failed"], serde_json::json!(["database"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_the_last_probes_and_what_must_happen() {
    let [dify] = instances().await;
    dify.set(|switches| switches.health = Health::failing(["cache"]));
    let gate = gate_before(&[dify.address()], QUICK).await;
    until_state(&gate, dify.address(), State::Down).await;
    let explained = admin(&gate, &format!("/api/v1/endpoints/{}", dify.address()))
        .await
        .json();
    let explained = &explained[0];
    assert_eq!(keys(explained), ["upstream", "pool", "endpoint", "next", "history"]);
    assert!(explained["next"][0].as_str().is_some_and(|next| !next.is_empty()));
    let history = explained["history"].as_array().unwrap();
    assert!(history.len() >= 2 && history.iter().all(|probe| probe["phases_ms"]["connected"].is_number()));
    let unknown = admin(&gate, "/api/v1/endpoints/10.0.0.1:80").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["error"].as_str().unwrap().contains("10.0.0.1:80"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gates_own_probes_follow_its_life() {
    let [dify] = instances().await;
    dify.set(|switches| switches.probe_latency = std::time::Duration::from_secs(60));
    let text = format!(
        "server: {{lame_duck: 5s, drain_timeout: 10s}}\n{}",
        dify_upstream(
            &[dify.address()],
            "probe: {interval: 5s, timeout: 5s, rise: 1, fall: 1}"
        )
    );
    let gate = Gate::start(settings(&text)).unwrap();
    let all = async |gate: &Gate| {
        let [live, started, ready] = ["/livez", "/startupz", "/readyz"];
        [
            admin(gate, live).await.status,
            admin(gate, started).await.status,
            admin(gate, ready).await.status,
        ]
    };
    assert_eq!(all(&gate).await, [200, 503, 503], "the first probe is not answered yet");
    dify.set(|switches| switches.probe_latency = std::time::Duration::ZERO);
    until("the gate to be ready", async || all(&gate).await == [200, 200, 200]).await;
    dify.set(|switches| switches.health = Health::failing(["database"]));
    until("the gate to have nothing to serve with", async || {
        all(&gate).await == [200, 200, 503]
    })
    .await;
    dify.set(|switches| switches.health = Health::Passing);
    until("the gate to be ready again", async || {
        all(&gate).await == [200, 200, 200]
    })
    .await;
    let leaving = async {
        until("the gate to be leaving", async || all(&gate).await == [200, 200, 503]).await;
        ask(edge(&gate), "GET /v1/info").await.status
    };
    let (_, served) = tokio::join!(gate.stop(), leaving);
    assert_eq!(served, 200, "a lame duck serves");
}

/// The first sample of a metric that has all of these labels, each a list parted by commas.
fn sample(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let pairs = labels.iter().flat_map(|labels| labels.split(','));
    let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
    let mut named = samples.filter(|(sample, _)| sample.split('{').next() == Some(&format!("difygate_{name}")));
    let (_, value) = named.find(|(sample, _)| pairs.clone().all(|pair| sample.contains(pair)))?;
    value.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_documented_names() {
    let difys = instances::<2>().await;
    let gate = gate_before(
        &addresses(&difys),
        "balance: round_robin, probe: {interval: 60s, timeout: 20s}",
    )
    .await;
    difys[0].set(|switches| switches.traffic = Traffic::Status(503));
    for _ in 0..2 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    let stream = ask_with(edge(&gate), "POST /v1/chat-messages", "", &chat("streaming", 1, 1)).await;
    assert_eq!(stream.status, 200);
    ask_with(edge(&gate), "GET /healthz", "X-Forwarded-For: 1.2.3.4\r\n", "").await;
    let counted = async || {
        let text = admin(&gate, "/metrics").await.text();
        sample(&text, "first_byte_seconds_count", &[]) == Some(3.0) && sample(&text, "stream_end_total", &[]).is_some()
    };
    until("everything to be counted", counted).await;
    let text = admin(&gate, "/metrics").await.text();
    let [first, second] =
        [&difys[0], &difys[1]].map(|dify| format!("upstream=\"dify\",pool=\"main\",endpoint=\"{}\"", dify.address()));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("difygate_"), "{line}");
    }
    let upstream = "upstream=\"dify\"";
    for (name, labels, least) in [
        ("endpoint_routable", vec![second.as_str()], 1.0),
        ("endpoint_state", vec![second.as_str(), "state=\"up\""], 1.0),
        ("component_up", vec![first.as_str(), "component=\"database\""], 1.0),
        ("probes_total", vec![first.as_str(), "outcome=\"pass\""], 1.0),
        ("probe_duration_seconds_count", vec![first.as_str()], 1.0),
        ("state_changes_total", vec![first.as_str(), "to=\"up\""], 1.0),
        (
            "state_changes_total",
            vec![first.as_str(), "to=\"suspect\"", "cause=\"traffic_failed\""],
            1.0,
        ),
        ("requests_total", vec![second.as_str(), "code=\"200\""], 3.0),
        ("request_duration_seconds_count", vec![upstream], 3.0),
        ("first_byte_seconds_count", vec![upstream], 3.0),
        ("in_flight", vec![first.as_str()], 0.0),
        ("streams_open", vec![upstream], 0.0),
        ("stream_end_total", vec![upstream, "how=\"complete\""], 1.0),
        ("retries_total", vec![upstream, "reason=\"refused\""], 1.0),
        ("guard_denied_total", vec!["reason="], 1.0),
        ("guard_alarms_total", vec![], 0.0),
        ("connections_open", vec!["listener="], 0.0),
        ("config_generation", vec![], 1.0),
        ("config_last_reload_ok", vec![], 1.0),
    ] {
        let value = sample(&text, name, &labels).unwrap_or_else(|| panic!("{name} {labels:?} is missing in\n{text}"));
        assert!(value >= least, "{name} is {value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sites_page_cannot_read_the_api() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let port = gate.admin().port();
    for (host, status) in [
        ("localhost".to_owned(), 200),
        (format!("127.0.0.1:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        ("rebound.example".to_owned(), 421),
        (format!("localhost.example:{port}"), 421),
    ] {
        assert_eq!(
            admin_with(&gate, "/api/v1/status", &host, "").await.status,
            status,
            "{host}"
        );
    }
    assert_eq!(
        admin_with(&gate, "/api/v1/status", "localhost", "Sec-Fetch-Site: cross-site\r\n")
            .await
            .status,
        403
    );
    assert_eq!(
        admin_with(&gate, "/", "localhost", "Sec-Fetch-Site: none\r\n")
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_is_there_and_what_is_not_there_says_so() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let page = admin(&gate, "/").await;
    assert!(
        page.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
    );
    assert!(
        page.header("content-security-policy")
            .is_some_and(|policy| policy.contains("default-src 'none'"))
    );
    assert!(
        !page.text().contains("http://") && !page.text().contains("https://"),
        "it needs no internet"
    );
    assert_eq!(admin(&gate, "/elsewhere").await.status, 404);
    assert!(
        ask(edge(&gate), "GET /api/v1/status").await.status == 404,
        "the edge has no admin API"
    );
}

/// A gate that logs to a file, and what the file holds once it has so many lines.
async fn logged(act: impl AsyncFn(&Gate), upstream: &str, lines: usize) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let gate = gate(&format!("log: {{access: \"{}\"}}\n{upstream}", file.display())).await;
    act(&gate).await;
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    until("the lines to be written", async || read().lines().count() >= lines).await;
    let written = read();
    assert_eq!(written.lines().count(), lines, "{written}");
    written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_one_line_of_json() {
    let [dify] = instances().await;
    let act = async |gate: &Gate| {
        ask(edge(gate), "GET /v1/info?token=secret").await;
        ask_with(edge(gate), "GET /healthz", "X-Forwarded-For: 1.2.3.4\r\n", "").await;
    };
    let lines = logged(act, &dify_upstream(&[dify.address()], ""), 2).await;
    let find = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
    let served = find("/v1/info");
    assert_eq!(
        keys(served),
        [
            "time",
            "request_id",
            "listener",
            "client",
            "method",
            "host",
            "path",
            "status",
            "bytes",
            "upstream",
            "pool",
            "endpoint",
            "attempts",
            "duration_ms",
            "first_byte_ms",
            "end"
        ]
    );
    for (field, value) in [
        ("client", Value::from("127.0.0.1")),
        ("method", "GET".into()),
        ("host", "dify.example".into()),
        ("status", 200.into()),
        ("upstream", "dify".into()),
        ("pool", "main".into()),
        ("endpoint", dify.address().to_string().into()),
        ("attempts", 1.into()),
        ("end", "complete".into()),
    ] {
        assert_eq!(served[field], value, "{field}");
    }
    assert!(served["bytes"].as_u64().unwrap() > 0 && served["request_id"].as_str().unwrap().len() == 32);
    let denied = find("/healthz");
    assert_eq!(
        (&denied["status"], &denied["end"], &denied["attempts"]),
        (&404.into(), &"refused".into(), &0.into())
    );
    assert!(denied["guard"].as_str().is_some_and(|reason| !reason.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_how_a_request_ended() {
    let cut = Upstream::start(async |mut arrived: crate::support::Arrived| {
        arrived.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    })
    .await;
    let act = async |gate: &Gate| assert!(!ask(edge(gate), "GET /").await.whole);
    let lines = logged(act, &dify_upstream(&[cut.address], ""), 1).await;
    assert_eq!(
        (&lines[0]["status"], &lines[0]["end"]),
        (&200.into(), &"upstream".into())
    );

    let [dify] = instances().await;
    let act = async |gate: &Gate| {
        let mut wire = Wire::to(edge(gate)).await;
        wire.send(chat_request("streaming", 10_000, 20)).await;
        assert!(wire.event().await.is_some());
        drop(wire);
        soon("the stream to end", dify.tally().until(|counts| counts.streams == 0)).await;
    };
    let lines = logged(act, &dify_upstream(&[dify.address()], ""), 1).await;
    assert_eq!((&lines[0]["status"], &lines[0]["end"]), (&200.into(), &"client".into()));

    let act = async |gate: &Gate| assert_eq!(ask(edge(gate), "GET /").await.status, 503);
    let lines = logged(act, &dify_upstream(&[nobody()], ""), 1).await;
    assert_eq!((&lines[0]["status"], &lines[0]["attempts"]), (&503.into(), &0.into()));
    assert!(lines[0].get("endpoint").is_none());
}
