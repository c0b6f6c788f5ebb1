//! How many questions are put sooner than the interval says: a few endpoints that fail are asked again at once, and thousands that fail together
//! are not, for whatever troubles them all is not helped by four times the probes.

use std::time::Instant;

/// So many hasty questions a second are always granted ...
const LEAST: f64 = 64.0;
/// ... and of many endpoints one in so many each second.
const ONE_IN: f64 = 10.0;

/// A token bucket that holds the hasty questions of one second.
#[derive(Clone, Copy, Debug)]
pub struct Haste {
    left: f64,
    at: Option<Instant>,
}

impl Default for Haste {
    fn default() -> Self {
        Self {
            left: f64::INFINITY,
            at: None,
        }
    }
}

impl Haste {
    /// Takes one hasty question, where `endpoints` are watched; `false` when there is none left.
    pub fn take(&mut self, endpoints: usize, now: Instant) -> bool {
        let rate = LEAST.max(endpoints as f64 / ONE_IN);
        let passed = self
            .at
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        self.left = (self.left + passed * rate).min(rate);
        let granted = self.left >= 1.0;
        self.left -= f64::from(u8::from(granted));
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[allow(clippy::disallowed_methods)]
    fn granted(endpoints: usize, wanted: usize, gap: Duration) -> usize {
        let (mut haste, start) = (Haste::default(), Instant::now());
        (0..wanted)
            .filter(|n| haste.take(endpoints, start + gap * *n as u32))
            .count()
    }

    #[test]
    fn few_endpoints_are_asked_as_often_as_they_need() {
        assert_eq!(granted(3, 60, Duration::ZERO), 60);
        assert_eq!(granted(3, 1_000, Duration::from_millis(20)), 1_000);
    }

    #[test]
    fn a_storm_is_kept_to_a_tenth_of_the_endpoints_each_second() {
        assert_eq!(granted(10_000, 40_000, Duration::ZERO), 1_000);
        let within_ten_seconds = granted(10_000, 40_000, Duration::from_micros(250));
        assert!((10_900..=11_100).contains(&within_ten_seconds), "{within_ten_seconds}");
    }
}
