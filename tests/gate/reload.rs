//! Another configuration while the gate runs: what changes, what stays, and what nobody notices.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use difygate::gate::state::State;
use difygate::reload::{Loaded, Wanted};
use difygate::server::Gate;
use difygate::simulated_dify::Health;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::admin::admin;
use crate::cli::{difygate, file, run};
use crate::overrides::send;
use crate::support::{
    PATIENT, QUICK, addresses, dify_upstream, edge, gate_before, instances, known, nobody, ready, settings, soon,
    until, until_idle, until_state, whole,
};
use crate::wire::{Wire, ask, chat_request};

/// A gate and its file.
pub(crate) struct Filed {
    pub(crate) gate: Gate,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Filed {
    pub(crate) async fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = PathBuf::from(file(&folder, &whole(text)));
        let mut config = settings(text);
        config.path.clone_from(&path);
        Self {
            gate: ready(Gate::start(config).unwrap()).await,
            path,
            _folder: folder,
        }
    }

    /// Writes another text, and has it loaded.
    pub(crate) async fn reload(&self, text: &str) -> Result<Loaded, String> {
        std::fs::write(&self.path, whole(text)).unwrap();
        let loaded = self.gate.loader().ask(Wanted::Reload);
        soon("the configuration to be loaded", loaded).await.unwrap()
    }

    async fn changes(&self, text: &str) -> Vec<String> {
        let loaded = self.reload(text).await.unwrap();
        loaded.changes.iter().map(ToString::to_string).collect()
    }

    async fn metrics(&self) -> String {
        admin(&self.gate, "/metrics").await.text()
    }
}

/// Asks without pause until it is told to stop, and counts what came of it.
pub(crate) struct Asking {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Asking {
    pub(crate) fn start(edge: SocketAddr) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), asked.clone());
        let task = tokio::spawn(async move {
            let mut failed = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let answer = ask(edge, "GET /v1/info").await;
                failed.extend((answer.status != 200).then(|| answer.text()));
                count.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
        Self { stop, asked, task }
    }

    pub(crate) async fn some_more(&self) {
        let wanted = self.asked.load(Ordering::Relaxed) + 20;
        until("twenty more requests", async || {
            self.asked.load(Ordering::Relaxed) >= wanted
        })
        .await;
    }

    pub(crate) async fn failed(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        soon("the last request", self.task).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_leaves_keeps_its_stream_and_gets_nothing_new() {
    let difys = instances::<2>().await;
    let filed = Filed::start(&dify_upstream(&addresses(&difys), QUICK)).await;
    let mut wire = Wire::to(edge(&filed.gate)).await;
    wire.send(chat_request("streaming", 10, 50)).await;
    assert_eq!(wire.head().await.status, 200);
    let serving = usize::from(difys[1].tally().streams() == 1);
    let (leaving, staying) = (&difys[serving], &difys[1 - serving]);
    let since = known(&filed.gate, staying.address()).await.since;
    let changes = filed.changes(&dify_upstream(&[staying.address()], QUICK)).await;
    assert_eq!(
        changes,
        [format!("- upstreams.dify.pools.main.endpoints[{}]", leaving.address())]
    );
    let before = leaving.tally().traffic();
    for _ in 0..20 {
        assert_eq!(ask(edge(&filed.gate), "GET /v1/info").await.status, 200);
    }
    assert_eq!(leaving.tally().traffic(), before);
    assert_eq!(
        known(&filed.gate, staying.address()).await.since,
        since,
        "it stays what it was"
    );
    let mut events = 0;
    while wire.event().await.is_some() {
        events += 1;
    }
    assert!(events >= 10, "the stream comes to its end: {events} events");
    until_idle(&filed.gate).await;
    let metrics = filed.metrics().await;
    let gone = format!("difygate_endpoint_state{{endpoint=\"{}\"", leaving.address());
    assert!(!metrics.contains(&gone), "{metrics}");
    assert!(metrics.contains("difygate_config_generation 2\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_every_endpoint_is_replaced() {
    let difys = instances::<4>().await;
    let all = addresses(&difys);
    let filed = Filed::start(&dify_upstream(&all[..2], QUICK)).await;
    let asking = Asking::start(edge(&filed.gate));
    asking.some_more().await;
    for turn in 0..6 {
        let pair = if turn % 2 == 0 { &all[2..] } else { &all[..2] };
        filed.reload(&dify_upstream(pair, QUICK)).await.unwrap();
        asking.some_more().await;
    }
    assert_eq!(asking.failed().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_active_pool_changes_once_the_new_one_is_fit() {
    let difys = instances::<2>().await;
    let pools = |active: &str| {
        format!(
            "upstreams: {{dify: {{{QUICK}, active: {active}, pools: {{blue: {{endpoints: [\"{}\"]}}, green: {{endpoints: [\"{}\"]}}}}}}}}\n",
            difys[0].address(),
            difys[1].address()
        )
    };
    let filed = Filed::start(&pools("blue")).await;
    let asking = Asking::start(edge(&filed.gate));
    asking.some_more().await;
    assert_eq!(
        filed.changes(&pools("green")).await,
        ["~ upstreams.dify.active: blue -> green"]
    );
    assert_eq!(ask(edge(&filed.gate), "GET /v1/info").await.instance(), "dify-1");
    asking.some_more().await;
    assert_eq!(asking.failed().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_asks_nothing_of_an_endpoint_that_is_down_and_keeps_the_operators_word() {
    let difys = instances::<3>().await;
    let filed = Filed::start(&dify_upstream(&addresses(&difys), QUICK)).await;
    difys[0].set(|switches| switches.health = Health::failing(["database"]));
    until_state(&filed.gate, difys[0].address(), State::Down).await;
    let body = json!({"state": "draining", "reason": "a new disk"}).to_string();
    let path = format!("/api/v1/overrides/{}", difys[1].address());
    assert_eq!(send(&filed.gate, "PUT", &path, &body).await.status, 200);
    let before: Vec<u64> = difys.iter().map(|dify| dify.tally().traffic()).collect();
    let asking = Asking::start(edge(&filed.gate));
    for balance in ["round_robin", "ewma", "least_request"] {
        let text = dify_upstream(&addresses(&difys), &format!("{QUICK}, balance: {balance}"));
        filed.reload(&text).await.unwrap();
        asking.some_more().await;
    }
    assert_eq!(asking.failed().await, Vec::<String>::new());
    let metrics = filed.metrics().await;
    let changes: Vec<&str> = metrics
        .lines()
        .filter(|line| line.contains("state_changes_total{"))
        .collect();
    for (dify, before) in difys.iter().zip(before).take(2) {
        let asked = dify.tally().traffic();
        assert_eq!(asked, before, "nobody asks who is down or drained: {changes:#?}");
    }
    assert_eq!(known(&filed.gate, difys[1].address()).await.state, State::Draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_probe_takes_nobody_out_before_it_fails() {
    let [dify] = instances().await;
    let one = [dify.address()];
    let filed = Filed::start(&dify_upstream(&one, QUICK)).await;
    let asking = Asking::start(edge(&filed.gate));
    let probes = "probes: {readiness: {interval: 100ms, timeout: 100ms, fall: {default: 2, timeout: 50}}, api: {preset: dify-api, interval: 100ms, timeout: 100ms, fall: {default: 2, timeout: 50}}}";
    filed.reload(&dify_upstream(&one, probes)).await.unwrap();
    until("both to be asked", async || {
        let seen = known(&filed.gate, dify.address()).await;
        ["readiness", "api"]
            .iter()
            .all(|name| seen.history.iter().any(|record| &*record.probe == *name))
    })
    .await;
    assert_eq!(asking.failed().await, Vec::<String>::new());
    assert_eq!(known(&filed.gate, dify.address()).await.state, State::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_the_guard_are_those_of_the_new_file() {
    let difys = instances::<2>().await;
    let upstreams = format!(
        "upstreams:\n  web: {{{QUICK}, pools: {{main: {{endpoints: [\"{}\"]}}}}}}\n",
        difys[0].address()
    );
    let filed = Filed::start(&format!("{upstreams}routes: [{{path: /, upstream: web}}]\n")).await;
    assert_eq!(ask(edge(&filed.gate), "GET /v1/info").await.instance(), "dify-0");
    assert_eq!(ask(edge(&filed.gate), "GET /secret").await.status, 200);
    let more = format!(
        "probe_guard: {{paths: [/secret], allow: [10.0.0.0/8], deny_status: 403}}\n{upstreams}  api: {{{QUICK}, pools: {{main: {{endpoints: [\"{}\"]}}}}}}\n\
         routes: [{{path: /, upstream: web}}, {{path: /v1, upstream: api}}]\n",
        difys[1].address()
    );
    filed.reload(&more).await.unwrap();
    assert_eq!(
        ask(edge(&filed.gate), "GET /v1/info").await.instance(),
        "dify-1",
        "it was asked before anybody was sent there"
    );
    assert_eq!(ask(edge(&filed.gate), "GET /secret").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_errors_changes_nothing_and_says_all_of_them() {
    let [dify] = instances().await;
    let good = dify_upstream(&[dify.address()], QUICK);
    let filed = Filed::start(&good).await;
    let bad = good.replace("main", "").replace("interval: 250ms", "intervall: 250ms");
    let errors = filed.reload(&bad).await.unwrap_err();
    assert!(errors.contains("intervall"), "{errors}");
    assert!(errors.contains(&filed.path.display().to_string()), "{errors}");
    assert_eq!(ask(edge(&filed.gate), "GET /v1/info").await.status, 200);
    let metrics = filed.metrics().await;
    assert!(metrics.contains("difygate_config_last_reload_ok 0\n"), "{metrics}");
    assert!(metrics.contains("difygate_config_generation 1\n"), "{metrics}");
    filed.reload(&good).await.unwrap();
    let metrics = filed.metrics().await;
    assert!(metrics.contains("difygate_config_last_reload_ok 1\n"), "{metrics}");
    std::fs::remove_file(&filed.path).unwrap();
    let missing = filed.gate.loader().ask(Wanted::Reload).await.unwrap().unwrap_err();
    assert!(missing.contains("cannot be read"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_and_reload_tell_the_same_and_diff_changes_nothing() {
    let difys = instances::<2>().await;
    let filed = Filed::start(&dify_upstream(&[difys[0].address()], QUICK)).await;
    let url = format!("http://{}", filed.gate.admin());
    let folder = tempfile::tempdir().unwrap();
    let other = file(&folder, &whole(&dify_upstream(&addresses(&difys), QUICK)));
    let expected = format!("+ upstreams.dify.pools.main.endpoints[{}]\n", difys[1].address());
    let (code, out, _) = run(&["diff", "-c", &other, "--admin", &url]).await;
    assert_eq!((code, &out), (0, &expected));
    let (_, out, _) = run(&["reload", "--admin", &url]).await;
    assert_eq!(out, "nothing has changed\n");
    std::fs::copy(&other, &filed.path).unwrap();
    let (code, out, _) = run(&["reload", "--json", "--admin", &url]).await;
    let loaded: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &loaded["generation"]), (0, &json!(3)));
    assert_eq!(loaded["changes"][0]["needs_restart"], false);
    let status = admin(&filed.gate, "/api/v1/status").await.json();
    assert_eq!(status["config"]["generation"], 3);
    let broken = file(&folder, "listeners: 7\n");
    let (code, _, err) = run(&["diff", "-c", &broken, "--admin", &url]).await;
    assert_eq!(code, 1);
    assert!(err.contains("listeners"), "{err}");
    for (text, status) in [
        ("listeners: 7\n", 422),
        (&std::fs::read_to_string(&filed.path).unwrap(), 200),
    ] {
        assert_eq!(
            send(&filed.gate, "POST", "/api/v1/config:check", text).await.status,
            status
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_loads_the_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let difys = instances::<2>().await;
    let (edge, admin) = (nobody(), nobody());
    let text = |dify: usize| {
        format!(
            "admin: {{address: \"{admin}\"}}\n{}",
            whole(&format!(
                "listeners: [{{address: \"{edge}\"}}]\n{}",
                dify_upstream(&[difys[dify].address()], "")
            ))
        )
    };
    let path = file(&folder, &text(0));
    let child = difygate(&["run", "-c", &path]).spawn().unwrap();
    let listens = async || tokio::net::TcpStream::connect(edge).await.is_ok();
    until("the gate to listen", listens).await;
    assert_eq!(ask(edge, "GET /v1/info").await.instance(), "dify-0");
    file(&folder, &text(1));
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    let moved = async || ask(edge, "GET /v1/info").await.instance() == "dify-1";
    until("requests to go by the new file", moved).await;
}

/// Descriptors that a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Whether a stream of four seconds comes to its end.
async fn stream(edge: SocketAddr) -> bool {
    let mut wire = Wire::to(edge).await;
    wire.send(chat_request("streaming", 40, 100)).await;
    let status = wire.head().await.status;
    let mut events = 0;
    while wire.event().await.is_some() {
        events += 1;
    }
    status == 200 && events >= 40
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_cut_no_stream_fail_no_request_and_leak_no_descriptor() {
    const STREAMS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let difys = instances::<3>().await;
    let (edge, admin) = (nobody(), nobody());
    let text = |from: usize, balance: &str| {
        format!(
            "admin: {{address: \"{admin}\"}}\n{}",
            whole(&format!(
                "listeners: [{{address: \"{edge}\"}}]\n{}",
                dify_upstream(&addresses(&difys)[from..], &format!("{PATIENT}, balance: {balance}"))
            ))
        )
    };
    let path = file(&folder, &text(0, "ewma"));
    let child = difygate(&["run", "-c", &path]).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id().unwrap();
    until("the gate to listen", async || {
        tokio::net::TcpStream::connect(edge).await.is_ok()
    })
    .await;
    until("every endpoint to serve", async || {
        ask(edge, "GET /v1/info").await.status == 200 && difys.iter().all(|dify| dify.tally().traffic() > 0)
    })
    .await;
    let before = descriptors(pid);
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        streams.spawn(stream(edge));
    }
    until("all streams to be open", async || {
        difys.iter().map(|dify| dify.tally().streams()).sum::<u64>() >= STREAMS as u64
    })
    .await;
    let asking = Asking::start(edge);
    let url = format!("http://{admin}");
    for turn in 0..100 {
        file(
            &folder,
            &text(turn % 2, if turn % 3 == 0 { "round_robin" } else { "least_request" }),
        );
        let empty = bytes::Bytes::new();
        let (status, body) = difygate::client::send(http::Method::POST, &url, "/api/v1/config:reload", &[], empty)
            .await
            .unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }
    assert_eq!(asking.failed().await, Vec::<String>::new());
    let whole = soon("the streams to end", streams.join_all()).await;
    assert_eq!(whole.iter().filter(|whole| **whole).count(), STREAMS);
    until("no descriptor to be left over", async || descriptors(pid) <= before + 3).await;
    let (_, metrics) = difygate::client::get(&url, "/metrics").await.unwrap();
    assert!(String::from_utf8_lossy(&metrics).contains("difygate_config_generation 101\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_files_of_the_gates_machine_over_the_api() {
    let [dify] = instances::<1>().await;
    let gate = gate_before(&[dify.address()], "").await;
    let text = whole(
        "upstreams: {dify: {probe: {host: \"${file:/etc/hostname}\"}, pools: {main: {endpoints: [\"127.0.0.1:9\"]}}}}\n",
    );
    let refused = gate.loader().ask(Wanted::Diff(text)).await.unwrap().unwrap_err();
    assert!(refused.contains("`/etc/hostname` is not read here"), "{refused}");
}
