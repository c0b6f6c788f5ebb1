//! Dependencies: what an answer is worth that names failed components, and when a pool shares the failure.
//!
//! Rules:
//! - **A failure that may be everyone's is held back until the others have been asked**, which happens at once. It counts as one endpoint's own
//!   when it still stands alone after [`HELD_BACK`](crate::gate::dependencies::HELD_BACK).
//! - **A shared failure ejects nobody.** Who fell for it before that was known serves again in the same moment.
//! - **It is no flapping**, and requests that fail for it accuse nobody.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Cause, Effect, Health, Keeper, Known, Outcome, ProbeReport, Slot, State, Ticket, Worth};
use crate::gate::health::FailureClass;
use crate::gate::passive::{Standing, TrafficFailure};
use crate::gate::schedule::CONFIRM;

/// A process that fell silent so long ago at the most did so for the failure that is shared now.
const RECENT: Duration = Duration::from_secs(10);

impl Keeper {
    /// What an answer is worth, and the outcome that counts.
    pub(super) fn worth(&mut self, ticket: Ticket, report: &ProbeReport, now: Instant) -> (Worth, Outcome) {
        let Some(known) = self.known.get_mut(ticket.slot) else {
            return (Worth::Face, report.outcome.clone());
        };
        let told = known.dependencies.latest(ticket.probe).is_some() || !report.components.is_empty();
        let terms = &known.terms.components;
        let mut worth = terms.weigh(&report.outcome, &report.failed, &known.shared);
        if let Worth::Pass | Worth::Degraded = worth {
            known.degraded = worth == Worth::Degraded;
            return (worth, Outcome::Pass);
        }
        // One of several probes that asks something else says nothing of components.
        if worth == Worth::Face && report.outcome.is_evidence() && (told || known.verdicts.len() == 1) {
            known.degraded = false;
        }
        // Requests that wait for the dependency may have filled the process.
        let silent = report.outcome.class() == Some(FailureClass::Timeout) && known.verdicts.len() > 1;
        let asked = now.checked_sub(report.phases.total).unwrap_or(now);
        if silent && (known.lacks_shared(now) || known.dependencies.ended_after(asked)) {
            worth = Worth::Frozen;
        }
        (worth, report.outcome.clone())
    }

    /// Whether a failure does not count yet, since it may be everyone's: then the others are asked at once.
    pub(super) fn holds_back(&mut self, ticket: Ticket, report: &ProbeReport, now: Instant) -> bool {
        let others = self.pool_of(ticket.slot).len().saturating_sub(1);
        let Some(known) = self.known.get_mut(ticket.slot) else {
            return false;
        };
        let may_be = known.terms.components.may_be_shared(&report.outcome, &report.failed);
        let is_out = matches!(known.verdicts.get(ticket.probe), Some((_, Health::Down { .. })));
        if !may_be || is_out || others == 0 {
            return false;
        }
        let holds = known.dependencies.hold(now);
        if holds {
            self.ask_others(ticket, now);
        }
        holds
    }

    /// Asks the other probes of an endpoint at once: its requests may wait for what it depends on.
    pub(super) fn ask_others_of(&mut self, slot: Slot, now: Instant) {
        let probes = self.tracks.get(slot).map_or(0, Vec::len);
        for probe in 1..probes {
            let track = self.track(slot, probe).copied();
            let is_old = |at: Instant| now.saturating_duration_since(at) >= CONFIRM;
            if let Some(track) = track.filter(|track| track.started.is_none_or(is_old)) {
                self.due(slot, probe, track.cycle, now);
            }
        }
    }

    /// Asks the other endpoints of a pool at once what one has been asked.
    pub(super) fn ask_others(&mut self, ticket: Ticket, now: Instant) {
        for slot in self.pool_of(ticket.slot).to_vec() {
            let track = self.track(slot, ticket.probe).copied();
            let asked = track.and_then(|track| track.started);
            let is_recent = asked.is_some_and(|at| now.saturating_duration_since(at) < CONFIRM);
            let watched = self.known.len();
            if let Some(track) = track.filter(|_| slot != ticket.slot && !is_recent && self.haste.take(watched, now)) {
                self.due(slot, ticket.probe, track.cycle, now);
            }
        }
    }

    /// Looks at every shared component of the pool of an endpoint: does it fail on most of those that answer?
    pub(super) fn correlate(&mut self, ticket: Ticket, now: Instant) {
        let Some(known) = self.known.get(ticket.slot) else {
            return;
        };
        let rules = known.terms.components.clone();
        let shared = rules.0.iter().filter(|(_, rule)| rule.shared);
        let (before, at) = (known.shared.clone(), known.id.clone());
        let failing: BTreeSet<String> = shared
            .map(|(name, _)| name)
            .filter(|name| {
                let (lacking, speaking) = self.count(ticket.slot, name, now);
                rules.is_shared_failure(name, lacking, speaking)
            })
            .cloned()
            .collect();
        if !before.is_empty() && known.dependencies.latest(ticket.probe).is_none() && !known.lacks_shared(now) {
            // It is well again here, so it may be everywhere.
            self.ask_others(ticket, now);
        }
        if !before.is_empty() || !failing.is_empty() {
            // Who lacks it serves less than who does not, though no state changes.
            self.effects.push_back(Effect::Publish(ticket.slot));
        }
        if failing == before {
            return;
        }
        for component in before.symmetric_difference(&failing) {
            self.effects.push_back(Effect::Shared {
                at: at.clone(),
                component: component.clone(),
                failing: failing.contains(component),
            });
        }
        for slot in self.pool_of(ticket.slot).to_vec() {
            if let Some(known) = self.known.get_mut(slot) {
                known.shared.clone_from(&failing);
                known.dependencies.release();
                if failing.is_empty() {
                    known.dependencies.end_shared(now);
                }
            }
            if !failing.is_empty() {
                self.take_back(slot, now);
            }
        }
    }

    /// How many endpoints of a pool lack a component, and how many say anything of theirs: neither those that are maintained, nor those that are out
    /// for reasons of their own.
    fn count(&self, slot: Slot, component: &str, now: Instant) -> (usize, usize) {
        let all = self.pool_of(slot).iter().filter_map(|slot| self.known.get(*slot));
        let (mut lacking, mut speaking) = (0, 0);
        for known in all.filter(|known| !known.is_maintained()) {
            let lacks = known.dependencies.lacks(component, known.word_counts_for(), now);
            let serves = known
                .verdicts
                .iter()
                .all(|(_, health)| matches!(health, Health::Up { .. }));
            lacking += usize::from(lacks);
            speaking += usize::from(lacks || serves);
        }
        (lacking, speaking)
    }

    /// Takes back what an endpoint was accused of for a failure that its pool shares.
    pub(super) fn take_back(&mut self, slot: Slot, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        let waits_for_it = |failure: TrafficFailure| !is_own(failure);
        if let Standing::Suspect { .. } | Standing::Ejected { .. } = known.passive.standing()
            && known.passive.failure().is_some_and(waits_for_it)
            && known.lacks_shared(now)
        {
            known.passive.clear(now);
        }
        let excused: Vec<bool> = (0..known.verdicts.len())
            .map(|probe| failed_for_it(known, probe, now))
            .collect();
        for ((_, health), excused) in known.verdicts.iter_mut().zip(excused) {
            if excused && !matches!(health, Health::Unknown { .. }) {
                *health = Health::Up { fails: 0 };
            }
        }
        let (from, to) = (known.state, known.verdict());
        if from == to || to.tier().is_none() || known.overridden.is_some() {
            return;
        }
        if from == State::Down && !known.dependencies.is_excused() {
            known.flapping.forgive();
        }
        known.dependencies.excuse(true);
        let cause = Cause::Shared(known.shared.iter().cloned().collect());
        known.turn = None;
        self.change(slot, to, cause, now);
    }

    /// Whether a fall is not the endpoint's own, since half of its pool, and two at least, lack the same component. Then those that fell for it before
    /// are excused as well.
    pub(super) fn falls_with_others(&mut self, slot: Slot, now: Instant) -> bool {
        let Some(known) = self.known.get(slot) else {
            return false;
        };
        let lacked: Vec<String> = known.dependencies.failed().cloned().collect();
        let common = lacked.iter().find(|name| {
            let (lacking, speaking) = self.count(slot, name, now);
            lacking >= 2 && lacking * 2 >= speaking
        });
        let Some(component) = common else {
            return false;
        };
        for other in self.pool_of(slot).to_vec() {
            if let Some(known) = self.known.get_mut(other).filter(|_| other != slot)
                && known.state == State::Down
                && known.dependencies.lacks(component, known.word_counts_for(), now)
                && !known.dependencies.is_excused()
            {
                known.flapping.forgive();
                known.dependencies.excuse(true);
            }
        }
        true
    }

    /// Whether a request failed for a dependency that fails for the whole pool.
    pub(super) fn is_explained(&self, slot: Slot, failure: TrafficFailure, now: Instant) -> bool {
        let lacks = |known: &Known| known.lacks_shared(now) || known.dependencies.is_held();
        !is_own(failure) && self.known.get(slot).is_some_and(lacks)
    }
}

/// Whether a probe fails for a dependency that its pool shares: its latest answer names nothing else, or it has been silent for a moment beside one that
/// names it, since requests that wait for the dependency have filled the process.
fn failed_for_it(known: &Known, probe: usize, now: Instant) -> bool {
    let refusal = Outcome::Fail {
        class: FailureClass::Status,
        detail: String::new(),
    };
    let failed = known.dependencies.latest(probe).unwrap_or_default();
    if known.terms.components.weigh(&refusal, failed, &known.shared) == Worth::Frozen {
        return true;
    }
    let Some((plan, _)) = known.verdicts.get(probe) else {
        return false;
    };
    let is_silent = known
        .last_of(&plan.name)
        .and_then(|record| record.report.outcome.class())
        == Some(FailureClass::Timeout);
    let recently = known.state != State::Down || now.saturating_duration_since(known.since) < RECENT;
    is_silent && recently && known.lacks_shared(now)
}

/// Whether a request failed in a way that no dependency explains: the process does not take connections, or breaks them.
fn is_own(failure: TrafficFailure) -> bool {
    matches!(failure, TrafficFailure::Connect | TrafficFailure::Reset)
}
