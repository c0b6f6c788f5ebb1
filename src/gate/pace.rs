//! Whether a client keeps up: how long it may be waited for, by how much it has sent or taken.
//!
//! Only the time counts in which the gate waits for the client; an endpoint that thinks or a stream that has nothing to say is no fault of its. What has
//! moved earns time, but not without end: the kernel takes megabytes at once of which the client has seen nothing.

use std::time::Duration;

/// Before the rate counts, unless an operator says otherwise: a lost packet on a slow line costs seconds (Kestrel gives 5 s, `MinRequestBodyDataRate`;
/// Apache 20 s, `mod_reqtimeout`).
pub const GRACE: Duration = Duration::from_secs(10);

/// Who has kept the rate for long may stall for so many times the grace: a minute, as nginx allows between two reads.
const SAVED: u32 = 6;

/// One direction of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second at the least; 0 is no limit.
    rate: u64,
    most: Duration,
    left: Duration,
}

impl Pace {
    /// Nothing has moved yet.
    pub fn new(rate: u64, grace: Duration) -> Self {
        Self {
            rate,
            most: grace.saturating_mul(SAVED),
            left: grace,
        }
    }

    /// So much has moved, after the client was waited for so long.
    pub fn step(&mut self, moved: u64, waited: Duration) {
        let earned = moved.saturating_mul(1_000).checked_div(self.rate).unwrap_or_default();
        let left = self.left.saturating_sub(waited);
        self.left = left.saturating_add(Duration::from_millis(earned)).min(self.most);
    }

    /// How much longer the client may be waited for; `None` is for ever.
    pub fn left(&self) -> Option<Duration> {
        (self.rate > 0).then_some(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_client_is_given_time_for_what_it_moves() {
        let mut pace = Pace::new(1_000, GRACE);
        assert_eq!(pace.left(), Some(GRACE));
        pace.step(500, 4 * SECOND);
        assert_eq!(pace.left(), Some(GRACE - Duration::from_millis(3_500)));
        pace.step(0, 20 * SECOND);
        assert_eq!(pace.left(), Some(Duration::ZERO));
    }

    #[test]
    fn who_keeps_the_rate_is_never_late_and_who_falls_below_it_is_in_the_end() {
        let (mut steady, mut slow) = (Pace::new(1_000, GRACE), Pace::new(1_000, GRACE));
        for _ in 0..1_000 {
            steady.step(1_000, SECOND);
            slow.step(990, SECOND);
            assert_eq!(steady.left(), Some(GRACE));
        }
        assert!(slow.left() <= Some(SECOND), "{slow:?}");
    }

    #[test]
    fn what_is_taken_at_once_earns_a_minute_and_no_more() {
        let mut pace = Pace::new(1_000, GRACE);
        pace.step(100_000_000, Duration::ZERO);
        assert_eq!(pace.left(), Some(60 * SECOND));
    }

    #[test]
    fn no_rate_is_no_limit_and_nothing_overflows() {
        let mut pace = Pace::new(0, GRACE);
        pace.step(u64::MAX, Duration::from_secs(1_000_000));
        assert_eq!(pace.left(), None);
        let mut pace = Pace::new(1, Duration::MAX);
        pace.step(u64::MAX, SECOND);
        pace.step(u64::MAX, SECOND);
        assert!(pace.left() > Some(GRACE));
    }
}
