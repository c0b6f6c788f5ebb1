//! Which requests are sent to endpoints that all lack a dependency. Each of them may hang for half a minute there, and most fail, so a few try and the
//! others are told at once. What is answered well lets more through: an application that can do without the dependency goes on.
//!
//! This is the half-open state of a circuit breaker (Nygard, "Release It!", 2007), with the additive increase and the reset of congestion control (RFC
//! 5681) for how many may try.

use std::time::{Duration, Instant};

/// A try that can be sent again waits no longer than this for its first byte.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// After a try that failed nobody tries for so long.
const REST: Duration = Duration::from_secs(1);
/// A request that may not be sent twice is let through after so many good answers in a row to others; after each failure twice as many.
const PROOF: u32 = 5;
const MOST_PROOF: u32 = 1_024;
/// A run that is over within this time was answered. One that takes longer says nothing: Dify answers 200 at once and ends without a result when its
/// Redis has been silent for half a minute.
const PROMPT: Duration = Duration::from_secs(10);

/// Which kind of request tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// It may be sent again.
    Repeatable,
    /// It starts something.
    Once,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It was answered, and by no 5xx.
    Good,
    /// It failed, or its answer is overdue.
    Bad,
    /// Its client left, or it proves nothing.
    Void,
}

/// The tries of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    under_way: u32,
    good: u32,
}

/// The tries of one upstream.
#[derive(Clone, Copy, Debug)]
pub struct Tries {
    repeatable: Count,
    once: Count,
    proof: u32,
    rests_until: Option<Instant>,
}

impl Default for Tries {
    fn default() -> Self {
        Self {
            repeatable: Count::default(),
            once: Count::default(),
            proof: PROOF,
            rests_until: None,
        }
    }
}

impl Tries {
    fn lane(&mut self, lane: Lane) -> &mut Count {
        match lane {
            Lane::Repeatable => &mut self.repeatable,
            Lane::Once => &mut self.once,
        }
    }

    /// Lets a request try at `now`, or not.
    pub fn claim(&mut self, lane: Lane, now: Instant) -> bool {
        if self.rests_until.is_some_and(|until| now < until) {
            return false;
        }
        if lane == Lane::Once && self.repeatable.good < self.proof {
            return false;
        }
        let count = self.lane(lane);
        let has_room = count.under_way <= count.good;
        count.under_way += u32::from(has_room);
        has_room
    }

    /// A try has ended at `now`.
    pub fn end(&mut self, lane: Lane, tried: Tried, now: Instant) {
        let count = self.lane(lane);
        count.under_way = count.under_way.saturating_sub(1);
        match tried {
            Tried::Good => count.good = count.good.saturating_add(1),
            Tried::Bad => {
                self.repeatable.good = 0;
                self.once.good = 0;
                self.proof = (self.proof * 2).min(MOST_PROOF);
                self.rests_until = Some(now + REST);
            }
            Tried::Void => {}
        }
    }
}

impl Lane {
    /// What a try is worth whose answer has the status `status` and which took `took`, to the first byte where it is repeatable, to its end otherwise.
    pub fn weigh(self, status: u16, took: Duration) -> Tried {
        match self {
            _ if status >= 500 => Tried::Bad,
            Self::Once if took > PROMPT => Tried::Void,
            Self::Once | Self::Repeatable => Tried::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tries_at_a_time_and_after_a_failure_nobody_for_a_second() {
        let (mut tries, start) = (Tries::default(), Instant::now());
        assert!(tries.claim(Lane::Repeatable, start));
        assert!(!tries.claim(Lane::Repeatable, start));
        tries.end(Lane::Repeatable, Tried::Bad, start);
        assert!(!tries.claim(Lane::Repeatable, start + REST / 2));
        assert!(tries.claim(Lane::Repeatable, start + REST));
        tries.end(Lane::Repeatable, Tried::Void, start + REST);
        assert!(tries.claim(Lane::Repeatable, start + REST), "who left says nothing");
    }

    #[test]
    fn good_answers_let_more_through_and_then_what_starts_something() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        for good in 0..PROOF {
            assert!(!tries.claim(Lane::Once, now), "after {good} good answers");
            assert!(tries.claim(Lane::Repeatable, now));
            tries.end(Lane::Repeatable, Tried::Good, now);
        }
        let admitted = (0..100).filter(|_| tries.claim(Lane::Repeatable, now)).count();
        assert_eq!(admitted, PROOF as usize + 1);
        assert!(tries.claim(Lane::Once, now));
        assert!(!tries.claim(Lane::Once, now), "one at first");
        tries.end(Lane::Once, Tried::Good, now);
        assert!(tries.claim(Lane::Once, now) && tries.claim(Lane::Once, now));
        assert!(!tries.claim(Lane::Once, now));
    }

    #[test]
    fn each_failure_asks_for_twice_the_proof() {
        let (mut tries, mut now) = (Tries::default(), Instant::now());
        for failure in 1..20 {
            assert!(tries.claim(Lane::Repeatable, now));
            tries.end(Lane::Repeatable, Tried::Bad, now);
            now += REST;
            assert_eq!(tries.proof, (PROOF << failure.min(8)).min(MOST_PROOF), "{failure}");
        }
    }

    #[test]
    fn a_status_and_a_time_say_what_a_try_is_worth() {
        let long = PROMPT * 3;
        for (lane, status, took, expected) in [
            (Lane::Repeatable, 200, Duration::ZERO, Tried::Good),
            (Lane::Repeatable, 404, long, Tried::Good),
            (Lane::Repeatable, 500, Duration::ZERO, Tried::Bad),
            (Lane::Once, 200, Duration::ZERO, Tried::Good),
            (Lane::Once, 200, long, Tried::Void),
            (Lane::Once, 500, long, Tried::Bad),
        ] {
            assert_eq!(lane.weigh(status, took), expected, "{lane:?} {status} {took:?}");
        }
    }
}
