//! Reasons to go back, measured by the gate itself against the pool that users came from.
//!
//! Traffic is counted in windows. A trigger fires when it is exceeded in two windows in a row, and never on fewer samples than
//! the plan asks for: a window that has fewer is joined with those before it, and while all of them together have fewer the trigger is inconclusive. What the old pool did before is the baseline, so a service that always fails two requests of a
//! hundred is not blamed for it. An error that a model provider answers comes within a 200 and counts as nothing.

use std::collections::VecDeque;
use std::time::Duration;

use super::gates::{Gate, Verdict};

/// Times to the first byte are counted by powers of two of a millisecond, from below 1 ms to above half an hour.
pub const BUCKETS: usize = 22;

/// What a pool's traffic came to within a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that an endpoint answered, or failed to.
    pub requests: u64,
    /// Answers of 5xx, and requests that got none. A client that went away is no error.
    pub errors: u64,
    /// Connections that did not come about.
    pub connects: u64,
    /// Event streams that ended.
    pub streams: u64,
    /// Those of them that the endpoint ended without their last event.
    pub aborts: u64,
    /// Event streams that were silent for 35 s.
    pub silent: u64,
    /// Times to the first byte.
    pub first_byte: [u64; BUCKETS],
}

/// The bucket of a time.
pub fn bucket(time: Duration) -> usize {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let bits = (u64::BITS - millis.leading_zeros()) as usize;
    bits.min(BUCKETS - 1)
}

impl Tally {
    /// What came between an earlier sum and this one. A sum that is smaller than before began anew.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut first_byte = [0; BUCKETS];
        for (count, (new, old)) in first_byte
            .iter_mut()
            .zip(self.first_byte.iter().zip(&before.first_byte))
        {
            *count = new.saturating_sub(*old);
        }
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            connects: self.connects.saturating_sub(before.connects),
            streams: self.streams.saturating_sub(before.streams),
            aborts: self.aborts.saturating_sub(before.aborts),
            silent: self.silent.saturating_sub(before.silent),
            first_byte,
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut first_byte = self.first_byte;
        for (count, more) in first_byte.iter_mut().zip(&other.first_byte) {
            *count += more;
        }
        Self {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            connects: self.connects + other.connects,
            streams: self.streams + other.streams,
            aborts: self.aborts + other.aborts,
            silent: self.silent + other.silent,
            first_byte,
        }
    }

    /// The 95th percentile of the time to the first byte: the upper end of its bucket.
    pub fn p95(&self) -> Option<Duration> {
        let all: u64 = self.first_byte.iter().sum();
        let mut seen = 0;
        let bucket = self.first_byte.iter().position(|count| {
            seen += count;
            all > 0 && seen * 100 >= all * 95
        });
        bucket.map(|bucket| Duration::from_millis(1 << bucket))
    }
}

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Errors, in percent.
    pub errors: f64,
    /// Connections that do not come about, in percent.
    pub connects: f64,
    /// The 95th percentile of the time to the first byte.
    pub first_byte: Duration,
    /// Streams without their last event, in percent.
    pub aborts: f64,
    /// Silent streams, in percent.
    pub silent: f64,
    /// The length of a window.
    pub window: Duration,
    /// Fewer endpoints that are fit are too few.
    pub min_healthy: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            errors: 2.0,
            connects: 1.0,
            first_byte: Duration::from_secs(2),
            aborts: 2.0,
            silent: 5.0,
            window: Duration::from_secs(30),
            min_healthy: 1,
        }
    }
}

/// What a pool did is held against this many times what the other did before.
const FACTOR: f64 = 2.0;

/// So many windows are kept; at half a minute each, two hours.
const WINDOWS: usize = 240;

/// The new pool's windows in one phase.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// The last ones, the oldest first.
    windows: VecDeque<Tally>,
    /// All that have passed.
    total: Tally,
    /// The one under way.
    running: Tally,
}

impl Watch {
    /// A window has passed, and the next one begins.
    pub fn note(&mut self, window: Tally) {
        if self.windows.len() == WINDOWS {
            self.windows.pop_front();
        }
        self.windows.push_back(window);
        self.total = self.total.and(&window);
        self.running = Tally::default();
    }

    /// What the window under way has come to so far.
    pub fn go_on(&mut self, running: Tally) {
        self.running = running;
    }

    /// All that was seen, the window under way included.
    pub fn total(&self) -> Tally {
        self.total.and(&self.running)
    }

    /// What each trigger says, by the new pool's last two windows against the old pool's time before.
    pub fn judge(&self, baseline: &Tally, limits: &Limits, min_samples: u64) -> Vec<Gate> {
        let rules = Rule::all(limits);
        rules
            .iter()
            .map(|rule| self.verdict(rule, baseline, min_samples))
            .collect()
    }

    fn verdict(&self, rule: &Rule, baseline: &Tally, min_samples: u64) -> Gate {
        let judged = self.last(rule, min_samples);
        let Some(last) = judged.first() else {
            let detail = if self.windows.is_empty() {
                "no window has passed yet".to_owned()
            } else {
                format!("{} of {min_samples} samples", (rule.samples)(&self.total))
            };
            return Gate::new(rule.name, Verdict::Inconclusive, detail);
        };
        let most = rule.limit(baseline, min_samples);
        let exceeded = judged.iter().filter(|window| (rule.value)(window) > most).count();
        let verdict = match exceeded {
            2 => Verdict::Fail,
            0 => Verdict::Pass,
            _ => Verdict::Inconclusive,
        };
        Gate::new(rule.name, verdict, rule.measured(last, most))
    }

    /// The last windows that have enough samples for a rule, the newest first, two at the most. One that has fewer is joined with those before it, so
    /// that a trickle of requests is judged as well, only later.
    pub(super) fn last(&self, rule: &Rule, min_samples: u64) -> Vec<Tally> {
        let (mut found, mut joined) = (Vec::new(), Tally::default());
        for window in self.windows.iter().rev() {
            joined = joined.and(window);
            if (rule.samples)(&joined) >= min_samples {
                found.push(std::mem::take(&mut joined));
            }
            if found.len() == 2 {
                break;
            }
        }
        found
    }
}

/// One trigger.
pub(super) struct Rule {
    pub(super) name: &'static str,
    unit: &'static str,
    most: f64,
    /// Whether the old pool's own share counts.
    relative: bool,
    pub(super) value: fn(&Tally) -> f64,
    pub(super) samples: fn(&Tally) -> u64,
    /// The samples of which the value is above a limit, or that failed.
    pub(super) bad: fn(&Tally, f64) -> u64,
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

impl Rule {
    pub(super) fn all(limits: &Limits) -> [Self; 5] {
        let rule = |name, most, relative, value, samples, bad| Self {
            name,
            unit: "%",
            most,
            relative,
            value,
            samples,
            bad,
        };
        [
            rule(
                "errors",
                limits.errors,
                true,
                |t| percent(t.errors, t.requests),
                |t| t.requests,
                |t, _| t.errors,
            ),
            rule(
                "connects",
                limits.connects,
                false,
                |t| percent(t.connects, t.requests + t.connects),
                |t| t.requests + t.connects,
                |t, _| t.connects,
            ),
            Self {
                unit: "ms",
                ..rule(
                    "first_byte",
                    limits.first_byte.as_secs_f64() * 1e3,
                    true,
                    |t| t.p95().unwrap_or_default().as_secs_f64() * 1e3,
                    |t| t.first_byte.iter().sum(),
                    slower,
                )
            },
            rule(
                "aborts",
                limits.aborts,
                true,
                |t| percent(t.aborts, t.streams),
                |t| t.streams,
                |t, _| t.aborts,
            ),
            rule(
                "silent",
                limits.silent,
                false,
                |t| percent(t.silent, t.streams + t.silent),
                |t| t.streams + t.silent,
                |t, _| t.silent,
            ),
        ]
    }

    /// What is too much, by what the old pool did before.
    pub(super) fn limit(&self, baseline: &Tally, min_samples: u64) -> f64 {
        let counts = self.relative && (self.samples)(baseline) >= min_samples;
        let usual = if counts { (self.value)(baseline) } else { 0.0 };
        self.most.max(usual * FACTOR)
    }

    /// The value of a time beside its limit, in words.
    pub(super) fn measured(&self, tally: &Tally, most: f64) -> String {
        format!(
            "{:.1} {unit}, at most {most:.1} {unit}",
            (self.value)(tally),
            unit = self.unit
        )
    }
}

/// Samples whose time to the first byte is above so many milliseconds.
fn slower(tally: &Tally, most: f64) -> u64 {
    let buckets = tally.first_byte.iter().zip(0..);
    let slow = buckets.filter(|(_, bucket)| f64::from(1_u32 << bucket) > most);
    slow.map(|(count, _)| count).sum()
}

/// Enough of the new pool must be fit. It needs no samples, for probes are evidence of their own.
pub fn healthy(fit: usize, all: usize, limits: &Limits) -> Gate {
    let verdict = if fit < limits.min_healthy {
        Verdict::Fail
    } else {
        Verdict::Pass
    };
    let detail = format!("{fit} of {all} endpoints are fit, at least {}", limits.min_healthy);
    Gate::new("healthy", verdict, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(requests: u64, errors: u64) -> Tally {
        let mut first_byte = [0; BUCKETS];
        first_byte[bucket(Duration::from_millis(20))] = requests;
        Tally {
            requests,
            errors,
            first_byte,
            ..Tally::default()
        }
    }

    fn verdict(windows: &[Tally], baseline: Tally, name: &str) -> Verdict {
        let mut watch = Watch::default();
        windows.iter().for_each(|window| watch.note(*window));
        let gates = watch.judge(&baseline, &Limits::default(), 50);
        gates.iter().find(|gate| gate.name == name).unwrap().verdict
    }

    #[test]
    fn two_bad_windows_in_a_row_fire_and_one_does_not() {
        let (good, bad) = (tally(1_000, 0), tally(1_000, 100));
        let errors = |windows: &[Tally]| verdict(windows, good, "errors");
        assert_eq!(errors(&[bad]), Verdict::Inconclusive);
        assert_eq!(errors(&[good, bad]), Verdict::Inconclusive);
        assert_eq!(errors(&[bad, bad]), Verdict::Fail);
        assert_eq!(errors(&[bad, bad, good]), Verdict::Inconclusive);
        assert_eq!(errors(&[bad, good, good]), Verdict::Pass);
    }

    #[test]
    fn few_samples_judge_nobody() {
        let few = tally(49, 49);
        assert_eq!(verdict(&[few, few], tally(1_000, 0), "errors"), Verdict::Inconclusive);
        assert_eq!(verdict(&[], tally(1_000, 0), "errors"), Verdict::Inconclusive);
    }

    #[test]
    fn who_always_failed_is_not_blamed_for_it() {
        let bad = tally(1_000, 100);
        assert_eq!(verdict(&[bad, bad], tally(1_000, 60), "errors"), Verdict::Pass);
        assert_eq!(verdict(&[bad, bad], tally(1_000, 40), "errors"), Verdict::Fail);
        // A baseline of a few requests is none.
        assert_eq!(verdict(&[bad, bad], tally(10, 10), "errors"), Verdict::Fail);
    }

    #[test]
    fn slow_is_twice_as_slow_and_slower_than_the_limit() {
        let slow = |millis| {
            let mut window = tally(0, 0);
            window.requests = 100;
            window.first_byte[bucket(Duration::from_millis(millis))] = 100;
            window
        };
        let (usual, much) = (slow(900), slow(9_000));
        assert_eq!(verdict(&[much, much], usual, "first_byte"), Verdict::Fail);
        assert_eq!(verdict(&[usual, usual], slow(20), "first_byte"), Verdict::Pass);
        assert_eq!(verdict(&[much, much], slow(8_500), "first_byte"), Verdict::Pass);
    }

    #[test]
    fn streams_are_judged_by_streams() {
        let window = Tally {
            requests: 1_000,
            streams: 100,
            aborts: 10,
            silent: 20,
            ..Tally::default()
        };
        assert_eq!(verdict(&[window, window], Tally::default(), "aborts"), Verdict::Fail);
        assert_eq!(verdict(&[window, window], Tally::default(), "silent"), Verdict::Fail);
        let connects = Tally {
            connects: 60,
            requests: 0,
            ..Tally::default()
        };
        assert_eq!(
            verdict(&[connects, connects], Tally::default(), "connects"),
            Verdict::Fail
        );
    }

    #[test]
    fn a_trickle_is_judged_as_well_only_later() {
        let (good, bad) = (tally(10, 0), tally(10, 10));
        let errors = |windows: &[Tally]| verdict(windows, tally(1_000, 0), "errors");
        assert_eq!(errors(&[bad; 4]), Verdict::Inconclusive, "40 of 50 samples");
        assert_eq!(errors(&[bad; 9]), Verdict::Inconclusive, "one window of 50");
        assert_eq!(errors(&[bad; 10]), Verdict::Fail);
        assert_eq!(errors(&[good; 5]), Verdict::Pass);
        // One bad time is in one of the two.
        let mut once = [good; 10];
        once[7] = bad;
        assert_eq!(errors(&once), Verdict::Inconclusive);
    }

    #[test]
    fn buckets_and_percentiles_hold_what_was_put_in() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_millis(1)), 1);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(tally(100, 0).p95(), Some(Duration::from_millis(32)));
        assert_eq!(Tally::default().p95(), None);
        let sum = tally(3, 1).and(&tally(4, 1));
        assert_eq!((sum.requests, sum.since(&tally(3, 1)).requests), (7, 4));
    }
}
