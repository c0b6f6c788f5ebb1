//! When each question is put, and who is asked again how soon.

use std::time::{Duration, Instant};

use super::{Effect, Health, Keeper, Known, Slot, Ticket, Timer};
use crate::gate::schedule;

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
        if let Some((terms, _)) = self.verdict(ticket.slot, ticket.probe) {
            self.await_lost(ticket, now + terms.timeout * 4);
        }
        if track.asked == ticket.sequence && late < BEHIND && self.haste.take(self.known.len(), now) {
            self.ask(ticket.slot, ticket.probe);
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
