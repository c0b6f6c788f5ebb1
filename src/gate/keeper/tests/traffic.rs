//! What live traffic does to endpoints, under virtual time.

use super::*;
use crate::gate::passive::{TrafficFailure, Trial};

const REFUSED: TrafficFailure = TrafficFailure::Status(503);

/// Endpoints that have all passed, a moment after their last probe.
fn fit(count: usize) -> World {
    let mut world = World::of(count, 1);
    world.run(5_000);
    assert!(world.states().iter().all(|state| *state == State::Up));
    world
}

impl World {
    fn fails(&mut self, endpoint: usize, failure: TrafficFailure) {
        self.keeper.handle_failure(slot(endpoint), failure, 1, self.now);
    }

    fn tried(&mut self, endpoint: usize, trial: Trial) {
        self.keeper.handle_trial(slot(endpoint), trial, self.now);
    }

    fn wants_trial(&self, endpoint: usize) -> bool {
        self.known()[endpoint].wants_trial()
    }

    /// Seconds until the endpoint is to be tried.
    fn held(&mut self, endpoint: usize) -> u128 {
        let from = self.now;
        for _ in 0..100_000 {
            if self.wants_trial(endpoint) {
                return (self.now - from).as_millis() / 1_000;
            }
            self.run(1);
        }
        panic!("endpoint {endpoint} is never tried");
    }
}

#[test]
fn one_failure_makes_it_suspect_at_once_and_asks_at_once() {
    let mut world = fit(3);
    let asked = world.probes.len();
    world.fails(1, REFUSED);
    assert_eq!(world.states(), [State::Up, State::Suspect, State::Up]);
    world.run(0);
    assert_eq!(world.probes.len(), asked + 1);
    assert_eq!(world.probes.last().map(|(_, endpoint)| *endpoint), Some(1));
}

#[test]
fn a_probe_that_fails_too_agrees_and_needs_no_second_vote() {
    let mut world = fit(3);
    world.answers[1] = Answer::Refuses;
    world.fails(1, REFUSED);
    assert!(world.until(1, State::Down) < 10);
    world.answers[1] = Answer::Healthy;
    world.until(1, State::Ramping);
    assert!(!world.wants_trial(1), "the probe accused it as well, so it clears it");
}

#[test]
fn a_probe_that_passes_contradicts_and_only_a_request_clears() {
    let mut world = fit(3);
    world.fails(1, REFUSED);
    assert!(world.until(1, State::Ejected) < 10);
    assert!((10..=12).contains(&world.held(1)), "the first hold");
    world.tried(1, Trial::Failed(REFUSED));
    assert!(!world.wants_trial(1));
    assert!((20..=24).contains(&world.held(1)), "the second hold");
    assert_eq!(world.states()[1], State::Ejected);
    world.tried(1, Trial::Passed);
    assert_eq!(world.states()[1], State::Ramping);
    world.run(30_000);
    assert_eq!(world.states()[1], State::Up);
}

#[test]
fn where_no_request_comes_to_try_it_its_probes_have_the_word() {
    let mut world = fit(3);
    world.fails(1, REFUSED);
    world.held(1);
    world.run(9_900);
    assert_eq!(world.states()[1], State::Ejected);
    world.run(200);
    assert_eq!(world.states()[1], State::Ramping);
}

#[test]
fn the_last_one_and_more_than_a_third_are_spared() {
    for (count, failing, out) in [(1, 1, 0), (2, 2, 1), (3, 3, 1), (5, 5, 1), (6, 6, 2), (9, 9, 3)] {
        let mut world = fit(count);
        for endpoint in 0..failing {
            world.fails(endpoint, REFUSED);
            world.run(10);
        }
        let ejected = world.states().iter().filter(|state| **state == State::Ejected).count();
        assert_eq!(ejected, out, "of {count}");
        let spared = world
            .events
            .iter()
            .filter(|(_, event)| event.ends_with("spared"))
            .count();
        assert_eq!(spared, failing - out, "of {count}");
    }
}

#[test]
fn who_breaks_all_that_it_gets_goes_beyond_a_third_whatever_it_answered_before() {
    let mut world = fit(3);
    world.fails(0, TrafficFailure::Reset);
    world.run(10);
    assert_eq!(world.states()[0], State::Ejected);
    for endpoint in [1, 2] {
        world.keeper.handle_answers(slot(endpoint), 1_000, world.now);
    }
    for streak in 1..6 {
        world
            .keeper
            .handle_failure(slot(1), TrafficFailure::Reset, streak, world.now);
        assert_eq!(world.states()[1], State::Up, "{streak}");
    }
    world
        .keeper
        .handle_failure(slot(1), TrafficFailure::Reset, 6, world.now);
    world.run(10);
    assert_eq!(world.states(), [State::Ejected, State::Ejected, State::Up]);
    for streak in 1..9 {
        world
            .keeper
            .handle_failure(slot(2), TrafficFailure::Reset, streak, world.now);
    }
    assert_eq!(world.states()[2], State::Up, "the last one stays");
}

#[test]
fn who_fails_most_of_what_it_gets_goes_beyond_a_third_while_another_serves_well() {
    let fail = |world: &mut World, endpoint: usize| {
        (1..=4).for_each(|streak| {
            world
                .keeper
                .handle_failure(slot(endpoint), TrafficFailure::Reset, streak, world.now);
            world.run(10);
        });
        world.states()[endpoint]
    };
    let mut world = fit(3);
    for endpoint in 0..3 {
        world.keeper.handle_answers(slot(endpoint), 3, world.now);
    }
    assert_eq!(fail(&mut world, 0), State::Ejected);
    assert_eq!(fail(&mut world, 1), State::Ejected, "one of three is out already");
    assert_eq!(fail(&mut world, 2), State::Up, "never the last one");
    // Where the other one fails as well, or nobody knows of it, a third is the most.
    let mut world = fit(3);
    assert_eq!(fail(&mut world, 0), State::Ejected);
    assert_eq!(fail(&mut world, 1), State::Up);
    assert_eq!(fail(&mut world, 2), State::Up);
}

#[test]
fn a_spared_endpoint_whose_probe_fails_as_well_is_down_at_once() {
    let mut world = fit(1);
    world.answers[0] = Answer::Refuses;
    world.fails(0, REFUSED);
    assert!(world.until(0, State::Down) < 10);
}

#[test]
fn a_flood_of_failures_asks_once() {
    let mut world = fit(1);
    let asked = world.probes.len();
    for _ in 0..1_000 {
        world.fails(0, REFUSED);
    }
    world.run(1);
    assert_eq!(world.probes.len(), asked + 1);
    assert_eq!(
        world
            .events
            .iter()
            .filter(|(_, event)| event.ends_with("spared"))
            .count(),
        1
    );
}

#[test]
fn silence_while_requests_wait_is_out_after_one_deadline() {
    let mut world = fit(3);
    world.answers[1] = Answer::Silent;
    world.keeper.handle_silence(slot(1), world.now);
    assert_eq!(world.states()[1], State::Up, "silence proves nothing");
    assert!((1_000..1_010).contains(&world.until(1, State::Down)));
}

#[test]
fn who_accepts_and_does_not_answer_gets_nothing_new_within_one_probe() {
    for wait in (0..4_000).step_by(170) {
        let mut world = World::of(3, 1);
        world.run(10_000 + wait);
        world.answers[1] = Answer::Silent;
        let took = world.until(1, State::Suspect);
        assert!(took <= 2_200 + 501, "{took} ms");
        assert_eq!(world.known()[1].cause, Cause::Late);
        assert!(world.until(1, State::Down) <= 1_001);
    }
}

#[test]
fn a_late_answer_takes_nobody_out_for_longer_than_it_is_late() {
    let mut world = fit(3);
    world.answers[1] = Answer::Silent;
    world.until(1, State::Suspect);
    // The probe that keeps it company is answered.
    world.waiting.retain(|(_, ticket, _)| place(ticket.slot) != 1);
    world.answers[1] = Answer::Healthy;
    world.until(1, State::Up);
    // Neither the last one nor more than a third are kept away.
    let mut world = fit(3);
    world.answers = vec![Answer::Silent; 3];
    let (mut least, mut now) = (3, 0);
    while now < 3_000 && world.states().iter().all(|state| *state != State::Down) {
        world.run(1);
        now += 1;
        least = least.min(world.states().iter().filter(|state| state.is_routable()).count());
    }
    assert_eq!(least, 2);
}

#[test]
fn silence_and_a_probe_that_answers_do_not_agree() {
    let mut world = fit(3);
    world.answers[1] = Answer::Refuses;
    world.keeper.handle_silence(slot(1), world.now);
    world.run(100);
    assert_eq!(world.states()[1], State::Up, "the process lives");
    world.run(500);
    assert_eq!(world.states()[1], State::Down, "by the probes alone");
}

#[test]
fn a_first_byte_that_is_late_accuses_only_where_none_comes() {
    let mut world = fit(3);
    let asked = world.probes.len();
    for streak in [1, 2] {
        world
            .keeper
            .handle_failure(slot(1), TrafficFailure::Timeout, streak, world.now);
        world.run(10);
    }
    assert_eq!(world.states()[1], State::Up);
    assert_eq!(world.probes.len(), asked + 1, "it is probed at once");
    world
        .keeper
        .handle_failure(slot(1), TrafficFailure::Timeout, 3, world.now);
    assert_eq!(world.states()[1], State::Suspect);
}

#[test]
fn a_silent_probe_of_an_endpoint_that_delivers_means_busy() {
    let mut world = fit(3);
    world.delivering = true;
    world.answers[1] = Answer::Silent;
    world.until(1, State::Busy);
    world.run(60_000);
    assert_eq!(world.states()[1], State::Busy, "never down");
    world.delivering = false;
    world.until(1, State::Down);
    world.answers[1] = Answer::Healthy;
    world.until(1, State::Ramping);
}

#[test]
fn a_busy_endpoint_that_answers_again_is_up() {
    let mut world = fit(2);
    world.delivering = true;
    world.answers[0] = Answer::Silent;
    world.until(0, State::Busy);
    world.answers[0] = Answer::Healthy;
    world.until(0, State::Up);
}

#[test]
fn what_returns_ramps_unless_it_is_the_only_one() {
    let mut world = fit(2);
    for answers in [[Answer::Refuses; 2], [Answer::Healthy; 2]] {
        world.answers = answers.to_vec();
        world.run(10_000);
    }
    let mut states = world.states();
    states.sort();
    assert_eq!(
        states,
        [State::Up, State::Ramping],
        "the first to return has no time for a slow start"
    );
    let all = world.known();
    let ramping = all.iter().find(|known| known.state == State::Ramping).unwrap();
    assert!((10..60).contains(&ramping.share(world.now)));
}

#[test]
fn an_endpoint_that_never_passed_is_not_accused() {
    let mut world = World::of(2, 1);
    world.answers[0] = Answer::Silent;
    world.run(100);
    world.fails(0, REFUSED);
    assert_eq!(world.states()[0], State::Unknown);
}

#[test]
fn who_fails_like_all_the_others_is_spared_and_who_stands_out_is_not() {
    let mut world = fit(3);
    let fails = |world: &mut World, endpoint: usize, streak: u32| {
        let now = world.now;
        world.keeper.handle_failure(slot(endpoint), REFUSED, streak, now);
        world.run(10);
    };
    // Each of them fails two requests in a hundred, far apart: the first is held back, for until then nobody else has failed.
    for endpoint in 0..3 {
        let now = world.now;
        world.keeper.handle_answers(slot(endpoint), 100, now);
    }
    fails(&mut world, 0, 1);
    assert_eq!(world.states()[0], State::Ejected);
    world.held(0);
    world.tried(0, Trial::Passed);
    world.run(31_000);
    assert_eq!(world.states(), [State::Up; 3]);
    let now = world.now;
    for endpoint in 0..3 {
        world.keeper.handle_answers(slot(endpoint), 100, now);
    }
    world.keeper.known[slot(0)].window.note(0, 2, now);
    world.keeper.known[slot(1)].window.note(0, 2, now);
    world.keeper.known[slot(2)].window.note(0, 2, now);
    for endpoint in 0..3 {
        fails(&mut world, endpoint, 1);
    }
    assert_eq!(world.states(), [State::Up; 3], "they fail alike");
    fails(&mut world, 2, 2);
    fails(&mut world, 2, 3);
    assert_eq!(world.states(), [State::Up, State::Up, State::Ejected], "three in a row");
}

#[test]
fn a_suspect_whom_no_probe_can_decide_about_is_held_back_and_then_tried() {
    let mut world = fit(3);
    world.answers = vec![Answer::NotFound; 3];
    world.run(5_000);
    assert_eq!(world.states(), [State::Up; 3], "the probe is at fault");
    world.fails(1, REFUSED);
    assert_eq!(world.states()[1], State::Suspect);
    world.run(10_100);
    assert_eq!(world.states()[1], State::Ejected);
    world.held(1);
    world.tried(1, Trial::Passed);
    assert!(world.states()[1].is_routable());
}

#[test]
fn who_answers_late_loses_weight_first_and_is_held_back_when_that_does_not_help() {
    use crate::gate::latency::LatencyRules;
    use crate::gate::passive::Outlier;
    let rules = LatencyRules {
        factor: 4.0,
        eject_after: Duration::from_secs(30),
    };
    let outlier = Outlier {
        latency: Some(rules),
        ..Outlier::default()
    };
    let terms = Terms {
        outlier,
        ..Terms::default()
    };
    let mut world = World::with(3, 1, Arc::new(terms));
    world.run(5_000);
    let tell = |world: &mut World, slow| {
        let now = world.now;
        world.keeper.handle_latency(slot(1), slow, now);
        world.run(10_000);
    };
    tell(&mut world, Some((900, 20)));
    assert_eq!((world.states()[1], world.known()[1].share(world.now)), (State::Up, 25));
    tell(&mut world, None);
    assert_eq!(world.known()[1].share(world.now), 100);
    for _ in 0..3 {
        tell(&mut world, Some((900, 20)));
        assert_eq!(world.states()[1], State::Up);
    }
    tell(&mut world, Some((900, 20)));
    assert_eq!(world.states()[1], State::Ejected);
    assert_eq!(
        world.known()[1].cause.to_string(),
        "its first byte takes 900 ms, and the others' 20 ms"
    );
}
