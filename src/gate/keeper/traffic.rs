//! The word of live traffic: it accuses at once, and a real request clears.
//!
//! Rules:
//! - **Never the last one.** An endpoint is not ejected while no other is fit to serve, nor beyond a share of its pool, a third by default. One
//!   always may be: of two to five endpoints a share alone could allow none (as Envoy's `max_ejection_percent` of 10 % does). The share protects
//!   nothing where an endpoint fails most of what it gets while another serves well: that one is ejected beyond it.
//! - **An endpoint that is out by its traffic comes back by its traffic.**

use std::time::Instant;

use super::{Cause, Effect, Keeper, Slot, Spared, State, Timer};
use crate::gate::latency::Slowness;
use crate::gate::passive::{PATIENCE, Standing, TrafficFailure, Trial};
use crate::gate::ramp;
use crate::gate::schedule::CONFIRM;
use crate::gate::state::Tier;
use crate::gate::window;

/// So many failures in a row are most of what an endpoint gets: one that fails every third request has them once in 700.
const BREAKS: u32 = 2 * window::STREAK;

impl Keeper {
    /// Requests have been answered by an endpoint, or have failed there.
    pub fn handle_answers(&mut self, slot: Slot, answered: u32, now: Instant) {
        if let Some(known) = self.known.get_mut(slot) {
            known.window.note(answered, 0, now);
        }
    }

    /// A request failed on an endpoint, the last of `streak` in a row. One whose first byte did not come in time is silence: a blocking prompt takes as long
    /// as it takes. Where [`window::STREAK`] fail in a row, none was answered between.
    pub fn handle_failure(&mut self, slot: Slot, failure: TrafficFailure, streak: u32, now: Instant) {
        if failure == TrafficFailure::Timeout && streak < window::STREAK {
            return self.handle_silence(slot, now);
        }
        let stands_out = self.stands_out(slot, streak, now);
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        known.window.note(0, 1, now);
        if matches!(failure, TrafficFailure::Status(_)) {
            known.capacity.forget_limit();
        }
        if self.is_explained(slot, failure, now) {
            return;
        }
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        if !known.terms.outlier.eject || known.state.tier().is_none_or(|tier| tier == Tier::Accused) {
            return;
        }
        let first = known.passive.witness(now);
        let question = if stands_out || first {
            self.ask_now(slot, now)
        } else {
            0
        };
        let may_eject = self.may_eject(slot) || self.breaks_most(slot, streak, now);
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        if stands_out && may_eject {
            known.passive.accuse(failure, question, now);
            self.timers.wind(now + PATIENCE, Timer::Hold(slot));
            self.settle(slot, Cause::Traffic(failure), now);
        } else if first {
            let why = if may_eject {
                Spared::LikeTheOthers
            } else {
                Spared::TooFew
            };
            self.effects.push_back(Effect::Spare(known.id.clone(), failure, why));
        }
    }

    /// Whether an endpoint fails most of what it gets while another one of its pool serves well. Then `at_most` keeps nothing: without it the pool can do
    /// more, not less. A streak tells it at once; the share of ten seconds in which it served well before would take five seconds of failures.
    fn breaks_most(&self, slot: Slot, streak: u32, now: Instant) -> bool {
        let sums = |slot: Slot| self.known.get(slot).map(|known| (known.state, known.window.sums(now)));
        let by_share = |(all, failed)| failed >= window::STREAK && failed * 2 >= all;
        let fails = streak >= BREAKS || sums(slot).is_some_and(|(_, sums)| by_share(sums));
        let serves = |(state, (all, failed)): (State, (u32, u32))| {
            state.is_routable() && all >= window::STREAK && failed * 10 <= all
        };
        let others = self.pool_of(slot).iter().filter(|other| **other != slot);
        fails && others.filter_map(|other| sums(*other)).any(serves)
    }

    /// Whether an endpoint's failures are its own rather than everyone's.
    fn stands_out(&self, slot: Slot, streak: u32, now: Instant) -> bool {
        let others = self.pool_of(slot).iter().filter(|other| **other != slot);
        let serving = others
            .filter_map(|other| self.known.get(*other))
            .filter(|known| known.state.is_routable());
        let shares = serving.filter_map(|known| known.window.share(now)).collect();
        let share = self.known.get(slot).and_then(|known| known.window.share(now));
        window::stands_out(streak, share, shares)
    }

    /// An endpoint answers much later than the others: by its own time and their median, in milliseconds; or it does not. It loses weight at once,
    /// and is held back when that does not help.
    pub fn handle_latency(&mut self, slot: Slot, slow: Option<(u32, u32)>, now: Instant) {
        let may_eject = self.may_eject(slot);
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        let Some(rules) = known.terms.outlier.latency else {
            return;
        };
        let (news, too_long) = known.slowness.note(slow.is_some(), &rules, now);
        if news {
            self.effects.push_back(Effect::Slow(known.id.clone(), slow));
            self.effects.push_back(Effect::Grow(slot));
        }
        if let Some((ms, median)) = slow.filter(|_| too_long && may_eject && known.state.is_routable()) {
            known.slowness = Slowness::default();
            self.eject(slot, Cause::Slow { ms, median }, now);
        }
    }

    /// Requests wait on an endpoint for longer than they do elsewhere, or a stream of its is silent. That proves nothing: it has the endpoint probed at
    /// once, and agrees with a probe that gets no answer.
    pub fn handle_silence(&mut self, slot: Slot, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        if known.state.tier().is_some() && known.passive.note_silence(now) {
            self.ask_now(slot, now);
            self.ask_others_of(slot, now);
        }
    }

    /// Answers of an endpoint are overdue that answers now and then. That agrees with nothing, but a dependency which the pool shares may have gone: it is
    /// probed at once, so that requests wait in vain for as short as can be.
    pub fn handle_overdue(&mut self, slot: Slot, now: Instant) {
        if self.known.get(slot).is_some_and(|known| known.state.tier().is_some()) {
            self.ask_now(slot, now);
            self.ask_others_of(slot, now);
        }
    }

    /// The request that tried an ejected endpoint has ended.
    pub fn handle_trial(&mut self, slot: Slot, trial: Trial, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        if !known.wants_trial() {
            return;
        }
        match trial {
            Trial::Passed => {
                known.passive.clear(now);
                self.settle(slot, Cause::TrialPassed, now);
            }
            Trial::Failed(failure) => {
                self.eject(slot, Cause::TrialFailed(failure), now);
                self.effects.push_back(Effect::Publish(slot));
            }
        }
    }

    /// Holds an endpoint back.
    pub(super) fn eject(&mut self, slot: Slot, cause: Cause, now: Instant) {
        let random = self.dice.roll();
        if let Some(known) = self.known.get_mut(slot) {
            let until = known.passive.eject(now, random, &known.terms.outlier);
            self.timers.wind(until, Timer::Hold(slot));
            self.settle(slot, cause, now);
        }
    }

    /// The hold is over: a request may try it. If none comes, its probes have the word after all.
    pub(super) fn hold_ends(&mut self, slot: Slot, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        match (known.passive.standing(), known.passive.failure()) {
            (Standing::Suspect { since, .. }, Some(failure)) if since + PATIENCE <= now => {
                self.eject(slot, Cause::Undecided(failure), now);
            }
            (Standing::Ejected { until }, _) if until <= now => {
                known.passive.try_again(now);
                self.timers.wind(now + PATIENCE, Timer::Hold(slot));
                self.effects.push_back(Effect::Publish(slot));
            }
            (Standing::OnTrial { since }, _) if since + PATIENCE <= now => {
                known.passive.clear(now);
                self.settle(slot, Cause::NobodyCame, now);
            }
            (Standing::Clear | Standing::Suspect { .. } | Standing::Ejected { .. } | Standing::OnTrial { .. }, _) => {}
        }
    }

    /// A returning endpoint takes a larger share.
    pub(super) fn grow(&mut self, slot: Slot, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        match known.ramp {
            None => {}
            Some(ramp) if ramp.is_over(now) => {
                known.ramp = None;
                self.settle(slot, Cause::Ramped, now);
            }
            Some(_) => {
                self.timers.wind(now + ramp::STEP, Timer::Ramp(slot));
                self.effects.push_back(Effect::Grow(slot));
            }
        }
    }

    /// Whether an endpoint that becomes fit comes back to neighbours that can carry its load meanwhile. At the start of all nobody comes
    /// back, and the only one that is fit cannot be spared.
    pub(super) fn returns(&self, slot: Slot) -> bool {
        let was_out = self.known.get(slot).is_some_and(|known| match known.state {
            State::Unknown => known.newcomer,
            State::Down | State::Ejected | State::Draining | State::Maintenance => true,
            // Who was suspect for a late answer alone has been away for a moment.
            State::Suspect | State::Up | State::Ramping | State::Busy | State::Degraded => false,
        });
        was_out && self.others_routable(slot) > 0
    }

    pub(super) fn may_eject(&self, slot: Slot) -> bool {
        let all = self.pool_of(slot).len();
        let known = self.known.get(slot);
        let allowed = known.map_or(0, |known| known.terms.outlier.most_of(all));
        self.others_accused(slot) < allowed && self.others_routable(slot) > 0
    }

    /// Asks an endpoint's first probe at once, unless it was asked a moment ago; returns the number of the question.
    fn ask_now(&mut self, slot: Slot, now: Instant) -> u64 {
        let Some(track) = self.track(slot, 0).copied() else {
            return 0;
        };
        let recent = track
            .started
            .is_some_and(|at| now.saturating_duration_since(at) < CONFIRM);
        if recent && track.answered < track.asked {
            return track.asked;
        }
        self.due(slot, 0, track.cycle, now);
        track.asked + 1
    }
}
