//! The operator's word in a running world.

use super::*;
use crate::gate::overrides::{Override, Wish};
use crate::gate::passive::TrafficFailure;

impl World {
    /// The operator speaks.
    pub(super) fn say(&mut self, endpoint: usize, wish: Wish, lasts: Option<u64>) {
        let word = Override {
            wish,
            reason: "a new disk".into(),
            since: self.now,
            until: lasts.map(|lasts| self.now + Duration::from_millis(lasts)),
        };
        self.keeper.handle_override(slot(endpoint), word, self.now);
        self.run(0);
    }

    fn probes_of(&self, endpoint: usize) -> usize {
        self.probes.iter().filter(|(_, asked)| *asked == endpoint).count()
    }
}

#[test]
fn no_probe_and_no_traffic_undoes_a_drain() {
    let mut world = World::of(3, 1);
    world.run(5_000);
    world.say(1, Wish::Drain, None);
    assert_eq!(world.states()[1], State::Draining);
    for answer in [Answer::Refuses, Answer::Healthy, Answer::Silent, Answer::Healthy] {
        world.answers[1] = answer;
        world.run(10_000);
        let now = world.now;
        world.keeper.handle_failure(slot(1), TrafficFailure::Reset, 1, now);
        assert_eq!(world.states()[1], State::Draining);
        assert_eq!(world.known()[1].cause.to_string(), "by the operator: a new disk");
    }
    let before = world.probes_of(1);
    world.run(10_000);
    assert!(world.probes_of(1) >= before + 4, "it is probed all the while");
}

#[test]
fn an_endpoint_that_is_enabled_again_stands_where_its_probes_say() {
    let mut world = World::of(3, 1);
    world.run(5_000);
    world.say(0, Wish::Drain, None);
    world.say(1, Wish::Drain, None);
    world.answers[1] = Answer::Refuses;
    world.run(10_000);
    let now = world.now;
    world.keeper.handle_enable(slot(0), now);
    world.keeper.handle_enable(slot(1), now);
    assert_eq!(world.states(), [State::Ramping, State::Down, State::Up]);
    assert_eq!(world.known()[1].cause.to_string(), "probe failed (status): as told");
}

#[test]
fn what_is_maintained_is_left_alone_and_then_asked_like_a_new_one() {
    let mut world = World::of(2, 1);
    world.run(5_000);
    world.say(0, Wish::Maintain, None);
    world.answers[0] = Answer::Refuses;
    let before = world.probes_of(0);
    world.run(60_000);
    assert_eq!(world.probes_of(0), before);
    world.answers[0] = Answer::Healthy;
    let now = world.now;
    world.keeper.handle_enable(slot(0), now);
    assert_eq!(world.states()[0], State::Unknown);
    assert!(world.until(0, State::Ramping) <= 5, "the first pass counts at once");
}

#[test]
fn a_word_ends_when_its_time_is_over_and_a_later_one_replaces_it() {
    let mut world = World::of(2, 1);
    world.run(5_000);
    world.say(0, Wish::Drain, Some(1_000));
    world.say(1, Wish::Drain, Some(1_000));
    world.say(1, Wish::Maintain, Some(5_000));
    world.run(1_001);
    assert_eq!(world.states()[1], State::Maintenance, "the earlier end is void");
    assert!(world.states()[0].is_routable());
    world.run(4_010);
    assert!(world.states()[1].is_routable());
}

#[test]
fn a_gate_that_starts_with_an_endpoint_in_maintenance_waits_for_the_others_alone() {
    let mut world = World::of(2, 1);
    world.answers[1] = Answer::Silent;
    world.run(1);
    world.say(1, Wish::Maintain, None);
    world.run(10);
    assert!(world.keeper.has_asked_everyone());
    world.run(5_000);
    assert_eq!(world.states(), [State::Up, State::Maintenance]);
}

#[test]
fn a_picture_shows_and_does_nothing() {
    let mut world = World::of(2, 1);
    world.run(5_000);
    let picture = world.keeper.picture(slot(0), Some(Wish::Drain)).unwrap();
    assert_eq!(
        (picture.state, picture.routable_now, picture.routable_then),
        (State::Draining, 2, 1)
    );
    assert!(picture.traffic_may_eject);
    assert_eq!(world.states(), [State::Up; 2]);
    world.say(1, Wish::Drain, None);
    let picture = world.keeper.picture(slot(0), Some(Wish::Drain)).unwrap();
    assert_eq!((picture.routable_now, picture.routable_then), (1, 0));
    assert!(!picture.traffic_may_eject, "it is the last one");
    let back = world.keeper.picture(slot(1), None).unwrap();
    assert_eq!((back.state, back.routable_then), (State::Up, 2));
}
