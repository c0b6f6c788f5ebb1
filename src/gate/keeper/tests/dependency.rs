//! Components and shared dependencies, under virtual time.

use super::*;
use crate::gate::components::{ComponentRule, ComponentRules, OnFailure};

fn world(count: usize) -> World {
    let rule = |on_failure, shared| ComponentRule { on_failure, shared };
    let rules = [
        ("database", rule(OnFailure::Eject, true)),
        ("cache", rule(OnFailure::Degrade, false)),
        ("model", rule(OnFailure::Ignore, false)),
    ];
    let rules = ComponentRules(rules.map(|(name, rule)| (name.to_owned(), rule)).into());
    let mut world = World::with(
        count,
        1,
        Arc::new(Terms {
            components: rules,
            ..Terms::default()
        }),
    );
    world.run(5_000);
    world
}

fn told(world: &World, event: &str) -> usize {
    world.events.iter().filter(|(_, told)| told == event).count()
}

#[test]
fn one_endpoint_that_lacks_a_shared_component_is_out_like_any_other() {
    let mut world = world(3);
    world.answers[1] = Answer::Lacks("database");
    world.until(1, State::Down);
    assert_eq!(told(&world, "database fails"), 0);
}

#[test]
fn a_dependency_that_most_of_a_pool_lacks_is_one_event_and_ejects_nobody_more() {
    let mut world = world(5);
    world.answers = vec![Answer::Lacks("database"); 5];
    world.run(60_000);
    assert_eq!(told(&world, "database fails"), 1);
    let down = world.states().iter().filter(|state| **state == State::Down).count();
    assert!(
        down <= 2,
        "those that were out before it was known: {:?}",
        world.states()
    );
    assert!(world.known().iter().all(|known| known.shared.contains("database")));
    world.answers = vec![Answer::Healthy; 5];
    world.run(60_000);
    assert_eq!(told(&world, "database is well"), 1);
    assert_eq!(world.states(), [State::Up; 5]);
    assert!(world.known().iter().all(|known| known.shared.is_empty()));
}

#[test]
fn another_failure_counts_while_a_dependency_fails() {
    let mut world = world(5);
    world.answers = vec![Answer::Lacks("database"); 5];
    world.run(20_000);
    let fit = world.states().iter().position(|state| *state == State::Up).unwrap();
    world.answers[fit] = Answer::Silent;
    world.until(fit, State::Down);
}

#[test]
fn what_it_can_do_without_degrades_or_means_nothing() {
    let mut world = world(2);
    world.answers = vec![Answer::Lacks("cache"), Answer::Lacks("model")];
    world.until(0, State::Degraded);
    world.run(30_000);
    assert_eq!(world.states(), [State::Degraded, State::Up]);
    let cause = world.known()[0].cause.to_string();
    assert_eq!(cause, "does without cache");
    world.answers[0] = Answer::Healthy;
    world.until(0, State::Up);
}
