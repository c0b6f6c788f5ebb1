//! What the pools of one name were seen to do: each pool's last hour, and the new one's windows since it takes traffic.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::gate::cutover::Record;
use crate::gate::cutover::triggers::{Tally, Watch};
use crate::gate::names::PoolName;

/// What is usual is what a pool did for so long.
const BASELINE: Duration = Duration::from_secs(3_600);

/// At most so many windows are kept of it.
const WINDOWS: usize = 120;

/// See the module's own words.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pools: BTreeMap<PoolName, Past>,
    /// The cutover that is watched, since when its window lasts, and what the new pool had done by then.
    watched: Option<(u64, Instant, Tally)>,
    watch: Watch,
    /// When the phase or the share began in which the new pool is, and what it had done by then.
    share: Option<(Instant, Tally)>,
    /// Requests that it has had since.
    in_share: u64,
    /// What the old pool did in the hour before users left it.
    baseline: Tally,
}

#[derive(Debug, Default)]
struct Past {
    /// The sum at the end of the last window.
    sum: Tally,
    ended: Option<Instant>,
    windows: VecDeque<Tally>,
}

impl Past {
    fn note(&mut self, sum: &Tally, window: Duration, now: Instant) {
        let due = self.ended.is_none_or(|ended| now >= ended + window);
        if !due {
            return;
        }
        if self.ended.is_some() {
            let most = usize::try_from(BASELINE.as_millis() / window.as_millis().max(1)).unwrap_or(WINDOWS);
            while self.windows.len() >= most.clamp(1, WINDOWS) {
                self.windows.pop_front();
            }
            self.windows.push_back(sum.since(&self.sum));
        }
        (self.sum, self.ended) = (*sum, Some(now));
    }

    fn total(&self, sum: &Tally) -> Tally {
        let past = self
            .windows
            .iter()
            .fold(Tally::default(), |all, window| all.and(window));
        past.and(&sum.since(&self.sum))
    }
}

impl Samples {
    /// Notes what every pool has done so far.
    pub(super) fn note(&mut self, sums: &BTreeMap<PoolName, Tally>, record: &Record, window: Duration, now: Instant) {
        for (pool, sum) in sums {
            self.pools.entry(pool.clone()).or_default().note(sum, window, now);
        }
        let watched = record.cutover.as_ref().filter(|cutover| cutover.phase.is_watched());
        let Some(cutover) = watched else {
            self.watched = None;
            return;
        };
        let sum = sums.get(&cutover.to).copied().unwrap_or_default();
        let (_, at_first) = self
            .share
            .filter(|(entered, _)| *entered == cutover.entered)
            .unwrap_or((cutover.entered, sum));
        self.share = Some((cutover.entered, at_first));
        self.in_share = sum.since(&at_first).requests;
        match &mut self.watched {
            Some((id, since, before)) if *id == cutover.id => {
                if now >= *since + window {
                    self.watch.note(sum.since(before));
                    (*since, *before) = (now, sum);
                }
            }
            Some(_) | None => {
                let old = sums.get(&cutover.from).copied().unwrap_or_default();
                self.baseline = self
                    .pools
                    .get(&cutover.from)
                    .map_or_else(Tally::default, |past| past.total(&old));
                self.watch = Watch::default();
                self.watched = Some((cutover.id, now, sum));
            }
        }
    }

    /// The new pool's windows.
    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Requests that the new pool has had since its present share began.
    pub(super) fn in_share(&self) -> u64 {
        self.in_share
    }

    /// What the old pool did before.
    pub(super) fn baseline(&self) -> &Tally {
        &self.baseline
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::cutover::{Plan, Seen, Start, Verb};

    #[test]
    fn the_hour_before_the_flip_is_the_baseline_and_windows_begin_with_it() {
        let (blue, green) = (PoolName::new("blue"), PoolName::new("green"));
        let window = Duration::from_secs(30);
        let start = Verb::Start(Box::new(Start {
            to: green.clone(),
            plan: Plan {
                auto: true,
                ..Plan::default()
            },
            supersede: false,
        }));
        let sums = |of_blue: u64, of_green: u64| {
            let tally = |requests| Tally {
                requests,
                ..Tally::default()
            };
            BTreeMap::from([(blue.clone(), tally(of_blue)), (green.clone(), tally(of_green))])
        };
        let t0 = Instant::now();
        let at = |seconds: u64| t0 + Duration::from_secs(seconds);
        let (mut samples, mut record) = (Samples::default(), Record::new(blue.clone()));
        for seconds in 0..=120 {
            samples.note(&sums(seconds * 10, 0), &record, window, at(seconds));
        }
        record = record.command(&start, "ann", "", &Seen::default(), at(121)).unwrap();
        let seen = Seen {
            prepared: true,
            gates: vec![crate::gate::cutover::Gate::new(
                "health",
                crate::gate::cutover::Verdict::Pass,
                "",
            )],
            ..Seen::default()
        };
        while let Some(next) = record.advance(&seen, at(122)) {
            record = next;
        }
        samples.note(&sums(1_220, 5), &record, window, at(122));
        assert_eq!(samples.baseline().requests, 1_220);
        assert_eq!(samples.watch().total().requests, 0);
        samples.note(&sums(1_220, 305), &record, window, at(152));
        assert_eq!(samples.watch().total().requests, 300);
    }
}
