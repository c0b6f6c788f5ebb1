//! The cutover lab: three blue and three green simulated Dify instances, 200 requests a second and 500 open event streams; users are moved, taken back
//! by a verb, and taken back because green begins to answer 503: `cargo bench --bench cutover`. Every event of every stream is read and counted, and
//! every prompt is held against the runs that it started. HAProxy, where it is installed, is moved by hand over its runtime socket in the same run; it
//! knows no way back of its own.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

mod launch;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use difygate::client;
use difygate::demo::load::{Load, exchange};
use difygate::simulated_dify::{Cluster, SimulatedDify, Traffic};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use launch::{Process, free_port, haproxy};

const STREAMS: usize = 500;
/// Events of each stream, and their distance.
const EVENTS: u64 = 70;
const GAP: Duration = Duration::from_millis(250);
/// Anything takes longer only if it does not come at all.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Story {
    Forward,
    /// The same by HAProxy.
    Peer,
    BackByVerb,
    BackByTrigger,
}

/// What one run came to.
#[derive(Default)]
struct Run {
    requests: usize,
    failed: usize,
    /// Streams that did not come to their own end.
    cut: usize,
    /// Events that did not arrive, or twice.
    lost: u64,
    /// Runs of prompts more, or fewer, than prompts.
    prompts_off: u64,
    /// From the command to the end of the story.
    took: f64,
}

struct Stage {
    _proxy: Process,
    edge: SocketAddr,
    admin: String,
    blue: Vec<SimulatedDify>,
    green: Vec<SimulatedDify>,
}

/// Three instances of each colour.
async fn instances() -> [Vec<SimulatedDify>; 2] {
    let cluster = Cluster::new();
    let mut pools = [Vec::new(), Vec::new()];
    for (pool, color) in pools.iter_mut().zip(["blue", "green"]) {
        for number in 0..3 {
            let name = format!("{color}-{number}");
            pool.push(SimulatedDify::start(&cluster, &name).await.unwrap());
        }
    }
    pools
}

/// HAProxy before both pools, of which green is in maintenance.
fn peer(folder: &Path, edge: SocketAddr, [blue, green]: [&[SimulatedDify]; 2]) -> Option<Child> {
    let server = |dify: &SimulatedDify, state: &str| {
        format!(
            "  server {} {} check inter 1s rise 3{state}\n",
            dify.name(),
            dify.address()
        )
    };
    let blue: String = blue.iter().map(|dify| server(dify, "")).collect();
    let green: String = green.iter().map(|dify| server(dify, " disabled")).collect();
    let text = format!(
        "global\n  nbthread 1\n  stats socket {} level admin\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\n  option redispatch\n  retries 1\n\
         frontend f\n  bind {edge}\n  default_backend dify\nbackend dify\n  balance leastconn\n  option httpchk GET /healthz\n{blue}{green}",
        folder.join("haproxy.sock").display()
    );
    haproxy(folder, &text)
}

/// Says something to HAProxy, and returns what it answers.
async fn tell(folder: &Path, command: &str) -> String {
    let mut socket = UnixStream::connect(folder.join("haproxy.sock")).await.unwrap();
    socket.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

impl Stage {
    async fn set(folder: &Path, story: Story) -> Self {
        let [blue, green] = instances().await;
        let list = |pool: &[SimulatedDify]| {
            let all: Vec<String> = pool.iter().map(|dify| format!("\"{}\"", dify.address())).collect();
            all.join(", ")
        };
        let (edge, admin) = (free_port(), free_port());
        let text = format!(
            "server: {{state_dir: {}}}\nadmin: {{address: \"{admin}\"}}\nlog: {{access: \"off\"}}\nlisteners: [{{address: \"{edge}\"}}]\n\
             cutover: {{triggers: {{window: 1s}}}}\nupstreams: {{dify: {{pools: {{blue: {{endpoints: [{}]}}, green: {{endpoints: [{}]}}}}}}}}\n",
            folder.join("state").display(),
            list(&blue),
            list(&green)
        );
        let path = folder.join("cutover.yaml");
        std::fs::write(&path, text).unwrap();
        let child = if story == Story::Peer {
            peer(folder, edge, [&blue, &green]).unwrap()
        } else {
            let mut command = Command::new(env!("CARGO_BIN_EXE_difygate"));
            command
                .args(["run", "-c"])
                .arg(&path)
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let stage = Self {
            _proxy: Process(child),
            edge,
            admin: format!("http://{admin}"),
            blue,
            green,
        };
        let request = "GET /v1/parameters HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
        let start = Instant::now();
        while !exchange(edge, request)
            .await
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        {
            assert!(start.elapsed() < PATIENCE, "the gate does not serve");
            sleep(Duration::from_millis(5)).await;
        }
        stage
    }

    async fn start(&self, bake: &str) {
        let terms = json!({"to": "green", "auto": true, "bake": bake, "by": "lab", "reason": "a release"});
        self.say("start", terms).await;
    }

    async fn say(&self, verb: &str, terms: Value) {
        let path = format!("/api/v1/cutovers/dify:{verb}");
        let body = terms.to_string().into();
        let (status, body) = client::send(http::Method::POST, &self.admin, &path, &[], body)
            .await
            .unwrap();
        assert!(status.is_success(), "{}", String::from_utf8_lossy(&body));
    }

    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        loop {
            let (_, body) = client::get(&self.admin, "/api/v1/cutovers/dify").await.unwrap();
            let view: Value = serde_json::from_slice(&body).unwrap();
            if holds(&view) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}: {view:#}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_phase(&self, phase: &str) {
        self.until(phase, |view| view["phase"] == phase).await;
    }

    fn executed(&self) -> u64 {
        self.blue
            .iter()
            .chain(&self.green)
            .map(|dify| dify.tally().executed())
            .sum()
    }

    fn streams(&self) -> u64 {
        self.blue
            .iter()
            .chain(&self.green)
            .map(|dify| dify.tally().streams())
            .sum()
    }

    /// Moves HAProxy from blue to green as its runtime socket allows, once green passes its checks.
    async fn move_peer(&self, folder: &Path) {
        for dify in &self.green {
            tell(folder, &format!("set server dify/{} state ready", dify.name())).await;
        }
        let start = Instant::now();
        let is_up = |stat: &str, name: &str| {
            let mut lines = stat.lines();
            lines.any(|line| line.starts_with(&format!("dify,{name},")) && line.contains(",UP,"))
        };
        loop {
            let stat = tell(folder, "show stat").await;
            if self.green.iter().all(|dify| is_up(&stat, dify.name())) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "green does not come up: {stat}");
            sleep(Duration::from_millis(20)).await;
        }
        for dify in &self.blue {
            tell(folder, &format!("set server dify/{} state drain", dify.name())).await;
        }
        while self.blue.iter().any(|dify| dify.tally().streams() > 0) {
            assert!(start.elapsed() < PATIENCE, "blue does not empty");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// So many more streams, all of them begun.
    async fn open(&self, count: usize) -> Vec<JoinHandle<(bool, u64)>> {
        let before = self.streams();
        let all = (0..count).map(|_| tokio::spawn(stream(self.edge))).collect();
        let start = Instant::now();
        while self.streams() < before + count as u64 {
            assert!(start.elapsed() < PATIENCE, "only {} streams began", self.streams());
            sleep(Duration::from_millis(10)).await;
        }
        all
    }
}

/// Reads a stream to its end: whether it came to its own, and how many events are missing, out of place, or too many.
async fn stream(edge: SocketAddr) -> (bool, u64) {
    let gap = GAP.as_millis();
    let body =
        json!({"inputs": {"events": EVENTS, "gap_ms": gap as u64}, "query": "q", "user": "u", "response_mode": "streaming"})
            .to_string();
    let request = format!(
        "POST /v1/chat-messages HTTP/1.1\r\nHost: lab\r\nAuthorization: Bearer app-lab\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let Ok(answer) = exchange(edge, &request).await else {
        return (false, EVENTS);
    };
    let events = answer.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let messages = events.filter(|event| event["event"] == "message");
    let part = |event: Value| {
        event["answer"]
            .as_str()?
            .strip_prefix("part ")?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let parts: Vec<Option<u64>> = messages.map(part).collect();
    let right = parts
        .iter()
        .zip(0_u64..)
        .filter(|(part, expected)| **part == Some(*expected));
    let right = right.count() as u64;
    let whole = answer.contains("\"message_end\"") && answer.ends_with("0\r\n\r\n");
    (
        whole,
        (EVENTS - right.min(EVENTS)) + (parts.len() as u64).saturating_sub(EVENTS),
    )
}

/// The streams that a story opens, and how long it took from the command that ends it.
type Told = (Vec<JoinHandle<(bool, u64)>>, Duration);

/// From blue to green, with every stream begun before.
async fn forward(stage: &Stage, folder: &Path, story: Story) -> Told {
    let streams = stage.open(STREAMS).await;
    let start = Instant::now();
    if story == Story::Peer {
        stage.move_peer(folder).await;
    } else {
        stage.start("2s").await;
        stage.until_phase("committed").await;
        let is_drained = |view: &Value| !view["cutover"]["drained"].is_null();
        stage.until("blue to be empty", is_drained).await;
    }
    (streams, start.elapsed())
}

/// Back from the bake, with half of the streams begun in each pool.
async fn back(stage: &Stage, story: Story) -> Told {
    let mut streams = stage.open(STREAMS / 2).await;
    stage.start("1h").await;
    stage.until_phase("baking").await;
    streams.extend(stage.open(STREAMS / 2).await);
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    if story == Story::BackByVerb {
        stage.say("rollback", json!({"by": "lab"})).await;
    } else {
        for dify in &stage.green {
            dify.set(|switches| switches.traffic = Traffic::Status(503));
        }
    }
    stage.until_phase("rolled_back").await;
    (streams, start.elapsed())
}

async fn run(story: Story) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path(), story).await;
    let before = stage.executed();
    let load = Load::start(stage.edge);
    let (streams, took) = match story {
        Story::Forward | Story::Peer => forward(&stage, folder.path(), story).await,
        Story::BackByVerb | Story::BackByTrigger => back(&stage, story).await,
    };
    let mut result = Run {
        took: took.as_secs_f64(),
        ..Run::default()
    };
    for one in streams {
        let (whole, lost) = one.await.unwrap();
        result.cut += usize::from(!whole);
        result.lost += lost;
    }
    let outcomes = load.stop().await;
    result.requests = outcomes.len();
    result.failed = outcomes.iter().filter(|outcome| !outcome.is_served()).count();
    let prompts = outcomes.iter().filter(|outcome| outcome.prompt).count() as u64;
    let ran = stage.executed() - before - STREAMS as u64;
    result.prompts_off = prompts.abs_diff(ran);
    result
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let runs = std::env::var("CUTOVER_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(10);
    let mut out = std::io::stdout();
    let mut say = |line: String| writeln!(out, "{line}").expect("a reader");
    say(format!(
        "{runs} runs a row; 3 blue and 3 green instances, 200 requests a second, {STREAMS} event streams of {EVENTS} events"
    ));
    say(
        "| story | requests | failed | streams cut | events lost or doubled | prompts lost or run twice | took, s |"
            .into(),
    );
    say("|---|---|---|---|---|---|---|".into());
    let has_peer = Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_ok();
    for (story, name) in [
        (Story::Forward, "blue to green, until blue is empty"),
        (Story::Peer, "the same by HAProxy, told step by step"),
        (Story::BackByVerb, "rolled back by a verb"),
        (
            Story::BackByTrigger,
            "green begins to answer 503: rolled back by `errors`",
        ),
    ] {
        if story == Story::Peer && !has_peer {
            say(format!("| {name} | not installed | | | | | |"));
            continue;
        }
        let mut sum = Run::default();
        let mut times = Vec::new();
        for _ in 0..runs {
            let one = run(story).await;
            sum.requests += one.requests;
            sum.failed += one.failed;
            sum.cut += one.cut;
            sum.lost += one.lost;
            sum.prompts_off += one.prompts_off;
            times.push(one.took);
        }
        times.sort_by(f64::total_cmp);
        let (least, middle, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
        say(format!(
            "| {name} | {} | {} | {} | {} | {} | {middle:.2} ({least:.2}–{most:.2}) |",
            sum.requests, sum.failed, sum.cut, sum.lost, sum.prompts_off
        ));
    }
}
