//! The chaos soak: a gate before two deployments of instances, clients of every kind, a schedule of faults and orders drawn from a seed, and books at both
//! ends. Afterwards every failure that a client saw needs a fault that explains it.

pub(crate) mod client;
pub(crate) mod judge;
pub(crate) mod ledger;
mod operator;
mod schedule;
mod socket;
mod stage;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use judge::Findings;
use ledger::{Ledger, What};
use operator::Operator;
use schedule::Schedule;
use stage::Stage;

/// A client that has not ended so long after the last fault is stuck.
const LONGEST: Duration = Duration::from_secs(90);
/// This process is watched in steps of so long, and did not run where one takes longer by a multiple.
const STEP: Duration = Duration::from_millis(20);
const LAPSE: Duration = Duration::from_millis(200);

/// What a soak came to.
pub(crate) struct Soaked {
    seed: u64,
    pub(crate) findings: Findings,
    faults: usize,
    upgrades: usize,
    lapses: usize,
    switches: usize,
    took: Duration,
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "chaos, seed {}, {seconds:.0} s: {} faults, {} changes of direction, {} upgrades, {} lapses of this process",
            self.seed, self.faults, self.switches, self.upgrades, self.lapses
        )?;
        self.findings.fmt(f)
    }
}

/// Soaks for so long.
pub(crate) async fn soak(lasts: Duration, seed: u64) -> Soaked {
    let stage = Arc::new(Stage::set().await);
    let schedule = Schedule::of(seed, lasts);
    let start = Instant::now();
    let end = start + lasts;
    let ledger = Arc::new(Ledger::new(start));
    let operator = Operator::new(&stage, &ledger);
    let mut clients = client::start(stage.edge, &ledger, seed, end);
    let working = async {
        operator.work(&schedule, start, end).await;
    };
    tokio::join!(working, operator.watch(end), lapses(&ledger, end));
    let ending = async {
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    };
    if timeout(LONGEST, ending).await.is_err() {
        ledger.wrong("a client is stuck".to_owned());
    }
    for wrong in stage.end().await {
        ledger.wrong(wrong);
    }
    let told = (stage.ejections(), stage.tried());
    let books = ledger.close(stage.cluster.journal().entries(), told);
    let count = |is: fn(What) -> bool| books.happened.iter().filter(|one| is(one.what)).count();
    let findings = judge::compare(&books);
    if !findings.are_right() {
        let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
        stage.keep_logs(&at);
        tell(&books, &findings, &at);
    }
    Soaked {
        seed,
        faults: count(|what| matches!(what, What::At(..) | What::Shared(_))),
        upgrades: count(|what| what == What::Upgrade),
        lapses: count(|what| what == What::Lapse),
        switches: count(|what| matches!(what, What::Active(_))).saturating_sub(1),
        took: start.elapsed(),
        findings,
    }
}

/// Writes what happened, and what was found, beside the logs.
fn tell(books: &ledger::Books, findings: &Findings, at: &Path) {
    let _ = std::fs::write(at.join("findings"), findings.to_string());
    let mut text = String::new();
    for one in &books.happened {
        let (from, until) = (books.at(one.from), books.at(one.until));
        text += &format!("{from:.3}..{until:.3} {:?}\n", one.what);
    }
    let _ = std::fs::write(at.join("happened"), text);
}

/// Notes when this process did not run, and with it the instances and the clients.
async fn lapses(ledger: &Ledger, end: Instant) {
    let mut last = Instant::now();
    while last < end {
        sleep(STEP).await;
        let now = Instant::now();
        if now - last > LAPSE {
            ledger.happened(What::Lapse, last, now);
        }
        last = now;
    }
}
