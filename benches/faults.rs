//! The fault lab: three simulated Dify instances, the gate on its default settings, 200 requests a second, one fault after the other:
//! `cargo bench --bench faults`. Prints one row a fault, medians and extremes over runs with a random phase.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use difygate::config;
use difygate::demo::load::{Load, Outcome};
use difygate::gate::state::State;
use difygate::server::Gate;
use difygate::simulated_dify::{Cluster, Health, SimulatedDify, Traffic};
use tokio::time::sleep;

const RUNS: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refuses,
    HealthOnly,
    Freezes,
    Dies,
}

impl Fault {
    async fn strike(self, dify: &SimulatedDify) {
        match self {
            Self::Refuses => dify.set(|switches| {
                switches.health = Health::failing(["database"]);
                switches.traffic = Traffic::Status(503);
            }),
            Self::HealthOnly => dify.set(|switches| switches.health = Health::failing(["database"])),
            Self::Freezes => dify.freeze(),
            Self::Dies => dify.kill().await,
        }
    }

    async fn mend(self, dify: &SimulatedDify) {
        match self {
            Self::Refuses | Self::HealthOnly => dify.set(|switches| {
                switches.health = Health::Passing;
                switches.traffic = Traffic::Normal;
            }),
            Self::Freezes => dify.thaw(),
            Self::Dies => dify.restart().await.expect("its port is free"),
        }
    }
}

struct Lab {
    gate: Gate,
    instances: Vec<SimulatedDify>,
}

impl Lab {
    async fn open() -> Self {
        let cluster = Cluster::new();
        let mut instances = Vec::new();
        for name in ["dify-1", "dify-2", "dify-3"] {
            instances.push(SimulatedDify::start(&cluster, name).await.expect("a free port"));
        }
        let text = text(
            "127.0.0.1:8080",
            &instances.iter().map(SimulatedDify::address).collect::<Vec<_>>(),
            "",
        );
        let mut config = config::parse(&text, Path::new("lab.yaml"), &|_| None).expect("a valid configuration");
        config.admin.set_port(0);
        config.listeners[0].address.set_port(0);
        let lab = Self {
            gate: Gate::start(config).expect("a gate"),
            instances,
        };
        for index in 0..3 {
            lab.until(index, State::Up).await;
        }
        lab
    }

    async fn until(&self, index: usize, state: State) -> Instant {
        for _ in 0..10_000 {
            let known = self.gate.handle().mailbox.known().await.expect("a driver");
            if known[index].state == state {
                return known[index].since;
            }
            sleep(Duration::from_millis(2)).await;
        }
        panic!("instance {index} never became {state}");
    }

    async fn retries(&self) -> u64 {
        let admin = format!("http://{}", self.gate.admin());
        let (_, body) = difygate::client::get(&admin, "/metrics").await.expect("an admin API");
        let text = String::from_utf8_lossy(&body).into_owned();
        let lines = text.lines().filter(|line| line.starts_with("difygate_retries_total{"));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// One run of one fault: seconds to notice, seconds to return, failed requests, attempts wasted.
    async fn run(&self, fault: Fault, load: Option<&Load>) -> [f64; 4] {
        let index = fastrand::usize(..3);
        let dify = &self.instances[index];
        sleep(Duration::from_millis(fastrand::u64(500..2_500))).await;
        let before = self.retries().await;
        let broke = tokio::time::Instant::now().into_std();
        fault.strike(dify).await;
        let noticed = self.until(index, State::Down).await.saturating_duration_since(broke);
        sleep(Duration::from_millis(1_000)).await;
        let mended = tokio::time::Instant::now().into_std();
        fault.mend(dify).await;
        let back = self.until(index, State::Up).await.saturating_duration_since(mended);
        sleep(Duration::from_millis(500)).await;
        let outcomes = load.map(|load| load.since(broke)).unwrap_or_default();
        let served_by_it = |o: &&Outcome| o.sent < mended && o.instance.as_deref() == Some(dify.name());
        // With passing traffic what it serves is no waste.
        let stuck = if fault == Fault::HealthOnly {
            0
        } else {
            outcomes.iter().filter(served_by_it).count()
        };
        let failed = outcomes.iter().filter(|outcome| !outcome.is_served()).count();
        let wasted = self.retries().await - before + stuck as u64;
        [noticed.as_secs_f64(), back.as_secs_f64(), failed as f64, wasted as f64]
    }
}

fn text(listener: &str, endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "{more}listeners: [{{address: \"{listener}\"}}]\nlog: {{access: \"off\"}}\nupstreams: {{dify: {{pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        endpoints.join(", ")
    )
}

fn spread(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (least, middle, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// Milliseconds from the start of the process to its first served request.
async fn first_request(folder: &Path, endpoints: &[SocketAddr]) -> f64 {
    let listener = free_port();
    let path = folder.join("start.yaml");
    let admin = format!("admin: {{address: \"{}\"}}\n", free_port());
    std::fs::write(&path, text(&listener.to_string(), endpoints, &admin)).expect("a file");
    let start = tokio::time::Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_difygate"))
        .args(["run", "-c"])
        .arg(&path)
        .stderr(Stdio::null())
        .spawn()
        .expect("the gate");
    let request = "GET /v1/parameters HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
    let took = loop {
        match difygate::demo::load::exchange(listener, request).await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => break start.elapsed(),
            Ok(_) | Err(_) if start.elapsed() > Duration::from_secs(10) => panic!("the gate does not serve"),
            Ok(_) | Err(_) => sleep(Duration::from_millis(1)).await,
        }
    };
    child.kill().expect("a process");
    child.wait().expect("a process");
    took.as_secs_f64() * 1_000.0
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut out = std::io::stdout();
    let mut say = |line: String| writeln!(out, "{line}").expect("a reader");
    let lab = Lab::open().await;
    say(format!("{RUNS} runs a row, median (least–most); 3 instances, defaults"));
    say("| fault | load | out of rotation, s | back, s | failed | wasted |".into());
    say("|---|---|---|---|---|---|".into());
    let rows = [
        (Fault::Refuses, "503 on /healthz and in traffic", true),
        (Fault::HealthOnly, "503 on /healthz, traffic well", true),
        (Fault::Freezes, "frozen, keeps accepting", true),
        (Fault::Freezes, "frozen, keeps accepting", false),
        (Fault::Dies, "port closed", true),
    ];
    for (fault, name, loaded) in rows {
        let load = loaded.then(|| Load::start(lab.gate.listeners()[0]));
        let mut figures: [Vec<f64>; 4] = Default::default();
        for _ in 0..RUNS {
            let run = lab.run(fault, load.as_ref()).await;
            figures
                .iter_mut()
                .zip(run)
                .for_each(|(column, figure)| column.push(figure));
        }
        let [noticed, back, failed, wasted] = &mut figures;
        let rate = if loaded { "200/s" } else { "idle" };
        let cells = [
            spread(noticed, 2),
            spread(back, 2),
            spread(failed, 0),
            spread(wasted, 0),
        ];
        say(format!("| {name} | {rate} | {} |", cells.join(" | ")));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let endpoints: Vec<SocketAddr> = lab.instances.iter().map(SimulatedDify::address).collect();
    let mut starts = Vec::new();
    for _ in 0..RUNS {
        starts.push(first_request(folder.path(), &endpoints).await);
    }
    say(format!(
        "start to first request served, 3 endpoints: {} ms",
        spread(&mut starts, 0)
    ));
}
