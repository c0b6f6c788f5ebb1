//! The rhythm of an endpoint's answers: when one that answers often falls silent while requests wait, it is worth a question.
//!
//! Silence proves nothing: a blocking workflow is silent for minutes. So only an endpoint that has answered often is missed, after a silence in
//! which several answers were due; one that answers now and then is only asked (the idea of Hayashibara et al., "The Phi Accrual Failure Detector", SRDS 2004: suspicion grows
//! with the time since the last sign of life, measured in its usual intervals).

use std::time::Duration;

/// How often it is felt.
pub const BEAT: Duration = Duration::from_millis(50);
/// The same in a second.
const BEATS: f64 = 20.0;
/// An endpoint that answers less often than this in a second is never missed ...
const LEAST: f64 = 10.0;
/// ... and one that answers less often than this is not asked either: its next probe is due as soon.
const SELDOM: f64 = 2.0;
/// So many answers must be overdue.
const OVERDUE: f64 = 4.0;

/// What a silence is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing: no answer is overdue, or too few are.
    None,
    /// A question.
    Overdue,
    /// A question, and it agrees with a probe that gets no answer.
    Missed,
}

/// What has been felt of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rhythm {
    answered: u64,
    /// Answers a second, by the last second or so in which there were any.
    rate: f64,
    /// Beats without an answer while requests waited.
    silent: f64,
    /// The answers that are to be overdue before it is asked again; 0 while it has not been.
    again: f64,
}

impl Rhythm {
    /// Feels one beat, [`BEAT`] after the last one: how many requests have been answered in all, and how many wait. Tells
    /// what the silence is worth. One that is only asked is asked again when the silence has doubled.
    pub fn feel(&mut self, answered: u64, waiting: u64) -> Silence {
        let fresh = answered.saturating_sub(self.answered);
        self.answered = answered;
        if fresh > 0 || waiting == 0 {
            self.rate += fresh as f64 - self.rate / BEATS;
            self.silent = 0.0;
            self.again = 0.0;
            return Silence::None;
        }
        self.silent += 1.0;
        let overdue = self.silent / BEATS * self.rate;
        if self.rate < SELDOM || overdue < OVERDUE {
            return Silence::None;
        }
        if self.rate >= LEAST {
            return Silence::Missed;
        }
        if overdue < self.again {
            return Silence::None;
        }
        self.again = overdue * 2.0;
        Silence::Overdue
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
            assert_eq!(rhythm.feel(answered, 3), Silence::None);
        }
        (1..=100).find(|_| rhythm.feel(answered, 1) == Silence::Missed)
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
        assert!((0..100).all(|_| rhythm.feel(490, 0) == Silence::None));
    }

    /// One answer in so many beats; then the beats of silence at which it is asked.
    fn asked_at(beats: u64) -> Vec<u64> {
        let mut rhythm = Rhythm::default();
        let mut answered = 0;
        for beat in 0..400 {
            answered += u64::from(beat % beats == 0);
            assert_ne!(rhythm.feel(answered, u64::from(beat % beats == 0)), Silence::Missed);
        }
        let silence = |beat: &u64| *beat > 0 && rhythm.feel(answered, 1) == Silence::Overdue;
        (0..=100).filter(silence).collect()
    }

    #[test]
    fn who_answers_now_and_then_is_asked_and_again_when_the_silence_has_doubled() {
        let asked = asked_at(3);
        assert!((8..=16).contains(&asked[0]), "four were due: {asked:?}");
        assert!(asked.windows(2).all(|two| two[1] >= two[0] * 2), "{asked:?}");
        assert!(asked_at(20).is_empty(), "its next probe is due as soon");
    }
}
