//! The cutover lab: three blue and three green simulated Dify instances, 200 requests a second and 500 open event streams; users are moved, taken back
//! by a verb, and taken back because green begins to answer 503: `cargo bench --bench cutover`. Every event of every stream is read and counted, and
//! every prompt is held against the runs that it started.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

mod launch;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use difygate::client;
use difygate::demo::load::{Load, exchange};
use difygate::simulated_dify::{Cluster, SimulatedDify, Traffic};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use launch::{Process, free_port};

const STREAMS: usize = 500;
/// Events of each stream, and their distance.
const EVENTS: u64 = 70;
const GAP: Duration = Duration::from_millis(250);
/// Anything takes longer only if it does not come at all.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Story {
    Forward,
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
    _gate: Process,
    edge: SocketAddr,
    admin: String,
    blue: Vec<SimulatedDify>,
    green: Vec<SimulatedDify>,
}

impl Stage {
    async fn set(folder: &Path) -> Self {
        let cluster = Cluster::new();
        let mut pools = [Vec::new(), Vec::new()];
        for (pool, color) in pools.iter_mut().zip(["blue", "green"]) {
            for number in 0..3 {
                let name = format!("{color}-{number}");
                pool.push(SimulatedDify::start(&cluster, &name).await.unwrap());
            }
        }
        let [blue, green] = pools;
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_difygate"));
        command.args(["run", "-c"]).arg(&path).stderr(Stdio::null());
        let stage = Self {
            _gate: Process(command.spawn().unwrap()),
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

async fn run(story: Story) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path()).await;
    let before = stage.executed();
    let load = Load::start(stage.edge);
    let mut streams = stage
        .open(if story == Story::Forward { STREAMS } else { STREAMS / 2 })
        .await;
    let bake = if story == Story::Forward { "2s" } else { "1h" };
    let start = Instant::now();
    stage
        .say(
            "start",
            json!({"to": "green", "auto": true, "bake": bake, "by": "lab", "reason": "a release"}),
        )
        .await;
    let mut took = start;
    if story == Story::Forward {
        stage.until_phase("committed").await;
        stage
            .until("blue to be empty", |view| !view["cutover"]["drained"].is_null())
            .await;
    } else {
        stage.until_phase("baking").await;
        streams.extend(stage.open(STREAMS / 2).await);
        sleep(Duration::from_secs(1)).await;
        took = Instant::now();
        if story == Story::BackByVerb {
            stage.say("rollback", json!({"by": "lab"})).await;
        } else {
            for dify in &stage.green {
                dify.set(|switches| switches.traffic = Traffic::Status(503));
            }
        }
        stage.until_phase("rolled_back").await;
    }
    let mut result = Run {
        took: took.elapsed().as_secs_f64(),
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
    for (story, name) in [
        (Story::Forward, "blue to green, until blue is empty"),
        (Story::BackByVerb, "rolled back by a verb"),
        (
            Story::BackByTrigger,
            "green begins to answer 503: rolled back by `errors`",
        ),
    ] {
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
