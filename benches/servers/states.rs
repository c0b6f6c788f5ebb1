//! What befalls one of two servers while users ask, and what they notice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::before::Before;
use crate::launch::free_port;
use crate::load::{End, Kind, Load, Outcome, prompt};
use crate::program::{Program, Server};

/// A wait of more than this is too long for a user.
const TOO_LONG: Duration = Duration::from_secs(5);
/// Load before anything happens.
const BEFORE: Duration = Duration::from_secs(3);
/// Load afterwards.
const AFTER: Duration = Duration::from_secs(3);

/// Seconds that a quiet stream lasts, which is longer than a row.
const QUIET: f64 = 150.0;
/// Seconds of a slow start.
const SLOW_START: f64 = 30.0;

/// What befalls a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Quiet streams hold all of its places.
    Full,
    /// Quiet streams hold all places of both.
    BothFull,
    /// SIGSTOP of all of its processes for 10 s.
    Frozen,
    /// It is killed and starts again, which takes 8 s.
    Booting,
    /// SIGTERM while it has a stream of 8 s.
    Terminated,
    /// SIGHUP where a start takes 1 s.
    Reloaded,
}

pub(crate) const STATES: [(State, &str); 6] = [
    (State::Full, "full"),
    (State::BothFull, "both full"),
    (State::Frozen, "frozen"),
    (State::Booting, "booting"),
    (State::Terminated, "SIGTERM"),
    (State::Reloaded, "SIGHUP"),
];

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Row {
    requests: usize,
    failed: usize,
    /// Of them, those that the server had begun and broke off itself, which nobody may send again.
    broken_off: usize,
    too_long: usize,
    longest: Duration,
    for_nobody: usize,
    twice: usize,
    ejected: u64,
    /// From the signal until the last request was sent there.
    last_sent: Option<Duration>,
    /// How requests failed, and how often.
    pub(crate) causes: BTreeMap<String, usize>,
    /// What the gate logged, where it took out an endpoint that was fit.
    pub(crate) said: Vec<String>,
}

impl Row {
    pub(crate) const HEAD: &str = "| server | state | requests | failed | of them broken off by the server | waited > 5 s | longest wait, s | ran for nobody | ran twice | ejected wrongly | last sent there after, s |\n|---|---|---|---|---|---|---|---|---|---|---|";

    pub(crate) fn line(&self, server: &str, state: &str) -> String {
        let last = self
            .last_sent
            .map_or_else(|| "–".to_owned(), |last| format!("{:.2}", last.as_secs_f64()));
        format!(
            "| {server} | {state} | {} | {} | {} | {} | {:.2} | {} | {} | {} | {last} |",
            self.requests,
            self.failed,
            self.broken_off,
            self.too_long,
            self.longest.as_secs_f64(),
            self.for_nobody,
            self.twice,
            self.ejected,
        )
    }

    fn count(&mut self, outcomes: &[Outcome], ran: &[String]) {
        self.requests = outcomes.len();
        for outcome in outcomes {
            self.longest = self.longest.max(outcome.waited);
            self.too_long += usize::from(outcome.waited > TOO_LONG);
            let cause = match &outcome.end {
                End::Served => continue,
                End::Refused(status, code) => format!("{:?}: {status} {code}", outcome.kind),
                End::Broken(why) => format!("{:?}: {why}", outcome.kind),
            };
            self.failed += 1;
            // A prompt that was sent, or an answer that had begun.
            let broke = match &outcome.end {
                End::Refused(502, code) => outcome.kind != Kind::Read && code == "upstream_failed",
                End::Broken(why) => why.contains("broke off"),
                End::Served | End::Refused(..) => false,
            };
            self.broken_off += usize::from(broke);
            *self.causes.entry(cause).or_default() += 1;
        }
        let served: BTreeSet<&str> = outcomes
            .iter()
            .filter(|outcome| outcome.end == End::Served)
            .map(|outcome| outcome.query.as_str())
            .collect();
        let asked: BTreeSet<&str> = outcomes.iter().map(|outcome| outcome.query.as_str()).collect();
        let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
        for query in ran.iter().filter(|query| asked.contains(query.as_str())) {
            *runs.entry(query).or_default() += 1;
        }
        self.for_nobody = runs.keys().filter(|query| !served.contains(*query)).count();
        self.twice = runs.values().filter(|count| **count > 1).count();
    }
}

/// Two servers and the gate before them.
struct Stage {
    servers: [Server; 2],
    gate: Before,
    /// Streams that hold places, or are under way as a server ends.
    streams: Vec<JoinHandle<()>>,
    // The servers' files; dropped last.
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn set(program: Program) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let start = || Server::start(program, free_port(), folder.path());
        let servers = [start()?, start()?];
        for server in &servers {
            server.answers().await?;
        }
        let endpoints = servers.each_ref().map(|server| server.address.to_string());
        // No service tells of dependencies here, so nobody listens at this port.
        let keys = format!("probe: {{preset: dify, port: {}}}", free_port().port());
        Ok(Self {
            gate: Before::start(&endpoints, &keys).await?,
            servers,
            streams: Vec::new(),
            _folder: folder,
        })
    }

    fn name(&self, index: usize) -> String {
        self.servers[index].address.to_string()
    }

    /// Opens streams by the gate to one server; it may take one fewer, where the gate keeps a place for its probe.
    async fn open(&mut self, server: usize, count: usize, seconds: f64) -> Result<(), String> {
        let other = self.name(1 - server);
        self.gate.drain(&other, true).await?;
        let mut took = 0;
        for number in 0..count {
            let ask = prompt(&format!("stream-{server}-{number}"), true, seconds, 10.0);
            let edge = self.gate.edge.clone();
            let (begun, begins) = tokio::sync::oneshot::channel();
            self.streams.push(tokio::spawn(async move {
                let reply = ask.send(&edge).await;
                let _ = begun.send(reply.as_ref().is_ok_and(|reply| reply.status == 200));
                if let Ok(reply) = reply {
                    let _ = reply.rest().await;
                }
            }));
            let begun = tokio::time::timeout(Duration::from_secs(2), begins).await;
            took += usize::from(begun == Ok(Ok(true)));
        }
        if took + 1 < count {
            return Err(format!("only {took} of {count} streams began"));
        }
        self.gate.drain(&other, false).await?;
        // Until its slow start is over, so that it has its whole share; or it is full as well.
        let wait = Duration::from_secs(45);
        let back = self.gate.until_state(&other, &["up", "busy"], wait).await;
        back.map(|_| ())
            .ok_or_else(|| format!("{other} is not up within {wait:?} after its drain"))
    }

    /// Lets it happen; returns the signal's time where the server was told to stop.
    async fn strike(&mut self, state: State, program: Program) -> Result<Option<SystemTime>, String> {
        let places = program.places.unwrap_or_default();
        match state {
            State::Full | State::BothFull => {
                sleep(Duration::from_secs(if places == 0 { 0 } else { 12 })).await;
            }
            State::Frozen => {
                self.servers[0].signal_all(Signal::SIGSTOP);
                sleep(Duration::from_secs(10)).await;
                self.servers[0].signal_all(Signal::SIGCONT);
                sleep(AFTER).await;
            }
            State::Booting => {
                self.servers[0].kill();
                self.servers[0].start_again(Duration::from_secs(8))?;
                let name = self.name(0);
                self.gate.until_routable(&name, false, Duration::from_secs(5)).await;
                let back = self.gate.until_routable(&name, true, Duration::from_secs(30)).await;
                back.ok_or("it is not taken back within 30 s of its start")?;
                sleep(AFTER).await;
            }
            State::Terminated => {
                let told = SystemTime::now();
                self.servers[0].signal(Signal::SIGTERM);
                self.servers[0].ended(Duration::from_secs(40)).await;
                sleep(AFTER).await;
                return Ok(Some(told));
            }
            State::Reloaded => {
                self.servers[0].boots_for(Duration::from_secs(1));
                self.servers[0].signal(Signal::SIGHUP);
                sleep(Duration::from_secs(10)).await;
            }
        }
        Ok(None)
    }
}

/// From `told` until the last request was sent to `endpoint`. A request that was tried twice was tried at both.
fn last_sent(gate: &Before, endpoint: &str, told: SystemTime) -> Duration {
    let there = gate
        .sent()
        .into_iter()
        .filter(|sent| sent.endpoint == endpoint || sent.attempts > 1);
    let after = there.filter_map(|sent| sent.at.duration_since(told).ok());
    after.max().unwrap_or_default()
}

/// One row; nothing where the state does not concern the server.
pub(crate) async fn run(program: Program, state: State) -> Result<Option<Row>, String> {
    let fills = matches!(state, State::Full | State::BothFull);
    if fills && program.places.is_none() {
        return Ok(None);
    }
    let mut stage = Stage::set(program).await?;
    let places = program.places.unwrap_or_default();
    match state {
        State::Full => stage.open(0, places, QUIET).await?,
        State::BothFull => {
            stage.open(1, places, QUIET).await?;
            stage.open(0, places, QUIET).await?;
        }
        State::Terminated => stage.open(0, 1, SLOW_START + BEFORE.as_secs_f64() + 8.0).await?,
        State::Frozen | State::Booting | State::Reloaded => {}
    }
    let load = Load::start(&stage.gate.edge);
    sleep(BEFORE).await;
    let told = stage.strike(state, program).await?;
    let outcomes = load.stop().await;
    let mut row = Row::default();
    let ran: Vec<String> = stage.servers.iter().flat_map(Server::ran).collect();
    row.count(&outcomes, &ran);
    row.ejected = stage.gate.ejections(&stage.name(1)).await?;
    if fills {
        row.ejected += stage.gate.ejections(&stage.name(0)).await?;
    }
    if row.ejected > 0 {
        row.said = stage.gate.said();
        let explained = stage
            .gate
            .admin(&format!("/api/v1/endpoints/{}", stage.name(0)))
            .await?;
        row.said.push(explained.to_string());
    }
    if let Some(told) = told {
        // A line is written a moment after its answer.
        sleep(Duration::from_millis(500)).await;
        row.last_sent = Some(last_sent(&stage.gate, &stage.name(0), told));
    }
    stage.streams.iter().for_each(JoinHandle::abort);
    Ok(Some(row))
}
