//! Rounds of checks: all at once, one round at a time, and what it found serves everybody for a moment. A check with an interval of its own sits
//! rounds out until that is over, and counts with what it found last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::Check;
use super::answer::Answer;
use super::check::{Finding, Tools};

/// From a query on the same machine to a check that is about to be called hung.
const BUCKETS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// What the checks of all rounds tell Prometheus.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    up: IntGaugeVec,
    runs: IntCounterVec,
    took: HistogramVec,
}

impl Figures {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let figures = Self {
            up: IntGaugeVec::new(Opts::new("check_up", "1 while a check passes"), &["check"])?,
            runs: IntCounterVec::new(
                Opts::new("check_runs_total", "Runs of a check, by what came of it"),
                &["check", "outcome"],
            )?,
            took: HistogramVec::new(
                HistogramOpts::new("check_duration_seconds", "How long a check took").buckets(BUCKETS.to_vec()),
                &["check"],
            )?,
        };
        registry.register(Box::new(figures.up.clone()))?;
        registry.register(Box::new(figures.runs.clone()))?;
        registry.register(Box::new(figures.took.clone()))?;
        registry.register(Box::new(crate::log::dropped()?))?;
        Ok(figures)
    }

    fn note(&self, check: &str, finding: &Finding) {
        let passed = finding.failure.is_none();
        self.up.with_label_values(&[check]).set(passed.into());
        let outcome = if passed { "pass" } else { "fail" };
        self.runs.with_label_values(&[check, outcome]).inc();
        self.took
            .with_label_values(&[check])
            .observe(finding.took.as_secs_f64());
    }
}

/// See the module's own words.
#[derive(Debug)]
pub(super) struct Rounds {
    checks: Arc<[Check]>,
    tools: Tools,
    figures: Figures,
    cache: Duration,
    last: ArcSwapOption<Round>,
    /// Held while a round is under way.
    memory: Mutex<Memory>,
    draining: AtomicBool,
    passed_once: AtomicBool,
}

/// A round that is over.
#[derive(Debug)]
struct Round {
    start: Instant,
    end: Instant,
    draining: bool,
    answer: Answer,
}

/// What one round leaves to the next.
#[derive(Debug, Default)]
struct Memory {
    /// What failed, so that only news is told.
    failing: BTreeMap<String, String>,
    /// When each check was asked last, and what it found; the order of the checks.
    found: Vec<(Instant, Finding)>,
}

impl Rounds {
    pub(super) fn new(checks: Vec<Check>, tools: Tools, figures: Figures, cache: Duration) -> Self {
        Self {
            checks: checks.into(),
            tools,
            figures,
            cache,
            last: ArcSwapOption::empty(),
            memory: Mutex::default(),
            draining: AtomicBool::new(false),
            passed_once: AtomicBool::new(false),
        }
    }

    /// The answer of the last round if it is young, else that of a new one, for which everybody waits together.
    pub(super) async fn answer(self: &Arc<Self>) -> Answer {
        if let Some(answer) = self.young() {
            return answer;
        }
        // Whoever asked may give up; others wait for the same round.
        let round = tokio::spawn(self.clone().round());
        match round.await {
            Ok(answer) => answer,
            Err(_) => Answer::of([], true),
        }
    }

    /// Whether every critical check has passed at some time.
    pub(super) fn has_passed(&self) -> bool {
        self.passed_once.load(Ordering::Relaxed)
    }

    /// Says from now on that the instance is about to stop, or no longer.
    pub(super) fn drain(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// The last round, unless it has something else to say of the end than is true by now.
    fn last(&self) -> Option<Arc<Round>> {
        let last = self.last.load_full();
        last.filter(|round| round.draining == self.draining.load(Ordering::Relaxed))
    }

    fn young(&self) -> Option<Answer> {
        let round = self.last()?;
        (self.tools.clock.now() < round.start + self.cache).then(|| round.answer.clone())
    }

    /// The answer of a round that ended while somebody waited from `since` on: to begin another one would make them wait twice.
    fn awaited(&self, since: Instant) -> Option<Answer> {
        let round = self.last()?;
        (since < round.end).then(|| round.answer.clone())
    }

    async fn round(self: Arc<Self>) -> Answer {
        let since = self.tools.clock.now();
        let mut memory = self.memory.lock().await;
        if let Some(answer) = self.young().or_else(|| self.awaited(since)) {
            return answer;
        }
        let start = self.tools.clock.now();
        let running: Vec<_> = (0..self.checks.len())
            .map(|index| {
                let this = self.clone();
                let rests = memory.rests(index, &self.checks, start);
                (!rests).then(|| tokio::spawn(async move { Some(this.checks.get(index)?.run(&this.tools).await) }))
            })
            .collect();
        let mut found = Vec::new();
        for ((index, check), run) in self.checks.iter().enumerate().zip(running) {
            let Some(run) = run else {
                found.extend(memory.found.get(index).cloned());
                continue;
            };
            let finding = run.await.ok().flatten().unwrap_or_else(|| Finding {
                failure: Some("it could not be run".to_owned()),
                took: Duration::ZERO,
            });
            self.figures.note(&check.name, &finding);
            tell(&mut memory.failing, &check.name, &finding);
            found.push((start, finding));
        }
        let findings = found.iter().map(|(_, finding)| finding);
        let draining = self.draining.load(Ordering::Relaxed);
        let answer = Answer::of(self.checks.iter().zip(findings), draining);
        if answer.healthy {
            self.passed_once.store(true, Ordering::Relaxed);
        }
        memory.found = found;
        let end = self.tools.clock.now();
        let round = Arc::new(Round {
            start,
            end,
            draining,
            answer: answer.clone(),
        });
        self.last.store(Some(round));
        answer
    }
}

impl Memory {
    /// Whether a check sits out a round that begins at `now`.
    fn rests(&self, index: usize, checks: &[Check], now: Instant) -> bool {
        let asked = self.found.get(index).zip(checks.get(index));
        asked.is_some_and(|((at, _), check)| now < *at + check.interval)
    }
}

/// Tells what is new: a check that fails, fails otherwise, or passes again.
fn tell(failing: &mut BTreeMap<String, String>, check: &str, finding: &Finding) {
    match (failing.get(check), &finding.failure) {
        (None, Some(reason)) => warn!(check, reason, "check fails"),
        (Some(before), Some(reason)) if before != reason && !before.starts_with("it took") => {
            warn!(check, reason, "check fails otherwise");
        }
        (Some(_), None) => info!(check, "check passes again"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    match &finding.failure {
        Some(reason) => failing.insert(check.to_owned(), reason.clone()),
        None => failing.remove(check),
    };
}
