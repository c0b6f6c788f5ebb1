//! The world of a history: the truth of each endpoint, its probes, and the requests that are sent there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::test_runner::TestCaseError;

use super::super::samples::Samples;
use crate::gate::capacity::UnderWay;
use crate::gate::components::{ComponentRule, ComponentRules, OnFailure};
use crate::gate::cutover::triggers::Tally;
use crate::gate::cutover::{Record, Stage};
use crate::gate::health::{FailureClass, Outcome, ProbePlan};
use crate::gate::keeper::{Effect, EndpointPlan, Keeper, Phases, ProbeReport, Slot, Terms, Ticket};
use crate::gate::names::{Address, EndpointId, PoolName, UpstreamName};
use crate::gate::passive::{TrafficFailure, Trial};
use crate::gate::state::Tier;

pub(super) const POOLS: [&str; 2] = ["blue", "green"];
pub(super) const EACH: usize = 3;
/// Streams that an endpoint has room for.
pub(super) const PLACES: u32 = 6;
/// A fault that is over, or has just begun, may still be what is seen for so long.
pub(super) const SEEN: Duration = Duration::from_secs(6);
/// Failures are remembered for so long, and a second.
const REMEMBERED: Duration = Duration::from_secs(11);
/// So long one slice of time is, and so many requests come in it.
pub(super) const SLICE: Duration = Duration::from_millis(50);
pub(super) const REQUESTS: usize = 2;

/// What is true of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Is {
    Well,
    /// Its process does not run: neither probes nor requests are answered.
    Frozen,
    /// Probes and requests get 503.
    Refuses,
    /// Nobody listens.
    Gone,
    /// Probes pass, and requests break.
    Grey,
}

#[derive(Debug)]
pub(super) struct Truth {
    pub(super) is: Is,
    pub(super) streams: u32,
    /// When it was last anything but well.
    pub(super) ill: Option<Instant>,
    pub(super) well_since: Instant,
    pub(super) failed_in_a_row: u32,
    /// Whether it was not well, or had just not been, when it last became suspect.
    pub(super) justly_accused: bool,
    pub(super) broken: VecDeque<Instant>,
}

/// The engine, its clock, and the truth.
pub(super) struct World {
    pub(super) keeper: Keeper,
    pub(super) slots: Vec<Slot>,
    pub(super) truth: Vec<Truth>,
    pub(super) lacks_database: bool,
    /// When the database was away last.
    pub(super) away: Option<Instant>,
    /// When a pool last had too few endpoints that answer for a failure to be known as shared, while the database was away.
    pub(super) thin: [Option<Instant>; 2],
    pub(super) record: Record,
    pub(super) samples: Samples,
    pub(super) sums: [Tally; 2],
    /// What the new pool had done when the present stage of the cutover began.
    pub(super) at_stage: (Option<Stage>, Tally),
    pub(super) waiting: Vec<(Instant, Ticket, Arc<ProbeReport>, UnderWay)>,
    pub(super) now: Instant,
    pub(super) turn: usize,
}

pub(super) fn members(pool: usize) -> std::ops::Range<usize> {
    pool * EACH..(pool + 1) * EACH
}

pub(super) fn plans() -> Vec<EndpointPlan> {
    let rule = ComponentRule {
        on_failure: OnFailure::Eject,
        shared: true,
    };
    let terms = Arc::new(Terms {
        components: ComponentRules([("database".to_owned(), rule)].into()),
        ..Terms::default()
    });
    let plan = |endpoint: usize| EndpointPlan {
        id: EndpointId {
            upstream: UpstreamName::new("dify"),
            pool: PoolName::new(POOLS[endpoint / EACH]),
            address: Address::parse(&format!("10.0.0.{}:80", endpoint + 1)).unwrap(),
        },
        probes: vec![Arc::new(ProbePlan::default())],
        terms: terms.clone(),
    };
    (0..2 * EACH).map(plan).collect()
}

impl World {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let mut keeper = Keeper::new(7);
        keeper.reconcile(plans(), now);
        let slots: Vec<Slot> = keeper.all().map(|(slot, _)| slot).collect();
        let truth = || Truth {
            is: Is::Well,
            streams: 0,
            ill: None,
            well_since: now,
            failed_in_a_row: 0,
            justly_accused: false,
            broken: VecDeque::new(),
        };
        Self {
            truth: slots.iter().map(|_| truth()).collect(),
            keeper,
            slots,
            lacks_database: false,
            away: None,
            thin: [None; 2],
            record: Record::new(PoolName::new(POOLS[0])),
            samples: Samples::default(),
            sums: [Tally::default(); 2],
            at_stage: (None, Tally::default()),
            waiting: Vec::new(),
            now,
            turn: 0,
        }
    }

    pub(super) fn endpoint(&self, slot: Slot) -> usize {
        self.slots.iter().position(|known| *known == slot).unwrap()
    }

    pub(super) fn tier(&self, endpoint: usize) -> Option<Tier> {
        self.keeper.get(self.slots[endpoint])?.tier()
    }

    pub(super) fn was(&self, moment: Option<Instant>) -> bool {
        moment.is_some_and(|moment| self.now - moment < SEEN)
    }

    /// What a probe gets, and after which time.
    pub(super) fn report(&self, endpoint: usize) -> (u64, ProbeReport) {
        let truth = &self.truth[endpoint];
        let fail = |class| Outcome::Fail {
            class,
            detail: "as told".into(),
        };
        let is_full = truth.streams >= PLACES;
        let mut failed = Vec::new();
        let (after, status, outcome) = match truth.is {
            Is::Gone => (1, None, fail(FailureClass::Connect)),
            Is::Frozen => (1_000, None, fail(FailureClass::Timeout)),
            Is::Refuses => (2, Some(503), fail(FailureClass::Status)),
            Is::Well | Is::Grey if is_full => (1_000, None, fail(FailureClass::Timeout)),
            Is::Well | Is::Grey if self.lacks_database => {
                failed.push("database".to_owned());
                (2, Some(503), fail(FailureClass::Status))
            }
            Is::Well | Is::Grey => (2, Some(200), Outcome::Pass),
        };
        let names = matches!(status, Some(200)) || !failed.is_empty();
        let report = ProbeReport {
            outcome,
            status,
            components: names
                .then(|| ("database".to_owned(), failed.is_empty()))
                .into_iter()
                .collect(),
            failed,
            version: None,
            asked: None,
            phases: Phases {
                total: Duration::from_millis(after),
                ..Phases::default()
            },
        };
        (after, report)
    }

    pub(super) fn ask(&mut self, ticket: Ticket) {
        let endpoint = self.endpoint(ticket.slot);
        let streams = self.truth[endpoint].streams;
        let under_way = UnderWay {
            before: streams,
            begun: streams,
            settled: streams,
            now: streams,
            ..UnderWay::default()
        };
        self.keeper.handle_sent(ticket, under_way);
        let (after, report) = self.report(endpoint);
        let at = self.now + Duration::from_millis(after);
        self.waiting.push((at, ticket, report.into(), under_way));
    }

    /// Lets probes and timers go on until a moment.
    pub(super) fn go_on(&mut self, until: Instant) -> Result<(), TestCaseError> {
        assert!(self.now <= until, "the clock goes back");
        loop {
            while let Some(effect) = self.keeper.poll_effect() {
                match effect {
                    Effect::Probe(ticket) => self.ask(ticket),
                    Effect::Announce(slot, event) => {
                        let endpoint = self.endpoint(slot);
                        self.may_become(endpoint, &event)?;
                    }
                    Effect::Publish(_)
                    | Effect::Grow(_)
                    | Effect::Shared { .. }
                    | Effect::Spare(..)
                    | Effect::Slow(..)
                    | Effect::Flaps(_) => {}
                }
            }
            let answers = self.waiting.iter().map(|(at, ..)| *at);
            let next = answers.chain(self.keeper.poll_timeout()).min();
            let Some(next) = next.filter(|at| *at <= until) else {
                self.now = until;
                return Ok(());
            };
            self.now = self.now.max(next);
            let now = self.now;
            let (ready, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|(at, ..)| *at <= now);
            self.waiting = rest;
            for (_, ticket, report, under_way) in ready {
                self.keeper.handle_probe(ticket, report, under_way, now);
            }
            self.keeper.handle_timeout(now);
        }
    }

    /// Endpoints of a pool in the order in which a request tries them.
    pub(super) fn choices(&mut self, pool: usize) -> Vec<usize> {
        self.turn += 1;
        let mut all: Vec<usize> = members(pool)
            .filter(|endpoint| self.tier(*endpoint).is_some())
            .collect();
        let turn = self.turn;
        all.sort_by_key(|endpoint| (self.tier(*endpoint), (endpoint + turn) % EACH));
        all
    }

    /// One request that can be sent again once.
    pub(super) fn serve(&mut self, pool: usize) {
        for endpoint in self.choices(pool).into_iter().take(2) {
            if self.attempt(endpoint) {
                return;
            }
        }
    }

    /// Sends a request to an endpoint: whether it was answered.
    pub(super) fn attempt(&mut self, endpoint: usize) -> bool {
        let (slot, now, pool) = (self.slots[endpoint], self.now, endpoint / EACH);
        let on_trial = self.keeper.get(slot).is_some_and(|known| known.wants_trial());
        let truth = &mut self.truth[endpoint];
        let failure = match truth.is {
            Is::Well if truth.streams >= PLACES => return false,
            Is::Well if self.lacks_database => Some(TrafficFailure::Timeout),
            Is::Well => None,
            Is::Frozen => Some(TrafficFailure::Timeout),
            Is::Refuses => Some(TrafficFailure::Status(503)),
            Is::Gone => Some(TrafficFailure::Connect),
            Is::Grey => Some(TrafficFailure::Reset),
        };
        self.sums[pool].requests += 1;
        let Some(failure) = failure else {
            truth.failed_in_a_row = 0;
            self.keeper.handle_answers(slot, 1, now);
            self.keeper.handle_answered_with(slot, truth.streams + 1, now);
            if on_trial {
                self.keeper.handle_trial(slot, Trial::Passed, now);
            }
            return true;
        };
        truth.failed_in_a_row += 1;
        if truth.is == Is::Grey {
            truth.broken.push_back(now);
        }
        self.sums[pool].errors += 1;
        self.keeper.handle_failure(slot, failure, truth.failed_in_a_row, now);
        if on_trial {
            self.keeper.handle_trial(slot, Trial::Failed(failure), now);
        }
        false
    }

    pub(super) fn active(&self) -> usize {
        usize::from(self.record.active.as_str() == POOLS[1])
    }

    pub(super) fn pass(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.now + time;
        while self.now < end {
            for _ in 0..REQUESTS {
                self.serve(self.active());
            }
            self.go_on(self.now + SLICE)?;
            self.note_truth();
            self.look()?;
            self.conduct()?;
        }
        Ok(())
    }

    pub(super) fn note_truth(&mut self) {
        let now = self.now;
        for pool in 0..POOLS.len() {
            let answers = members(pool).filter(|endpoint| {
                let truth = &self.truth[*endpoint];
                matches!(truth.is, Is::Well | Is::Grey) && truth.streams < PLACES && !self.was(truth.ill)
            });
            if self.lacks_database && answers.count() < 2 {
                self.thin[pool] = Some(now);
            }
            // What breaks counts while another endpoint serves, and has done nothing else for as long as failures are remembered. While the database is away
            // nothing that fails accuses anybody.
            let remembered = |at: Instant| now - at < REMEMBERED;
            let serves = |endpoint: &usize| {
                let truth = &self.truth[*endpoint];
                truth.streams < PLACES && !remembered(truth.well_since) && self.tier(*endpoint) == Some(Tier::Fit)
            };
            let counts = self.well(pool).iter().any(serves) && !self.away.is_some_and(remembered);
            if !counts {
                members(pool).for_each(|endpoint| self.truth[endpoint].broken.clear());
            }
        }
        if self.lacks_database {
            self.away = Some(now);
        }
        for truth in &mut self.truth {
            if truth.is != Is::Well {
                truth.ill = Some(now);
                truth.well_since = now;
            }
            while truth
                .broken
                .front()
                .is_some_and(|at| now - *at > Duration::from_secs(10))
            {
                truth.broken.pop_front();
            }
        }
    }
}
