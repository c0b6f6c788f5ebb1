//! Liveness: whether an instance would be better off restarted. It is not readiness: a failing database takes traffic away and restarts nobody.
//!
//! The words are Kubernetes' (`initialDelaySeconds`, `periodSeconds`, `failureThreshold` of a liveness probe, and the delay counts again
//! after a restart); the gate cannot restart anybody, so it asks whoever can, and not more often than it is told to.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::health::Outcome;

/// When to ask for a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePlan {
    /// How long a new instance, or one whose restart was asked for, is left alone.
    pub initial_delay: Duration,
    /// From one probe to the next.
    pub interval: Duration,
    /// Failures in a row that ask for a restart.
    pub fall: NonZeroU32,
    /// No restart of the same endpoint is asked for within this time of the last one.
    pub pause: Duration,
}

impl Default for LivePlan {
    /// Half a minute to start, a probe every ten seconds, three failures: what Kubernetes deployments of Dify use.
    fn default() -> Self {
        Self {
            initial_delay: Duration::from_secs(30),
            interval: Duration::from_secs(10),
            fall: NonZeroU32::MIN.saturating_add(2),
            pause: Duration::from_secs(300),
        }
    }
}

/// What a probe leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Nothing.
    Fine,
    /// It failed, so many times in a row by now.
    Failing(u32),
    /// A restart is asked for.
    Restart,
    /// A restart would be asked for if the last one were not so recent.
    TooSoon,
}

/// The liveness of one endpoint.
#[derive(Clone, Debug)]
pub struct Liveness {
    failures: u32,
    /// When it is asked next.
    next: Instant,
    restarted: Option<Instant>,
}

impl Liveness {
    /// An endpoint that appears at `now`.
    pub fn new(plan: &LivePlan, now: Instant) -> Self {
        Self {
            failures: 0,
            next: now + plan.initial_delay,
            restarted: None,
        }
    }

    /// When it is asked next.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Weighs an answer. One whose streams deliver is alive, whatever its probe says; and what is no evidence changes nothing.
    pub fn observe(&mut self, outcome: &Outcome, delivering: bool, plan: &LivePlan, now: Instant) -> Call {
        self.next = now + plan.interval;
        if !outcome.is_evidence() {
            return Call::Fine;
        }
        if outcome.is_pass() || delivering {
            self.failures = 0;
            return Call::Fine;
        }
        self.failures += 1;
        if self.failures < plan.fall.get() {
            return Call::Failing(self.failures);
        }
        let recent = |at: Instant| now.saturating_duration_since(at) < plan.pause;
        if self.restarted.is_some_and(recent) {
            return Call::TooSoon;
        }
        self.failures = 0;
        self.restarted = Some(now);
        self.next = now + plan.initial_delay.max(plan.interval);
        Call::Restart
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::health::FailureClass;

    /// Plays a word, ten seconds a letter: `p` passes, `f` fails, `d` fails while streams deliver, `u` says nothing.
    fn play(word: &str) -> Vec<Call> {
        let (plan, start) = (LivePlan::default(), Instant::now());
        let mut liveness = Liveness::new(&plan, start);
        assert_eq!(liveness.next(), start + Duration::from_secs(30));
        let calls = word.chars().zip(1..).map(|(letter, n)| {
            let outcome = match letter {
                'p' => Outcome::Pass,
                'u' => Outcome::Unknown { detail: String::new() },
                _ => Outcome::Fail {
                    class: FailureClass::Timeout,
                    detail: String::new(),
                },
            };
            liveness.observe(&outcome, letter == 'd', &plan, start + n * Duration::from_secs(10))
        });
        calls.collect()
    }

    #[test]
    fn three_failures_in_a_row_ask_for_a_restart_and_for_no_second_one_soon() {
        use Call::{Failing, Fine, Restart, TooSoon};
        for (word, expected) in [
            ("fff", vec![Failing(1), Failing(2), Restart]),
            ("ffpff", vec![Failing(1), Failing(2), Fine, Failing(1), Failing(2)]),
            ("ffdff", vec![Failing(1), Failing(2), Fine, Failing(1), Failing(2)]),
            ("ffuf", vec![Failing(1), Failing(2), Fine, Restart]),
            (
                "fffffff",
                vec![
                    Failing(1),
                    Failing(2),
                    Restart,
                    Failing(1),
                    Failing(2),
                    TooSoon,
                    TooSoon,
                ],
            ),
        ] {
            assert_eq!(play(word), expected, "{word}");
        }
        assert_eq!(
            play(&"f".repeat(33)).iter().filter(|call| **call == Restart).count(),
            2,
            "one in five minutes"
        );
    }
}
