//! What the requests of the last ten seconds say of an endpoint, held against its neighbours.
//!
//! One failed request accuses, which is right where the others do not fail. Where all of them fail now and then, it is the application or what
//! it depends on, and to hold endpoints back one after the other would only take capacity away. So a failure counts against an endpoint that
//! stands out: by a streak, or by its share of failures (Envoy's `success_rate` and `failure_percentage` outlier detection compare hosts in
//! the same way, over ten seconds by default).

use std::time::{Duration, Instant};

/// How long a request is remembered, and in how many parts.
const SPAN: Duration = Duration::from_secs(10);
const PARTS: usize = 10;
/// A share of failures is no share below so many requests.
const ENOUGH: u32 = 10;
/// A share stands out when it is so many percentage points above the median of the others.
const STANDS_OUT: f64 = 0.30;
/// So many failures in a row stand out where the others fail less than every other time.
pub const STREAK: u32 = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    /// Which part of time, counted from the window's beginning.
    number: u64,
    answered: u32,
    failed: u32,
}

/// See the module's own words.
#[derive(Clone, Debug)]
pub struct Window {
    start: Instant,
    parts: [Part; PARTS],
}

impl Window {
    /// A window that has seen nothing.
    pub fn new(now: Instant) -> Self {
        Self {
            start: now,
            parts: [Part::default(); PARTS],
        }
    }

    fn number(&self, now: Instant) -> u64 {
        let part = SPAN.as_millis() / PARTS as u128;
        u64::try_from(now.saturating_duration_since(self.start).as_millis() / part).unwrap_or(u64::MAX)
    }

    /// Notes requests that have ended, the failed ones among them.
    pub fn note(&mut self, answered: u32, failed: u32, now: Instant) {
        let number = self.number(now);
        if let Some(part) = self.parts.get_mut((number % PARTS as u64) as usize) {
            if part.number != number {
                *part = Part {
                    number,
                    ..Part::default()
                };
            }
            part.answered = part.answered.saturating_add(answered);
            part.failed = part.failed.saturating_add(failed);
        }
    }

    /// Requests that ended within the last ten seconds, and how many of them failed.
    pub fn sums(&self, now: Instant) -> (u32, u32) {
        let number = self.number(now);
        let fresh = self
            .parts
            .iter()
            .filter(|part| number - part.number.min(number) < PARTS as u64);
        fresh.fold((0, 0), |(answered, failed), part| {
            (answered + part.answered.max(part.failed), failed + part.failed)
        })
    }

    /// The share of failures, where there are requests enough to speak of one.
    pub fn share(&self, now: Instant) -> Option<f64> {
        let (answered, failed) = self.sums(now);
        (answered >= ENOUGH).then(|| f64::from(failed) / f64::from(answered))
    }
}

/// Whether an endpoint that has failed `streak` times in a row, and `share` of its requests, stands out among `others`, by their shares.
/// Without others that have served enough, or where half of them do not fail at all, there is nothing to hold it against, and its failure counts.
pub fn stands_out(streak: u32, share: Option<f64>, mut others: Vec<f64>) -> bool {
    others.sort_by(f64::total_cmp);
    let Some(median) = others
        .get(others.len().saturating_sub(1) / 2)
        .copied()
        .filter(|median| *median > 0.0)
    else {
        return true;
    };
    let by_streak = streak >= STREAK && median < 0.5;
    by_streak || share.is_some_and(|share| share >= median + STANDS_OUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_request_is_remembered_for_ten_seconds() {
        let start = Instant::now();
        let mut window = Window::new(start);
        window.note(8, 1, start);
        assert_eq!(window.share(start), None, "eight are no share");
        window.note(8, 3, start + 5 * SECOND);
        assert_eq!(window.sums(start + 9 * SECOND), (16, 4));
        assert_eq!(window.share(start + 9 * SECOND), Some(0.25));
        assert_eq!(window.sums(start + 10 * SECOND), (8, 3));
        assert_eq!(window.sums(start + 100 * SECOND), (0, 0));
        window.note(1, 1, start + 100 * SECOND);
        assert_eq!(window.sums(start + 100 * SECOND), (1, 1));
    }

    #[test]
    fn who_fails_like_all_the_others_does_not_stand_out() {
        for (streak, share, others, expected) in [
            (1, None, vec![], true),
            (1, Some(0.01), vec![0.0, 0.0], true),
            (1, Some(0.01), vec![0.0, 0.02, 0.02], false),
            (1, Some(0.02), vec![0.01, 0.01], false),
            (2, Some(0.10), vec![0.01, 0.01], false),
            (3, Some(0.10), vec![0.01, 0.01], true),
            (1, Some(0.31), vec![0.01, 0.01], true),
            (9, Some(0.70), vec![0.60, 0.60], false),
            (1, Some(0.95), vec![0.60, 0.60], true),
            (1, None, vec![0.60], false),
        ] {
            assert_eq!(
                stands_out(streak, share, others.clone()),
                expected,
                "{streak} {share:?} {others:?}"
            );
        }
    }
}
