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

/// A pool whose endpoints have two probes: what is said of components is the second one's.
fn two_probes(count: usize) -> World {
    let terms = world(1).known()[0].terms.clone();
    let mut world = World::with(count, 2, terms);
    world.run(5_000);
    world
}

#[test]
fn a_probe_of_the_process_takes_back_nothing_that_the_other_one_says() {
    let mut world = two_probes(2);
    world.answers = vec![Answer::Lacks("database"); 2];
    world.run(60_000);
    assert_eq!(since_then(&world), ["database fails"]);
    world.answers = vec![Answer::Healthy, Answer::Lacks("cache")];
    world.until(1, State::Degraded);
    world.events.clear();
    world.run(20_000);
    assert_eq!(world.states(), [State::Up, State::Degraded]);
    assert_eq!(world.events, [], "it is degraded for good");
    world.answers[1] = Answer::Healthy;
    world.until(1, State::Up);
}

#[test]
fn a_process_that_is_full_of_what_waits_for_the_dependency_is_not_out_for_that() {
    let mut world = two_probes(2);
    // The process falls silent first, and is out.
    world.answers[0] = Answer::Frozen;
    world.until(0, State::Down);
    world.answers = vec![Answer::Clogged("cache"); 2];
    let rules = [(
        "cache",
        ComponentRule {
            on_failure: OnFailure::Eject,
            shared: true,
        },
    )];
    let rules = ComponentRules(rules.map(|(name, rule)| (name.to_owned(), rule)).into());
    let terms = Arc::new(Terms {
        components: rules,
        ..Terms::default()
    });
    let now = world.now;
    world.keeper.reconcile(plans(2, 2, &terms), now);
    world.run(5_000);
    assert_eq!(world.states(), [State::Up; 2]);
    world.run(60_000);
    assert_eq!(world.states(), [State::Up; 2]);
    world.answers = vec![Answer::Healthy, Answer::Frozen];
    world.until(1, State::Down);
    assert_eq!(world.states()[0], State::Up);
}

#[test]
fn a_process_that_is_silent_beside_a_well_service_is_out() {
    let mut world = two_probes(2);
    world.answers[1] = Answer::Frozen;
    assert!(world.until(1, State::Down) < 3_800);
    assert!(world.known()[1].cause.to_string().contains("timeout"));
}

/// What happened since the first five seconds.
fn since_then(world: &World) -> Vec<&str> {
    let later = world.events.iter().filter(|(at, _)| *at > 5_000);
    later.map(|(_, told)| told.as_str()).collect()
}

#[test]
fn a_dependency_that_a_pool_lacks_is_one_event_and_ejects_nobody_from_the_first_answer_on() {
    for count in [2, 3, 5] {
        for wait in (0..4_000).step_by(270) {
            let mut world = world(count);
            world.run(wait);
            world.answers = vec![Answer::Lacks("database"); count];
            world.run(60_000);
            assert_eq!(since_then(&world), ["database fails"], "{count} endpoints, {wait} ms");
            assert!(world.known().iter().all(|known| known.shared.contains("database")));
            world.answers = vec![Answer::Healthy; count];
            world.run(600);
            assert_eq!(since_then(&world), ["database fails", "database is well"]);
            assert!(world.known().iter().all(|known| known.shared.is_empty()));
        }
    }
}

#[test]
fn answers_that_are_a_second_old_hold_the_others_up_and_eject_nobody() {
    for wait in (0..4_000).step_by(270) {
        let mut world = world(3);
        world.run(wait);
        for endpoint in 0..3 {
            world.answers[endpoint] = Answer::Lacks("database");
            world.run(700);
        }
        world.run(60_000);
        assert_eq!(since_then(&world), ["database fails"], "{wait} ms");
        for endpoint in [1, 0, 2] {
            world.answers[endpoint] = Answer::Healthy;
            world.run(700);
        }
        assert_eq!(since_then(&world), ["database fails", "database is well"], "{wait} ms");
    }
}

#[test]
fn who_fell_before_the_others_did_serves_again_in_the_same_moment() {
    let mut world = world(2);
    world.answers[0] = Answer::Lacks("database");
    world.until(0, State::Down);
    world.run(10_000);
    world.answers[1] = Answer::Lacks("database");
    while told(&world, "database fails") == 0 {
        world.run(1);
    }
    assert_eq!(world.states(), [State::Up; 2]);
    assert_eq!(world.known()[0].cause.to_string(), "database fails for the whole pool");
}

#[test]
fn one_endpoint_alone_is_out_when_the_others_have_been_asked_for_two_seconds() {
    for wait in (0..4_000).step_by(270) {
        let mut world = world(3);
        world.run(wait);
        world.answers[1] = Answer::Lacks("database");
        let took = world.until(1, State::Down);
        assert!(took <= 2_200 + 2_000 + 2 * 260 + 10, "{took} ms");
        assert_eq!(world.states(), [State::Up, State::Down, State::Up]);
    }
}

#[test]
fn outages_of_a_dependency_are_no_flapping() {
    for component in ["database", "unmarked"] {
        let mut world = world(3);
        for _ in 0..6 {
            world.answers = vec![Answer::Lacks(component); 3];
            world.run(10_000);
            world.answers = vec![Answer::Healthy; 3];
            world.run(10_000);
        }
        let flaps = world.events.iter().filter(|(_, told)| told.ends_with("flaps")).count();
        assert_eq!(flaps, 0, "{component}: {:?}", world.events);
    }
}

#[test]
fn an_endpoint_that_comes_and_goes_alone_flaps() {
    let mut world = world(3);
    for _ in 0..4 {
        world.answers[0] = Answer::Lacks("unmarked");
        world.run(10_000);
        world.answers[0] = Answer::Healthy;
        world.run(10_000);
    }
    assert!(world.events.iter().any(|(_, told)| told == "10.0.0.1:80 flaps"));
}

#[test]
fn requests_that_fail_for_a_dependency_accuse_nobody() {
    let mut world = world(2);
    world.answers = vec![Answer::Lacks("database"); 2];
    world.run(5_000);
    for streak in 1..9 {
        let (slot, now) = (slot(0), world.now);
        let failure = crate::gate::passive::TrafficFailure::Timeout;
        world.keeper.handle_failure(slot, failure, streak, now);
        world.run(100);
    }
    assert_eq!(world.states(), [State::Up; 2]);
    let (now, refused) = (world.now, crate::gate::passive::TrafficFailure::Connect);
    world.keeper.handle_failure(slot(0), refused, 3, now);
    assert_eq!(world.states(), [State::Suspect, State::Up], "its process has gone");
}

#[test]
fn who_is_accused_before_its_own_answer_names_the_dependency_is_not_ejected_for_it() {
    let mut world = world(3);
    (world.answers[1], world.answers[2]) = (Answer::Lacks("database"), Answer::Lacks("database"));
    while told(&world, "database fails") == 0 {
        world.run(1);
    }
    world.answers[0] = Answer::Lacks("database");
    let (now, late) = (world.now, crate::gate::passive::TrafficFailure::Timeout);
    world.keeper.handle_failure(slot(0), late, 3, now);
    assert_eq!(world.states()[0], State::Suspect);
    world.run(60_000);
    assert_eq!(world.states(), [State::Up; 3]);
    assert!(
        !world.events.iter().any(|(_, told)| told.ends_with("ejected")),
        "{:?}",
        world.events
    );
}

#[test]
fn endpoints_that_are_out_for_reasons_of_their_own_say_nothing_of_a_dependency() {
    let mut world = world(5);
    for endpoint in 0..3 {
        world.answers[endpoint] = Answer::Silent;
    }
    world.run(20_000);
    for endpoint in 3..5 {
        world.answers[endpoint] = Answer::Lacks("database");
    }
    world.run(20_000);
    assert_eq!(told(&world, "database fails"), 1);
    assert_eq!(world.states()[3..], [State::Up; 2]);
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

#[test]
fn who_came_back_while_a_dependency_failed_is_full_rather_than_down() {
    let mut world = world(3);
    world.answers[0] = Answer::Refuses;
    world.until(0, State::Down);
    world.answers = vec![Answer::Lacks("database"); 3];
    world.until(0, State::Up);
    world.run(5_000);
    // No probe of it has passed since it was down.
    world.streams[0] = 6;
    world.answers[0] = Answer::Places {
        places: 6,
        refuses: false,
    };
    world.events.clear();
    world.run(60_000);
    let changes: Vec<&str> = world.events.iter().map(|(_, event)| event.as_str()).collect();
    assert_eq!(changes, ["10.0.0.1:80 busy"]);
}
