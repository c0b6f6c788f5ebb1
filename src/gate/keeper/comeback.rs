//! How endpoints come back: not while they flap or ask to be spared, and not all at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Cause, Effect, Health, Keeper, Slot, Timer};
use crate::gate::health::ProbePlan;
use crate::gate::state::State;

/// Where most of a pool serves, endpoints that were down come back one after the other, this far apart: when what they all depend on is back,
/// it is not hit by all of them at once.
pub(super) const APART: Duration = Duration::from_secs(1);

impl Keeper {
    /// An endpoint asks to be spared for a while.
    pub(super) fn shed(&mut self, slot: Slot, seconds: u32, now: Instant) {
        let until = now + Duration::from_secs(seconds.into());
        if let Some(known) = self.known.get_mut(slot) {
            if known.sheds.is_none() {
                self.timers.wind(until, Timer::Shed(slot));
            }
            known.sheds = known.sheds.max(Some(until));
            self.settle(slot, Cause::Sheds { seconds }, now);
        }
    }

    /// The time is over, unless it asked for more meanwhile.
    pub(super) fn shed_ends(&mut self, slot: Slot, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        match known.sheds {
            Some(until) if until > now => self.timers.wind(until, Timer::Shed(slot)),
            _ => {
                known.sheds = None;
                self.settle(slot, Cause::ShedOver, now);
            }
        }
    }

    /// What a pass is worth to an endpoint that is down: `None` for nothing, since it flaps and others can serve; else the plan to hold it
    /// against.
    pub(super) fn damped(
        &self,
        slot: Slot,
        plan: &Arc<ProbePlan>,
        health: Health,
        now: Instant,
    ) -> Option<Arc<ProbePlan>> {
        let known = self.known.get(slot)?;
        let held = matches!(health, Health::Down { .. })
            .then(|| known.flapping.until())
            .flatten();
        let Some(until) = held.filter(|_| self.others_routable(slot) > 0) else {
            return Some(plan.clone());
        };
        (until <= now).then(|| {
            let rise = plan.rise.max(known.terms.flapping.rise);
            Arc::new(ProbePlan {
                rise,
                ..ProbePlan::clone(plan)
            })
        })
    }

    /// Notes whether an endpoint is a reserve: it is down only because it flaps or waits for its turn, while its probes pass. It serves as soon as nobody
    /// else of its pool does.
    pub(super) fn weigh_reserve(&mut self, slot: Slot, now: Instant) {
        let tracks = self.tracks.get(slot).map_or(&[][..], Vec::as_slice);
        let Some(known) = self.known.get(slot) else {
            return;
        };
        let mut probes = known.verdicts.iter().zip(tracks);
        let is_well = probes
            .all(|((plan, health), track)| matches!(health, Health::Up { .. }) || track.passes >= plan.rise.get());
        let waits = known.turn.is_some() || known.flapping.until().is_some();
        let reserve = known.state == State::Down && is_well && waits;
        if known.reserve == reserve {
            return;
        }
        if let Some(known) = self.known.get_mut(slot) {
            known.reserve = reserve;
        }
        self.effects.push_back(Effect::Publish(slot));
        self.call_reserve(&[slot], now);
    }

    /// Lets the reserves among these endpoints of a pool serve if nobody else of it does. From the second one on they come back as ever.
    pub(super) fn call_reserve(&mut self, slots: &[Slot], now: Instant) {
        for slot in slots {
            if self.others_routable(*slot) > 0 {
                continue;
            }
            let Some(known) = self.known.get_mut(*slot).filter(|known| known.reserve) else {
                continue;
            };
            for (_, health) in &mut known.verdicts {
                *health = Health::Up { fails: 0 };
            }
            known.passive.clear(now);
            self.settle(*slot, Cause::Reserve, now);
        }
    }

    /// Notes a change of state where it is one between serving and down.
    pub(super) fn note_flap(&mut self, slot: Slot, from: State, now: Instant) {
        let Some(to) = self.known.get(slot).map(|known| known.state) else {
            return;
        };
        let falls = from.tier().is_some() && to == State::Down;
        let rises = from == State::Down && to.tier().is_some();
        let excused = falls && self.falls_with_others(slot, now);
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        let rises = rises && !known.dependencies.is_excused();
        if falls || rises || to.tier().is_some() {
            known.dependencies.excuse(excused);
        }
        let falls = falls && !excused;
        let rules = known.terms.flapping;
        if (falls || rises) && known.flapping.note(falls, &rules, now) {
            self.effects.push_back(Effect::Flaps(known.id.clone()));
        }
    }

    /// Whether an endpoint that may come back waits for its turn.
    pub(super) fn waits(&mut self, slot: Slot, now: Instant) -> bool {
        let Some(known) = self.known.get_mut(slot) else {
            return false;
        };
        let comes_back = known.state == State::Down && known.overridden.is_none() && known.verdict().tier().is_some();
        if !comes_back {
            known.turn = None;
            return false;
        }
        let turn = known.turn;
        let waits_until = self
            .most_serve(slot)
            .then(|| self.turn_of(slot, turn, now))
            .filter(|turn| *turn > now);
        if let Some(known) = self.known.get_mut(slot) {
            known.turn = waits_until;
        }
        if let Some(turn) = waits_until {
            self.timers.wind(turn, Timer::Turn(slot));
        }
        waits_until.is_some()
    }

    /// When it is an endpoint's turn: the one that it has been given, or the next one of its pool.
    fn turn_of(&mut self, slot: Slot, given: Option<Instant>, now: Instant) -> Instant {
        let pool = self.seats.get(slot).and_then(|pool| self.pools.get_mut(*pool));
        let Some(pool) = pool else {
            return now;
        };
        let turn = given.unwrap_or_else(|| pool.turn.map_or(now, |last| now.max(last + APART)));
        pool.turn = pool.turn.max(Some(turn));
        turn
    }
}
