//! The rhythm of an endpoint's answers: when one that answers often falls silent while requests wait, it is worth a question.
//!
//! Silence proves nothing: a blocking workflow is silent for minutes. So only an endpoint that has answered often is missed, after a silence in
//! which several answers were due (the idea of Hayashibara et al., "The Phi Accrual Failure Detector", SRDS 2004: suspicion grows
//! with the time since the last sign of life, measured in its usual intervals).

use std::time::Duration;

/// How often it is felt.
pub const BEAT: Duration = Duration::from_millis(50);
/// The same in a second.
const BEATS: f64 = 20.0;
/// An endpoint that answers less often than this in a second is never missed.
const LEAST: f64 = 10.0;
/// So many answers must be overdue.
const OVERDUE: f64 = 4.0;

/// What has been felt of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rhythm {
    answered: u64,
    /// Answers a second, by the last second or so in which there were any.
    rate: f64,
    /// Beats without an answer while requests waited.
    silent: f64,
}

impl Rhythm {
    /// Feels one beat, [`BEAT`] after the last one: how many requests have been answered in all, and how many wait. Tells
    /// whether the silence is suspicious.
    pub fn feel(&mut self, answered: u64, waiting: u64) -> bool {
        let fresh = answered.saturating_sub(self.answered);
        self.answered = answered;
        if fresh > 0 || waiting == 0 {
            self.rate += fresh as f64 - self.rate / BEATS;
            self.silent = 0.0;
            return false;
        }
        self.silent += 1.0;
        self.rate >= LEAST && self.silent / BEATS * self.rate >= OVERDUE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After `beats` with so many answers each, the beats of silence until it is missed.
    fn missed_after(beats: usize, each: u64) -> Option<u64> {
        let mut rhythm = Rhythm::default();
        let mut answered = 0;
        for _ in 0..beats {
            answered += each;
            assert!(!rhythm.feel(answered, 3));
        }
        (1..=100).find(|_| rhythm.feel(answered, 1))
    }

    #[test]
    fn who_answers_often_is_missed_soon() {
        assert_eq!(missed_after(100, 100), Some(1));
        assert_eq!(missed_after(100, 5), Some(1));
        assert_eq!(missed_after(100, 2), Some(3));
    }

    #[test]
    fn who_answers_seldom_is_never_missed() {
        assert_eq!(missed_after(100, 0), None);
        assert_eq!(missed_after(2, 2), None, "two beats are no rhythm");
    }

    #[test]
    fn without_a_request_there_is_no_silence() {
        let mut rhythm = Rhythm::default();
        for answered in 0..50 {
            rhythm.feel(answered * 10, 1);
        }
        assert!((0..100).all(|_| !rhythm.feel(490, 0)));
    }
}
