//! Proxy CPU per request beside a bare Pingora round-robin proxy and the proxies that people have today, in turn within one run:
//! `cargo bench --bench proxy` for small GETs, `cargo bench --bench proxy -- uploads` for requests with bodies. Words after `--` choose loads and
//! proxies by a part of their names. A peer that is not installed is said to be absent; `make peers` installs them.
//!
//! `DIFYGATE_BEFORE=PROGRAM` has another build of the gate take part, and the word `before` it alone; `DIFYGATE_BIN=PROGRAM` names the one under test,
//! and `BENCH_ROUNDS` the rounds.
//!
//! All proxies are processes of their own with one thread, before the same three origins; sixteen clients keep their connections. The gate runs with
//! everything on: probes, guard, identity, routes, retries, metrics, access log. The bare proxy picks an origin and does nothing else, on the system
//! allocator. CPU time is the kernel's, summed over all threads of the process.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

mod bare;
#[path = "../launch/mod.rs"]
mod launch;
mod load;
#[path = "../origin/mod.rs"]
mod origin;
mod peers;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;

use launch::builds::{self, Build, rounds, spread};
use launch::{Process, cpu, each, free_port};
use load::{LOADS, Load, Tally};

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(2);
const BARE: &str = "bare Pingora round-robin";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let role = arguments.iter().position(|argument| argument == "--role");
    match role.and_then(|at| arguments.get(at + 1).map(String::as_str)) {
        Some("origins") => origins(),
        Some("bare") => {
            let addresses: Vec<SocketAddr> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
            bare::run(&addresses);
        }
        Some(other) => panic!("no role {other}"),
        None => compare(&arguments),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Serves at three ports, and prints their addresses.
fn origins() {
    runtime().block_on(async {
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            say(&listener.local_addr().expect("an address").to_string());
            tokio::spawn(origin::serve(listener));
        }
        std::future::pending::<()>().await;
    });
}

// ---- the processes

fn myself(role: &str, addresses: &[SocketAddr]) -> Child {
    Command::new(std::env::current_exe().expect("a path"))
        .args(["--role", role])
        .args(addresses.iter().map(SocketAddr::to_string))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process")
}

fn start_origins() -> (Process, Vec<SocketAddr>) {
    use std::io::BufRead;
    let mut child = myself("origins", &[]);
    let output = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let addresses = output
        .lines()
        .take(3)
        .map(|line| line.expect("a line").parse().expect("an address"));
    (Process(child), addresses.collect())
}

fn gate(build: &Build, folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let endpoints = each(origins, |_, origin| format!("\"{origin}\", "));
    let text = format!(
        "server: {{threads: 1}}\nadmin: {{address: \"{}\"}}\nlisteners: [{{address: \"{listener}\"}}]\nlog: {{access: {}}}\n\
         upstreams: {{dify: {{pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        free_port(),
        folder.join("access.log").display(),
        endpoints.trim_end_matches(", ")
    );
    build.start(folder, &text)
}

/// A proxy under load.
struct Runner {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    /// Microseconds of CPU for a request, round by round.
    figures: Vec<f64>,
    tally: Tally,
}

impl Runner {
    /// One that serves, or nothing.
    async fn serving(name: &'static str, process: Option<Child>, address: SocketAddr) -> Option<Self> {
        let runner = Self {
            name,
            process: Process(process?),
            address,
            figures: Vec::new(),
            tally: Tally::default(),
        };
        launch::serves(address).await.then_some(runner)
    }

    async fn measure(&mut self, request: &Bytes) {
        let before = cpu(&self.process);
        let tally = load::run(self.address, request, ROUND).await;
        let used = cpu(&self.process) - before;
        let asked = (tally.answered + tally.failed).max(1);
        self.figures.push(used as f64 / 1_000.0 / asked as f64);
        self.tally.add(tally);
    }
}

/// The build under test first, then the one before it, the bare proxy, and the peers that are there and chosen.
async fn start_all(chosen: &Chosen, origins: &[SocketAddr], folder: &Path) -> Vec<Runner> {
    let mut runners = Vec::new();
    let own = |name: &str| -> PathBuf {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).expect("a folder");
        folder
    };
    for build in Build::all() {
        say(&build.describe());
        let address = free_port();
        let process = gate(&build, &own(build.name), address, origins);
        let runner = Runner::serving(build.name, process, address).await;
        runners.push(runner.unwrap_or_else(|| panic!("{} does not serve", build.name)));
    }
    if chosen.proxy(BARE) {
        let address = free_port();
        let process = myself("bare", &[&[address][..], origins].concat());
        let runner = Runner::serving(BARE, Some(process), address).await;
        runners.push(runner.expect("the bare proxy does not serve"));
    }
    for (name, start) in peers::PEERS.into_iter().filter(|(name, _)| chosen.proxy(name)) {
        let address = free_port();
        match Runner::serving(name, start(&own(name), address, origins), address).await {
            Some(runner) => runners.push(runner),
            None => say(&format!("{name} is absent")),
        }
    }
    runners
}

// ---- the comparison

/// What the words of the command line choose.
struct Chosen {
    words: Vec<String>,
}

impl Chosen {
    fn by(arguments: &[String]) -> Self {
        let words = arguments.iter().skip(1).filter(|word| !word.starts_with("--"));
        let chosen = Self {
            words: words.map(|word| word.to_lowercase()).collect(),
        };
        let names: Vec<String> = LOADS
            .iter()
            .map(|load| load.0)
            .chain(proxies())
            .map(str::to_lowercase)
            .collect();
        for word in &chosen.words {
            assert!(names.iter().any(|name| name.contains(word)), "nothing is called {word}");
        }
        chosen
    }

    fn names(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.words.iter().any(|word| name.contains(word))
    }

    /// The loads that a word names, or else the first one.
    fn loads(&self) -> Vec<Load> {
        let named: Vec<Load> = LOADS.into_iter().filter(|load| self.names(load.0)).collect();
        if named.is_empty() { LOADS[..1].to_vec() } else { named }
    }

    /// Whether a proxy takes part: a word names it, or none names any.
    fn proxy(&self, name: &str) -> bool {
        self.names(name) || !proxies().any(|name| self.names(name))
    }
}

/// All but the builds of the gate, which always take part; naming the one before keeps the others away.
fn proxies() -> impl Iterator<Item = &'static str> {
    [builds::BEFORE, BARE]
        .into_iter()
        .chain(peers::PEERS.iter().map(|peer| peer.0))
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("a reader");
}

/// Runs a load against each proxy in turn, every other round in the opposite order, and prints a table.
async fn run(load: &Load, rounds: usize, runners: &mut [Runner]) {
    let (name, request) = (load.0, Bytes::from(load.1()));
    for runner in runners.iter_mut() {
        (runner.figures, runner.tally) = (Vec::new(), Tally::default());
        load::run(runner.address, &request, ROUND / 4).await;
    }
    for round in 0..rounds {
        for at in 0..runners.len() {
            let at = if round % 2 == 0 { at } else { runners.len() - 1 - at };
            runners[at].measure(&request).await;
        }
    }
    say(&format!(
        "\nproxy CPU per request, {name}: median of {rounds} rounds of {ROUND:?} in turn, one worker each; the gate's ratio to it in each round, median (least to most)"
    ));
    for runner in runners.iter() {
        let ratios = runners[0].figures.iter().zip(&runner.figures);
        let (ratio, least, most) = spread(ratios.map(|(ours, theirs)| ours / theirs).collect());
        say(&format!(
            "{:26} {:8.2} µs  {ratio:.2} ({least:.2} to {most:.2})  {:7} answered, {} failed{}",
            runner.name,
            spread(runner.figures.clone()).0,
            runner.tally.answered,
            runner.tally.failed,
            runner
                .tally
                .failure
                .as_ref()
                .map(|why| format!(": {why:?}"))
                .unwrap_or_default()
        ));
    }
}

fn compare(arguments: &[String]) {
    let chosen = Chosen::by(arguments);
    let folder = tempfile::tempdir().expect("a folder");
    let (_origins, addresses) = start_origins();
    let rounds = rounds(ROUNDS);
    let failed = runtime().block_on(async {
        let mut runners = start_all(&chosen, &addresses, folder.path()).await;
        let mut failed = 0;
        for load in chosen.loads() {
            run(&load, rounds, &mut runners).await;
            failed += runners[0].tally.failed;
        }
        failed
    });
    assert_eq!(failed, 0, "requests failed at the build under test");
}
