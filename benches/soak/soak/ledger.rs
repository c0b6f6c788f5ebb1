//! The ledgers of both ends, and what they say when they are laid beside each other.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use super::bytes::{Body, Hash, Which};
use super::plan::Plan;

/// What a client saw of its exchange.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// A whole answer: its status, the exchange that it names, and the hash of its body.
    Whole(u16, Option<u64>, Hash),
    /// An error.
    Broken(String),
    /// Nothing, for the client left.
    Left,
}

/// What stands in the ledgers of one exchange.
#[derive(Debug, Default)]
struct Line {
    plan: Option<Plan>,
    seen: Option<Seen>,
    /// Whole uploads as they arrived.
    arrived: Vec<Hash>,
}

/// Both ledgers.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<HashMap<u64, Line>>);

/// What the ledgers say.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) exchanges: usize,
    pub(crate) whole: usize,
    /// Broken as they were to be.
    pub(crate) broken: usize,
    pub(crate) left: usize,
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Bodies that came as whole ones and are others than were sent.
    pub(crate) differ: Vec<String>,
    /// Answers to another request.
    pub(crate) crossed: Vec<String>,
    /// Errors without a cause.
    pub(crate) unexplained: Vec<String>,
}

impl Ledger {
    pub(crate) fn arrived(&self, id: u64, hash: Hash) {
        self.0.lock().unwrap().entry(id).or_default().arrived.push(hash);
    }

    /// Exchanges that are about to begin.
    pub(crate) fn begun(&self, plans: &[Plan]) {
        let mut lines = self.0.lock().unwrap();
        for plan in plans {
            lines.entry(plan.id).or_default().plan = Some(*plan);
        }
    }

    pub(crate) fn seen(&self, plan: Plan, seen: Seen) {
        let mut lines = self.0.lock().unwrap();
        let line = lines.entry(plan.id).or_default();
        (line.plan, line.seen) = (Some(plan), Some(seen));
    }

    /// Lays them beside each other.
    pub(crate) fn compare(&self) -> Figures {
        let mut figures = Figures::default();
        let lines = self.0.lock().unwrap();
        let mut lines: Vec<_> = lines.iter().collect();
        lines.sort_unstable_by_key(|(id, _)| **id);
        for (id, line) in lines {
            match (&line.plan, &line.seen) {
                (Some(plan), Some(seen)) => figures.weigh(plan, seen, &line.arrived),
                // What stands behind one that ended its connection was never sent.
                (Some(_), None) if line.arrived.is_empty() => {}
                (Some(plan), None) => figures.unexplained.push(format!("it never ended: {plan:?}")),
                (None, _) => figures.crossed.push(format!("{id}: it arrived, and nobody sent it")),
            }
        }
        figures
    }
}

impl Figures {
    fn weigh(&mut self, plan: &Plan, seen: &Seen, arrived: &[Hash]) {
        self.exchanges += 1;
        let sent = Body::of(plan.id, Which::Up, plan.up.unwrap_or(0)).hash();
        for come in arrived.iter().filter(|come| **come != sent) {
            self.differ
                .push(format!("{} of {} bytes arrived as all: {plan:?}", come.0, sent.0));
        }
        self.up += arrived.iter().map(|come| come.0 as u64).sum::<u64>();
        match seen {
            Seen::Whole(200, id, hash) => {
                self.whole += 1;
                self.down += hash.0 as u64;
                let given = Body::of(plan.id, Which::Down, plan.down).hash();
                if *id != Some(plan.id) {
                    self.crossed.push(format!("the answer to {id:?} came: {plan:?}"));
                } else if *hash != given {
                    self.differ
                        .push(format!("{} of {} bytes came as all: {plan:?}", hash.0, given.0));
                } else if arrived.is_empty() {
                    self.differ
                        .push(format!("answered, and nothing whole arrived: {plan:?}"));
                }
            }
            Seen::Whole(status, ..) if plan.is_faultless() => {
                self.unexplained.push(format!("answered {status}: {plan:?}"));
            }
            Seen::Broken(why) if plan.is_faultless() => self.unexplained.push(format!("{why}: {plan:?}")),
            Seen::Whole(..) | Seen::Broken(_) => self.broken += 1,
            Seen::Left => self.left += 1,
        }
    }

    /// Whether every byte arrived, or an error told that it did not.
    pub(crate) fn are_right(&self) -> bool {
        self.differ.is_empty() && self.crossed.is_empty() && self.unexplained.is_empty()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| exchanges | {} |", self.exchanges)?;
        writeln!(f, "| answered as a whole | {} |", self.whole)?;
        writeln!(f, "| broken on purpose, and seen to be | {} |", self.broken)?;
        writeln!(f, "| left or reset by their clients | {} |", self.left)?;
        let (up, down) = (self.up as f64 / 1e9, self.down as f64 / 1e9);
        writeln!(f, "| GB up, down | {up:.2}, {down:.2} |")?;
        writeln!(f, "| bodies that differ without an error | {} |", self.differ.len())?;
        writeln!(f, "| crossed answers | {} |", self.crossed.len())?;
        writeln!(f, "| errors without a cause | {} |", self.unexplained.len())?;
        for (what, all) in [
            ("differs", &self.differ),
            ("crossed", &self.crossed),
            ("no cause", &self.unexplained),
        ] {
            for one in all.iter().take(10) {
                writeln!(f, "{what}: {one}")?;
            }
        }
        Ok(())
    }
}
