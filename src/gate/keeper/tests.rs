//! The keeper under virtual time: minutes of probing pass in microseconds, and every step is looked at.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::gate::health::FailureClass;
use crate::gate::names::{Address, EndpointId};

mod comeback;
mod dependency;
mod fullness;
mod invariants;
mod memory;
mod operator;
mod optional;
mod reference;
mod roster;
mod traffic;

const MS: Duration = Duration::from_millis(1);

/// A keeper, its clock, and a world of endpoints that answer as told.
struct World {
    keeper: Keeper,
    now: Instant,
    start: Instant,
    answers: Vec<Answer>,
    waiting: Vec<(Instant, Ticket, Arc<ProbeReport>)>,
    events: Vec<(u128, String)>,
    probes: Vec<(u128, usize)>,
    /// Whether streams go on while probes are under way.
    delivering: bool,
    /// Streams on each endpoint.
    streams: Vec<u32>,
    /// What was under way when each probe was sent.
    under_way: BTreeMap<Ticket, UnderWay>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Healthy,
    Refuses,
    Silent,
    NotFound,
    Unresolvable,
    /// 429, for so many seconds.
    Sheds(u32),
    /// 503, and the body names this component; of several probes the first one, which asks the process, passes.
    Lacks(&'static str),
    /// It has so many places; who finds none waits, or gets 503 where it `refuses`.
    Places {
        places: u32,
        refuses: bool,
    },
    /// Of several probes the first one is silent, and the others, which ask a service at another port, pass.
    Frozen,
    /// Of several probes the first one is silent, and the others name this component.
    Clogged(&'static str),
}

fn report(outcome: Outcome) -> Arc<ProbeReport> {
    Arc::new(ProbeReport {
        outcome,
        status: None,
        components: BTreeMap::new(),
        failed: Vec::new(),
        version: None,
        asked: None,
        phases: Phases::default(),
    })
}

/// The slot of an endpoint of the first list.
fn slot(place: usize) -> Slot {
    slotmap::KeyData::from_ffi((1 << 32) | (place as u64 + 1)).into()
}

/// The position in the first list of the endpoint in a slot.
fn place(slot: Slot) -> usize {
    use slotmap::Key;
    (slot.data().as_ffi() & u64::from(u32::MAX)) as usize - 1
}

/// What a keeper is to know of so many endpoints of one pool.
fn plans(count: usize, probes: usize, terms: &Arc<Terms>) -> Vec<EndpointPlan> {
    let plans = (0..count).map(|n| EndpointPlan {
        id: EndpointId {
            upstream: UpstreamName::new("dify"),
            pool: PoolName::new("main"),
            address: Address::parse(&format!("10.0.0.{}:80", n + 1)).unwrap(),
        },
        probes: (0..probes)
            .map(|probe| {
                let name = if probe == 0 {
                    "default".to_owned()
                } else {
                    format!("probe-{probe}")
                };
                Arc::new(ProbePlan {
                    name: name.into(),
                    ..ProbePlan::default()
                })
            })
            .collect(),
        terms: terms.clone(),
    });
    plans.collect()
}

impl World {
    fn of(count: usize, probes: usize) -> Self {
        Self::with(count, probes, Arc::default())
    }

    fn with(count: usize, probes: usize, terms: Arc<Terms>) -> Self {
        let now = Instant::now();
        let mut keeper = Keeper::new(7);
        keeper.reconcile(plans(count, probes, &terms), now);
        Self {
            keeper,
            now,
            start: now,
            answers: vec![Answer::Healthy; count],
            waiting: Vec::new(),
            events: Vec::new(),
            probes: Vec::new(),
            delivering: false,
            streams: vec![0; count],
            under_way: BTreeMap::new(),
        }
    }

    fn answer(&self, ticket: Ticket) -> (Instant, Ticket, Arc<ProbeReport>) {
        let fail = |class| Outcome::Fail {
            class,
            detail: "as told".into(),
        };
        let asks_process = ticket.probe == 0
            && self
                .keeper
                .get(ticket.slot)
                .is_some_and(|known| known.verdicts.len() > 1);
        let is_beside = ticket.probe > 0;
        let (after, outcome) = match self.answers[place(ticket.slot)] {
            Answer::Places { .. } if is_beside => (2, Outcome::Pass),
            Answer::Healthy => (2, Outcome::Pass),
            Answer::Refuses => (2, fail(FailureClass::Status)),
            Answer::Silent => (1_000, fail(FailureClass::Timeout)),
            Answer::Lacks(_) if asks_process => (2, Outcome::Pass),
            Answer::Lacks(_) => (2, fail(FailureClass::Status)),
            Answer::Places { places, .. } if self.streams[place(ticket.slot)] < places => (2, Outcome::Pass),
            Answer::Places { refuses: true, .. } => (2, fail(FailureClass::Status)),
            Answer::Places { refuses: false, .. } => (1_000, fail(FailureClass::Timeout)),
            Answer::Clogged(_) if !asks_process => (2, fail(FailureClass::Status)),
            Answer::Frozen | Answer::Clogged(_) if asks_process => (1_000, fail(FailureClass::Timeout)),
            Answer::Frozen | Answer::Clogged(_) => (2, Outcome::Pass),
            Answer::NotFound => (2, Outcome::Misconfigured { detail: "404".into() }),
            Answer::Sheds(seconds) => (2, Outcome::Sheds { seconds }),
            Answer::Unresolvable => (
                2,
                Outcome::Unknown {
                    detail: "no such name".into(),
                },
            ),
        };
        let mut report = report(outcome);
        let told = Arc::make_mut(&mut report);
        if told.outcome.class() == Some(FailureClass::Status) {
            told.status = Some(503);
        }
        told.phases.total = after * MS;
        if let Some(known) = self.keeper.get(ticket.slot).filter(|_| is_beside) {
            told.asked = known.id.address.literal().map(|at| SocketAddr::new(at.ip(), 9901));
        }
        if asks_process {
            return (self.now + after * MS, ticket, report);
        }
        if let Answer::Lacks(component) | Answer::Clogged(component) = self.answers[place(ticket.slot)] {
            told.components = [(component.to_owned(), false)].into();
            told.failed = vec![component.to_owned()];
        } else if told.outcome.is_pass() {
            told.components = ["database", "cache", "model"]
                .map(|name| (name.to_owned(), true))
                .into();
        }
        (self.now + after * MS, ticket, report)
    }

    /// What is under way on an endpoint: who finds no place waits, or is refused.
    fn under_way_at(&self, endpoint: usize) -> UnderWay {
        let streams = self.streams.get(endpoint).copied().unwrap_or_default();
        let (begun, before) = match self.answers.get(endpoint) {
            Some(Answer::Places { places, refuses: false }) => (streams.min(*places), streams),
            Some(Answer::Places { places, refuses: true }) => (streams.min(*places), streams.min(*places)),
            _ => (streams, streams),
        };
        UnderWay {
            before,
            begun,
            left: 0,
            settled: before,
            came: false,
            now: before,
            delivering: false,
        }
    }

    /// Lets time pass, step by step.
    fn run(&mut self, for_ms: u64) {
        let end = self.now + Duration::from_millis(for_ms);
        loop {
            while let Some(effect) = self.keeper.poll_effect() {
                let at = (self.now - self.start).as_millis();
                match effect {
                    Effect::Probe(ticket) => {
                        self.probes.push((at, place(ticket.slot)));
                        let under_way = self.under_way_at(place(ticket.slot));
                        self.under_way.insert(ticket, under_way);
                        self.keeper.handle_sent(ticket, under_way);
                        self.waiting.push(self.answer(ticket));
                    }
                    Effect::Announce(_, event) => self
                        .events
                        .push((at, format!("{} {}", event.endpoint.address, event.to))),
                    Effect::Publish(_) | Effect::Grow(_) => {}
                    Effect::Slow(..) => {}
                    Effect::Flaps(id) => self.events.push((at, format!("{} flaps", id.address))),
                    Effect::Shared { component, failing, .. } => {
                        let word = if failing { "fails" } else { "is well" };
                        self.events.push((at, format!("{component} {word}")));
                    }
                    Effect::Spare(id, ..) => self.events.push((at, format!("{} spared", id.address))),
                }
            }
            let answer = self.waiting.iter().map(|(at, ..)| *at).min();
            let Some(next) = answer
                .into_iter()
                .chain(self.keeper.poll_timeout())
                .min()
                .filter(|at| *at <= end)
            else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            let (ready, rest) = std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|(at, ..)| *at <= self.now);
            self.waiting = rest;
            let ready: Vec<(Instant, Ticket, Arc<ProbeReport>)> = ready;
            for (_, ticket, report) in ready {
                let under_way = UnderWay {
                    delivering: self.delivering,
                    ..self.under_way.get(&ticket).copied().unwrap_or_default()
                };
                self.keeper.handle_probe(ticket, report, under_way, self.now);
            }
            self.keeper.handle_timeout(self.now);
        }
    }

    fn known(&self) -> Vec<&Known> {
        self.keeper.all().map(|(_, known)| known).collect()
    }

    fn states(&self) -> Vec<State> {
        self.known().iter().map(|known| known.state).collect()
    }

    /// Milliseconds from now on until the endpoint is in `state`.
    fn until(&mut self, endpoint: usize, state: State) -> u128 {
        let from = self.now;
        for _ in 0..20_000 {
            self.run(1);
            if self.states()[endpoint] == state {
                return (self.now - from).as_millis();
            }
        }
        panic!("endpoint {endpoint} never became {state}");
    }
}

#[test]
fn everyone_is_asked_at_once_and_nobody_is_routable_before_the_answer() {
    let mut world = World::of(3, 1);
    world.run(1);
    assert_eq!(world.probes, [(0, 0), (0, 1), (0, 2)]);
    assert_eq!(world.states(), [State::Unknown; 3]);
    assert!(!world.keeper.has_asked_everyone());
    world.run(2);
    assert_eq!(world.states(), [State::Up; 3]);
    assert!(world.keeper.has_asked_everyone());
}

#[test]
fn an_idle_refusal_is_seen_within_an_interval_and_a_confirm() {
    for wait in (0..4_000).step_by(130) {
        let mut world = World::of(3, 1);
        world.run(10_000 + wait);
        world.answers[1] = Answer::Refuses;
        let took = world.until(1, State::Down);
        assert!(took <= 2_200 + 250 + 10, "{took} ms");
        assert_eq!(world.states(), [State::Up, State::Down, State::Up]);
    }
}

#[test]
fn an_idle_hang_is_seen_within_an_interval_and_one_and_a_half_deadlines() {
    for wait in (0..4_000).step_by(130) {
        let mut world = World::of(3, 1);
        world.run(10_000 + wait);
        world.answers[1] = Answer::Silent;
        let took = world.until(1, State::Down);
        assert!(took <= 2_200 + 1_500 + 1, "{took} ms");
    }
}

#[test]
fn a_silent_endpoint_delays_nobody() {
    let mut world = World::of(2, 1);
    world.answers[0] = Answer::Silent;
    world.run(60_000);
    let others = world.probes.iter().filter(|(_, slot)| *slot == 1).count();
    assert!(
        (28..=32).contains(&others),
        "{others} probes in 60 s at an interval of 2 s"
    );
}

#[test]
fn a_recovered_endpoint_is_back_after_rise_passes() {
    let mut world = World::of(2, 1);
    world.run(10_000);
    world.answers[0] = Answer::Refuses;
    world.until(0, State::Down);
    world.run(30_000);
    world.answers[0] = Answer::Healthy;
    assert!(world.until(0, State::Ramping) <= 2_200 + 250 + 10);
}

#[test]
fn one_lost_answer_moves_nothing() {
    let mut world = World::of(1, 1);
    world.run(10_000);
    world.answers[0] = Answer::Silent;
    while world.waiting.is_empty() {
        world.run(1);
    }
    world.answers[0] = Answer::Healthy;
    world.run(20_000);
    assert_eq!(world.events.len(), 1, "{:?}", world.events);
}

#[test]
fn two_probes_are_joined_by_and() {
    let mut world = World::of(1, 2);
    let ticket = |probe| Ticket {
        slot: slot(0),
        probe,
        sequence: 1,
    };
    world.keeper.handle_timeout(world.now);
    world
        .keeper
        .handle_probe(ticket(0), report(Outcome::Pass), UnderWay::default(), world.now);
    assert_eq!(world.states(), [State::Unknown]);
    world
        .keeper
        .handle_probe(ticket(1), report(Outcome::Pass), UnderWay::default(), world.now);
    assert_eq!(world.states(), [State::Up]);
}

#[test]
fn a_path_that_no_endpoint_has_ejects_nobody() {
    let mut world = World::of(3, 1);
    world.run(10_000);
    world.answers = vec![Answer::NotFound; 3];
    world.run(30_000);
    assert_eq!(world.states(), [State::Up; 3]);
}

#[test]
fn a_path_that_one_endpoint_lacks_ejects_that_one() {
    let mut world = World::of(3, 1);
    world.run(10_000);
    world.answers[2] = Answer::NotFound;
    world.run(10_000);
    assert_eq!(world.states(), [State::Up, State::Up, State::Down]);
}

#[test]
fn a_pool_that_never_had_the_path_stays_unknown_and_says_why() {
    let mut world = World::of(2, 1);
    world.answers = vec![Answer::NotFound; 2];
    world.run(10_000);
    assert_eq!(world.states(), [State::Unknown; 2]);
    assert_eq!(world.known()[0].cause.label(), "misconfigured");
}

#[test]
fn a_name_that_does_not_resolve_leaves_the_endpoint_unknown_with_the_cause() {
    let mut world = World::of(1, 1);
    world.answers[0] = Answer::Unresolvable;
    world.run(10_000);
    assert_eq!(world.states(), [State::Unknown]);
    assert_eq!(world.known()[0].cause.to_string(), "could not probe: no such name");
    world.answers[0] = Answer::Healthy;
    world.run(5_000);
    assert_eq!(world.states(), [State::Up]);
}

#[test]
fn an_old_answer_moves_nothing() {
    let mut world = World::of(1, 1);
    world.run(10_000);
    let stale = Ticket {
        slot: slot(0),
        probe: 0,
        sequence: 1,
    };
    let before = world.known()[0].history.len();
    let refusal = Outcome::Fail {
        class: FailureClass::Status,
        detail: String::new(),
    };
    world
        .keeper
        .handle_probe(stale, report(refusal), UnderWay::default(), world.now);
    assert_eq!(world.known()[0].history.len(), before);
}
