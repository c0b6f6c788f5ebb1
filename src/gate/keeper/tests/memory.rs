//! A keeper that goes on where another one stopped.

use super::*;
use crate::gate::overrides::Wish;
use crate::gate::passive::{TrafficFailure, Trial};

impl World {
    /// Another keeper takes over, with other plans.
    fn hand_over_to(&mut self, plans: Vec<EndpointPlan>) {
        let memories = self.keeper.all().map(|(_, known)| known.memory()).collect();
        let mut next = Keeper::new(11);
        next.reconcile(plans, self.now);
        next.resume(memories, self.now);
        self.keeper = next;
        self.waiting.clear();
    }

    fn hand_over(&mut self) {
        let count = self.answers.len();
        self.hand_over_to(plans(count, 1, &Arc::default()));
    }

    /// A world in which an endpoint is in nearly every state.
    fn of_all_states() -> Self {
        let mut world = Self::of(14, 1);
        world.answers[1] = Answer::Refuses;
        world.run(5_000);
        world.answers[4] = Answer::Sheds(20);
        world.say(2, Wish::Drain, Some(20_000));
        world.say(3, Wish::Maintain, None);
        // It comes back and ramps.
        world.answers[5] = Answer::Refuses;
        world.run(6_000);
        world.answers[5] = Answer::Healthy;
        world.run(6_000);
        // Its probes pass while its traffic fails.
        let now = world.now;
        world
            .keeper
            .handle_failure(slot(6), TrafficFailure::Status(502), 9, now);
        world.run(3_000);
        // It is accused, and its probe is under way.
        world.answers[7] = Answer::Silent;
        let now = world.now;
        world.keeper.handle_failure(slot(7), TrafficFailure::Reset, 9, now);
        world.run(0);
        world
    }
}

const ALL: [State; 8] = [
    State::Up,
    State::Down,
    State::Draining,
    State::Maintenance,
    State::Busy,
    State::Ramping,
    State::Ejected,
    State::Suspect,
];

#[test]
fn everybody_stays_what_it_was_and_nothing_is_told_of_it() {
    let mut world = World::of_all_states();
    assert_eq!(world.states()[..8], ALL);
    let stand = |world: &World| -> Vec<_> {
        let known = world.known().into_iter();
        known
            .map(|known| {
                (
                    known.state,
                    known.since,
                    known.cause.to_string(),
                    known.share(world.now),
                )
            })
            .collect()
    };
    let (before, told) = (stand(&world), world.events.len());
    world.hand_over();
    assert_eq!(stand(&world), before);
    assert!(world.keeper.has_asked_everyone(), "nobody waits for a first answer");
    world.run(0);
    assert_eq!(world.events.len(), told);
}

#[test]
fn it_goes_on_as_if_nobody_had_taken_over() {
    let ends = |hand_over: bool| {
        let mut world = World::of_all_states();
        if hand_over {
            world.hand_over();
        }
        world.run(9_000);
        let soon = world.states();
        // The drain is over, and a request tries the one that was held back.
        world.run(8_000);
        let now = world.now;
        world.keeper.handle_trial(slot(6), Trial::Passed, now);
        world.answers[1] = Answer::Healthy;
        world.answers[4] = Answer::Healthy;
        world.answers[7] = Answer::Healthy;
        world.run(120_000);
        (soon, world.states())
    };
    let (soon, late) = ends(true);
    assert_eq!((soon.clone(), late.clone()), ends(false));
    assert_eq!(soon[7], State::Down, "a probe decides about the suspect");
    assert_eq!(late.iter().filter(|state| **state == State::Up).count(), 13, "{late:?}");
    assert_eq!(late[3], State::Maintenance);
}

#[test]
fn what_is_down_still_needs_its_passes_and_what_is_up_its_failures() {
    let mut world = World::of(3, 1);
    world.answers[0] = Answer::Refuses;
    world.run(10_000);
    world.answers = vec![Answer::Healthy, Answer::Refuses, Answer::Healthy];
    let told = world.events.len();
    world.hand_over();
    world.run(5);
    assert_eq!(
        world.states(),
        [State::Down, State::Up, State::Up],
        "one answer is not two"
    );
    world.run(10_000);
    let states = world.states();
    assert_eq!(states[1], State::Down);
    assert!(states[0].is_routable(), "{states:?}");
    assert!(world.events.len() > told);
}

#[test]
fn who_is_new_to_the_successor_starts_like_anybody_and_who_has_gone_is_nobody() {
    let mut world = World::of(3, 1);
    world.run(5_000);
    world.answers.push(Answer::Healthy);
    world.hand_over_to(plans(4, 1, &Arc::default()).split_off(1));
    let states: Vec<State> = world.keeper.all().map(|(_, known)| known.state).collect();
    assert_eq!(states, [State::Up, State::Up, State::Unknown]);
    assert!(!world.keeper.has_asked_everyone());
}

#[test]
fn a_probe_that_is_new_to_the_successor_takes_nobody_out() {
    let mut world = World::of(2, 1);
    world.run(5_000);
    let mut plans = plans(2, 2, &Arc::default());
    for plan in &mut plans {
        Arc::make_mut(&mut plan.probes[1]).name = "deep".into();
    }
    world.hand_over_to(plans);
    assert_eq!(world.states(), [State::Up, State::Up]);
    world.answers[1] = Answer::Refuses;
    world.run(10_000);
    assert_eq!(world.states(), [State::Up, State::Down]);
}
