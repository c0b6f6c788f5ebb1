//! Random histories of the whole engine in virtual time: endpoints that are silent, full, frozen, gone or grey, dependencies that all of them share, and cutovers,
//! in one history. A model that knows the truth of each endpoint says what may come of it.
//!
//! The model has no rules of its own about probes or windows. It says only what an operator may rely on: who is well is not taken out, somebody serves
//! while somebody can, who breaks what it gets loses its share, and a cutover is judged by what was measured in it.

mod rules;
mod world;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::gate::cutover::{Plan, Start, Verb};
use crate::gate::names::PoolName;

use rules::MIN_SAMPLES;
use world::{EACH, Is, PLACES, POOLS, World, members};

#[derive(Clone, Copy, Debug)]
enum Step {
    Pass(u64),
    Become(usize, Is),
    /// A whole release becomes so.
    Release(usize, Is),
    /// An endpoint comes and goes, and is well in the end.
    Flaps(usize),
    /// Every other endpoint of the pool goes.
    Alone(usize),
    /// Quiet streams that an endpoint serves.
    Streams(usize, u32),
    /// A stream of an endpoint has been silent for long.
    Silence(usize),
    /// The database goes, or comes back.
    Database(bool),
    Switch(usize),
    Promote,
    Abort,
}

fn step() -> impl Strategy<Value = Step> {
    let is = || {
        prop_oneof![
            4 => Just(Is::Well),
            1 => Just(Is::Frozen),
            1 => Just(Is::Refuses),
            1 => Just(Is::Gone),
            2 => Just(Is::Grey),
        ]
    };
    prop_oneof![
        6 => (100..12_000_u64).prop_map(Step::Pass),
        5 => (0..6_usize, is()).prop_map(|(endpoint, is)| Step::Become(endpoint, is)),
        2 => (0..2_usize, is()).prop_map(|(pool, is)| Step::Release(pool, is)),
        1 => (0..6_usize).prop_map(Step::Flaps),
        1 => (0..6_usize).prop_map(Step::Alone),
        3 => (0..6_usize, 0..=PLACES).prop_map(|(endpoint, streams)| Step::Streams(endpoint, streams)),
        2 => (0..6_usize).prop_map(Step::Silence),
        2 => any::<bool>().prop_map(Step::Database),
        3 => (0..2_usize).prop_map(Step::Switch),
        1 => Just(Step::Promote),
        1 => Just(Step::Abort),
    ]
}

/// A probe that found an endpoint ill is answered after this time. Only then do streams come, for nobody tells who has filled up meanwhile from who is still ill.
const ASKED: Duration = Duration::from_secs(1);

impl World {
    fn become_so(&mut self, endpoint: usize, is: Is) {
        let (truth, now) = (&mut self.truth[endpoint], self.now);
        // What it served has gone with it.
        if truth.is != is {
            truth.streams = 0;
            truth.failed_in_a_row = 0;
        }
        if is != Is::Well || truth.is != Is::Well {
            (truth.ill, truth.well_since) = (Some(now), now);
        }
        truth.is = is;
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let now = self.now;
        match step {
            Step::Pass(millis) => return self.pass(Duration::from_millis(millis)),
            Step::Become(endpoint, is) => self.become_so(endpoint, is),
            Step::Release(pool, is) => members(pool).for_each(|endpoint| self.become_so(endpoint, is)),
            Step::Flaps(endpoint) => {
                for is in [Is::Gone, Is::Well].into_iter().cycle().take(6) {
                    self.become_so(endpoint, is);
                    self.pass(Duration::from_secs(5))?;
                }
            }
            Step::Alone(endpoint) => {
                let others = members(endpoint / EACH).filter(|other| *other != endpoint);
                others.for_each(|other| self.become_so(other, Is::Gone));
            }
            Step::Streams(endpoint, streams) => {
                let truth = &self.truth[endpoint];
                let takes_more = self.tier(endpoint).is_some() && now - truth.well_since > ASKED;
                if truth.is == Is::Well && (takes_more || streams < truth.streams) {
                    self.truth[endpoint].streams = streams;
                    // Streams come one after the other, with a probe between.
                    return self.pass(Duration::from_millis(2_500));
                }
            }
            Step::Silence(endpoint) => self.keeper.handle_silence(self.slots[endpoint], now),
            Step::Database(away) => self.lacks_database = away,
            Step::Switch(to) => {
                let mut plan = Plan {
                    auto: true,
                    min_samples: MIN_SAMPLES,
                    ..Plan::default()
                };
                plan.clocks.bake = Duration::from_secs(10);
                let to = PoolName::new(POOLS[to]);
                let supersede = true;
                self.say(&Verb::Start(Box::new(Start { to, plan, supersede })));
            }
            Step::Promote => self.say(&Verb::Promote),
            Step::Abort => self.say(&Verb::Abort),
        }
        self.note_truth();
        // A flapping endpoint takes time of its own.
        self.go_on(self.now)
    }
}

/// Goes through a history.
fn live(steps: &[Step]) -> Result<World, TestCaseError> {
    let mut world = World::new();
    world.pass(Duration::from_secs(8))?;
    for step in steps {
        world.take(*step)?;
    }
    Ok(world)
}

#[test]
fn no_history_takes_out_who_is_well_or_leaves_users_alone_or_judges_by_what_is_past() {
    let cases = std::env::var("DIFYGATE_HISTORIES")
        .ok()
        .and_then(|count| count.parse().ok());
    let mut runner = TestRunner::new(Config {
        cases: cases.unwrap_or(40),
        failure_persistence: None,
        ..Config::default()
    });
    let histories = prop::collection::vec(step(), 1..60);
    runner.run(&histories, |steps| live(&steps).map(drop)).unwrap();
}

/// An endpoint comes and goes while a dependency that all share is away.
#[test]
fn who_came_back_during_an_outage_serves_and_is_not_taken_out_for_being_full() {
    use Step::*;
    let histories: [&[Step]; 4] = [
        // It comes back while the database is away, and is full before any probe of it has passed.
        &[Database(true), Flaps(1), Streams(1, PLACES)],
        &[
            Database(true),
            Flaps(0),
            Streams(0, PLACES),
            Pass(20_000),
            Database(false),
            Pass(9_000),
        ],
        // The pool is thin when the database goes, or has just been.
        &[Switch(1), Flaps(3), Database(true), Silence(0), Streams(0, 0)],
        &[
            Alone(4),
            Database(true),
            Flaps(0),
            Release(1, Is::Well),
            Pass(6_601),
            Pass(5_251),
        ],
    ];
    for steps in histories {
        if let Err(error) = live(steps) {
            panic!("{steps:?}: {error}");
        }
    }
}
