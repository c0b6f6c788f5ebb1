//! The keeper of all verdicts: what to probe and when, what the answers mean, and who may serve.
//!
//! It performs nothing. Its owner asks [`Keeper::poll_timeout`] when to come back, calls [`Keeper::handle_timeout`] then,
//! carries out what [`Keeper::poll_effect`] hands over, and returns each probe's answer to [`Keeper::handle_probe`] and each word of
//! live traffic to [`Keeper::handle_failure`], [`Keeper::handle_silence`] and [`Keeper::handle_trial`]. Time is an argument
//! everywhere, so hours of probing can be tested in a moment.
//!
//! Rules:
//! - **An endpoint is unroutable until every one of its probes has passed once.**
//! - **One endpoint delays nobody**: each has clocks of its own.
//! - **An answer to an older question moves nothing**: of two overlapping probes, the later one's word stands.
//! - **Every change of state is an event with a cause.**

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slotmap::{SecondaryMap, SlotMap};

use super::capacity::{Capacity, UnderWay};
use super::components::Worth;
use super::dependencies::Dependencies;
use super::flapping::Flapping;
use super::haste::Haste;
use super::health::{Health, Outcome, ProbePlan};
use super::knowledge::HISTORY;
pub use super::knowledge::{
    Effect, EndpointPlan, Known, Phases, ProbeRecord, ProbeReport, Slot, Spared, Terms, Ticket,
};
pub use memory::Memory;

use super::latency::Slowness;
use super::names::{PoolName, UpstreamName};
use super::passive::{Passive, Standing};
use super::ramp::{self, Ramp};
use super::schedule::Dice;
use super::state::{Cause, Event, State};
use super::window::Window;

mod asking;
mod comeback;
mod dependency;
mod fullness;
mod memory;
mod operator;
mod optional;
mod roster;
mod traffic;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// What was under way on the endpoint when it was last asked.
    under_way: UnderWay,
    /// Passes in a row, also those that do not count while the endpoint is held down for flapping.
    passes: u32,
    /// Where it is optional: whether the service has ever answered, and since when nobody listens there any more.
    found: bool,
    refused: Option<Instant>,
}

/// The endpoints of one pool, which are held against each other.
#[derive(Debug)]
struct Pool {
    name: (UpstreamName, PoolName),
    members: Vec<Slot>,
    /// How many of them are routable, and how many are held back by their traffic.
    routable: usize,
    accused: usize,
    /// When the last of them that was down came back, or will.
    turn: Option<Instant>,
}

/// An alarm clock. The earliest is the greatest, so that a heap hands it out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wake {
    at: Instant,
    /// Clocks wound so far, so that of two at the same moment the first one wound rings first.
    number: u64,
    timer: Timer,
}

impl Ord for Wake {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_time = other.at.cmp(&self.at);
        by_time.then_with(|| other.number.cmp(&self.number))
    }
}

/// All alarm clocks that are wound.
#[derive(Debug, Default)]
struct Clocks {
    heap: BinaryHeap<Wake>,
    /// How many have been wound so far.
    wound: u64,
}

impl Clocks {
    fn wind(&mut self, at: Instant, timer: Timer) {
        self.wound += 1;
        let number = self.wound;
        self.heap.push(Wake { at, number, timer });
    }

    fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|wake| wake.at)
    }

    /// What rings by `now`.
    fn ring(&mut self, now: Instant) -> Option<Wake> {
        let first = self.heap.peek()?;
        (first.at <= now).then(|| self.heap.pop())?
    }
}

impl PartialOrd for Wake {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// See the module's own words.
#[derive(Debug)]
pub struct Keeper {
    known: SlotMap<Slot, Known>,
    tracks: SecondaryMap<Slot, Vec<Track>>,
    /// The pool of each endpoint, by its position in `pools`.
    seats: SecondaryMap<Slot, usize>,
    pools: Vec<Pool>,
    timers: Clocks,
    effects: VecDeque<Effect>,
    /// Probes that have never been answered.
    unanswered: usize,
    /// Questions that may be put sooner than the interval says.
    haste: Haste,
    dice: Dice,
    seed: u64,
}

impl Keeper {
    /// A keeper of nobody; [`Keeper::reconcile`] tells it whom to watch.
    pub fn new(seed: u64) -> Self {
        Self {
            known: SlotMap::with_key(),
            tracks: SecondaryMap::new(),
            seats: SecondaryMap::new(),
            pools: Vec::new(),
            timers: Clocks::default(),
            effects: VecDeque::new(),
            unanswered: 0,
            haste: Haste::default(),
            dice: Dice::new(seed),
            seed,
        }
    }

    /// When [`Keeper::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Every endpoint and all that is known of it, in the order of the plans.
    pub fn all(&self) -> impl Iterator<Item = (Slot, &Known)> {
        let members = self.pools.iter().flat_map(|pool| &pool.members);
        members.filter_map(|slot| Some((*slot, self.known.get(*slot)?)))
    }

    /// All that is known of one endpoint, unless it has gone.
    pub fn get(&self, slot: Slot) -> Option<&Known> {
        self.known.get(slot)
    }

    /// Whether every endpoint has answered, or failed to, at least once.
    pub fn has_asked_everyone(&self) -> bool {
        self.unanswered == 0
    }

    /// Puts every question that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(wake) = self.timers.ring(now) {
            match wake.timer {
                Timer::Due { slot, probe, cycle } => self.due(slot, probe, cycle, now),
                Timer::Overlap(ticket) => self.overlap(ticket, now - wake.at, now),
                Timer::Hold(slot) => self.hold_ends(slot, now),
                Timer::Ramp(slot) => self.grow(slot, now),
                Timer::Override(slot) => self.override_ends(slot, now),
                Timer::Turn(slot) => self.settle(slot, Cause::Passed, now),
                Timer::Shed(slot) => self.shed_ends(slot, now),
            }
        }
    }

    /// Weighs an answer, by what was under way on the endpoint meanwhile.
    pub fn handle_probe(&mut self, ticket: Ticket, report: Arc<ProbeReport>, under_way: UnderWay, now: Instant) {
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
        if self.known.get(ticket.slot).is_some_and(Known::is_maintained) {
            return;
        }
        let full = self.fills(ticket, &report, under_way, now);
        let busy = full.is_some();
        let blameless = busy || (misconfigured && self.whole_pool_is_misconfigured(ticket));
        self.note(ticket, &report, now);
        if let Outcome::Sheds { seconds } = report.outcome {
            self.shed(ticket.slot, seconds, now);
            return self.schedule_next(ticket, now);
        }
        self.correlate(ticket, now);
        let (worth, outcome) = self.worth(ticket, &report, now);
        let waits = worth == Worth::Face && self.holds_back(ticket, &report, now);
        if worth == Worth::Frozen {
            // It may have been accused before its own answer told why its requests fail.
            self.take_back(ticket.slot, now);
        } else if !blameless && !waits {
            self.learn(ticket, &outcome, now);
        }
        self.weigh_busy(ticket.slot, busy, &report, &outcome);
        self.weigh_doubt(ticket, busy || outcome.class().is_none(), now);
        self.schedule_next(ticket, now);
        match (worth, full) {
            (Worth::Degraded, _) => self.settle(ticket.slot, Cause::Degraded(report.failed.clone()), now),
            (_, Some(cause)) => self.settle(ticket.slot, cause, now),
            (Worth::Face | Worth::Pass | Worth::Frozen, None) => self.judge(ticket, &outcome, now),
        }
        self.weigh_reserve(ticket.slot, now);
    }

    /// A probe path that no endpoint of a pool has is the configuration's fault: nobody is ejected for it.
    fn whole_pool_is_misconfigured(&self, ticket: Ticket) -> bool {
        self.pool_of(ticket.slot).iter().all(|slot| {
            let track = self.tracks.get(*slot).and_then(|tracks| tracks.get(ticket.probe));
            track.is_some_and(|track| track.misconfigured)
        })
    }

    /// Remembers an answer, whatever it is worth.
    fn note(&mut self, ticket: Ticket, report: &Arc<ProbeReport>, now: Instant) {
        let Some(known) = self.known.get_mut(ticket.slot) else {
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
            report: report.clone(),
        });
        known
            .dependencies
            .note(ticket.probe, &report.outcome, &report.failed, now);
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
        if let Some(track) = self.track(ticket.slot, ticket.probe).filter(|_| outcome.is_evidence()) {
            track.passes = if outcome.is_pass() {
                track.passes.saturating_add(1)
            } else {
                0
            };
        }
        let Some((plan, health)) = self.verdict(ticket.slot, ticket.probe) else {
            return;
        };
        let plan = if outcome.is_pass() {
            self.damped(ticket.slot, &plan, health, now)
        } else {
            Some(plan)
        };
        let (Some(known), Some(plan)) = (self.known.get_mut(ticket.slot), plan) else {
            return;
        };
        let Some((_, health)) = known.verdicts.get_mut(ticket.probe) else {
            return;
        };
        *health = health.observe(outcome, &plan);
        if outcome.class().is_some_and(|class| known.passive.agrees(class, now)) {
            *health = Health::Down { passes: 0 };
        }
        if matches!(health, Health::Down { .. }) {
            // The probe has accused it as well, so a rise clears it.
            known.passive.clear(now);
        }
    }

    fn judge(&mut self, ticket: Ticket, outcome: &Outcome, now: Instant) {
        let Some(known) = self.known.get_mut(ticket.slot) else {
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
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        if known.verdict().tier().is_none() {
            known.ramp = None;
        } else if returns && known.verdict() == State::Up && !known.terms.slow_start.window.is_zero() {
            known.ramp = Some(Ramp::start(now, known.terms.slow_start));
            self.timers.wind(now + ramp::STEP, Timer::Ramp(slot));
        }
        let to = known.verdict();
        if to == known.state {
            if known.overridden.is_none() && to != State::Up && cause != Cause::Passed {
                known.cause = cause;
            }
            return;
        }
        self.change(slot, to, cause, now);
    }

    /// Changes a state, and tells of it.
    fn change(&mut self, slot: Slot, to: State, cause: Cause, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        let from = std::mem::replace(&mut known.state, to);
        known.reserve = false;
        if to == State::Down {
            // What comes back may be another process with another limit.
            known.capacity = Capacity::default();
        }
        known.since = now;
        known.cause = cause.clone();
        self.effects.push_back(Effect::Announce(
            slot,
            Event {
                endpoint: known.id.clone(),
                from,
                to,
                cause,
            },
        ));
        self.tally(slot, from, to);
        self.note_flap(slot, from, now);
        if from.is_routable() && !to.is_routable() {
            let pool = self.pool_of(slot).to_vec();
            self.call_reserve(&pool, now);
        }
    }

    fn track(&mut self, slot: Slot, probe: usize) -> Option<&mut Track> {
        self.tracks.get_mut(slot)?.get_mut(probe)
    }

    fn verdict(&self, slot: Slot, probe: usize) -> Option<(Arc<ProbePlan>, Health)> {
        self.known.get(slot)?.verdicts.get(probe).cloned()
    }
}

#[cfg(test)]
mod tests;
