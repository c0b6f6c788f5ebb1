//! The operator's word: it is taken at once, and nothing but the operator or the clock takes it back.

use std::time::Instant;

use super::{Cause, Health, Keeper, Slot, Timer};
use crate::gate::names::Address;
use crate::gate::overrides::{Override, Picture, Wish};
use crate::gate::state::State;

impl Keeper {
    /// The endpoints at an address, however it is spelled, in every pool that has it.
    pub fn at(&self, address: &str) -> Vec<Slot> {
        let Ok(address) = Address::parse(address) else {
            return Vec::new();
        };
        let all = self.all();
        all.filter(|(_, known)| known.id.address.matches(&address))
            .map(|(slot, _)| slot)
            .collect()
    }

    /// What a wish would do, without doing it; `None` stands for taking an override back.
    pub fn picture(&self, slot: Slot, wish: Option<Wish>) -> Option<Picture> {
        let known = self.known.get(slot)?;
        let mut then = known.clone();
        then.history.clear();
        then.overridden = None;
        let state = wish.map_or_else(|| then.verdict(), Wish::state);
        let elsewhere = self.others_routable(slot);
        Some(Picture {
            state,
            routable_now: elsewhere + usize::from(known.state.is_routable()),
            routable_then: elsewhere + usize::from(state.is_routable()),
            traffic_may_eject: known.terms.outlier.eject && self.may_eject(slot),
        })
    }

    /// The operator's word; a later one replaces an earlier. It ends what traffic held against the endpoint, which gets none now.
    pub fn handle_override(&mut self, slot: Slot, word: Override, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        let was_maintained = known.is_maintained();
        let (wish, until) = (word.wish, word.until);
        let cause = Cause::Operator {
            reason: word.reason.clone(),
        };
        known.cause = cause.clone();
        known.passive.clear(now);
        known.overridden = Some(word);
        if let Some(until) = until {
            self.timers.wind(until, Timer::Override(slot));
        }
        match wish {
            Wish::Maintain => self.excuse(slot),
            Wish::Drain if was_maintained => self.ask_anew(slot, now),
            Wish::Drain => {}
        }
        self.settle(slot, cause, now);
    }

    /// The operator takes the word back.
    pub fn handle_enable(&mut self, slot: Slot, now: Instant) {
        self.enable(slot, Cause::Enabled, now);
    }

    /// The time of a word is over, unless a later one has replaced it.
    pub(super) fn override_ends(&mut self, slot: Slot, now: Instant) {
        let known = self.known.get(slot);
        if known.is_some_and(|known| known.overridden.as_ref().is_some_and(|word| word.is_over(now))) {
            self.enable(slot, Cause::OverrideExpired, now);
        }
    }

    fn enable(&mut self, slot: Slot, cause: Cause, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        let was_maintained = known.is_maintained();
        if known.overridden.take().is_none() {
            return;
        }
        if was_maintained {
            self.ask_anew(slot, now);
        }
        let known = self.known.get(slot);
        let failed = known.filter(|known| known.verdict() == State::Down).and_then(|known| {
            let failures = known
                .history
                .iter()
                .rev()
                .filter(|record| !record.report.outcome.is_pass());
            failures
                .map(|record| Cause::of(&record.probe, &record.report.outcome))
                .next()
        });
        self.settle(slot, failed.unwrap_or(cause), now);
    }

    /// Nobody waits for the first answer of an endpoint that is not asked.
    fn excuse(&mut self, slot: Slot) {
        for track in self.tracks.get_mut(slot).into_iter().flatten() {
            self.unanswered -= usize::from(!std::mem::replace(&mut track.heard, true));
        }
    }

    /// What was known before the maintenance is of no use after it: the endpoint starts like a new one.
    fn ask_anew(&mut self, slot: Slot, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        for (_, health) in &mut known.verdicts {
            *health = Health::START;
        }
        known.passive.clear(now);
        (known.busy, known.late) = (false, None);
        (known.degraded, known.newcomer) = (false, true);
        let probes = known.verdicts.len();
        for probe in 0..probes {
            if let Some(cycle) = self.track(slot, probe).map(|track| track.cycle) {
                self.due(slot, probe, cycle, now);
            }
        }
    }
}
