//! The only reader of clocks. Decisions get their time from here, by argument.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// So many pairs are read.
const PAIRS: u32 = 5;

/// A pair of clocks read once at the same moment, so that a monotonic time can be told as a time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Reads both clocks: several times, for another thread may run between the two, and takes the pair that was read closest together.
    #[allow(clippy::disallowed_methods)]
    pub fn start() -> Self {
        let read = || {
            let before = tokio::time::Instant::now().into_std();
            let wall = SystemTime::now();
            let gap = tokio::time::Instant::now().into_std() - before;
            (gap, before + gap / 2, wall)
        };
        let mut closest = read();
        for _ in 1..PAIRS {
            let next = read();
            if next.0 < closest.0 {
                closest = next;
            }
        }
        let (_, start, wall) = closest;
        Self { start, wall }
    }

    /// The monotonic time. It follows a paused runtime, so tests can move it.
    #[allow(clippy::disallowed_methods)]
    pub fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// How long this clock has run.
    pub fn uptime(&self) -> Duration {
        self.now() - self.start
    }

    /// Milliseconds from the start of this clock to `at`.
    pub fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// The time of day of a monotonic time, RFC 3339 with milliseconds. It may lie before the start of this clock.
    pub fn tell(&self, at: Instant) -> String {
        tell_wall(match at.checked_duration_since(self.start) {
            Some(after) => self.wall + after,
            None => self.wall.checked_sub(self.start - at).unwrap_or(SystemTime::UNIX_EPOCH),
        })
    }

    /// The monotonic time of a time of day as [`Clock::tell`] tells it; none for what is no time, or lies before all that the clock can tell.
    pub fn hear(&self, text: &str) -> Option<Instant> {
        let millis = text.parse::<jiff::Timestamp>().ok()?.as_millisecond();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).ok()?);
        match wall.duration_since(self.wall) {
            Ok(after) => self.start.checked_add(after),
            Err(before) => self.start.checked_sub(before.duration()),
        }
    }
}

/// The time of day now, RFC 3339 with milliseconds, for a log line. Each thread writes a second out once.
#[allow(clippy::disallowed_methods)]
pub fn wall_now() -> String {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SECOND.with_borrow_mut(|(second, written)| {
        if *second != now.as_secs() || written.is_empty() {
            let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
            *second = now.as_secs();
            *written = tell_wall(whole).trim_end_matches(".000Z").to_owned();
        }
        format!("{written}.{:03}Z", now.subsec_millis())
    })
}

/// The time of day now, in seconds of Unix time.
#[allow(clippy::disallowed_methods)]
pub fn wall_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

/// The day of a time in seconds of Unix time, as ISO 8601 writes it.
pub fn date(seconds: i64) -> String {
    let day = jiff::Timestamp::from_second(seconds).map(|at| at.strftime("%F").to_string());
    day.unwrap_or_else(|_| "a day beyond all calendars".to_owned())
}

fn tell_wall(wall: SystemTime) -> String {
    jiff::Timestamp::try_from(wall).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

/// Milliseconds since the process began, as of the last [`Coarse::tick`]: a clock that costs one load, for deadlines that may
/// be a tick late.
#[derive(Debug)]
pub struct Coarse(AtomicU64);

/// How often the coarse clock moves.
pub const TICK: Duration = Duration::from_millis(100);

impl Coarse {
    /// The process's coarse clock.
    pub fn get() -> &'static Self {
        static COARSE: Coarse = Coarse(AtomicU64::new(1));
        &COARSE
    }

    /// Milliseconds, never 0.
    pub fn millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves it to the time that `clock` reads. It counts from the first tick in the process, so that gates which start one after the
    /// other read the same time.
    pub fn tick(&self, clock: &Clock) {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        let now = clock.now();
        let since = now.saturating_duration_since(*FIRST.get_or_init(|| now));
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_max(millis.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_start_are_told_and_heard() {
        let clock = Clock::start();
        for at in [
            clock.start - Duration::from_secs(100),
            clock.start,
            clock.start + Duration::from_secs(100),
        ] {
            let heard = clock.hear(&clock.tell(at)).unwrap();
            assert!(heard.max(at) - heard.min(at) <= Duration::from_millis(1));
        }
        assert_eq!(clock.hear("yesterday"), None);
        assert!(clock.tell(clock.start + Duration::from_secs(1)) > clock.tell(clock.start));
    }
}
