//! Moving users from one pool to another: the machine that decides when, and when to go back.
//!
//! ```text
//!            start              every gate passes          promoted              last step
//! STEADY ------------> PREPARING ------> VERIFYING ---> READY ---------> SHIFTING ---------> BAKING
//!   ^                      |                 |            |                 |                  |  the bake is good
//!   |                      v                 v            v                 v                  v
//!   |                    FAILED <------------+------------+           ROLLING_BACK <---+  COMMITTED: the old pool
//!   |                      |                                                |          |  drains and stays ready
//!   +---- next start ------+-------------- ROLLED_BACK <--------------------+          +-------+
//!   +----------------------------------------- RETIRED <--- drained, and the hold is over -----+
//! FROZEN: from SHIFTING and BAKING where only a person can decide; left by a verb alone.
//! ```
//!
//! It performs nothing. A [`Record`] is what is known of one name, an upstream or a deployment. [`Record::advance`] returns the record after the next
//! step that is due by itself, [`Record::command`] the one after an operator's verb. Whoever calls stores the new record before anything else sees
//! it, so no step is entered that a crash could lose. Time is an argument.
//!
//! Rules:
//! - **A gate passes by evidence alone**: what could not be measured is inconclusive, and no traffic is never a pass.
//! - **Gates are asked again at the flip**, not remembered.
//! - **One automatic way back**: a cutover that was rolled back is over, and nothing goes forward again by itself.
//! - **The table of states and verbs is total**: every verb has a defined outcome in every state.
//! - **Each record is one epoch further than the last.**

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::direction::{Direction, Share, Traffic};
use super::names::PoolName;
use triggers::Tally;

mod advance;
pub mod bake;
mod command;
pub mod gates;
mod plan;
pub mod triggers;

pub use command::{Refusal, RefusalKind, Start, Verb};
pub use gates::{EndpointSeen, Gate, Verdict};
pub use plan::{Clocks, Plan, Step};

/// Where a cutover stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// None has ever been started.
    Steady,
    /// Every endpoint of the new pool is to pass its probes once.
    Preparing,
    /// Every gate is to pass.
    Verifying,
    /// It could go on, and waits for somebody to say so.
    Ready,
    /// The new pool takes a share of the new requests.
    Shifting,
    /// The new pool takes all of them, and is watched.
    Baking,
    /// The new pool is trusted. The old one drains and could still take over.
    Committed,
    /// The old pool is free to be removed.
    Retired,
    /// It came to nothing before anything moved.
    Failed,
    /// The old pool takes everything back.
    RollingBack,
    /// The old pool has taken everything back.
    RolledBack,
    /// It stays as it is until a person decides.
    Frozen,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Steady,
        Self::Preparing,
        Self::Verifying,
        Self::Ready,
        Self::Shifting,
        Self::Baking,
        Self::Committed,
        Self::Retired,
        Self::Failed,
        Self::RollingBack,
        Self::RolledBack,
        Self::Frozen,
    ];

    /// The stable word for the API, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Preparing => "preparing",
            Self::Verifying => "verifying",
            Self::Ready => "ready",
            Self::Shifting => "shifting",
            Self::Baking => "baking",
            Self::Committed => "committed",
            Self::Retired => "retired",
            Self::Failed => "failed",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
            Self::Frozen => "frozen",
        }
    }

    /// The phase of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == word)
    }

    /// Whether no cutover is under way: another one may start.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Steady | Self::Retired | Self::Failed | Self::RolledBack)
    }

    /// Whether nothing has been moved yet.
    pub fn is_before_the_flip(self) -> bool {
        matches!(self, Self::Preparing | Self::Verifying | Self::Ready)
    }

    /// Whether the new pool is watched for reasons to go back.
    pub fn is_watched(self) -> bool {
        matches!(self, Self::Shifting | Self::Baking)
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often a bake without a verdict is made longer before a person has to decide.
pub const EXTENSIONS: u32 = 2;

/// Steps that a record remembers of a cutover; the oldest go first.
const REMEMBERED: usize = 64;

/// Keys of commands that a record remembers: more than could be repeated at one time.
const KEYS: usize = 32;

/// One cutover, under way or over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutover {
    /// Names it; the epoch in which it started.
    pub id: u64,
    /// The pool that users come from.
    pub from: PoolName,
    /// The pool that they go to.
    pub to: PoolName,
    /// How it goes.
    pub plan: Plan,
    /// Who started it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub entered: Instant,
    /// When it started.
    pub started: Instant,
    /// When its gates were asked first; the clock for them is not wound again.
    pub verifying: Option<Instant>,
    /// The position of its step while it is shifting.
    pub step: usize,
    /// The new pool's share of new requests at present.
    pub percent: u32,
    /// When the old pool got its last new request, once it has.
    pub flipped: Option<Instant>,
    /// Since when a person holds it.
    pub paused: Option<Instant>,
    /// How often the bake was made longer.
    pub extensions: u32,
    /// Whether the drain was made longer for streams that were alive.
    pub drain_extended: bool,
    /// When the old pool had nothing left.
    pub drained: Option<Instant>,
    /// When what it still served was cut.
    pub cut: Option<Instant>,
    /// Whether the old pool need not stay ready.
    pub released: bool,
    /// The phase in which it froze.
    pub frozen_from: Option<Phase>,
    /// What the old pool did in the hour before anything moved, which the new one is held against.
    pub baseline: Tally,
    /// What happened, oldest first.
    pub log: VecDeque<Entry>,
}

/// One step of a cutover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// The phase that it led to.
    pub phase: Phase,
    /// The new pool's share from then on.
    pub percent: u32,
    /// Who: a person's name, or `gate`.
    pub by: String,
    /// Why, in words.
    pub why: String,
    /// What was measured.
    pub evidence: Vec<Gate>,
}

/// A command that was carried out, so that its repetition is answered and not carried out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The key that it came with.
    pub key: String,
    /// What it asked for.
    pub asked: String,
    /// The epoch that it led to.
    pub epoch: u64,
}

/// All that is kept of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Grows by one with every change.
    pub epoch: u64,
    /// The pool that takes traffic.
    pub active: PoolName,
    /// Whether requests are sent on.
    pub traffic: Traffic,
    /// The cutover under way, or the last one.
    pub cutover: Option<Cutover>,
    /// Commands that were carried out with a key.
    pub done: VecDeque<Done>,
}

/// The gate's own name where it acts by itself.
pub const GATE: &str = "gate";

/// What is seen at one moment by whoever carries cutovers out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The new pool's gates.
    pub gates: Vec<Gate>,
    /// Reasons to go back; `Fail` is one.
    pub triggers: Vec<Gate>,
    /// Whether every endpoint of the new pool has passed its probes once.
    pub prepared: bool,
    /// Endpoints of the old pool that are fit.
    pub old_fit: usize,
    /// Requests that the old pool still serves.
    pub old_in_flight: u32,
    /// Whether one of them had a byte a moment ago.
    pub old_alive: bool,
    /// What the bake comes to so far.
    pub bake: Gate,
    /// What the old pool did in the last hour.
    pub usual: Tally,
}

impl Record {
    /// The record of a name of which nothing was kept.
    pub fn new(active: PoolName) -> Self {
        Self {
            epoch: 0,
            active,
            traffic: Traffic::Run,
            cutover: None,
            done: VecDeque::new(),
        }
    }

    /// Where its cutover stands.
    pub fn phase(&self) -> Phase {
        self.cutover.as_ref().map_or(Phase::Steady, |cutover| cutover.phase)
    }

    /// Where requests of a deployment go, whose record this is. While the new pool is watched, and for what it began before it was left again, the old one stands by, unless it cannot live
    /// with what the new one wrote.
    pub fn direction(&self, deployment: &str) -> Direction {
        let cutover = self.cutover.as_ref();
        let shares = cutover.filter(|cutover| (1..100).contains(&cutover.percent));
        let is_left = |phase| matches!(phase, Phase::RollingBack | Phase::RolledBack);
        let stands_by = |cutover: &&Cutover| cutover.phase.is_watched() || is_left(cutover.phase);
        let spare = cutover.filter(stands_by).filter(|cutover| !cutover.plan.barrier);
        Direction {
            active: self.active.clone(),
            share: shares.map(|cutover| Share {
                pool: cutover.to.clone(),
                percent: cutover.percent,
                split: cutover.plan.split.clone(),
                deployment: deployment.to_owned(),
                cutover: cutover.id,
            }),
            spare: spare.map(|cutover| cutover.from.clone()),
            traffic: self.traffic.clone(),
        }
    }

    /// Remembers a command that led to this record.
    #[must_use]
    pub fn remembering(mut self, key: &str, asked: &str) -> Self {
        if self.done.len() == KEYS {
            self.done.pop_front();
        }
        self.done.push_back(Done {
            key: key.to_owned(),
            asked: asked.to_owned(),
            epoch: self.epoch,
        });
        self
    }

    /// The record one epoch further with this cutover in it.
    fn with(&self, cutover: Cutover) -> Self {
        Self {
            epoch: self.epoch + 1,
            active: if cutover.percent == 100 {
                cutover.to.clone()
            } else {
                cutover.from.clone()
            },
            cutover: Some(cutover),
            ..self.clone()
        }
    }
}

/// A phase of a cutover in which the new pool is watched. What is measured in one says nothing of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The cutover's id.
    pub cutover: u64,
    /// [`Phase::Shifting`] or [`Phase::Baking`].
    pub phase: Phase,
}

impl Cutover {
    /// The stage it is in; none while the new pool is not watched.
    pub fn stage(&self) -> Option<Stage> {
        self.phase.is_watched().then_some(Stage {
            cutover: self.id,
            phase: self.phase,
        })
    }

    /// Enters a phase, and remembers why.
    fn enter(mut self, phase: Phase, by: &str, why: impl Into<String>, evidence: Vec<Gate>, now: Instant) -> Self {
        self.let_go(now);
        self.phase = phase;
        self.entered = now;
        self.note(by, why, evidence, now)
    }

    /// Remembers something that happened within a phase.
    fn note(mut self, by: &str, why: impl Into<String>, evidence: Vec<Gate>, now: Instant) -> Self {
        if self.log.len() == REMEMBERED {
            self.log.pop_front();
        }
        self.log.push_back(Entry {
            at: now,
            phase: self.phase,
            percent: self.percent,
            by: by.to_owned(),
            why: why.into(),
            evidence,
        });
        self
    }

    /// Gives the new pool this share of new requests.
    fn share(mut self, percent: u32, now: Instant) -> Self {
        self.percent = percent;
        self.flipped = match (percent, self.flipped) {
            (100, before) => before.or(Some(now)),
            _ => None,
        };
        self
    }

    /// Nobody holds it any more: its clocks go on from where they stood.
    fn let_go(&mut self, now: Instant) {
        let Some(since) = self.paused.take() else { return };
        let held = now.saturating_duration_since(since);
        let clocks = [Some(&mut self.entered), self.verifying.as_mut(), self.flipped.as_mut()];
        for clock in clocks.into_iter().flatten().filter(|clock| **clock <= since) {
            *clock += held;
        }
    }

    /// How long it has been in its phase; while a person holds it, no time passes.
    fn spent(&self, now: Instant) -> Duration {
        self.paused.unwrap_or(now).saturating_duration_since(self.entered)
    }

    /// When the drain of the old pool ends.
    pub fn drain_ends(&self) -> Option<Instant> {
        let drain = self.plan.clocks.drain;
        let longer = if self.drain_extended { drain / 4 } else { Duration::ZERO };
        self.flipped.map(|flipped| flipped + drain + longer)
    }

    /// When the old pool need not stay ready any more.
    pub fn hold_ends(&self) -> Option<Instant> {
        (self.phase == Phase::Committed).then(|| self.entered + self.plan.clocks.hold)
    }

    /// The pool that users leave or have left, as it stands: the new one where they went back.
    pub fn leaving(&self) -> &PoolName {
        if matches!(self.phase, Phase::RolledBack | Phase::Failed) {
            &self.to
        } else {
            &self.from
        }
    }
}
