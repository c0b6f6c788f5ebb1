//! A database that all instances share stops and starts again: how long the gate takes to name it, and how long until users are served again. Then a
//! Redis that all share is away for half a minute, in which every request would hang: who waits, who is served, and what runs for nobody, by each
//! `all_down`.
//!
//! `cargo bench --bench outage`. A real PostgreSQL, three simulated Dify instances each with a `difygate healthz` of its own, and the gate before them
//! on its defaults; the gate, the services and the database are processes of their own. Twenty users a second ask all the time, and as long as the database
//! is away they get from an instance what Dify gives them then, a 500.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use difygate::client;
use difygate::simulated_dify::{Cluster, SimulatedDify, Traffic};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use serde_json::Value;
use tokio::time::sleep;

#[path = "launch/mod.rs"]
mod launch;

use launch::{Process, free_port};

const RUNS: usize = 7;
/// The gate's default.
const INTERVAL: f64 = 2.0;
const LOOK: Duration = Duration::from_millis(10);

/// A PostgreSQL that is started and stopped.
struct Database {
    folder: tempfile::TempDir,
    address: SocketAddr,
    process: Option<Process>,
}

impl Database {
    fn program(name: &str) -> Command {
        let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL, which `make tools` installs");
        let newest = versions.map(|version| version.unwrap().path()).max().unwrap();
        let mut command = Command::new(newest.join("bin").join(name));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It refuses to run as root.
        if nix::unistd::geteuid().is_root() {
            let user = User::from_name("postgres").unwrap().unwrap();
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if nix::unistd::geteuid().is_root() {
            let user = User::from_name("postgres").unwrap().unwrap();
            nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let mut initdb = Self::program("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "--no-sync", "-D"]);
        assert!(initdb.arg(folder.path().join("data")).status().unwrap().success());
        Self {
            folder,
            address: free_port(),
            process: None,
        }
    }

    /// Starts it, and tells when it took somebody in.
    async fn start(&mut self) -> Instant {
        let mut command = Self::program("postgres");
        command.arg("-D").arg(self.folder.path().join("data"));
        command.args(["-p", &self.address.port().to_string()]);
        command.args([
            "-clisten_addresses=127.0.0.1",
            "-cunix_socket_directories=",
            "-cfsync=off",
        ]);
        self.process = Some(Process(command.spawn().unwrap()));
        let mut login = tokio_postgres::Config::new();
        login.host("127.0.0.1").port(self.address.port()).user("postgres");
        while login.connect(tokio_postgres::NoTls).await.is_err() {
            sleep(LOOK).await;
        }
        Instant::now()
    }

    /// Stops it, and tells when it was gone.
    fn stop(&mut self) -> Instant {
        let mut process = self.process.take().unwrap();
        kill(Pid::from_raw(process.0.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        process.0.wait().unwrap();
        Instant::now()
    }
}

fn difygate(command: &str, path: &Path) -> Process {
    let mut process = Command::new(env!("CARGO_BIN_EXE_difygate"));
    process.args([command, "-c"]).arg(path);
    Process(process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Waits until the upstream looks like this, and tells when it did.
async fn until(admin: &str, holds: impl Fn(&Value) -> bool) -> Instant {
    loop {
        if let Ok((_, body)) = client::get(admin, "/api/v1/status").await {
            let status: Value = serde_json::from_slice(&body).unwrap();
            if holds(&status["upstreams"][0]) {
                return Instant::now();
            }
        }
        sleep(LOOK).await;
    }
}

/// Users who ask all the time, and when each was served, or was not.
#[derive(Clone, Default)]
struct Users(Arc<Mutex<Vec<(Instant, bool)>>>);

impl Users {
    async fn ask(self, edge: String) {
        loop {
            let asked = Instant::now();
            let this = self.clone();
            let edge = edge.clone();
            tokio::spawn(async move {
                let answer = client::get(&edge, "/v1/parameters").await;
                let is_served = answer.is_ok_and(|(status, _)| status.is_success());
                this.0.lock().unwrap().push((asked, is_served));
            });
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// When somebody was served first who asked after `since`, and how many had asked in vain by then.
    async fn served(&self, since: Instant) -> (Instant, usize) {
        loop {
            let mut asked: Vec<_> = self
                .0
                .lock()
                .unwrap()
                .iter()
                .filter(|one| one.0 >= since)
                .copied()
                .collect();
            asked.sort();
            if let Some(first) = asked.iter().position(|one| one.1) {
                return (asked[first].0, first);
            }
            sleep(LOOK).await;
        }
    }
}

fn are_well(upstream: &Value) -> bool {
    let endpoints = upstream["pools"][0]["endpoints"].as_array().unwrap();
    upstream["shared_failure"].is_null() && endpoints.iter().all(|one| one["routable"] == true)
}

#[allow(clippy::print_stdout)]
fn tell(what: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let (least, middle, most) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    println!("{what:<44} {least:>6.2} {middle:>6.2} {most:>6.2}");
}

/// The three instances, their services and the gate before them.
struct Stage {
    _folder: tempfile::TempDir,
    _processes: Vec<Process>,
    difys: Vec<SimulatedDify>,
    cluster: Cluster,
    edge: String,
    admin: String,
}

impl Stage {
    async fn before(database: &Database) -> Self {
        let port = database.address.port();
        let check = format!("database: {{postgres: {{host: 127.0.0.1, port: {port}, user: postgres}}}}");
        Self::with(&check, "components: {database: {shared: true}}").await
    }

    /// The services make this check, and the gate has these keys.
    async fn with(check: &str, keys: &str) -> Self {
        let (folder, cluster) = (tempfile::tempdir().unwrap(), Cluster::new());
        let (mut difys, mut processes, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..3 {
            let dify = SimulatedDify::start(&cluster, &format!("dify-{number}")).await.unwrap();
            let at = free_port();
            let text = format!("listen: \"{at}\"\nchecks:\n  {check}\n");
            let path = file(folder.path(), &format!("healthz-{number}.yaml"), &text);
            processes.push(difygate("healthz", &path));
            let (address, port) = (dify.address(), at.port());
            endpoints.push(format!("{{address: \"{address}\", probe: {{port: {port}}}}}"));
            difys.push(dify);
        }
        let (edge, admin) = (free_port(), free_port());
        let text = format!(
            "listeners: [{{address: \"{edge}\"}}]\nadmin: {{address: \"{admin}\"}}\nserver: {{state_dir: \"off\"}}\nlog: {{access: \"off\"}}\nupstreams:\n  dify:\n    probe: {{path: /healthz}}\n    {keys}\n    pools: {{main: {{endpoints: [{}]}}}}\n",
            endpoints.join(", ")
        );
        processes.push(difygate("run", &file(folder.path(), "gate.yaml", &text)));
        Self {
            _folder: folder,
            _processes: processes,
            difys,
            cluster,
            edge: format!("http://{edge}"),
            admin: format!("http://{admin}"),
        }
    }

    /// What users get of every instance.
    fn give(&self, traffic: Traffic) {
        for dify in &self.difys {
            dify.set(|switches| switches.traffic = traffic);
        }
    }
}

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() {
    if is_chosen("database") {
        without_database().await;
    }
    if is_chosen("redis") {
        println!("\nRedis away for 30 s, by all_down");
        println!(
            "          asked failed  >5 s  left  runs  most  back | named  >5 s of those before, and of those after"
        );
        for rule in ["open", "closed", "auto", "auto", "auto"] {
            without_redis(rule).await;
        }
    }
}

/// Words after `--` choose what is measured: `database`, `redis`.
fn is_chosen(what: &str) -> bool {
    let mut words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .peekable();
    words.peek().is_none() || words.any(|word| word == what)
}

#[allow(clippy::print_stdout)]
async fn without_database() {
    let mut database = Database::new();
    database.start().await;
    let stage = Stage::before(&database).await;
    let admin = &stage.admin;
    let (mut named, mut served, mut vain, mut whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let users = Users::default();
    let asking = tokio::spawn(users.clone().ask(stage.edge.clone()));
    for _ in 0..RUNS {
        until(admin, are_well).await;
        sleep(Duration::from_millis(fastrand::u64(1_000..5_000))).await;
        let stopped = database.stop();
        stage.give(Traffic::DatabaseDown);
        let name = until(admin, |upstream| upstream["shared_failure"] == "database").await;
        named.push((name - stopped).as_secs_f64());
        sleep(Duration::from_millis(fastrand::u64(3_000..7_000))).await;
        let started = database.start().await;
        stage.give(Traffic::Normal);
        let ((serves, failed), wells) = tokio::join!(users.served(started), until(admin, are_well));
        served.push((serves - started).as_secs_f64());
        vain.push(failed as f64);
        whole.push((wells - started).as_secs_f64());
    }
    asking.abort();
    println!("{RUNS} outages, seconds                           least middle   most");
    tell("stops: until the gate names the database", named.clone());
    let rounds = named.into_iter().map(|seconds| (seconds / INTERVAL).ceil());
    tell("  in rounds of probes", rounds.collect());
    tell("starts: until a user is served again", served);
    tell("  users who asked in vain until then", vain);
    tell("starts: until all three serve, none is named", whole);
}

/// How long Redis is away, and after how many seconds a user leaves, as the client of this crate does.
const AWAY: Duration = Duration::from_secs(30);
const LEAVES: u64 = 15;
/// How long a request hangs in an instance without its Redis.
const HANGS: Duration = Duration::from_secs(30);

/// One request: when it was asked, how long it took, whether it was served, and whether it was a prompt.
type Asked = (Instant, Duration, bool, bool);

/// Twenty users a second who read, and four who have a prompt answered.
async fn visitors(edge: String, log: Arc<Mutex<Vec<Asked>>>) {
    for number in 0_u64.. {
        let (edge, log, start) = (edge.clone(), log.clone(), Instant::now());
        let is_prompt = number % 6 == 5;
        tokio::spawn(async move {
            let answer = if is_prompt {
                let body = r#"{"inputs": {"events": 1}, "query": "q", "user": "u", "response_mode": "blocking"}"#;
                client::send(http::Method::POST, &edge, "/v1/chat-messages", &[], body.into()).await
            } else {
                client::get(&edge, "/v1/parameters").await
            };
            let is_served = answer.is_ok_and(|(status, _)| status.is_success());
            log.lock().unwrap().push((start, start.elapsed(), is_served, is_prompt));
        });
        sleep(Duration::from_millis(42)).await;
    }
}

/// The most requests under way on one instance, looked at ten times a second.
async fn watch_load(admin: String, most: Arc<Mutex<u64>>) {
    loop {
        if let Ok((_, body)) = client::get(&admin, "/api/v1/status").await {
            let status: Value = serde_json::from_slice(&body).unwrap();
            let endpoints = status["upstreams"][0]["pools"][0]["endpoints"].as_array().unwrap();
            let load = endpoints
                .iter()
                .filter_map(|one| one["in_flight"].as_u64())
                .max()
                .unwrap();
            let mut most = most.lock().unwrap();
            *most = load.max(*most);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn redis(at: SocketAddr) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--port", &at.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

#[allow(clippy::print_stdout)]
async fn without_redis(rule: &str) {
    let at = free_port();
    let mut server = Some(redis(at));
    let check = format!("cache: {{redis: {{host: 127.0.0.1, port: {}}}}}", at.port());
    let keys = format!("components: {{cache: {{shared: true}}}}\n    all_down: {rule}");
    let stage = Stage::with(&check, &keys).await;
    until(&stage.admin, are_well).await;
    let (log, most) = (Arc::default(), Arc::default());
    let asking = tokio::spawn(visitors(stage.edge.clone(), Arc::clone(&log)));
    let watching = tokio::spawn(watch_load(stage.admin.clone(), Arc::clone(&most)));
    sleep(Duration::from_secs(5)).await;
    let away = Instant::now();
    server.take();
    stage.give(Traffic::RedisDown(HANGS));
    let named = tokio::time::timeout(
        AWAY,
        until(&stage.admin, |upstream| upstream["shared_failure"] == "cache"),
    );
    let named = named.await.expect("the gate to name the cache");
    tokio::time::sleep_until((away + AWAY).into()).await;
    server.replace(redis(at));
    stage.give(Traffic::Normal);
    let back = Instant::now();
    until(&stage.admin, are_well).await;
    sleep(Duration::from_secs(5)).await;
    asking.abort();
    watching.abort();
    sleep(Duration::from_secs(5)).await;
    let mut log: Vec<Asked> = log.lock().unwrap().clone();
    log.sort();
    let during = || log.iter().filter(|(asked, ..)| (away..back).contains(asked));
    let slower = |seconds| during().filter(|(_, took, ..)| took.as_secs() >= seconds).count();
    let answered = log
        .iter()
        .filter(|(_, _, served, is_prompt)| *served && *is_prompt)
        .count() as u64;
    let served = log.iter().find(|(asked, _, served, _)| *asked >= back && *served);
    let late = |from: Instant, to: Instant| {
        let asked = || log.iter().filter(move |(asked, ..)| (from..to).contains(asked));
        let late = asked().filter(|(_, took, ..)| took.as_secs() >= 5);
        let prompts = late.clone().filter(|(.., is_prompt)| *is_prompt).count();
        format!("{} of {} ({prompts} prompts)", late.count(), asked().count())
    };
    println!(
        "{rule:<8} {:>6} {:>6} {:>5} {:>5} {:>5} {:>5} {:>5.2} | {:>5.2}  {}, {}",
        during().count(),
        during().filter(|(_, _, served, _)| !served).count(),
        slower(5),
        slower(LEAVES),
        stage.cluster.started() - answered,
        most.lock().unwrap(),
        served.map_or(f64::NAN, |(asked, ..)| (*asked - back).as_secs_f64()),
        (named - away).as_secs_f64(),
        late(away, named),
        late(named, back),
    );
}
