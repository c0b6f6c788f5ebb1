//! When each question is put, and who is asked again how soon.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::{Effect, Health, Keeper, Known, Slot, Ticket, Timer};
use crate::gate::schedule;

impl Keeper {
    pub(super) fn due(&mut self, slot: Slot, probe: usize, cycle: u64, now: Instant) {
        let Some((terms, health)) = self.verdict(slot, probe) else {
            return;
        };
        if self.known.get(slot.0).is_some_and(Known::is_maintained) {
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
        let lost = Timer::Due {
            slot,
            probe,
            cycle: cycle + 1,
        };
        let ticket = self.ask(slot, probe);
        // An answer always comes, for a probe has a deadline; should its task die, the endpoint is asked again all the same.
        self.timers.push(Reverse((now + wait, lost)));
        if !matches!(health, Health::Down { .. }) {
            self.timers.push(Reverse((now + overlap, Timer::Overlap(ticket))));
        }
    }

    pub(super) fn overlap(&mut self, ticket: Ticket) {
        let waiting = self
            .track(ticket.slot, ticket.probe)
            .is_some_and(|track| track.answered < ticket.sequence && track.asked == ticket.sequence);
        if waiting {
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
        let wait = if is_down {
            schedule::again(track.wait, terms.interval, random)
        } else {
            Duration::ZERO
        };
        let at = if track.misconfigured {
            // By then every neighbour has been asked once more, whatever its jitter.
            started + terms.interval * 5 / 4
        } else if is_down {
            now + wait
        } else if health.is_unsure() {
            now + schedule::next(&terms, health, random)
        } else if track.answered <= 2 && track.cycle == 1 {
            let identity = self.known.get(slot.0).map(|known| &known.id);
            started + schedule::phase(&(identity, probe), self.seed, terms.interval)
        } else {
            started + schedule::next(&terms, health, random)
        };
        let cycle = track.cycle + 1;
        if let Some(track) = self.track(slot, probe) {
            track.cycle = cycle;
            track.wait = wait;
        }
        let timer = Timer::Due { slot, probe, cycle };
        self.timers.push(Reverse((at.max(now), timer)));
    }
}
