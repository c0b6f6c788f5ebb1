//! When each question is put, and who is asked again how soon.

use std::time::{Duration, Instant};

use super::{Cause, Effect, Health, Keeper, Known, Slot, Ticket, Timer, UnderWay};
use crate::gate::capacity::Sign;
use crate::gate::health::FailureClass;
use crate::gate::schedule;

/// An answer is overdue where the last one took no more than this part of the time that has passed.
const QUICK: u32 = 4;
/// So many timeouts in a row at the most take an endpoint out that is doubted for a late answer.
const STRICT: u32 = 2;

/// A clock that rings so late tells of a gate that has too much to do.
const BEHIND: Duration = Duration::from_millis(50);

impl Keeper {
    pub(super) fn due(&mut self, slot: Slot, probe: usize, cycle: u64, now: Instant) {
        let Some((terms, health)) = self.verdict(slot, probe) else {
            return;
        };
        if self.known.get(slot).is_some_and(Known::is_maintained) {
            return;
        }
        let wait = terms.timeout * 4;
        let overlap = schedule::overlap(&terms);
        let Some(track) = self.track(slot, probe) else {
            return;
        };
        if track.cycle != cycle {
            return;
        }
        track.cycle += 1;
        track.started = Some(now);
        let ticket = self.ask(slot, probe);
        if matches!(health, Health::Down { .. }) {
            self.await_lost(ticket, now + wait);
        } else {
            self.timers.wind(now + overlap, Timer::Overlap(ticket));
        }
    }

    /// An answer always comes, for a probe has a deadline; should its task die, the endpoint is asked again all the same.
    fn await_lost(&mut self, Ticket { slot, probe, .. }: Ticket, at: Instant) {
        if let Some(cycle) = self.track(slot, probe).map(|track| track.cycle) {
            self.timers.wind(at, Timer::Due { slot, probe, cycle });
        }
    }

    /// An answer is overdue: another question follows, unless this clock rang late, for then it is the gate that is behind, and more questions
    /// would not help.
    pub(super) fn overlap(&mut self, ticket: Ticket, late: Duration, now: Instant) {
        let track = self.track(ticket.slot, ticket.probe).copied();
        let Some(track) = track.filter(|track| track.answered < ticket.sequence) else {
            return;
        };
        if late < BEHIND {
            self.doubt(ticket, now);
        }
        if let Some((terms, _)) = self.verdict(ticket.slot, ticket.probe) {
            self.await_lost(ticket, now + terms.timeout * 4);
        }
        if track.asked == ticket.sequence && late < BEHIND && self.haste.take(self.known.len(), now) {
            self.ask(ticket.slot, ticket.probe);
        }
    }

    /// Notes what is under way on an endpoint as a probe is sent.
    pub fn handle_sent(&mut self, ticket: Ticket, under_way: UnderWay) {
        if let Some(track) = self.track(ticket.slot, ticket.probe) {
            track.under_way = under_way;
        }
    }

    /// Keeps new requests away from an endpoint whose probe is overdue at half its deadline although the last one was answered in a quarter of that, until
    /// an answer decides. A server that drains may go on accepting and answer nobody (gunicorn's sync and gthread workers for up to 30 s), and each request
    /// that is sent there is lost. Whoever is full is late for that reason; and as with traffic, neither the last endpoint nor too many are kept away.
    fn doubt(&mut self, ticket: Ticket, now: Instant) {
        let slot = ticket.slot;
        let Some(under_way) = self.track(slot, ticket.probe).map(|track| track.under_way) else {
            return;
        };
        let may_doubt = self.may_eject(slot);
        let Some(known) = self.known.get_mut(slot).filter(|known| known.state.is_routable()) else {
            return;
        };
        let Some((plan, _)) = known.verdicts.get(ticket.probe) else {
            return;
        };
        let overdue = schedule::overlap(plan);
        let last = known.last_of(&plan.name);
        let was_quick =
            last.is_some_and(|record| record.report.outcome.is_pass() && record.report.phases.total * QUICK <= overdue);
        let takes_a_place = last.is_none_or(|record| known.is_asked_itself(&record.report));
        // Who is forgiven many timeouts is forgiven a late answer.
        let is_strict = plan.fall.of(FailureClass::Timeout).get() <= STRICT;
        // Requests that wait for a dependency of the whole pool fill a process as well.
        let is_full = takes_a_place && known.capacity.is_too_much(Sign::Late, under_way, false);
        let is_full = is_full || known.lacks_shared(now);
        if may_doubt && was_quick && is_strict && !is_full {
            known.late = Some(ticket.probe);
            self.settle(slot, Cause::Late, now);
        }
    }

    /// Ends the doubt about an endpoint whose probe was overdue, where that probe has an answer which `decides`, or the endpoint is out for another reason.
    /// The answer to another probe decides nothing: a service beside a process that hangs goes on answering.
    pub(super) fn weigh_doubt(&mut self, ticket: Ticket, decides: bool, now: Instant) {
        let Some(known) = self.known.get_mut(ticket.slot) else {
            return;
        };
        let is_answered = decides && known.late == Some(ticket.probe);
        if is_answered || known.is_down() || known.lacks_shared(now) {
            known.late = None;
        }
    }

    fn ask(&mut self, slot: Slot, probe: usize) -> Ticket {
        let sequence = self.track(slot, probe).map_or(0, |track| {
            track.asked += 1;
            track.asked
        });
        let ticket = Ticket { slot, probe, sequence };
        self.effects.push_back(Effect::Probe(ticket));
        ticket
    }

    pub(super) fn schedule_next(&mut self, ticket: Ticket, now: Instant) {
        let (slot, probe) = (ticket.slot, ticket.probe);
        let Some((terms, health)) = self.verdict(slot, probe) else {
            return;
        };
        let random = self.dice.roll();
        let Some(track) = self.track(slot, probe).copied() else {
            return;
        };
        let started = track.started.unwrap_or(now);
        let is_down = health == Health::Down { passes: 0 };
        // Of a dependency that fails for all, the first pass is worth the most.
        let waits = |known: &Known| known.dependencies.is_held() || !known.shared.is_empty();
        let waits = !is_down && self.known.get(slot).is_some_and(waits);
        let hasty = (is_down || waits || health.is_unsure()) && self.haste.take(self.known.len(), now);
        let wait = if is_down {
            schedule::again(track.wait, terms.interval, random)
        } else {
            Duration::ZERO
        };
        let at = if track.misconfigured {
            // By then every neighbour has been asked once more, whatever its jitter.
            started + terms.interval * 5 / 4
        } else if self.known.get(slot).is_some_and(|known| known.sheds.is_some()) {
            // It has too much to do, and would not like to be asked in haste.
            started + schedule::next(&terms, Health::Up { fails: 0 }, random)
        } else if hasty && is_down {
            now + wait
        } else if hasty && waits {
            now + schedule::CONFIRM.min(terms.interval)
        } else if hasty {
            now + schedule::next(&terms, health, random)
        } else if track.answered <= 2 && track.cycle == 1 {
            let identity = self.known.get(slot).map(|known| &known.id);
            started + schedule::phase(&(identity, probe), self.seed, terms.interval)
        } else {
            started + schedule::next(&terms, Health::Up { fails: 0 }, random)
        };
        let cycle = track.cycle + 1;
        if let Some(track) = self.track(slot, probe) {
            track.cycle = cycle;
            track.wait = wait;
        }
        let timer = Timer::Due { slot, probe, cycle };
        self.timers.wind(at.max(now), timer);
    }
}
