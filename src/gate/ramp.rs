//! Slow start: an endpoint that comes back takes a growing share, since caches are cold and pools empty (Envoy's `slow_start_config`, HAProxy's
//! `slowstart`).

use std::time::{Duration, Instant};

/// The share that it begins with, in percent of its weight.
const FLOOR: u32 = 10;
/// How long it takes to the whole.
const WINDOW: Duration = Duration::from_secs(30);
/// How often the share is made anew.
pub const STEP: Duration = Duration::from_secs(1);

/// A return under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    since: Instant,
}

impl Ramp {
    /// It begins.
    pub fn start(now: Instant) -> Self {
        Self { since: now }
    }

    /// The share at `now`, in percent of the endpoint's weight.
    pub fn share(self, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.since).min(WINDOW);
        let grown = u128::from(100 - FLOOR) * passed.as_millis() / WINDOW.as_millis();
        FLOOR + u32::try_from(grown).unwrap_or(0)
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
        let ramp = Ramp::start(start);
        let shares = [0, 10, 20, 29, 30, 300].map(|seconds| ramp.share(start + Duration::from_secs(seconds)));
        assert_eq!(shares, [10, 40, 70, 97, 100, 100]);
        assert!(!ramp.is_over(start + WINDOW - STEP) && ramp.is_over(start + WINDOW));
    }
}
