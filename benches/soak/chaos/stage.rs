//! The instances of both deployments, the processes of the gate before them, and its admin API.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use difygate::client;
use difygate::simulated_dify::{Cluster, SimulatedDify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::time::{sleep, timeout};

use super::ledger::{EACH, Ejection, POOLS, Who, name};
use crate::launch::{Process, free_port};

/// Nothing of the gate's own takes longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that the soak stands on. Dropped, it ends all processes.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) difys: Vec<SimulatedDify>,
    pub(crate) edge: SocketAddr,
    admin: String,
    folder: TempDir,
    manager: UnixDatagram,
    /// All processes of the gate that were started; the last one serves.
    gates: Mutex<Vec<Process>>,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let cluster = Cluster::new();
        let mut difys = Vec::new();
        for who in 0..POOLS.len() * EACH {
            let dify = SimulatedDify::start(&cluster, &name(who)).await.unwrap();
            dify.set(|switches| switches.websocket = true);
            difys.push(dify);
        }
        let folder = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(folder.path().join("manager.sock")).unwrap();
        let stage = Self {
            cluster,
            difys,
            edge: free_port(),
            admin: format!("http://{}", free_port()),
            folder,
            manager,
            gates: Mutex::default(),
        };
        stage.write(None, 1);
        stage.start(&[]).await.unwrap();
        stage.until_ready().await;
        stage
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Writes the configuration, without one of the instances, and with this weight of another.
    pub(crate) fn write(&self, without: Option<Who>, weight: u32) {
        let pool = |pool: usize| {
            let members = super::ledger::members(pool).filter(|who| Some(*who) != without);
            let endpoints: Vec<String> = members
                .map(|who| {
                    let weight = if who % EACH == 0 { weight } else { 1 };
                    format!("{{address: \"{}\", weight: {weight}}}", self.difys[who].address())
                })
                .collect();
            format!("{}: {{endpoints: [{}]}}", POOLS[pool], endpoints.join(", "))
        };
        let text = format!(
            "server: {{state_dir: {folder}/state, upgrade_socket: {folder}/upgrade.sock, lame_duck: 0s, drain_timeout: 60s}}\n\
             admin: {{address: \"{admin}\"}}\nlog: {{format: json, access: {folder}/access.log}}\nlisteners: [{{address: \"{edge}\"}}]\n\
             cutover: {{longest_pause: 4s, min_samples: 20, triggers: {{window: 1s}}}}\n\
             upstreams: {{dify: {{probe: {{interval: 1s, timeout: 500ms}}, components: {{database: {{shared: true}}, cache: {{shared: true}}}}, timeouts: {{first_byte: 10s}}, pools: {{{blue}, {green}}}}}}}\n",
            folder = self.folder.path().display(),
            admin = self.admin.trim_start_matches("http://"),
            edge = self.edge,
            blue = pool(0),
            green = pool(1),
        );
        std::fs::write(self.path("gate.yaml"), text).unwrap();
    }

    /// Starts a process of the gate, and waits until it says that it serves.
    pub(crate) async fn start(&self, arguments: &[&str]) -> Result<(), String> {
        let number = self.gates.lock().unwrap().len();
        let log = std::fs::File::create(self.path(&format!("gate-{number}.log"))).unwrap();
        let mut command = Command::new(program());
        command.args(["run", "-c"]).arg(self.path("gate.yaml")).args(arguments);
        command.env("NOTIFY_SOCKET", self.path("manager.sock"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child: Child = command.spawn().map_err(|e| e.to_string())?;
        let pid = child.id();
        self.gates.lock().unwrap().push(Process(child));
        let ready = async {
            let mut told = [0; 512];
            loop {
                let length = self.manager.recv(&mut told).await.unwrap();
                let told = String::from_utf8_lossy(&told[..length]).into_owned();
                if told.contains("READY=1") && told.contains(&format!("MAINPID={pid}")) {
                    return;
                }
            }
        };
        let ready = timeout(PATIENCE, ready).await;
        ready.map_err(|_| {
            format!(
                "process {number} of the gate does not come to serve:\n{}",
                self.tail(number)
            )
        })
    }

    /// The end of a process' log.
    fn tail(&self, number: usize) -> String {
        let log = std::fs::read_to_string(self.path(&format!("gate-{number}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    async fn until_ready(&self) {
        let start = Instant::now();
        loop {
            let answer = client::get(&self.admin, "/readyz").await;
            if answer.is_ok_and(|(status, _)| status.is_success()) {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the gate does not get ready: {}",
                self.tail(0)
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks the admin API.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = client::get(&self.admin, path)
            .await
            .map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
        serde_json::from_slice(&answer.1).map_err(|e| e.to_string())
    }

    /// Gives an order by the admin API: the status and what is said.
    pub(crate) async fn order(&self, method: http::Method, path: &str, body: Value) -> Result<(u16, Value), String> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let sent = client::send(method, &self.admin, path, &[], body.into()).await;
        let (status, body) = sent.map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
        Ok((status.as_u16(), serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// A verb for the cutover, as the operator gives it.
    pub(crate) async fn verb(&self, verb: &str, mut terms: Value) -> Result<(u16, Value), String> {
        terms["by"] = json!("soak");
        self.order(http::Method::POST, &format!("/api/v1/cutovers/dify:{verb}"), terms)
            .await
    }

    /// Ends the gate as a service manager does, and waits for all of its processes. What went wrong with any of them.
    pub(crate) async fn end(&self) -> Vec<String> {
        let last = self.gates.lock().unwrap().last().map(|gate| gate.0.id());
        let last = last.and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = last {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let start = Instant::now();
        let mut wrong = Vec::new();
        let count = self.gates.lock().unwrap().len();
        for number in 0..count {
            match self.ended(number, start + PATIENCE).await {
                Some(status) if status.success() => {}
                Some(status) => wrong.push(format!(
                    "process {number} of the gate ended with {status}:\n{}",
                    self.tail(number)
                )),
                None => wrong.push(format!(
                    "process {number} of the gate does not end:\n{}",
                    self.tail(number)
                )),
            }
            let log = std::fs::read_to_string(self.path(&format!("gate-{number}.log"))).unwrap_or_default();
            let panics = log.lines().filter(|line| line.contains("panicked"));
            wrong.extend(panics.map(|line| format!("process {number} of the gate: {line}")));
        }
        wrong
    }

    async fn ended(&self, number: usize, until: Instant) -> Option<ExitStatus> {
        loop {
            let status = self.gates.lock().unwrap()[number].0.try_wait().unwrap();
            if status.is_some() || Instant::now() > until {
                return status;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The endpoints that the gate took out, by its logs.
    pub(crate) fn ejections(&self) -> Vec<Ejection> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let count = self.gates.lock().unwrap().len();
        let logs = (0..count).map(|number| std::fs::read_to_string(self.path(&format!("gate-{number}.log"))));
        let mut found = Vec::new();
        for line in logs
            .map(Result::unwrap_or_default)
            .flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>())
        {
            let said: Value = serde_json::from_str(&line).unwrap_or_default();
            let to = said["to"].as_str().unwrap_or_default();
            if !["down", "ejected"].contains(&to) {
                continue;
            }
            let who = self.at(&said["endpoint"]);
            let told: Option<jiff::Timestamp> = said["timestamp"].as_str().and_then(|time| time.parse().ok());
            let (Some(who), Some(told)) = (who, told) else {
                panic!("a line of the log that cannot be read: {line}");
            };
            let ago = wall - told.as_millisecond() as f64 / 1_000.0;
            found.push(Ejection {
                who,
                at: now.checked_sub(Duration::from_secs_f64(ago.max(0.0))).unwrap_or(now),
                to: to.to_owned(),
                cause: said["cause"].as_str().unwrap_or_default().to_owned(),
            });
        }
        found
    }

    /// The last endpoint that each request was sent to, by the access log.
    pub(crate) fn tried(&self) -> HashMap<String, Who> {
        let log = std::fs::read_to_string(self.path("access.log")).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let tried =
            lines.filter_map(|said| Some((said["request_id"].as_str()?.to_owned(), self.at(&said["endpoint"])?)));
        tried.collect()
    }

    /// The instance that is named by its address.
    fn at(&self, endpoint: &Value) -> Option<Who> {
        let endpoint = endpoint.as_str()?;
        (0..self.difys.len()).find(|who| endpoint.ends_with(&self.difys[*who].address().to_string()))
    }

    /// Keeps the logs of a run that is not right.
    pub(crate) fn keep_logs(&self, at: &Path) {
        let _ = std::fs::create_dir_all(at);
        for file in std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let name = file.file_name();
            if name.to_string_lossy().ends_with(".log") {
                let _ = std::fs::copy(file.path(), at.join(name));
            }
        }
    }
}

/// The program under test: the one that `DIFYGATE_BIN` names, or the one that cargo built.
fn program() -> PathBuf {
    std::env::var_os("DIFYGATE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_difygate").into(), Into::into)
}
