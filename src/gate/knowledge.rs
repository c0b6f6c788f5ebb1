//! What the keeper knows of endpoints, asks them, and hands to its owner.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::capacity::Capacity;
use super::components::ComponentRules;
use super::dependencies::Dependencies;
use super::flapping::{FlapRules, Flapping};
use super::health::{FailureClass, Health, Outcome, ProbePlan};
use super::latency::{SLOW_SHARE, Slowness};
use super::names::EndpointId;
use super::overrides::{Override, Wish};
use super::passive::{Outlier, Passive, Standing, TrafficFailure};
use super::ramp::{Ramp, SlowStart};
use super::state::{Cause, Event, State, Tier};
use super::window::Window;

/// Probes of an endpoint that are remembered for `explain`.
pub(super) const HISTORY: usize = 20;

/// One endpoint and what it is to be asked.
#[derive(Clone, Debug)]
pub struct EndpointPlan {
    /// Whose plan it is.
    pub id: EndpointId,
    /// Its probes, all of which must pass; never empty.
    pub probes: Vec<Arc<ProbePlan>>,
    /// What else decides about it.
    pub terms: Arc<Terms>,
}

/// What decides about the endpoints of an upstream beside their probes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// What a failing component means.
    pub components: ComponentRules,
    /// What live traffic may do.
    pub outlier: Outlier,
    /// How an endpoint comes back.
    pub slow_start: SlowStart,
    /// When it comes and goes too often.
    pub flapping: FlapRules,
}

slotmap::new_key_type! {
    /// An endpoint's number within the keeper. It is never given again: what was said of an endpoint that has gone is said of nobody.
    pub struct Slot;
}

/// One question put to one endpoint; its answer comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// The endpoint.
    pub slot: Slot,
    /// Which of its probes.
    pub probe: usize,
    pub(super) sequence: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this probe.
    Probe(Ticket),
    /// Tell of a change; routable endpoints may be others than before.
    Announce(Slot, Event),
    /// Publish anew: the state has not changed, but a trial has begun or ended.
    Publish(Slot),
    /// Publish anew within a moment: a share has grown.
    Grow(Slot),
    /// Tell that a dependency which a pool shares fails, or does no longer.
    Shared {
        /// An endpoint of the pool.
        at: EndpointId,
        /// The component.
        component: String,
        /// Whether it fails.
        failing: bool,
    },
    /// Tell that an endpoint was not ejected.
    Spare(EndpointId, TrafficFailure, Spared),
    /// Tell that an endpoint answers much later than the others, by its own time and their median in milliseconds, or does no longer.
    Slow(EndpointId, Option<(u32, u32)>),
    /// Tell that an endpoint comes and goes too often, and is held down for a while.
    Flaps(EndpointId),
}

/// Why an endpoint was not ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// Too many are out already, or it is the last.
    TooFew,
    /// The others fail as often.
    LikeTheOthers,
}

/// What a probe found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The verdict on this one answer.
    pub outcome: Outcome,
    /// The status, where an answer came.
    pub status: Option<u16>,
    /// Components that the body names, and whether each is well.
    pub components: BTreeMap<String, bool>,
    /// The components for which it fails: those that `failed` lists or, in an answer without that list, those that `details` calls false.
    pub failed: Vec<String>,
    /// The version that the endpoint says it runs.
    pub version: Option<String>,
    /// The socket address that was asked, once the name was resolved.
    pub asked: Option<SocketAddr>,
    /// How long its parts took.
    pub phases: Phases,
}

/// How long the parts of a probe took, each from the start of the probe; `None` for what was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Until the name was resolved; at once for an IP literal.
    pub resolved: Option<Duration>,
    /// Until the connection stood.
    pub connected: Option<Duration>,
    /// Until the TLS handshake was done.
    pub secured: Option<Duration>,
    /// Until the headers were there.
    pub headers: Option<Duration>,
    /// Until the verdict.
    pub total: Duration,
}

/// A probe that was answered.
#[derive(Clone, Debug)]
pub struct ProbeRecord {
    /// The probe's name.
    pub probe: Arc<str>,
    /// When the answer was there.
    pub at: Instant,
    /// What it said.
    pub report: Arc<ProbeReport>,
}

/// All that is known about one endpoint.
#[derive(Clone, Debug)]
pub struct Known {
    /// Which endpoint.
    pub id: EndpointId,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why.
    pub cause: Cause,
    /// The address that passed a probe last, or was asked last while none has.
    pub socket: Option<SocketAddr>,
    /// The latest word on each component.
    pub components: BTreeMap<String, bool>,
    /// The latest version.
    pub version: Option<String>,
    /// The last probes, oldest first.
    pub history: VecDeque<ProbeRecord>,
    /// Each probe's plan and verdict.
    pub verdicts: Vec<(Arc<ProbePlan>, Health)>,
    /// What its traffic says.
    pub passive: Passive,
    /// What else decides about it.
    pub terms: Arc<Terms>,
    /// Components that fail for its whole pool.
    pub shared: BTreeSet<String>,
    /// The components that its probes call failed.
    pub dependencies: Dependencies,
    /// Whether its last answer named only failed components that it can do without.
    pub degraded: bool,
    /// Whether it had no room or no time for its last probe.
    pub busy: bool,
    /// The position of a probe that is overdue and usually answered at once, while no answer to it has decided yet what that means.
    pub late: Option<usize>,
    /// How much it takes on.
    pub capacity: Capacity,
    /// Whether it answers much later than the others.
    pub slowness: Slowness,
    /// Until when it asked to be spared.
    pub sheds: Option<Instant>,
    /// Its return, while that is under way.
    pub ramp: Option<Ramp>,
    /// The operator's word on it.
    pub overridden: Option<Override>,
    /// What its latest requests say.
    pub window: Window,
    /// How often it came and went.
    pub flapping: Flapping,
    /// When its turn is to come back, while it waits for it.
    pub turn: Option<Instant>,
    /// Whether it is down only because it flaps or waits for its turn, while its probes pass.
    pub reserve: bool,
    /// Whether it came to a pool that was already serving, so that its first pass is a return.
    pub newcomer: bool,
}

impl Known {
    /// Where it stands by all that is known and wanted.
    pub(super) fn verdict(&self) -> State {
        match &self.overridden {
            Some(overridden) => overridden.wish.state(),
            None => self.evidence(),
        }
    }

    /// Where it stands by its witnesses.
    fn evidence(&self) -> State {
        let worst = self.verdicts.iter().map(|(_, health)| State::from(*health)).max();
        match (worst.unwrap_or(State::Unknown), self.passive.standing()) {
            (State::Up, Standing::Suspect { .. }) => State::Suspect,
            (State::Up, Standing::Ejected { .. } | Standing::OnTrial { .. }) => State::Ejected,
            (State::Up, Standing::Clear) if self.late.is_some() => State::Suspect,
            (State::Up, Standing::Clear) if self.busy || self.sheds.is_some() => State::Busy,
            (State::Up, Standing::Clear) if self.degraded => State::Degraded,
            (State::Up, Standing::Clear) if self.ramp.is_some() => State::Ramping,
            (state, _) => state,
        }
    }

    /// Whether one of its probes says that it is down.
    pub(super) fn is_down(&self) -> bool {
        let mut verdicts = self.verdicts.iter();
        verdicts.any(|(_, health)| matches!(health, Health::Down { .. }))
    }

    /// Whether a probe asked the endpoint itself and not a service at another port: only such a probe takes one of its places.
    pub(super) fn is_asked_itself(&self, report: &ProbeReport) -> bool {
        report.asked.is_none_or(|asked| asked.port() == self.id.address.port())
    }

    /// The latest answer to the probe of this name.
    pub fn last_of(&self, probe: &str) -> Option<&ProbeRecord> {
        self.history.iter().rev().find(|record| &*record.probe == probe)
    }

    /// Whether the operator works on it, so that it is not asked.
    pub(super) fn is_maintained(&self) -> bool {
        self.overridden.as_ref().is_some_and(|word| word.wish == Wish::Maintain)
    }

    /// Among which endpoints it is chosen; `None`: never. A reserve serves where the better ones are empty, and takes what has failed on them.
    pub fn tier(&self) -> Option<Tier> {
        self.state.tier().or(self.reserve.then_some(Tier::Accused))
    }

    /// Its share at `now`, in percent of its weight.
    pub fn share(&self, now: Instant) -> u32 {
        let share = self.ramp.map_or(100, |ramp| ramp.share(now));
        if self.slowness.is_slow() {
            share.min(SLOW_SHARE)
        } else {
            share
        }
    }

    /// Whether it says itself that it is not fit: it is neither silent nor excused by a dependency that its pool shares.
    pub fn refuses(&self) -> bool {
        let silent = matches!(&self.cause, Cause::Failed { class, .. } if *class == FailureClass::Timeout);
        self.shared.is_empty() && !silent
    }

    /// Whether connections wait for room in its queue, the last probe's among them. A server that refuses what is beyond its limit has no queue.
    pub fn keeps_waiting(&self) -> bool {
        self.busy && self.last_class() == Some(FailureClass::Timeout)
    }

    /// Whether it is full and refuses what is beyond its limit, as its last probe was. What it has taken in it answers.
    pub fn refuses_more(&self) -> bool {
        self.busy && self.last_class() == Some(FailureClass::Status)
    }

    /// How its last probe failed, if it did.
    fn last_class(&self) -> Option<FailureClass> {
        self.history.back()?.report.outcome.class()
    }

    /// Whether it lacks a dependency that fails for its whole pool.
    pub fn lacks_shared(&self, now: Instant) -> bool {
        let within = self.word_counts_for();
        self.shared
            .iter()
            .any(|name| self.dependencies.lacks(name, within, now))
    }

    /// The components that it lacks, by its latest answers.
    pub fn lacked(&self, now: Instant) -> impl Iterator<Item = &str> {
        self.dependencies.recent(self.word_counts_for(), now)
    }

    /// How long what it says of its components counts: three intervals of its slowest probe.
    pub(super) fn word_counts_for(&self) -> Duration {
        let intervals = self.verdicts.iter().map(|(plan, _)| plan.interval);
        intervals.max().unwrap_or_default() * 3
    }

    /// Whether it is to be tried with one request.
    pub fn wants_trial(&self) -> bool {
        self.state == State::Ejected && matches!(self.passive.standing(), Standing::OnTrial { .. })
    }
}
