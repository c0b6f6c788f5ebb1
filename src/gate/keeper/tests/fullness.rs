//! Endpoints that are full beside endpoints that are sick, in random histories: a model that knows the places of each tells which is which.

use proptest::prelude::*;

use super::*;
use crate::gate::passive::TrafficFailure;

fn places(count: usize, places: u32, refuses: bool) -> World {
    let mut world = World::of(count, 1);
    world.answers = vec![Answer::Places { places, refuses }; count];
    world.run(5_000);
    world
}

/// Adds a stream each second, so that a probe passes with each number of them.
fn fill(world: &mut World, endpoint: usize, streams: u32) {
    while world.streams[endpoint] < streams {
        world.streams[endpoint] += 1;
        world.run(2_500);
    }
}

#[test]
fn quiet_streams_that_fill_an_endpoint_make_it_busy_for_as_long_as_they_last() {
    for refuses in [false, true] {
        let mut world = places(2, 10, refuses);
        fill(&mut world, 0, 10);
        world.until(0, State::Busy);
        world.run(600_000);
        assert_eq!(
            world.states(),
            [State::Busy, State::Up],
            "no byte comes for ten minutes"
        );
        assert_eq!(world.known()[0].cause, Cause::Full { under_way: 10 });
        assert_eq!(world.known()[0].capacity.limit(), Some(9), "one place is the probe's");
        world.streams[0] = 9;
        world.until(0, State::Up);
        assert!(
            !world.events.iter().any(|(_, event)| event.ends_with("down")),
            "{:?}",
            world.events
        );
    }
}

/// A service beside the process, at another port, tells neither of its room nor whether it answers.
#[test]
fn the_answers_of_a_sidecar_end_neither_fullness_nor_a_doubt() {
    let mut world = World::of(2, 2);
    world.answers = vec![
        Answer::Places {
            places: 10,
            refuses: false
        };
        2
    ];
    world.run(5_000);
    fill(&mut world, 0, 10);
    world.until(0, State::Busy);
    world.events.clear();
    world.run(60_000);
    assert_eq!(world.states(), [State::Busy, State::Up]);
    assert_eq!(world.events, [], "it stays busy without a break");
    assert_eq!(world.known()[0].capacity.limit(), Some(9));
    let mut world = World::of(2, 2);
    world.run(30_000);
    world.answers[0] = Answer::Frozen;
    world.until(0, State::Suspect);
    world.events.clear();
    // Requests that wait have the other probes asked as well.
    world.keeper.handle_silence(slot(0), world.now);
    world.until(0, State::Down);
    let changes: Vec<&str> = world.events.iter().map(|(_, event)| event.as_str()).collect();
    assert_eq!(changes, ["10.0.0.1:80 down"], "nothing new is sent there meanwhile");
}

#[test]
fn who_is_full_and_silent_is_not_dead() {
    let mut world = places(2, 10, false);
    fill(&mut world, 0, 10);
    for _ in 0..20 {
        world.keeper.handle_silence(slot(0), world.now);
        world.run(5_000);
        assert_eq!(world.states()[0], State::Busy);
    }
}

#[test]
fn who_hangs_with_streams_that_it_was_probed_with_is_down() {
    let mut world = places(2, 10, false);
    fill(&mut world, 0, 6);
    world.answers[0] = Answer::Silent;
    assert!(world.until(0, State::Down) < 4_000);
    let mut world = places(2, 10, true);
    fill(&mut world, 0, 6);
    world.answers[0] = Answer::Refuses;
    assert!(world.until(0, State::Down) < 3_000);
}

#[test]
fn a_request_that_finds_no_room_accuses_nobody() {
    let mut world = places(3, 10, true);
    let refused = TrafficFailure::Status(503);
    assert!(
        !world.keeper.handle_refusal(slot(0), 3, world.now),
        "it has answered nothing yet"
    );
    world.keeper.handle_answered_with(slot(0), 5, world.now);
    assert!(world.keeper.handle_refusal(slot(0), 6, world.now));
    assert_eq!(world.known()[0].capacity.limit(), None, "only probes lower it");
    assert_eq!(world.states()[0], State::Up);
    let later = world.now + Duration::from_secs(2);
    assert!(!world.keeper.handle_refusal(slot(0), 5, later), "it answers with five");
    world.keeper.handle_failure(slot(0), refused, 1, later);
    assert_eq!(world.states()[0], State::Suspect);
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Streams(usize, u32),
    Silent(usize),
    Breaks(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u64..8_000).prop_map(Step::Pass),
        3 => (0usize..3, 0u32..14).prop_map(|(endpoint, streams)| Step::Streams(endpoint, streams)),
        1 => (0usize..3).prop_map(Step::Silent),
        1 => (0usize..3).prop_map(Step::Breaks),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_is_full_is_never_out_and_who_is_sick_with_room_is(
        room in 4u32..12,
        refuses in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = places(3, room, refuses);
        let mut broken = [false; 3];
        for step in &steps {
            match *step {
                Step::Pass(millis) => world.run(millis),
                Step::Streams(endpoint, streams) => world.streams[endpoint] = streams,
                Step::Silent(endpoint) => world.keeper.handle_silence(slot(endpoint), world.now),
                Step::Breaks(endpoint) => {
                    broken[endpoint] = true;
                    world.answers[endpoint] = Answer::Silent;
                }
            }
            for (endpoint, known) in world.known().iter().enumerate() {
                let limit = known.capacity.limit();
                prop_assert!(limit.is_none_or(|limit| limit >= 1 && (limit <= room || broken[endpoint])));
                if !broken[endpoint] {
                    prop_assert!(known.state.tier().is_some(), "{endpoint} has {room} places: {:?}", known.cause);
                }
            }
        }
        // Whoever hangs is out once nothing that is under way there explains it.
        world.streams = vec![0; 3];
        world.run(10_000);
        for (state, broken) in world.states().iter().zip(broken) {
            prop_assert_eq!(state.tier().is_none(), broken);
        }
    }
}
