//! How endpoints come back: not while they flap, and not all at once.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::{Effect, Health, Keeper, Slot, Timer};
use crate::gate::health::ProbePlan;
use crate::gate::state::State;

/// Where most of a pool serves, endpoints that were down come back one after the other, this far apart: when what they all depend on is back,
/// it is not hit by all of them at once.
pub(super) const APART: Duration = Duration::from_secs(1);

impl Keeper {
    /// What a pass is worth to an endpoint that is down: `None` for nothing, since it flaps and others can serve; else the plan to hold it
    /// against.
    pub(super) fn damped(&self, slot: Slot, plan: &ProbePlan, health: Health, now: Instant) -> Option<ProbePlan> {
        let known = self.known.get(slot.0)?;
        let held = matches!(health, Health::Down { .. })
            .then(|| known.flapping.until())
            .flatten();
        let Some(until) = held.filter(|_| self.neighbours(slot).any(State::is_routable)) else {
            return Some(plan.clone());
        };
        (until <= now).then(|| ProbePlan {
            rise: plan.rise.max(known.terms.flapping.rise),
            ..plan.clone()
        })
    }

    /// Notes a change of state where it is one between serving and down.
    pub(super) fn note_flap(&mut self, slot: Slot, from: State, now: Instant) {
        let Some(known) = self.known.get_mut(slot.0) else {
            return;
        };
        let to = known.state;
        let falls = from.tier().is_some() && to == State::Down;
        let rises = from == State::Down && to.tier().is_some();
        let rules = known.terms.flapping;
        if (falls || rises) && known.flapping.note(falls, &rules, now) {
            self.effects.push_back(Effect::Flaps(known.id.clone()));
        }
    }

    /// Whether an endpoint that may come back waits for its turn.
    pub(super) fn waits(&mut self, slot: Slot, now: Instant) -> bool {
        let serving = self.pool_of(slot).iter().filter_map(|slot| self.known.get(slot.0));
        let serving = serving.filter(|known| known.state.is_routable()).count();
        let most_serve = serving * 2 >= self.pool_of(slot).len();
        let (Some(known), Some(pool)) = (
            self.known.get_mut(slot.0),
            self.seats.get(slot.0).and_then(|pool| self.pools.get_mut(*pool)),
        ) else {
            return false;
        };
        let comes_back = known.state == State::Down && known.overridden.is_none() && known.verdict().tier().is_some();
        if !comes_back || !most_serve {
            known.turn = None;
            return false;
        }
        let turn = *known
            .turn
            .get_or_insert_with(|| pool.turn.map_or(now, |last| now.max(last + APART)));
        pool.turn = pool.turn.max(Some(turn));
        if turn <= now {
            known.turn = None;
            return false;
        }
        self.timers.push(Reverse((turn, Timer::Turn(slot))));
        true
    }
}
