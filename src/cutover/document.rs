//! A cutover as it is written: in the admin API's answers, in reports, and in the file that outlives the process. Times are times of day, RFC 3339.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::counted::TallyDoc;
use crate::clock::Clock;
use crate::gate::cutover::{Clocks, Cutover, Done, Entry, Gate, Phase, Plan, Record, Step, Verdict};
use crate::gate::direction::{Split, Traffic};
use crate::gate::names::PoolName;

/// All that is kept of one name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RecordDoc {
    /// Grows by one with every change.
    pub epoch: u64,
    /// The pool that takes traffic.
    pub active: String,
    /// Whether requests are sent on.
    pub traffic: TrafficDoc,
    /// The cutover under way, or the last one.
    pub cutover: Option<CutoverDoc>,
    /// Commands that were carried out with a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<DoneDoc>,
}

/// Whether requests are sent on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TrafficDoc {
    /// `run`, `pause` or `stop`.
    pub state: String,
    /// What users read while it is stopped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A command that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DoneDoc {
    /// Its key.
    pub key: String,
    /// What it asked for.
    pub asked: String,
    /// The epoch that it led to.
    pub epoch: u64,
}

/// One cutover.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CutoverDoc {
    /// Names it.
    pub id: u64,
    /// The pool that users come from.
    pub from: String,
    /// The pool that they go to.
    pub to: String,
    /// Where it stands.
    pub phase: String,
    /// Since when.
    pub since: String,
    /// When it started.
    pub started: String,
    /// Who started it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The new pool's share of new requests.
    pub percent: u32,
    /// The position of its step while it is shifting.
    pub step: usize,
    /// How it goes.
    pub plan: PlanDoc,
    /// When its gates were asked first.
    pub verifying_since: Option<String>,
    /// When the old pool got its last new request.
    pub flipped: Option<String>,
    /// Since when a person holds it.
    pub paused: Option<String>,
    /// How often the bake was made longer.
    pub extensions: u32,
    /// Whether the drain was made longer.
    pub drain_extended: bool,
    /// When what the old pool still serves is cut, unless it never is.
    pub drain_ends: Option<String>,
    /// Until when the old pool stays ready to take over.
    pub hold_ends: Option<String>,
    /// When the old pool had nothing left.
    pub drained: Option<String>,
    /// When what it still served was cut.
    pub cut: Option<String>,
    /// Whether the old pool need not stay ready.
    pub released: bool,
    /// The phase in which it froze.
    pub frozen_from: Option<String>,
    /// What the old pool did in the hour before anything moved.
    #[serde(default)]
    pub baseline: TallyDoc,
    /// What happened, oldest first.
    pub log: Vec<EntryDoc>,
}

/// How a cutover goes; times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PlanDoc {
    /// The version that every endpoint must name.
    pub expect_version: Option<String>,
    /// Whether it goes on by itself once it is ready.
    pub auto: bool,
    /// Shares on the way.
    pub steps: Vec<StepDoc>,
    /// `cookie`, `request`, or `header:` and a name.
    pub split: String,
    /// `compatible` or `barrier`.
    pub migration: String,
    /// Until every endpoint has passed once.
    pub prepare_ms: u64,
    /// Until every gate passes.
    pub verify_ms: u64,
    /// Until it is promoted.
    pub ready_ms: u64,
    /// Of the bake.
    pub bake_ms: u64,
    /// Of the old pool's readiness.
    pub hold_ms: u64,
    /// Of the drain.
    pub drain_ms: u64,
    /// Whether what is left then is cut.
    pub cut: bool,
    /// Probes in a row.
    pub rise: u32,
    /// Fewer samples judge nobody.
    pub min_samples: u64,
}

/// A share on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct StepDoc {
    /// Of a hundred new requests.
    pub percent: u32,
    /// How long, in milliseconds.
    pub hold_ms: u64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct EntryDoc {
    /// When.
    pub at: String,
    /// The phase that it led to.
    pub phase: String,
    /// The new pool's share from then on.
    pub percent: u32,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
    /// What was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<GateDoc>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct GateDoc {
    /// What it is about.
    pub name: String,
    /// `pass`, `inconclusive` or `fail`.
    pub verdict: String,
    /// What was measured.
    pub detail: String,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Gate> for GateDoc {
    fn from(gate: &Gate) -> Self {
        Self {
            name: gate.name.clone(),
            verdict: gate.verdict.to_string(),
            detail: gate.detail.clone(),
        }
    }
}

impl From<&Traffic> for TrafficDoc {
    fn from(traffic: &Traffic) -> Self {
        Self {
            state: traffic.as_str().to_owned(),
            message: match traffic {
                Traffic::Stop { message } => message.clone(),
                Traffic::Run | Traffic::Pause => String::new(),
            },
        }
    }
}

impl RecordDoc {
    /// A record in writing.
    pub fn of(record: &Record, clock: &Clock) -> Self {
        let done = record.done.iter().map(|done| DoneDoc {
            key: done.key.clone(),
            asked: done.asked.clone(),
            epoch: done.epoch,
        });
        Self {
            epoch: record.epoch,
            active: record.active.to_string(),
            traffic: (&record.traffic).into(),
            cutover: record.cutover.as_ref().map(|cutover| CutoverDoc::of(cutover, clock)),
            done: done.collect(),
        }
    }

    /// The record that was written.
    ///
    /// # Errors
    /// It says something that means nothing here; the message says what.
    pub fn read(self, clock: &Clock) -> Result<Record, String> {
        let done = self.done.into_iter().map(|done| Done {
            key: done.key,
            asked: done.asked,
            epoch: done.epoch,
        });
        Ok(Record {
            epoch: self.epoch,
            active: PoolName::new(&self.active),
            traffic: self.traffic.read()?,
            cutover: self.cutover.map(|cutover| cutover.read(clock)).transpose()?,
            done: done.collect(),
        })
    }
}

impl TrafficDoc {
    /// What was written.
    ///
    /// # Errors
    /// It is no word for it.
    pub fn read(self) -> Result<Traffic, String> {
        match self.state.as_str() {
            "run" => Ok(Traffic::Run),
            "pause" => Ok(Traffic::Pause),
            "stop" => Ok(Traffic::Stop { message: self.message }),
            other => Err(format!("traffic is \"{other}\"; it is run, pause or stop")),
        }
    }
}

impl CutoverDoc {
    fn of(cutover: &Cutover, clock: &Clock) -> Self {
        let tell = |at: Option<Instant>| at.map(|at| clock.tell(at));
        Self {
            id: cutover.id,
            from: cutover.from.to_string(),
            to: cutover.to.to_string(),
            phase: cutover.phase.to_string(),
            since: clock.tell(cutover.entered),
            started: clock.tell(cutover.started),
            by: cutover.by.clone(),
            reason: cutover.reason.clone(),
            percent: cutover.percent,
            step: cutover.step,
            plan: PlanDoc::of(&cutover.plan),
            verifying_since: tell(cutover.verifying),
            flipped: tell(cutover.flipped),
            paused: tell(cutover.paused),
            extensions: cutover.extensions,
            drain_extended: cutover.drain_extended,
            drain_ends: tell(cutover.drain_ends().filter(|_| cutover.plan.cut)),
            hold_ends: tell(cutover.hold_ends()),
            drained: tell(cutover.drained),
            cut: tell(cutover.cut),
            released: cutover.released,
            frozen_from: cutover.frozen_from.map(|phase| phase.to_string()),
            baseline: (&cutover.baseline).into(),
            log: cutover.log.iter().map(|entry| EntryDoc::of(entry, clock)).collect(),
        }
    }

    fn read(self, clock: &Clock) -> Result<Cutover, String> {
        let hear = |text: &str| clock.hear(text).ok_or_else(|| format!("\"{text}\" is no time"));
        let maybe = |text: Option<String>| text.map(|text| hear(&text)).transpose();
        let log: Result<_, String> = self.log.into_iter().map(|entry| entry.read(clock)).collect();
        Ok(Cutover {
            id: self.id,
            from: PoolName::new(&self.from),
            to: PoolName::new(&self.to),
            plan: self.plan.read()?,
            by: self.by,
            reason: self.reason,
            phase: phase(&self.phase)?,
            entered: hear(&self.since)?,
            started: hear(&self.started)?,
            verifying: maybe(self.verifying_since)?,
            step: self.step,
            percent: self.percent,
            flipped: maybe(self.flipped)?,
            paused: maybe(self.paused)?,
            extensions: self.extensions,
            drain_extended: self.drain_extended,
            drained: maybe(self.drained)?,
            cut: maybe(self.cut)?,
            released: self.released,
            frozen_from: self.frozen_from.as_deref().map(phase).transpose()?,
            baseline: self.baseline.into(),
            log: log?,
        })
    }
}

fn phase(word: &str) -> Result<Phase, String> {
    Phase::parse(word).ok_or_else(|| format!("\"{word}\" is no phase of a cutover"))
}

impl PlanDoc {
    fn of(plan: &Plan) -> Self {
        let clocks = &plan.clocks;
        Self {
            expect_version: plan.expect_version.clone(),
            auto: plan.auto,
            steps: plan.steps.iter().map(StepDoc::of).collect(),
            split: match &plan.split {
                Split::Cookie => "cookie".to_owned(),
                Split::Request => "request".to_owned(),
                Split::Header(name) => format!("header:{name}"),
            },
            migration: if plan.barrier { "barrier" } else { "compatible" }.to_owned(),
            prepare_ms: millis(clocks.prepare),
            verify_ms: millis(clocks.verify),
            ready_ms: millis(clocks.ready),
            bake_ms: millis(clocks.bake),
            hold_ms: millis(clocks.hold),
            drain_ms: millis(clocks.drain),
            cut: plan.cut,
            rise: plan.rise,
            min_samples: plan.min_samples,
        }
    }

    fn read(self) -> Result<Plan, String> {
        let time = Duration::from_millis;
        Ok(Plan {
            expect_version: self.expect_version,
            auto: self.auto,
            steps: self.steps.iter().map(StepDoc::read).collect(),
            split: split(&self.split)?,
            barrier: self.migration == "barrier",
            clocks: Clocks {
                prepare: time(self.prepare_ms),
                verify: time(self.verify_ms),
                ready: time(self.ready_ms),
                bake: time(self.bake_ms),
                hold: time(self.hold_ms),
                drain: time(self.drain_ms),
            },
            cut: self.cut,
            rise: self.rise,
            min_samples: self.min_samples,
        })
    }
}

fn split(text: &str) -> Result<Split, String> {
    match (text, text.strip_prefix("header:")) {
        ("cookie", _) => Ok(Split::Cookie),
        ("request", _) => Ok(Split::Request),
        (_, Some(name)) if !name.is_empty() => Ok(Split::Header(name.to_owned())),
        _ => Err(format!("split is \"{text}\"; it is cookie, request or header:NAME")),
    }
}

impl StepDoc {
    fn of(step: &Step) -> Self {
        Self {
            percent: step.percent,
            hold_ms: millis(step.hold),
        }
    }

    fn read(&self) -> Step {
        Step {
            percent: self.percent,
            hold: Duration::from_millis(self.hold_ms),
        }
    }
}

impl EntryDoc {
    fn of(entry: &Entry, clock: &Clock) -> Self {
        Self {
            at: clock.tell(entry.at),
            phase: entry.phase.to_string(),
            percent: entry.percent,
            by: entry.by.clone(),
            why: entry.why.clone(),
            evidence: entry.evidence.iter().map(GateDoc::from).collect(),
        }
    }

    fn read(self, clock: &Clock) -> Result<Entry, String> {
        let evidence: Result<_, String> = self.evidence.into_iter().map(GateDoc::read).collect();
        Ok(Entry {
            at: clock
                .hear(&self.at)
                .ok_or_else(|| format!("\"{}\" is no time", self.at))?,
            phase: phase(&self.phase)?,
            percent: self.percent,
            by: self.by,
            why: self.why,
            evidence: evidence?,
        })
    }
}

impl GateDoc {
    fn read(self) -> Result<Gate, String> {
        let verdict = Verdict::parse(&self.verdict);
        Ok(Gate {
            name: self.name,
            verdict: verdict.ok_or_else(|| format!("\"{}\" is no verdict", self.verdict))?,
            detail: self.detail,
        })
    }
}
