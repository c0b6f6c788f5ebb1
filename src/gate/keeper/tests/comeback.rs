//! How endpoints come back in a running world.

use super::*;
use crate::gate::overrides::Wish;

#[test]
fn an_endpoint_that_comes_and_goes_stays_down_for_a_while() {
    let mut world = World::of(3, 1);
    world.run(5_000);
    for fall in 1..=3 {
        world.answers[1] = Answer::Refuses;
        world.until(1, State::Down);
        world.answers[1] = Answer::Healthy;
        if fall < 3 {
            assert!(world.until(1, State::Ramping) < 4_000, "fall {fall}");
        }
    }
    assert_eq!(world.events.last().unwrap().1, "10.0.0.2:80 flaps");
    world.run(59_000);
    assert_eq!(world.states()[1], State::Down, "its probes pass all the while");
    let took = world.until(1, State::Ramping);
    assert!((1_000..6_000).contains(&took), "five passes take it back: {took} ms");
}

/// A world in which the second of `count` endpoints is held down for flapping and passes its probes again.
fn held(count: usize) -> World {
    let mut world = World::of(count, 1);
    world.run(5_000);
    for fall in 1..=3 {
        world.answers[1] = Answer::Refuses;
        world.until(1, State::Down);
        world.answers[1] = Answer::Healthy;
        if fall < 3 {
            world.until(1, State::Ramping);
        }
    }
    world
}

#[test]
fn who_is_held_down_and_well_serves_in_the_instant_in_which_nobody_else_does() {
    let mut world = held(2);
    world.run(20_000);
    assert_eq!(world.states(), [State::Up, State::Down]);
    assert!(world.known()[1].reserve);
    world.answers[0] = Answer::Refuses;
    world.until(0, State::Down);
    assert!(world.states()[1].is_routable(), "{:?}", world.events);
    assert_eq!(world.known()[1].cause, Cause::Reserve);
    // The operator may be the one who takes the other away.
    let mut world = held(2);
    world.run(20_000);
    world.say(0, Wish::Drain, None);
    assert!(world.states()[1].is_routable());
}

#[test]
fn who_is_held_down_and_fails_is_no_reserve() {
    let mut world = held(2);
    world.run(20_000);
    world.answers[1] = Answer::Refuses;
    world.run(5_000);
    assert!(!world.known()[1].reserve);
    world.answers[0] = Answer::Refuses;
    world.until(0, State::Down);
    assert_eq!(world.states()[1], State::Down);
    world.answers[1] = Answer::Healthy;
    assert!(world.until(1, State::Up) < 4_000);
}

#[test]
fn who_waits_for_its_turn_does_not_wait_while_nobody_serves() {
    let mut world = World::of(8, 1);
    world.run(5_000);
    (0..4).for_each(|endpoint| world.answers[endpoint] = Answer::Refuses);
    world.run(5_000);
    (0..4).for_each(|endpoint| world.answers[endpoint] = Answer::Healthy);
    while !world.known().iter().any(|known| known.reserve) {
        world.run(1);
    }
    let drained: Vec<usize> = (0..8)
        .filter(|endpoint| world.states()[*endpoint].is_routable())
        .collect();
    drained
        .into_iter()
        .for_each(|endpoint| world.say(endpoint, Wish::Drain, None));
    assert!(world.states().iter().any(|state| state.is_routable()));
}

#[test]
fn the_last_hope_may_flap() {
    let mut world = World::of(1, 1);
    world.run(5_000);
    for _ in 0..5 {
        world.answers[0] = Answer::Refuses;
        world.until(0, State::Down);
        world.answers[0] = Answer::Healthy;
        assert!(world.until(0, State::Up) < 4_000);
    }
}

#[test]
fn when_most_serve_the_others_come_back_one_by_one() {
    let mut world = World::of(8, 1);
    world.run(5_000);
    (0..4).for_each(|endpoint| world.answers[endpoint] = Answer::Refuses);
    world.run(5_000);
    world.answers = vec![Answer::Healthy; 8];
    world.events.clear();
    world.run(8_000);
    let mut back: Vec<u128> = world.events.iter().map(|(at, _)| *at).collect();
    back.sort_unstable();
    assert_eq!(back.len(), 4, "{:?}", world.events);
    assert!(back.windows(2).all(|pair| pair[1] - pair[0] >= 1_000), "{back:?}");
}

#[test]
fn when_few_serve_nobody_waits_for_a_turn() {
    let mut world = World::of(8, 1);
    world.run(5_000);
    world.answers = vec![Answer::Refuses; 8];
    world.run(5_000);
    assert_eq!(world.states(), [State::Down; 8]);
    world.answers = vec![Answer::Healthy; 8];
    world.run(3_000);
    let serving = world.states().iter().filter(|state| state.is_routable()).count();
    assert!(serving >= 4, "half of them at least are back at once: {serving}");
}

#[test]
fn who_fails_while_it_waits_for_its_turn_loses_it() {
    let mut world = World::of(8, 1);
    world.run(5_000);
    (0..4).for_each(|endpoint| world.answers[endpoint] = Answer::Refuses);
    world.run(5_000);
    world.answers = vec![Answer::Healthy; 8];
    while world.known().iter().filter(|known| known.turn.is_some()).count() < 3 {
        world.run(10);
    }
    let waiting = world.known().iter().position(|known| known.turn.is_some()).unwrap();
    world.answers[waiting] = Answer::Refuses;
    world.run(10_000);
    assert_eq!(world.states()[waiting], State::Down);
}

#[test]
fn what_is_down_is_asked_again_soon_at_first_and_then_at_the_interval() {
    let mut world = World::of(2, 1);
    world.run(5_000);
    world.answers[1] = Answer::Refuses;
    world.until(1, State::Down);
    let fell = (world.now - world.start).as_millis();
    world.run(120_000);
    let asked: Vec<u128> = world
        .probes
        .iter()
        .filter(|(at, who)| *who == 1 && *at >= fell)
        .map(|(at, _)| *at)
        .collect();
    let waits: Vec<u128> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(asked[0] - fell <= 760, "{asked:?}");
    assert!(waits.iter().all(|wait| (250..=2_010).contains(wait)), "{waits:?}");
    assert!(
        (60..160).contains(&asked.len()),
        "about once in one and a half seconds: {}",
        asked.len()
    );
}

#[test]
fn who_asks_to_be_spared_is_busy_for_so_long() {
    let mut world = World::of(2, 1);
    world.run(5_000);
    world.answers[1] = Answer::Sheds(10);
    world.until(1, State::Busy);
    assert_eq!(world.known()[1].cause.to_string(), "asks to be spared for 10 s (429)");
    world.answers[1] = Answer::Healthy;
    let took = world.until(1, State::Up);
    assert!(
        (9_990..=10_000).contains(&took),
        "its probes pass all the while: {took}"
    );
    world.answers[1] = Answer::Refuses;
    world.until(1, State::Down);
}
