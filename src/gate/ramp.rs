//! Slow start: an endpoint that comes back takes a growing share, since caches are cold and pools empty (Envoy's `slow_start_config`, HAProxy's
//! `slowstart`).

use std::time::{Duration, Instant};

/// How an endpoint comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// How long it takes to its whole share; zero for at once.
    pub window: Duration,
    /// The share that it begins with, in percent.
    pub floor: u32,
}

impl Default for SlowStart {
    /// Envoy's floor is a tenth; half a minute fills the pools and caches of a Dify process.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            floor: 10,
        }
    }
}

/// How often the share is made anew.
pub const STEP: Duration = Duration::from_secs(1);

/// A return under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    since: Instant,
    terms: SlowStart,
}

impl Ramp {
    /// It begins.
    pub fn start(now: Instant, terms: SlowStart) -> Self {
        Self { since: now, terms }
    }

    /// When it began.
    pub fn since(self) -> Instant {
        self.since
    }

    /// The share at `now`, in percent of the endpoint's weight.
    pub fn share(self, now: Instant) -> u32 {
        let SlowStart { window, floor } = self.terms;
        let passed = now.saturating_duration_since(self.since).min(window);
        if window.is_zero() || floor >= 100 {
            return 100;
        }
        let grown = u128::from(100 - floor) * passed.as_millis() / window.as_millis().max(1);
        (floor + u32::try_from(grown).unwrap_or(0)).clamp(1, 100)
    }

    /// Whether it has come to its end.
    pub fn is_over(self, now: Instant) -> bool {
        self.share(now) >= 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_evenly_from_a_tenth_to_the_whole() {
        let start = Instant::now();
        let terms = SlowStart::default();
        let ramp = Ramp::start(start, terms);
        let shares = [0, 10, 20, 29, 30, 300].map(|seconds| ramp.share(start + Duration::from_secs(seconds)));
        assert_eq!(shares, [10, 40, 70, 97, 100, 100]);
        assert!(!ramp.is_over(start + terms.window - STEP) && ramp.is_over(start + terms.window));
    }
}
