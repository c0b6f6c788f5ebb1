//! Troubles of the gate's own, which are no evidence against anybody: it is stopped, or runs out of descriptors.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use difygate::simulated_dify::SimulatedDify;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::cli::{difygate, file};
use crate::support::{addresses, dify_upstream, instances, nobody, soon, until};
use crate::wire::{Wire, ask};

/// A gate in a process of its own.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) edge: SocketAddr,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

/// What the configuration of a [`Process`] says beside its endpoints.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// The section `log`.
    pub(crate) log: &'a str,
    /// Further keys of the listener.
    pub(crate) listener: &'a str,
    /// Keys of the upstream.
    pub(crate) keys: &'a str,
}

impl Process {
    async fn start(difys: &[SimulatedDify], keys: &str, command: impl FnOnce(&str) -> Command) -> Self {
        let setup = Setup {
            log: "{access: \"off\"}",
            listener: "",
            keys,
        };
        Self::of(difys, setup, |path| {
            let mut command = command(path);
            command.stderr(Stdio::null());
            command
        })
        .await
    }

    /// Starts one, and waits until every endpoint is up.
    pub(crate) async fn of(difys: &[SimulatedDify], setup: Setup<'_>, command: impl FnOnce(&str) -> Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (edge, admin) = (nobody(), nobody());
        let text = format!(
            "server: {{lame_duck: 0s}}\nlog: {}\nadmin: {{address: \"{admin}\"}}\nlisteners: [{{address: \"{edge}\"{}}}]\n{}",
            setup.log,
            setup.listener,
            dify_upstream(&addresses(difys), setup.keys)
        );
        let child = command(&file(&folder, &text)).spawn().unwrap();
        let process = Self {
            child,
            edge,
            admin,
            _folder: folder,
        };
        for address in [edge, admin] {
            until("the gate to listen", async || TcpStream::connect(address).await.is_ok()).await;
        }
        until("every endpoint to be up", async || {
            process.metric("difygate_endpoint_routable").await == difys.len() as f64
        })
        .await;
        process
    }

    /// Waits until it ends after SIGTERM, and returns its exit code.
    pub(crate) async fn terminated(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        soon("the process to end", self.child.wait()).await.unwrap().code()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    async fn text(&self, path: &str) -> String {
        let mut wire = Wire::to(self.admin).await;
        wire.send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
        .await;
        wire.answer().await.text()
    }

    /// The sum of all lines that begin so.
    pub(crate) async fn metric(&self, beginning: &str) -> f64 {
        let text = self.text("/metrics").await;
        let lines = text.lines().filter(|line| line.starts_with(beginning));
        lines
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_was_stopped_for_a_while_blames_nobody() {
    let difys = instances::<3>().await;
    for dify in &difys {
        // So slow that a probe is always under way.
        dify.set(|switches| switches.probe_latency = Duration::from_millis(300));
    }
    let keys = "probe: {interval: 2s, timeout: 2s, fall: 1}";
    let process = Process::start(&difys, keys, |path| difygate(&["run", "-c", path])).await;
    let changes = process.metric("difygate_state_changes_total").await;
    for pause in 1..=3 {
        process.signal(Signal::SIGSTOP);
        // The one thing to wait for here is time itself: longer than a probe may take.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        process.signal(Signal::SIGCONT);
        until("the gate to notice", async || {
            process.metric("difygate_lapses_total").await >= f64::from(pause)
        })
        .await;
        let asked = process.metric("difygate_probes_total").await;
        until("everyone to be asked again", async || {
            process.metric("difygate_probes_total").await >= asked + 6.0
        })
        .await;
    }
    assert_eq!(process.metric("difygate_state_changes_total").await, changes);
    assert_eq!(ask(process.edge, "GET /v1/info").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_another_client_probes_go_on() {
    let difys = instances::<2>().await;
    let keys = "probe: {interval: 100ms, timeout: 100ms, fall: {default: 2, timeout: 50}}";
    let process = Process::start(&difys, keys, |path| {
        let mut command = Command::new("sh");
        let gate = env!("CARGO_BIN_EXE_difygate");
        command.args(["-c", &format!("ulimit -n 160; exec {gate} run -c {path}")]);
        command.kill_on_drop(true);
        command
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(TcpStream::connect(process.edge).await.unwrap());
    }
    until("some to be turned away", async || {
        process.metric("difygate_connections_refused_total").await >= 100.0
    })
    .await;
    let asked = process.metric("difygate_probes_total").await;
    until("many more probes", async || {
        process.metric("difygate_probes_total").await >= asked + 40.0
    })
    .await;
    let unknown = process.text("/metrics").await;
    // A machine that keeps the gate from running makes probes unknown as well.
    let lapses = process.metric("difygate_lapses_total").await;
    assert!(lapses > 0.0 || !unknown.contains("outcome=\"unknown\""), "{unknown}");
    let status: Value = serde_json::from_str(&process.text("/api/v1/status").await).unwrap();
    let endpoints = status["upstreams"][0]["pools"][0]["endpoints"].as_array().unwrap();
    assert!(endpoints.iter().all(|endpoint| endpoint["state"] == "up"), "{status}");
    drop(clients);
    until("a client to be served again", async || {
        let Ok(Some(answer)) = tokio::time::timeout(Duration::from_secs(1), async {
            let mut wire = Wire::to(process.edge).await;
            wire.offer("GET /v1/info HTTP/1.1\r\nHost: dify\r\nConnection: close\r\n\r\n")
                .await;
            wire.try_head().await
        })
        .await
        else {
            return false;
        };
        answer.status == 200
    })
    .await;
}
