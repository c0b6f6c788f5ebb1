//! What is kept of cutovers, as real processes keep it: killed at every step, on a full disk, handed over to another version.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use difygate::audit::{self, AuditEntry};
use difygate::simulated_dify::SimulatedDify;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::cli::{difygate, file};
use crate::cutover::text;
use crate::support::{instances, nobody, soon, until};
use crate::wire::{Answer, Wire, ask, chat_request};

/// A gate in a process of its own.
struct Process {
    edge: SocketAddr,
    admin: SocketAddr,
    path: String,
    _folder: tempfile::TempDir,
}

impl Process {
    /// One that keeps its state in `state`, not yet started.
    fn new(state: &Path, pools: [&SimulatedDify; 2], keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (edge, admin) = (nobody(), nobody());
        let text = format!(
            "log: {{access: \"off\"}}\nadmin: {{address: \"{admin}\"}}\nlisteners: [{{address: \"{edge}\"}}]\n{}",
            text(state, pools, keys)
        );
        Self {
            edge,
            admin,
            path: file(&folder, &text),
            _folder: folder,
        }
    }

    /// Lets another process take over, by a socket in this folder.
    fn may_be_upgraded(&self, folder: &Path) {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let socket = format!("server: {{upgrade_socket: {}, ", folder.join("s").display());
        std::fs::write(&self.path, text.replace("server: {", &socket)).unwrap();
    }

    async fn started(&self, mut command: Command) -> Child {
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        until("the gate to serve", async || {
            let Ok(stream) = tokio::net::TcpStream::connect(self.edge).await else {
                return false;
            };
            drop(stream);
            ask(self.edge, "GET /v1/info").await.status == 200
        })
        .await;
        child
    }

    async fn start(&self) -> Child {
        self.started(difygate(&["run", "-c", &self.path])).await
    }

    async fn get(&self, path: &str) -> Value {
        ask_admin(self.admin, &format!("GET {path}"), "").await.json()
    }

    async fn say(&self, target: &str, body: Value) -> Answer {
        ask_admin(
            self.admin,
            &format!("POST /api/v1/cutovers/{target}"),
            &body.to_string(),
        )
        .await
    }
}

async fn ask_admin(admin: SocketAddr, request: &str, body: &str) -> Answer {
    let mut wire = Wire::to(admin).await;
    let length = body.len();
    wire.send(format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
    .await;
    wire.answer().await
}

/// The epoch that is kept, if anything is.
fn kept(state: &Path) -> u64 {
    let text = std::fs::read_to_string(state.join("cutover-dify.json")).unwrap_or_default();
    let kept: Value = serde_json::from_str(&text).unwrap_or_default();
    kept["content"]["record"]["epoch"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_killed_after_every_step_loses_none_and_skips_none() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let [blue, green] = instances().await;
    let keys = "rise: 1, bake: 200ms, hold: 200ms, min_samples: 0, steps: [{percent: 10, hold: 200ms}, {percent: 50, hold: 200ms}]";
    let process = Process::new(&state, [&blue, &green], keys);
    let mut child = process.start().await;
    assert_eq!(
        process.say("dify", json!({"to": "green", "auto": true})).await.status,
        200
    );
    let (mut seen, mut kills) = (0, 0);
    while process.get("/api/v1/cutovers/dify").await["phase"] != "retired" {
        until("the next step to be kept", async || kept(&state) > seen).await;
        seen = kept(&state);
        child.kill().await.unwrap();
        kills += 1;
        child = process.start().await;
    }
    let view = process.get("/api/v1/cutovers/dify").await;
    let log = view["cutover"]["log"].as_array().unwrap();
    let mut phases: Vec<String> = log
        .iter()
        .map(|entry| format!("{} {}", entry["phase"].as_str().unwrap(), entry["percent"]))
        .collect();
    phases.dedup();
    assert_eq!(
        phases,
        [
            "preparing 0",
            "verifying 0",
            "ready 0",
            "shifting 10",
            "shifting 50",
            "baking 100",
            "committed 100",
            "retired 100"
        ]
    );
    assert!(kills >= 4, "only {kills} kills");
    let entries: Vec<AuditEntry> = serde_json::from_value(process.get("/api/v1/audit").await).unwrap();
    assert_eq!(audit::broken(&entries), None);
    let epochs: Vec<u64> = entries.iter().map(|entry| entry.epoch).collect();
    assert_eq!(epochs, (1..=view["epoch"].as_u64().unwrap()).collect::<Vec<_>>());
    assert_eq!(ask(process.edge, "GET /v1/info").await.instance(), "dify-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_a_full_disk_does_not_take_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let [blue, green] = instances().await;
    let process = Process::new(&state, [&blue, &green], "rise: 1, min_samples: 0");
    // No file may be longer than half a KiB.
    let mut command = Command::new("sh");
    let limited = "trap '' XFSZ; ulimit -f 1; exec \"$0\" run -c \"$1\"";
    command.args(["-c", limited, env!("CARGO_BIN_EXE_difygate"), &process.path]);
    let _child = process.started(command).await;
    let refused = process.say("dify", json!({"to": "green", "auto": true})).await;
    assert_eq!(refused.status, 503);
    let said = refused.json();
    assert_eq!(said["kind"], "unkept");
    assert!(said["error"].as_str().unwrap().contains("nothing has moved"), "{said}");
    let view = process.get("/api/v1/cutovers/dify").await;
    assert_eq!((&view["epoch"], &view["phase"]), (&json!(0), &json!("steady")));
    assert!(view["trouble"].as_str().unwrap().contains("File too large"), "{view}");
    assert_eq!(ask(process.edge, "GET /v1/info").await.instance(), "dify-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_goes_on_with_a_cutover_that_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let [blue, green] = instances().await;
    let process = Process::new(&state, [&blue, &green], "rise: 1, bake: 1h, min_samples: 0");
    process.may_be_upgraded(folder.path());
    let mut first = process.start().await;
    assert_eq!(
        process.say("dify", json!({"to": "green", "auto": true})).await.status,
        200
    );
    until("it to bake", async || {
        process.get("/api/v1/cutovers/dify").await["phase"] == "baking"
    })
    .await;
    let epoch = kept(&state);
    let _second = process
        .started(difygate(&["run", "--upgrade", "-c", &process.path]))
        .await;
    assert!(soon("the first one to end", first.wait()).await.unwrap().success());
    let view = process.get("/api/v1/cutovers/dify").await;
    assert_eq!((&view["epoch"], &view["phase"]), (&json!(epoch), &json!("baking")));
    assert_eq!(ask(process.edge, "GET /v1/info").await.instance(), "dify-1");
    assert_eq!(process.say("dify:rollback", json!({})).await.status, 200);
    assert_eq!(ask(process.edge, "GET /v1/info").await.instance(), "dify-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_not_called_empty_while_the_process_before_still_streams_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let [blue, green] = instances().await;
    let process = Process::new(&state, [&blue, &green], "rise: 1, bake: 200ms, min_samples: 0");
    process.may_be_upgraded(folder.path());
    let mut first = process.start().await;
    let mut stream = Wire::to(process.edge).await;
    stream.send(chat_request("streaming", 100_000, 20)).await;
    assert_eq!(stream.head().await.status, 200);
    assert_eq!(
        process.say("dify", json!({"to": "green", "auto": true})).await.status,
        200
    );
    let view = async || process.get("/api/v1/cutovers/dify").await;
    until("it to be committed", async || view().await["phase"] == "committed").await;
    assert!(view().await["cutover"]["drained"].is_null());
    let _second = process
        .started(difygate(&["run", "--upgrade", "-c", &process.path]))
        .await;
    until("the other process to tell of it", async || {
        view().await["in_flight"]["blue"] == 1
    })
    .await;
    assert!(view().await["cutover"]["drained"].is_null());
    assert!(stream.event().await.is_some());
    drop(stream);
    assert!(soon("the first one to end", first.wait()).await.unwrap().success());
    until("blue to be empty", async || {
        !view().await["cutover"]["drained"].is_null()
    })
    .await;
}
