//! What the pools of one name were seen to do: each pool's last hour, and the new one's windows since it takes traffic.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::gate::cutover::triggers::{Tally, Watch};
use crate::gate::cutover::{Cutover, Record, Stage};
use crate::gate::names::PoolName;

/// What is usual is what a pool did for so long.
const BASELINE: Duration = Duration::from_secs(3_600);

/// At most so many windows are kept of it.
const WINDOWS: usize = 120;

/// What so many processes before this one have counted is kept.
const MOST_BEFORE: usize = 32;

/// See the module's own words.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pools: BTreeMap<PoolName, Past>,
    watched: Option<Watched>,
    /// What is known of a phase in which nothing was counted yet.
    nothing: Watch,
    /// When something was counted last.
    now: Option<Instant>,
    /// What had been counted when that was written last.
    counted: u64,
}

/// What the new pool has done in one phase of one cutover. Another phase begins with none of it.
#[derive(Debug)]
struct Watched {
    /// The cutover and its phase.
    stage: Stage,
    watch: Watch,
    /// When the window under way began, and what the pool had done by then.
    window: (Instant, Tally),
    /// The step of the shares, and what the pool had done when that step began.
    step: (usize, Tally),
    /// Requests since the step began.
    in_step: u64,
}

#[derive(Debug, Default)]
struct Past {
    /// The sum at the end of the last window.
    sum: Tally,
    /// What the window under way has come to so far.
    running: Tally,
    ended: Option<Instant>,
    windows: VecDeque<Tally>,
    /// What was counted by processes before this one, and up to when.
    before: Vec<(Instant, Tally)>,
}

impl Past {
    fn note(&mut self, sum: &Tally, window: Duration, now: Instant) {
        if self.ended.is_some_and(|ended| now < ended + window) {
            self.running = sum.since(&self.sum);
            return;
        }
        if self.ended.is_some() {
            let most = usize::try_from(BASELINE.as_millis() / window.as_millis().max(1)).unwrap_or(WINDOWS);
            while self.windows.len() >= most.clamp(1, WINDOWS) {
                self.windows.pop_front();
            }
            self.windows.push_back(sum.since(&self.sum));
        }
        (self.sum, self.ended, self.running) = (*sum, Some(now), Tally::default());
    }

    /// What this process has counted.
    fn counted(&self) -> Tally {
        self.windows.iter().fold(self.running, |all, window| all.and(window))
    }

    /// What processes before this one have counted, as far as it is not too old.
    fn before(&self, now: Instant) -> impl Iterator<Item = &(Instant, Tally)> {
        let recent = move |(at, _): &&(Instant, Tally)| now.saturating_duration_since(*at) < BASELINE;
        self.before.iter().filter(recent)
    }

    fn total(&self, now: Instant) -> Tally {
        self.before(now)
            .fold(self.counted(), |all, (_, before)| all.and(before))
    }
}

impl Samples {
    /// Notes what every pool has done so far.
    pub(super) fn note(&mut self, sums: &BTreeMap<PoolName, Tally>, record: &Record, window: Duration, now: Instant) {
        self.now = Some(now);
        for (pool, sum) in sums {
            self.pools.entry(pool.clone()).or_default().note(sum, window, now);
        }
        let stage = record
            .cutover
            .as_ref()
            .and_then(|cutover| Some((cutover, cutover.stage()?)));
        let Some((cutover, stage)) = stage else {
            self.watched = None;
            return;
        };
        let sum = sums.get(&cutover.to).copied().unwrap_or_default();
        let before = self.watched.take().filter(|watched| watched.stage == stage);
        let mut watched = before.unwrap_or_else(|| Watched {
            stage,
            watch: Watch::default(),
            window: (now, sum),
            step: (cutover.step, sum),
            in_step: 0,
        });
        let (began, at_first) = watched.window;
        if now >= began + window {
            watched.watch.note(sum.since(&at_first));
            watched.window = (now, sum);
        } else {
            watched.watch.go_on(sum.since(&at_first));
        }
        if watched.step.0 != cutover.step {
            watched.step = (cutover.step, sum);
        }
        watched.in_step = sum.since(&watched.step.1).requests;
        self.watched = Some(watched);
    }

    /// What a pool did in the last hour.
    pub(super) fn usual(&self, pool: &PoolName) -> Tally {
        let past = self.pools.get(pool).zip(self.now);
        past.map_or_else(Tally::default, |(past, now)| past.total(now))
    }

    /// Whether anything was counted since this was asked for last, of pools between which users could be moved.
    pub(super) fn have_grown(&mut self) -> bool {
        let pools = self.pools.values().map(|past| past.sum.requests + past.sum.connects);
        let counted = pools.sum();
        self.pools.len() > 1 && std::mem::replace(&mut self.counted, counted) != counted
    }

    /// What each pool has done, and up to when: what the next process is told.
    pub(super) fn told(&self, now: Instant) -> Vec<(PoolName, Instant, Tally)> {
        let pools = self.pools.iter().flat_map(|(pool, past)| {
            let before = past.before(now).copied();
            let all = before.chain([(now, past.counted())]);
            all.map(|(at, counted)| (pool.clone(), at, counted))
        });
        pools.filter(|(.., counted)| *counted != Tally::default()).collect()
    }

    /// What a pool did up to a time before this process.
    pub(super) fn recall(&mut self, pool: PoolName, at: Instant, counted: Tally) {
        let before = &mut self.pools.entry(pool).or_default().before;
        if before.len() < MOST_BEFORE {
            before.push((at, counted));
        }
    }

    fn watched(&self, cutover: &Cutover) -> Option<&Watched> {
        let stage = cutover.stage();
        self.watched.as_ref().filter(|watched| Some(watched.stage) == stage)
    }

    /// The new pool's windows in the cutover's present phase.
    pub(super) fn watch(&self, cutover: &Cutover) -> &Watch {
        self.watched(cutover).map_or(&self.nothing, |watched| &watched.watch)
    }

    /// Requests that the new pool has had since its present share began.
    pub(super) fn in_share(&self, cutover: &Cutover) -> u64 {
        self.watched(cutover).map_or(0, |watched| watched.in_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::cutover::{Gate, Phase, Plan, Seen, Start, Step, Verb, Verdict};

    const WINDOW: Duration = Duration::from_secs(30);

    fn tally(requests: u64, errors: u64) -> Tally {
        Tally {
            requests,
            errors,
            ..Tally::default()
        }
    }

    fn sums(blue: Tally, green: Tally) -> BTreeMap<PoolName, Tally> {
        BTreeMap::from([(PoolName::new("blue"), blue), (PoolName::new("green"), green)])
    }

    /// A cutover to green at this time, as far as it goes at once.
    fn flipped(record: &Record, steps: Vec<Step>, now: Instant) -> Record {
        let start = Verb::Start(Box::new(Start {
            to: PoolName::new("green"),
            plan: Plan {
                auto: true,
                steps,
                ..Plan::default()
            },
            supersede: false,
        }));
        let seen = Seen {
            prepared: true,
            old_fit: 1,
            gates: vec![Gate::new("health", Verdict::Pass, "")],
            ..Seen::default()
        };
        let mut record = record.command(&start, "ann", "", &Seen::default(), now).unwrap();
        while let Some(next) = record.advance(&seen, now) {
            record = next;
        }
        record
    }

    #[test]
    fn the_hour_before_the_flip_is_the_baseline_and_windows_begin_with_it() {
        let t0 = Instant::now();
        let at = |seconds: u64| t0 + Duration::from_secs(seconds);
        let (mut samples, record) = (Samples::default(), Record::new(PoolName::new("blue")));
        for seconds in 0..=120 {
            let sums = sums(tally(seconds * 10, 0), tally(0, 0));
            samples.note(&sums, &record, WINDOW, at(seconds));
        }
        let record = flipped(&record, Vec::new(), at(122));
        let cutover = record.cutover.clone().unwrap();
        samples.note(&sums(tally(1_220, 0), tally(5, 0)), &record, WINDOW, at(122));
        assert_eq!(samples.usual(&cutover.from).requests, 1_220);
        assert_eq!(samples.watch(&cutover).total().requests, 0);
        samples.note(&sums(tally(1_220, 0), tally(305, 0)), &record, WINDOW, at(152));
        assert_eq!(samples.watch(&cutover).total().requests, 300);
    }

    #[test]
    fn the_hour_before_outlives_the_process() {
        let t0 = Instant::now() + BASELINE;
        let blue = PoolName::new("blue");
        let record = Record::new(blue.clone());
        let mut first = Samples::default();
        for seconds in 0..=45 {
            let sums = sums(tally(seconds * 10, seconds), tally(0, 0));
            first.note(&sums, &record, WINDOW, t0 + Duration::from_secs(seconds));
        }
        assert!(first.have_grown() && !first.have_grown());
        let at = t0 + Duration::from_secs(50);
        let told = first.told(at);
        assert_eq!(
            told,
            [(blue.clone(), at, tally(450, 45))],
            "what did nothing is not told"
        );
        let mut second = Samples::default();
        for (pool, at, counted) in told {
            second.recall(pool, at, counted);
        }
        for (seconds, usual) in [(60, 450), (61, 460), (3_700, 10)] {
            let sums = sums(tally(if seconds > 60 { 10 } else { 0 }, 0), tally(0, 0));
            second.note(&sums, &record, WINDOW, t0 + Duration::from_secs(seconds));
            assert_eq!(second.usual(&blue).requests, usual, "{seconds}");
        }
    }

    #[test]
    fn windows_of_one_cutover_or_phase_say_nothing_of_another() {
        let t0 = Instant::now();
        let at = |seconds: u64| t0 + Duration::from_secs(seconds);
        let mut samples = Samples::default();
        let step = Step {
            percent: 50,
            hold: Duration::from_secs(600),
        };
        let first = flipped(&Record::new(PoolName::new("blue")), vec![step], at(0));
        for seconds in 0..=60 {
            let sums = sums(tally(0, 0), tally(seconds * 10, seconds * 10));
            samples.note(&sums, &first, WINDOW, at(seconds));
        }
        let shifting = first.cutover.clone().unwrap();
        assert_eq!(
            (shifting.phase, samples.watch(&shifting).total().errors),
            (Phase::Shifting, 600)
        );
        assert_eq!(samples.in_share(&shifting), 600);
        // The next phase, and the next cutover, before anything is counted in them and after.
        let baking = first.command(&Verb::Promote, "ann", "", &passing(), at(61)).unwrap();
        let back = baking.command(&Verb::Abort, "ann", "", &passing(), at(62)).unwrap();
        let back = back.advance(&passing(), at(62)).unwrap();
        let second = flipped(&back, Vec::new(), at(63));
        for (record, seconds) in [(baking, 61), (second, 63)] {
            let cutover = record.cutover.clone().unwrap();
            assert_eq!(cutover.phase, Phase::Baking);
            assert_eq!(samples.watch(&cutover).total().errors, 0);
            samples.note(&sums(tally(0, 0), tally(610, 610)), &record, WINDOW, at(seconds));
            assert_eq!(samples.watch(&cutover).total().errors, 0);
            assert_eq!(samples.in_share(&cutover), 0);
        }
    }

    fn passing() -> Seen {
        Seen {
            old_fit: 1,
            gates: vec![Gate::new("health", Verdict::Pass, "")],
            ..Seen::default()
        }
    }
}
