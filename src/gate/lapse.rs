//! Times at which the gate itself did not run: stopped, starved of processor time, or suspended with its machine. What looked like silence then
//! was the gate's own deafness, so a deadline that passed meanwhile is no evidence.

use std::time::{Duration, Instant};

/// The gate feels its own pulse at least every [`super::rhythm::BEAT`]; when the next one is later than this, it did not run. A quarter of the
/// default deadline of a probe.
const LATE: Duration = Duration::from_millis(250);

/// See the module's own words.
#[derive(Clone, Copy, Debug)]
pub struct Lapses {
    felt: Instant,
    /// The beginning and the end of the last one.
    last: Option<(Instant, Instant)>,
}

impl Lapses {
    /// The gate runs since `now`.
    pub fn since(now: Instant) -> Self {
        Self { felt: now, last: None }
    }

    /// The gate runs at `now`. Returns how long it did not, if it is only now awake again.
    pub fn beat(&mut self, now: Instant) -> Option<Duration> {
        let before = std::mem::replace(&mut self.felt, now);
        let gap = now.saturating_duration_since(before);
        (gap > LATE).then(|| {
            self.last = Some((before, now));
            gap
        })
    }

    /// For how long the gate did not run between `from` and `to`, if that was long enough to spoil what it waited for.
    pub fn within(&self, from: Instant, to: Instant) -> Option<Duration> {
        let (slept, woke) = self.last?;
        (slept < to && from < woke).then(|| woke.saturating_duration_since(slept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_late_beat_is_a_lapse_and_spoils_what_waited_through_it() {
        let start = Instant::now();
        let at = |ms: u32| start + ms * MS;
        let mut lapses = Lapses::since(start);
        assert_eq!(lapses.beat(at(50)), None);
        assert_eq!(lapses.beat(at(300)), None, "a quarter of a second is a busy machine");
        assert_eq!(lapses.within(at(0), at(300)), None);
        assert_eq!(lapses.beat(at(3_300)), Some(3_000 * MS));
        assert_eq!(lapses.beat(at(3_350)), None);
        assert_eq!(
            lapses.within(at(3_000), at(3_310)),
            Some(3_000 * MS),
            "it timed out when the gate awoke"
        );
        assert_eq!(lapses.within(at(100), at(4_000)), Some(3_000 * MS));
        assert_eq!(lapses.within(at(100), at(250)), None, "it was over before");
        assert_eq!(lapses.within(at(3_301), at(4_301)), None, "it began afterwards");
    }
}
