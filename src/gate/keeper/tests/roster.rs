//! Endpoints that come, stay and go while the keeper watches.

use super::*;
use crate::gate::passive::TrafficFailure;

impl World {
    /// The plans of the endpoints of the first list at these places.
    fn plans(&self, places: &[usize]) -> Vec<EndpointPlan> {
        let plan = |place: &usize| EndpointPlan {
            id: EndpointId {
                upstream: UpstreamName::new("dify"),
                pool: PoolName::new("main"),
                address: Address::parse(&format!("10.0.0.{}:80", place + 1)).unwrap(),
            },
            probes: vec![Arc::default()],
            terms: Arc::default(),
        };
        places.iter().map(plan).collect()
    }

    fn reload(&mut self, plans: Vec<EndpointPlan>) -> Vec<Slot> {
        let slots = self.keeper.reconcile(plans, self.now);
        self.answers
            .resize(slots.len().max(self.answers.len()) + 2, Answer::Healthy);
        slots
    }

    fn addresses(&self) -> Vec<String> {
        self.known().iter().map(|known| known.id.address.to_string()).collect()
    }
}

#[test]
fn who_stays_keeps_verdict_history_and_slot() {
    let mut world = World::of(3, 1);
    world.answers[1] = Answer::Refuses;
    world.run(5_000);
    let before: Vec<Known> = world.known().into_iter().cloned().collect();
    let plans = world.plans(&[2, 1]);
    assert_eq!(world.reload(plans), [slot(2), slot(1)]);
    assert_eq!(
        world.addresses(),
        ["10.0.0.3:80", "10.0.0.2:80"],
        "in the order of the new list"
    );
    assert_eq!(world.states(), [State::Up, State::Down]);
    for (known, before) in world.known().iter().zip([&before[2], &before[1]]) {
        assert_eq!((known.since, known.history.len()), (before.since, before.history.len()));
    }
    world.events.clear();
    world.run(5_000);
    assert!(world.events.is_empty(), "{:?}", world.events);
}

#[test]
fn who_has_gone_is_asked_no_more_and_nothing_is_said_of_it() {
    let mut world = World::of(3, 1);
    world.run(5_000);
    let plans = world.plans(&[1, 2]);
    world.reload(plans);
    world.probes.clear();
    let now = world.now;
    world.keeper.handle_failure(slot(0), TrafficFailure::Reset, 3, now);
    world.keeper.handle_enable(slot(0), now);
    world.run(20_000);
    assert!(world.probes.iter().all(|(_, place)| *place != 0), "{:?}", world.probes);
    assert!(!world.probes.is_empty());
    assert!(world.keeper.has_asked_everyone());
}

#[test]
fn who_comes_back_is_somebody_else() {
    let mut world = World::of(2, 1);
    world.answers[0] = Answer::Refuses;
    world.run(5_000);
    let (without, with) = (world.plans(&[1]), world.plans(&[0, 1]));
    world.reload(without);
    let slots = world.reload(with);
    assert_ne!(
        slots[0],
        slot(0),
        "what was said of the first is not said of the second"
    );
    assert_eq!(world.states(), [State::Unknown, State::Up]);
    assert!(!world.keeper.has_asked_everyone());
}

#[test]
fn who_joins_a_pool_that_serves_starts_slowly() {
    let mut world = World::of(2, 1);
    world.run(5_000);
    let plans = world.plans(&[0, 1, 2]);
    world.reload(plans);
    world.run(100);
    assert_eq!(world.states(), [State::Up, State::Up, State::Ramping]);
}

#[test]
fn an_override_outlives_another_list_and_ends_when_it_was_to_end() {
    let mut world = World::of(2, 1);
    world.run(5_000);
    let now = world.now;
    let word = crate::gate::overrides::Override {
        wish: crate::gate::overrides::Wish::Drain,
        reason: "a new disk".into(),
        since: now,
        until: Some(now + Duration::from_secs(60)),
    };
    world.keeper.handle_override(slot(0), word, now);
    let plans = world.plans(&[0, 1]);
    world.reload(plans);
    assert_eq!(world.states()[0], State::Draining);
    world.run(61_000);
    assert!(world.states()[0].is_routable());
}

#[test]
fn a_new_probe_takes_nobody_out_before_it_fails_and_one_that_goes_excuses() {
    let mut world = World::of(1, 1);
    world.run(5_000);
    let second = Arc::new(ProbePlan {
        name: "second".into(),
        ..ProbePlan::default()
    });
    let mut plans = world.plans(&[0]);
    plans[0].probes.push(second);
    world.reload(plans.clone());
    assert_eq!(world.states(), [State::Up]);
    world.answers[0] = Answer::Refuses;
    world.run(5_000);
    assert_eq!(world.states(), [State::Down]);
    world.answers[0] = Answer::Healthy;
    // The first probe passes again, and the second is asked no more.
    plans[0].probes.truncate(1);
    world.reload(plans);
    world.run(5_000);
    assert_eq!(world.states(), [State::Up]);
}

#[test]
fn a_shorter_interval_counts_at_once() {
    let mut world = World::of(1, 1);
    let plan = |interval| {
        let mut plans = world.plans(&[0]);
        plans[0].probes = vec![Arc::new(ProbePlan {
            interval,
            ..ProbePlan::default()
        })];
        plans
    };
    let (hourly, quick) = (plan(Duration::from_secs(3_600)), plan(Duration::from_secs(1)));
    world.reload(hourly);
    world.run(20_000);
    world.probes.clear();
    world.reload(quick);
    world.run(10_000);
    assert!((8..=13).contains(&world.probes.len()), "{:?}", world.probes);
}

#[test]
fn ten_thousand_endpoints_are_asked_evenly() {
    let mut world = World::of(1, 1);
    let now = world.now;
    let plans = (0..10_000)
        .map(|n| EndpointPlan {
            id: EndpointId {
                upstream: UpstreamName::new("dify"),
                pool: PoolName::new("main"),
                address: Address::parse(&format!("10.0.{}.{}:80", n / 250, n % 250 + 1)).unwrap(),
            },
            probes: vec![Arc::default()],
            terms: Arc::default(),
        })
        .collect();
    world.keeper = Keeper::new(7);
    world.keeper.reconcile(plans, now);
    world.answers = vec![Answer::Healthy; 10_000];
    world.run(6_000);
    world.probes.clear();
    world.run(4_000);
    let mut per_window = [0u32; 40];
    for (at, _) in &world.probes {
        per_window[((at - 6_000) / 100).min(39) as usize] += 1;
    }
    assert!(per_window.iter().all(|n| (350..=650).contains(n)), "{per_window:?}");
}
