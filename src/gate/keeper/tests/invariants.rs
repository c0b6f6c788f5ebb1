//! What holds whatever happens: random worlds, random traffic, random answers, and a look at everything after each step.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::gate::components::{ComponentRule, ComponentRules, OnFailure};
use crate::gate::overrides::Wish;
use crate::gate::passive::{TrafficFailure, Trial};
use crate::gate::state::Tier;

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Answers(usize, u8),
    Delivers(bool),
    Fails(usize, u8, u32),
    Serves(usize, u32),
    Stalls(usize),
    Tried(usize, bool),
    Says(usize, bool, Option<u64>),
    Enables(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u64..20_000).prop_map(Step::Pass),
        2 => (0usize..6, 0u8..8).prop_map(|(endpoint, answer)| Step::Answers(endpoint, answer)),
        1 => any::<bool>().prop_map(Step::Delivers),
        3 => (0usize..6, 0u8..4, 1u32..5).prop_map(|(endpoint, failure, streak)| Step::Fails(endpoint, failure, streak)),
        1 => (0usize..6, 1u32..200).prop_map(|(endpoint, answered)| Step::Serves(endpoint, answered)),
        1 => (0usize..6).prop_map(Step::Stalls),
        2 => (0usize..6, any::<bool>()).prop_map(|(endpoint, passed)| Step::Tried(endpoint, passed)),
        1 => (0usize..6, any::<bool>(), prop::option::of(1u64..60_000)).prop_map(|(endpoint, drain, lasts)| Step::Says(endpoint, drain, lasts)),
        1 => (0usize..6).prop_map(Step::Enables),
    ]
}

fn failure(number: u8) -> TrafficFailure {
    match number {
        0 => TrafficFailure::Connect,
        1 => TrafficFailure::Reset,
        2 => TrafficFailure::Status(503),
        _ => TrafficFailure::Cut,
    }
}

fn take(world: &mut World, step: &Step) {
    let count = world.answers.len();
    let now = world.now;
    match *step {
        Step::Pass(millis) => world.run(millis),
        Step::Answers(endpoint, answer) => {
            world.answers[endpoint % count] = match answer {
                0 => Answer::Refuses,
                1 => Answer::Silent,
                2 => Answer::Unresolvable,
                3 => Answer::Lacks("database"),
                4 => Answer::Lacks("cache"),
                5 => Answer::Sheds(7),
                _ => Answer::Healthy,
            };
        }
        Step::Delivers(delivering) => world.delivering = delivering,
        Step::Fails(endpoint, number, streak) => {
            world
                .keeper
                .handle_failure(slot(endpoint % count), failure(number), streak, now);
        }
        Step::Serves(endpoint, answered) => world.keeper.handle_answers(slot(endpoint % count), answered, now),
        Step::Says(endpoint, drain, lasts) => {
            let wish = if drain { Wish::Drain } else { Wish::Maintain };
            world.say(endpoint % count, wish, lasts);
        }
        Step::Enables(endpoint) => world.keeper.handle_enable(slot(endpoint % count), now),
        Step::Stalls(endpoint) => world.keeper.handle_silence(slot(endpoint % count), now),
        Step::Tried(endpoint, passed) => {
            let trial = if passed {
                Trial::Passed
            } else {
                Trial::Failed(TrafficFailure::Reset)
            };
            world.keeper.handle_trial(slot(endpoint % count), trial, now);
        }
    }
}

/// How many endpoints are accused, and how many are fit.
fn standing(world: &World) -> (usize, usize) {
    let known = world.known();
    let count = |tier| known.iter().filter(|known| known.state.tier() == Some(tier)).count();
    (count(Tier::Accused), count(Tier::Fit))
}

/// The states as the events alone tell them.
fn told(world: &World) -> HashMap<String, String> {
    let changes = world.events.iter().filter_map(|(_, event)| event.split_once(' '));
    let changes = changes
        .filter(|(endpoint, _)| endpoint.contains(':'))
        .filter(|(_, to)| !matches!(*to, "spared" | "flaps"));
    changes
        .map(|(endpoint, to)| (endpoint.to_owned(), to.to_owned()))
        .collect()
}

fn look(world: &World) -> Result<(), TestCaseError> {
    let known = world.known();
    let told = told(world);
    for known in &known {
        let address = known.id.address.to_string();
        let expected = told.get(&address).map_or("unknown", String::as_str);
        prop_assert_eq!(known.state.as_str(), expected, "every change has an event");
        let passes = known
            .verdicts
            .iter()
            .all(|(_, health)| matches!(health, Health::Up { .. }));
        prop_assert!(
            passes || known.state.tier().is_none(),
            "{} serves and does not pass",
            address
        );
        if let Some(word) = &known.overridden {
            prop_assert_eq!(known.state, word.wish.state(), "nothing undoes the operator's word");
        }
        prop_assert!(known.history.len() <= HISTORY);
        prop_assert!((1..=100).contains(&known.share(world.now)));
    }
    let held_back = known.iter().any(|known| known.reserve);
    let serves = known.iter().any(|known| known.state.is_routable());
    prop_assert!(serves || !held_back, "a reserve waits while nobody serves");
    let idle = known.iter().all(|known| known.is_maintained());
    let next = world.keeper.poll_timeout();
    prop_assert!(next.map_or(idle, |at| at > world.now), "a timer is late or lost");
    let timers = world.keeper.timers.heap.len();
    prop_assert!(
        timers <= 24 * known.len(),
        "{} timers for {} endpoints",
        timers,
        known.len()
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_breaks_the_rules(count in 1usize..6, steps in prop::collection::vec(step(), 1..60)) {
        let rule = |on_failure, shared| ComponentRule { on_failure, shared };
        let rules = [("database", rule(OnFailure::Eject, true)), ("cache", rule(OnFailure::Degrade, false))];
        let rules = ComponentRules(rules.map(|(name, rule)| (name.to_owned(), rule)).into());
        let mut world = World::with(count, 1, Arc::new(Terms { components: rules, ..Terms::default() }));
        for step in &steps {
            let (before, _) = standing(&world);
            take(&mut world, step);
            let (accused, fit) = standing(&world);
            if matches!(step, Step::Fails(..)) && accused > before {
                let beyond = accused > (count / 3).max(1);
                prop_assert!(fit > 0, "the last one is accused");
                let failing = |known: &Known| known.window.sums(world.now).1 > 2;
                prop_assert!(!beyond || world.known().iter().any(|known| failing(known)), "{accused} of {count}");
            }
            // What is due at this very moment is done before anybody looks.
            world.run(0);
            look(&world)?;
        }
    }

    #[test]
    fn whatever_happened_a_healthy_world_is_fit_again(count in 1usize..6, steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::of(count, 1);
        for step in &steps {
            take(&mut world, step);
        }
        world.answers = vec![Answer::Healthy; count];
        world.delivering = false;
        let now = world.now;
        (0..count).for_each(|endpoint| world.keeper.handle_enable(slot(endpoint), now));
        // The longest hold, the patience for a trial, and a whole slow start.
        world.run(72_000 + 10_000 + 31_000 + 5_000);
        prop_assert_eq!(world.states(), vec![State::Up; count]);
    }
}
