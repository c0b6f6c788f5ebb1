//! Latency: whether an endpoint answers much later than its neighbours do. Off unless asked for, since a long prompt looks like a sick instance.
//!
//! So it is held against the same routes of the same pool, needs many answers of several endpoints, and takes weight away long before it takes
//! the endpoint out (the trap of latency-weighted balancing: one slow answer starves an endpoint for ever).

use std::time::{Duration, Instant};

/// When an endpoint is slow, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyRules {
    /// Slow is who takes so many times as long to the first byte as the median of the others.
    pub factor: f32,
    /// Who is slow for so long is held back.
    pub eject_after: Duration,
}

/// The share of an endpoint that is slow, in percent of its weight.
pub const SLOW_SHARE: u32 = 25;
/// Fewer answers say nothing.
const ENOUGH: u32 = 20;
/// Nor do fewer endpoints.
const ENDPOINTS: usize = 3;
/// A difference below this is none, in milliseconds.
const LEAST_MS: f32 = 50.0;

/// What an endpoint's answers on one group of routes took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FirstBytes {
    /// The usual time to the first byte, in milliseconds.
    pub usual_ms: f32,
    /// How many answers it is from.
    pub answers: u32,
}

/// How much later the endpoints of a pool answer than their median does, each once: `Some` where it is slow, by its own time and the median.
pub fn slow(rules: &LatencyRules, all: &[FirstBytes]) -> Vec<Option<(f32, f32)>> {
    let counts = |sample: &&FirstBytes| sample.answers >= ENOUGH;
    let mut times: Vec<f32> = all.iter().filter(counts).map(|sample| sample.usual_ms).collect();
    times.sort_by(f32::total_cmp);
    // Of an even number the lower one: the slow one itself must not be what it is held against.
    let median = times.get(times.len().saturating_sub(1) / 2).copied();
    let median = median.filter(|_| times.len() >= ENDPOINTS);
    let judged = all.iter().map(|sample| {
        let median = median.filter(|_| sample.answers >= ENOUGH)?;
        let is_slow = sample.usual_ms > median * rules.factor && sample.usual_ms - median > LEAST_MS;
        is_slow.then_some((sample.usual_ms, median))
    });
    judged.collect()
}

/// Since when an endpoint is slow, if it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slowness(Option<Instant>);

impl Slowness {
    /// Whether it is.
    pub fn is_slow(self) -> bool {
        self.0.is_some()
    }

    /// It is slow or not at `now`. Tells whether that is news, and whether it has been slow for too long.
    pub fn note(&mut self, slow: bool, rules: &LatencyRules, now: Instant) -> (bool, bool) {
        let news = self.0.is_some() != slow;
        self.0 = slow.then(|| self.0.unwrap_or(now));
        let since = self.0.unwrap_or(now);
        (news, slow && now.saturating_duration_since(since) >= rules.eject_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: LatencyRules = LatencyRules {
        factor: 4.0,
        eject_after: Duration::from_secs(30),
    };

    fn slow_of(times: &[(f32, u32)]) -> Vec<bool> {
        let all: Vec<FirstBytes> = times
            .iter()
            .map(|(usual_ms, answers)| FirstBytes {
                usual_ms: *usual_ms,
                answers: *answers,
            })
            .collect();
        slow(&RULES, &all).iter().map(Option::is_some).collect()
    }

    #[test]
    fn slow_is_who_takes_four_times_as_long_as_the_median() {
        for (times, expected) in [
            (&[(20.0, 50), (25.0, 50), (200.0, 50)][..], [false, false, true]),
            (&[(20.0, 50), (25.0, 50), (90.0, 50)], [false, false, false]),
            (&[(1.0, 50), (1.0, 50), (9.0, 50)], [false, false, false]),
            (&[(20.0, 50), (25.0, 50), (900.0, 19)], [false, false, false]),
            (&[(20.0, 50), (25.0, 3), (900.0, 50)], [false, false, false]),
            (&[(900.0, 50), (900.0, 50), (900.0, 50)], [false, false, false]),
        ] {
            assert_eq!(slow_of(times), expected, "{times:?}");
        }
        assert_eq!(
            slow_of(&[(20.0, 50), (20.0, 50), (500.0, 50), (500.0, 50)]),
            [false, false, true, true]
        );
    }

    #[test]
    fn it_is_news_once_and_too_long_after_its_time() {
        let (mut slowness, start) = (Slowness::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(slowness.note(true, &RULES, at(0)), (true, false));
        assert_eq!(slowness.note(true, &RULES, at(29)), (false, false));
        assert_eq!(slowness.note(true, &RULES, at(30)), (false, true));
        assert_eq!(slowness.note(false, &RULES, at(31)), (true, false));
        assert_eq!(slowness.note(true, &RULES, at(60)), (true, false));
    }
}
