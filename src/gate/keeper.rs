//! The keeper of all verdicts: what to probe and when, what the answers mean, and who may serve.
//!
//! It performs nothing. Its owner asks [`Keeper::poll_timeout`] when to come back, calls [`Keeper::handle_timeout`] then,
//! carries out what [`Keeper::poll_effect`] hands over, and returns each probe's answer to [`Keeper::handle_probe`] and each word of
//! live traffic to [`Keeper::handle_failure`], [`Keeper::handle_stall`] and [`Keeper::handle_trial`]. Time is an argument
//! everywhere, so hours of probing can be tested in a moment.
//!
//! Rules:
//! - **An endpoint is unroutable until every one of its probes has passed once.**
//! - **One endpoint delays nobody**: each has clocks of its own.
//! - **An answer to an older question moves nothing**: of two overlapping probes, the later one's word stands.
//! - **Every change of state is an event with a cause.**

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::components::Worth;
use super::flapping::Flapping;
use super::health::{FailureClass, Health, Outcome, ProbePlan};
use super::knowledge::HISTORY;
pub use super::knowledge::{
    Effect, EndpointPlan, Known, Phases, ProbeRecord, ProbeReport, Slot, Spared, Terms, Ticket,
};
use super::latency::Slowness;
use super::names::{PoolName, UpstreamName};
use super::passive::{Passive, Standing};
use super::ramp::{self, Ramp};
use super::schedule::{self, Dice};
use super::state::{Cause, Event, State};
use super::window::Window;

mod asking;
mod comeback;
mod dependency;
mod operator;
mod traffic;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Due {
        slot: Slot,
        probe: usize,
        cycle: u64,
    },
    Overlap(Ticket),
    /// The hold of an ejected endpoint ends.
    Hold(Slot),
    /// A returning endpoint's share grows.
    Ramp(Slot),
    /// The time of an operator's word is over.
    Override(Slot),
    /// It is an endpoint's turn to come back.
    Turn(Slot),
    /// The time for which an endpoint asked to be spared is over.
    Shed(Slot),
}

/// The clocks of one probe of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Track {
    /// Questions asked so far.
    asked: u64,
    /// The latest question that has been answered.
    answered: u64,
    /// Schedules made so far; a timer of an older one is void.
    cycle: u64,
    /// When the current cycle's question was put.
    started: Option<Instant>,
    /// The last wait of an endpoint that is down.
    wait: Duration,
    /// Whether the last answer said that the probe itself is wrong.
    misconfigured: bool,
    /// Whether its first answer has come, or nobody waits for it.
    heard: bool,
}

/// The endpoints of one pool, which are held against each other.
#[derive(Debug)]
struct Pool {
    name: (UpstreamName, PoolName),
    members: Vec<Slot>,
    /// When the last of them that was down came back, or will.
    turn: Option<Instant>,
}

/// See the module's own words.
#[derive(Debug)]
pub struct Keeper {
    known: Vec<Known>,
    tracks: Vec<Vec<Track>>,
    /// The pool of each endpoint, by its position in `pools`.
    seats: Vec<usize>,
    pools: Vec<Pool>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    effects: VecDeque<Effect>,
    /// Probes that have never been answered.
    unanswered: usize,
    dice: Dice,
    seed: u64,
}

impl Keeper {
    /// A keeper that knows nothing yet of `plans` and asks all of them as soon as it is let.
    pub fn new(plans: Vec<EndpointPlan>, seed: u64, now: Instant) -> Self {
        let mut keeper = Self {
            known: Vec::with_capacity(plans.len()),
            tracks: Vec::with_capacity(plans.len()),
            seats: Vec::with_capacity(plans.len()),
            pools: Vec::new(),
            timers: BinaryHeap::new(),
            effects: VecDeque::new(),
            unanswered: 0,
            dice: Dice::new(seed),
            seed,
        };
        for plan in plans {
            keeper.admit(plan, now);
        }
        keeper
    }

    fn admit(&mut self, plan: EndpointPlan, now: Instant) {
        let slot = Slot(self.known.len());
        let pool = self.pool_named((plan.id.upstream.clone(), plan.id.pool.clone()));
        self.seats.push(pool);
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.members.push(slot);
        }
        for (probe, terms) in plan.probes.iter().enumerate() {
            let timer = Timer::Due { slot, probe, cycle: 0 };
            let wave = schedule::WAVE * u32::try_from(slot.0 / schedule::AT_ONCE).unwrap_or(u32::MAX);
            self.timers.push(Reverse((now + terms.initial_delay + wave, timer)));
        }
        self.unanswered += plan.probes.len();
        self.tracks.push(vec![Track::default(); plan.probes.len()]);
        self.known.push(Known {
            socket: plan.id.address.literal(),
            id: plan.id,
            state: State::Unknown,
            since: now,
            cause: Cause::NotProbed,
            components: BTreeMap::new(),
            version: None,
            history: VecDeque::new(),
            verdicts: plan.probes.into_iter().map(|terms| (terms, Health::START)).collect(),
            terms: plan.terms,
            shared: BTreeSet::new(),
            degraded: false,
            passive: Passive::default(),
            busy: false,
            ramp: None,
            sheds: None,
            slowness: Slowness::default(),
            overridden: None,
            newcomer: false,
            window: Window::new(now),
            flapping: Flapping::default(),
            turn: None,
        });
    }

    /// The position of a pool, which is new if nobody has named it before.
    fn pool_named(&mut self, name: (UpstreamName, PoolName)) -> usize {
        // Endpoints come pool by pool, so it is the last one or a new one.
        if let Some(at) = self.pools.iter().rposition(|pool| pool.name == name) {
            return at;
        }
        self.pools.push(Pool {
            name,
            members: Vec::new(),
            turn: None,
        });
        self.pools.len() - 1
    }

    /// When [`Keeper::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// All that is known, in the order of the plans.
    pub fn known(&self) -> &[Known] {
        &self.known
    }

    /// Whether every endpoint has answered, or failed to, at least once.
    pub fn has_asked_everyone(&self) -> bool {
        self.unanswered == 0
    }

    /// Puts every question that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Due { slot, probe, cycle } => self.due(slot, probe, cycle, now),
                Timer::Overlap(ticket) => self.overlap(ticket, now),
                Timer::Hold(slot) => self.hold_ends(slot, now),
                Timer::Ramp(slot) => self.grow(slot, now),
                Timer::Override(slot) => self.override_ends(slot, now),
                Timer::Turn(slot) => self.settle(slot, Cause::Passed, now),
                Timer::Shed(slot) => self.shed_ends(slot, now),
            }
        }
    }

    /// Weighs an answer. `delivering` tells whether the endpoint's streams went on while it was asked.
    pub fn handle_probe(&mut self, ticket: Ticket, report: ProbeReport, delivering: bool, now: Instant) {
        let Some(track) = self.track(ticket.slot, ticket.probe) else {
            return;
        };
        if ticket.sequence <= track.answered {
            return;
        }
        track.answered = ticket.sequence;
        let first = !std::mem::replace(&mut track.heard, true);
        let misconfigured = matches!(report.outcome, Outcome::Misconfigured { .. });
        track.misconfigured = misconfigured;
        self.unanswered -= usize::from(first);
        if self.known.get(ticket.slot.0).is_some_and(Known::is_maintained) {
            return;
        }
        let busy = delivering && report.outcome.class() == Some(FailureClass::Timeout);
        let blameless = busy || (misconfigured && self.whole_pool_is_misconfigured(ticket));
        self.note(ticket, &report, now);
        if let Outcome::Sheds { seconds } = report.outcome {
            self.shed(ticket.slot, seconds, now);
            return self.schedule_next(ticket, now);
        }
        self.correlate(ticket.slot, now);
        let (worth, outcome) = self.worth(ticket.slot, &report);
        if !blameless && worth != Worth::Frozen {
            self.learn(ticket, &outcome, now);
        }
        self.weigh_busy(ticket.slot, busy, &outcome);
        self.schedule_next(ticket, now);
        match (worth, busy) {
            (Worth::Degraded, _) => self.settle(ticket.slot, Cause::Degraded(report.failed()), now),
            (_, true) => self.settle(ticket.slot, Cause::Streaming, now),
            (Worth::Face | Worth::Pass | Worth::Frozen, false) => self.judge(ticket, &outcome, now),
        }
    }

    /// A probe path that no endpoint of a pool has is the configuration's fault: nobody is ejected for it.
    fn whole_pool_is_misconfigured(&self, ticket: Ticket) -> bool {
        self.pool_of(ticket.slot).iter().all(|slot| {
            let track = self.tracks.get(slot.0).and_then(|tracks| tracks.get(ticket.probe));
            track.is_some_and(|track| track.misconfigured)
        })
    }

    /// The endpoints of the pool that an endpoint is in, itself among them.
    fn pool_of(&self, slot: Slot) -> &[Slot] {
        let pool = self.seats.get(slot.0).and_then(|pool| self.pools.get(*pool));
        pool.map_or(&[], |pool| &pool.members)
    }

    /// Remembers an answer, whatever it is worth.
    fn note(&mut self, ticket: Ticket, report: &ProbeReport, now: Instant) {
        let Some(known) = self.known.get_mut(ticket.slot.0) else {
            return;
        };
        let Some((terms, _)) = known.verdicts.get(ticket.probe) else {
            return;
        };
        if known.history.len() == HISTORY {
            known.history.pop_front();
        }
        known.history.push_back(ProbeRecord {
            probe: terms.name.clone(),
            at: now,
            report: Arc::new(report.clone()),
        });
        for (component, up) in &report.components {
            if known.components.get(component) != Some(up) {
                known.components.insert(component.clone(), *up);
            }
        }
        if report.version.is_some() && known.version != report.version {
            known.version.clone_from(&report.version);
        }
        if report.outcome.is_pass() || known.socket.is_none() {
            known.socket = report
                .asked
                .map(|asked| SocketAddr::new(asked.ip(), known.id.address.port()))
                .or(known.socket);
        }
    }

    /// Lets an answer count.
    fn learn(&mut self, ticket: Ticket, outcome: &Outcome, now: Instant) {
        let Some((plan, health)) = self.verdict(ticket.slot, ticket.probe) else {
            return;
        };
        let plan = if outcome.is_pass() {
            self.damped(ticket.slot, &plan, health, now)
        } else {
            Some(plan)
        };
        let (Some(known), Some(plan)) = (self.known.get_mut(ticket.slot.0), plan) else {
            return;
        };
        let Some((_, health)) = known.verdicts.get_mut(ticket.probe) else {
            return;
        };
        *health = health.observe(outcome, &plan);
        if outcome.class().is_some() && known.passive.agrees(now) {
            *health = Health::Down { passes: 0 };
        }
        if matches!(health, Health::Down { .. }) {
            // The probe has accused it as well, so a rise clears it.
            known.passive.clear(now);
        }
    }

    fn judge(&mut self, ticket: Ticket, outcome: &Outcome, now: Instant) {
        let Some(known) = self.known.get_mut(ticket.slot.0) else {
            return;
        };
        let Some((terms, _)) = known.verdicts.get(ticket.probe) else {
            return;
        };
        let cause = Cause::of(&terms.name, outcome);
        match (known.passive.standing(), known.passive.failure()) {
            (Standing::Suspect { question, .. }, Some(failure)) if outcome.is_pass() => {
                if ticket.probe == 0 && ticket.sequence >= question {
                    self.eject(ticket.slot, Cause::Contradiction(failure), now);
                }
            }
            // While it is held back its traffic has the word.
            (Standing::Ejected { .. } | Standing::OnTrial { .. }, _) if outcome.is_pass() => {}
            _ => self.settle(ticket.slot, cause, now),
        }
    }

    /// Brings the state in line with all that is known, and tells of a change.
    fn settle(&mut self, slot: Slot, cause: Cause, now: Instant) {
        if self.waits(slot, now) {
            return;
        }
        let returns = self.returns(slot);
        let Some(known) = self.known.get_mut(slot.0) else {
            return;
        };
        if known.verdict().tier().is_none() {
            known.ramp = None;
        } else if returns && known.verdict() == State::Up && !known.terms.slow_start.window.is_zero() {
            known.ramp = Some(Ramp::start(now, known.terms.slow_start));
            self.timers.push(Reverse((now + ramp::STEP, Timer::Ramp(slot))));
        }
        let to = known.verdict();
        if to == known.state {
            if known.overridden.is_none() && to != State::Up && cause != Cause::Passed {
                known.cause = cause;
            }
            return;
        }
        let from = std::mem::replace(&mut known.state, to);
        known.since = now;
        known.cause = cause.clone();
        self.effects.push_back(Effect::Announce(Event {
            endpoint: known.id.clone(),
            from,
            to,
            cause,
        }));
        self.note_flap(slot, from, now);
    }

    fn track(&mut self, slot: Slot, probe: usize) -> Option<&mut Track> {
        self.tracks.get_mut(slot.0)?.get_mut(probe)
    }

    fn verdict(&self, slot: Slot, probe: usize) -> Option<(ProbePlan, Health)> {
        self.known.get(slot.0)?.verdicts.get(probe).cloned()
    }
}

#[cfg(test)]
mod tests;
