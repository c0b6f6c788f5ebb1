//! A naive model of the same rules beside the machine, in random walks.
//!
//! It knows no points in time: it counts the seconds that each clock has run, and one that is held does not count.

use std::time::Duration;

use difygate::gate::cutover::{Phase, Plan, Start, Step, Verb, Verdict};
use difygate::gate::direction::Traffic;
use difygate::gate::names::PoolName;
use proptest::prelude::*;

use crate::story::{Story, gates};

const PREPARE: u32 = 20;
const VERIFY: u32 = 15;
const READY: u32 = 40;
const BAKE: u32 = 10;
const HOLD: u32 = 45;
const DRAIN: u32 = 32;
/// Shares, and for how long.
pub(crate) const STEPS: [(u32, u32); 3] = [(10, 5), (30, 0), (60, 7)];
pub(crate) const POOLS: [&str; 3] = ["blue", "green", "red"];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    to: usize,
    auto: bool,
    steps: bool,
    barrier: bool,
    cut: bool,
    supersede: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Start(Beginning),
    Promote,
    Pause,
    Resume,
    Abort,
    Rollback(bool),
    Traffic(bool),
    Gates(u8),
    Trigger(bool),
    Prepared(bool),
    OldFit(bool),
    InFlight(bool),
    Alive(bool),
    Bake(bool),
    Wait(u32),
}

pub(crate) fn act() -> impl Strategy<Value = Act> {
    let beginning = (0..3_usize, any::<[bool; 5]>()).prop_map(|(to, [auto, steps, barrier, cut, supersede])| {
        Act::Start(Beginning {
            to,
            auto,
            steps,
            barrier,
            cut,
            supersede,
        })
    });
    prop_oneof![
        4 => beginning,
        4 => Just(Act::Promote),
        2 => Just(Act::Pause),
        2 => Just(Act::Resume),
        1 => Just(Act::Abort),
        1 => any::<bool>().prop_map(Act::Rollback),
        1 => any::<bool>().prop_map(Act::Traffic),
        3 => prop_oneof![4 => Just(0_u8), 1 => 1..4_u8].prop_map(Act::Gates),
        2 => prop::bool::weighted(0.3).prop_map(Act::Trigger),
        2 => prop::bool::weighted(0.8).prop_map(Act::Prepared),
        1 => any::<bool>().prop_map(Act::OldFit),
        2 => any::<bool>().prop_map(Act::InFlight),
        1 => any::<bool>().prop_map(Act::Alive),
        1 => any::<bool>().prop_map(Act::Bake),
        12 => (0..14_u32).prop_map(Act::Wait),
    ]
}

/// The verb of an act, if it is one.
pub(crate) fn verb(act: Act) -> Option<Verb> {
    Some(match act {
        Act::Start(begin) => Verb::Start(Box::new(Start {
            to: PoolName::new(POOLS[begin.to]),
            plan: plan(begin),
            supersede: begin.supersede,
        })),
        Act::Promote => Verb::Promote,
        Act::Pause => Verb::Pause,
        Act::Resume => Verb::Resume,
        Act::Abort => Verb::Abort,
        Act::Rollback(force) => Verb::Rollback { force },
        Act::Traffic(run) => Verb::Traffic(if run { Traffic::Run } else { Traffic::Pause }),
        _ => return None,
    })
}

fn plan(begin: Beginning) -> Plan {
    let time = |seconds: u32| Duration::from_secs(seconds.into());
    let mut plan = Plan {
        auto: begin.auto,
        barrier: begin.barrier,
        cut: begin.cut,
        ..Plan::default()
    };
    if begin.steps {
        plan.steps = STEPS
            .map(|(percent, hold)| Step {
                percent,
                hold: time(hold),
            })
            .to_vec();
    }
    plan.clocks.prepare = time(PREPARE);
    plan.clocks.verify = time(VERIFY);
    plan.clocks.ready = time(READY);
    plan.clocks.bake = time(BAKE);
    plan.clocks.hold = time(HOLD);
    plan.clocks.drain = time(DRAIN);
    plan
}

/// What is seen from now on.
pub(crate) fn see(story: &mut Story, act: Act) {
    let seen = &mut story.seen;
    match act {
        Act::Gates(0) => seen.gates = gates("health=pass version=pass"),
        Act::Gates(1) => seen.gates = gates("health=fail version=pass"),
        Act::Gates(2) => seen.gates = gates("health=pass version=inconclusive"),
        Act::Gates(_) => seen.gates = gates("none"),
        Act::Trigger(fires) => seen.triggers = gates(if fires { "errors=fail" } else { "errors=inconclusive" }),
        Act::Prepared(prepared) => seen.prepared = prepared,
        Act::OldFit(fit) => seen.old_fit = fit.into(),
        Act::InFlight(some) => seen.old_in_flight = some.into(),
        Act::Alive(alive) => seen.old_alive = alive,
        Act::Bake(good) => seen.bake.verdict = if good { Verdict::Pass } else { Verdict::Inconclusive },
        _ => {}
    }
}

/// What is seen, as yes or no.
struct Sight {
    pass: bool,
    fires: bool,
    prepared: bool,
    old_fit: bool,
    empty: bool,
    alive: bool,
    baked: bool,
}

#[derive(Clone, Debug)]
struct Model {
    epoch: u64,
    traffic: bool,
    phase: Phase,
    from: usize,
    begin: Beginning,
    auto: bool,
    percent: u32,
    paused: bool,
    step: usize,
    told: bool,
    extensions: u32,
    released: bool,
    drained: bool,
    longer: bool,
    cut: bool,
    /// Seconds that its clocks have run.
    in_phase: u32,
    for_gates: u32,
    since_flip: u32,
}

impl Model {
    fn new() -> Self {
        let begin = Beginning {
            to: 1,
            auto: false,
            steps: false,
            barrier: false,
            cut: false,
            supersede: false,
        };
        Self::started(0, 0, true, begin, Phase::Steady)
    }

    fn started(epoch: u64, from: usize, traffic: bool, begin: Beginning, phase: Phase) -> Self {
        Self {
            epoch,
            traffic,
            phase,
            from,
            begin,
            auto: begin.auto,
            percent: 0,
            paused: false,
            step: 0,
            told: false,
            extensions: 0,
            released: false,
            drained: false,
            longer: false,
            cut: false,
            in_phase: 0,
            for_gates: 0,
            since_flip: 0,
        }
    }

    fn active(&self) -> usize {
        if self.percent == 100 { self.begin.to } else { self.from }
    }

    fn noted(&mut self) -> bool {
        self.epoch += 1;
        true
    }

    fn enter(&mut self, phase: Phase) -> bool {
        self.phase = phase;
        self.in_phase = 0;
        self.paused = false;
        self.told = false;
        self.noted()
    }

    fn move_on(&mut self, step: usize) -> bool {
        self.step = step;
        if self.begin.steps && step < STEPS.len() {
            self.percent = STEPS[step].0;
            self.enter(Phase::Shifting)
        } else {
            self.percent = 100;
            self.since_flip = 0;
            self.enter(Phase::Baking)
        }
    }

    fn back(&mut self, force: bool, sight: &Sight) -> bool {
        if !force && (self.begin.barrier || !sight.old_fit) {
            return self.enter(Phase::Frozen);
        }
        self.percent = 0;
        self.drained = false;
        self.released = false;
        self.enter(Phase::RollingBack)
    }

    /// A second passes.
    fn tick(&mut self) {
        if !self.paused {
            self.in_phase += 1;
            self.for_gates += 1;
            self.since_flip += 1;
        }
    }

    /// One step that is due; whether there was one.
    fn advance(&mut self, sight: &Sight) -> bool {
        if self.phase == Phase::RollingBack {
            return self.enter(Phase::RolledBack);
        }
        if matches!(self.phase, Phase::Shifting | Phase::Baking) && sight.fires {
            return self.back(false, sight);
        }
        if self.phase == Phase::Committed && !self.drained && sight.empty {
            self.drained = true;
            return self.noted();
        }
        if self.paused {
            return false;
        }
        match self.phase {
            Phase::Preparing if sight.prepared => {
                self.for_gates = 0;
                self.enter(Phase::Verifying)
            }
            Phase::Preparing if self.in_phase >= PREPARE => self.enter(Phase::Failed),
            Phase::Verifying if sight.pass => self.enter(Phase::Ready),
            Phase::Verifying if self.for_gates >= VERIFY => self.enter(Phase::Failed),
            Phase::Ready if self.auto && sight.pass => self.move_on(0),
            Phase::Ready if self.auto => self.enter(Phase::Verifying),
            Phase::Ready if self.in_phase >= READY => self.enter(Phase::Failed),
            Phase::Shifting if self.in_phase >= STEPS[self.step].1 => self.overdue(sight),
            Phase::Baking if self.in_phase >= BAKE && sight.baked => self.enter(Phase::Committed),
            Phase::Baking if self.in_phase >= BAKE && self.extensions < 2 => {
                self.extensions += 1;
                self.enter(Phase::Baking)
            }
            Phase::Baking if self.in_phase >= BAKE => self.enter(Phase::Frozen),
            Phase::Committed => self.empties(sight),
            _ => false,
        }
    }

    fn overdue(&mut self, sight: &Sight) -> bool {
        if sight.pass {
            return self.move_on(self.step + 1);
        }
        let tells = !self.told && self.in_phase > 0;
        self.told |= tells;
        tells && self.noted()
    }

    fn empties(&mut self, sight: &Sight) -> bool {
        if self.drained {
            return (self.released || self.in_phase >= HOLD) && self.enter(Phase::Retired);
        }
        let end = if self.longer { DRAIN + DRAIN / 4 } else { DRAIN };
        if self.since_flip < end || self.cut || !self.begin.cut {
            return false;
        }
        if sight.alive && !self.longer {
            self.longer = true;
        } else {
            self.cut = true;
        }
        self.noted()
    }

    /// Does what is said, where it makes sense.
    fn hear(&mut self, act: Act, sight: &Sight) {
        let nobody_moved = matches!(self.phase, Phase::Preparing | Phase::Verifying | Phase::Ready);
        let moving = matches!(self.phase, Phase::Shifting | Phase::Baking);
        let harmless = !self.begin.barrier && sight.old_fit;
        let over = self.phase.is_over();
        let _ = match act {
            Act::Start(begin) => {
                let free = over || begin.supersede && (nobody_moved || self.phase == Phase::Committed);
                if free && begin.to != self.active() {
                    *self = Self::started(self.epoch + 1, self.active(), self.traffic, begin, Phase::Preparing);
                }
                free
            }
            Act::Traffic(run) if run != self.traffic => {
                self.traffic = run;
                self.noted()
            }
            Act::Pause if nobody_moved || moving || self.phase == Phase::Committed => {
                !std::mem::replace(&mut self.paused, true) && self.noted()
            }
            Act::Resume if self.phase == Phase::Frozen => {
                self.extensions = 0;
                self.enter(if self.percent < 100 {
                    Phase::Shifting
                } else {
                    Phase::Baking
                })
            }
            Act::Resume => std::mem::replace(&mut self.paused, false) && self.noted(),
            Act::Abort | Act::Rollback(_) if nobody_moved => self.enter(Phase::Failed),
            Act::Abort if moving => self.back(false, sight),
            Act::Abort if self.phase == Phase::Frozen && harmless => self.back(false, sight),
            Act::Rollback(force) if moving => self.back(force, sight),
            Act::Rollback(force) if matches!(self.phase, Phase::Frozen | Phase::Committed) && (force || harmless) => {
                self.back(true, sight)
            }
            Act::Promote => self.promote(sight),
            _ => false,
        };
    }

    fn promote(&mut self, sight: &Sight) -> bool {
        match self.phase {
            Phase::Preparing | Phase::Verifying => !std::mem::replace(&mut self.auto, true) && self.noted(),
            Phase::Ready => sight.pass && self.move_on(0),
            Phase::Shifting => sight.pass && self.move_on(self.step + 1),
            Phase::Baking => self.enter(Phase::Committed),
            Phase::Frozen if self.percent == 100 => self.enter(Phase::Committed),
            Phase::Frozen => sight.pass && self.move_on(STEPS.len()),
            Phase::Committed => !std::mem::replace(&mut self.released, true) && self.noted(),
            _ => false,
        }
    }
}

fn sight(story: &Story) -> Sight {
    let seen = &story.seen;
    Sight {
        pass: !seen.gates.is_empty() && seen.gates.iter().all(|gate| gate.verdict == Verdict::Pass),
        fires: seen.triggers.iter().any(|trigger| trigger.verdict == Verdict::Fail),
        prepared: seen.prepared,
        old_fit: seen.old_fit > 0,
        empty: seen.old_in_flight == 0,
        alive: seen.old_alive,
        baked: seen.bake.verdict == Verdict::Pass,
    }
}

fn compare(story: &Story, model: &Model) -> Result<(), TestCaseError> {
    let record = &story.record;
    prop_assert_eq!((record.phase(), record.epoch), (model.phase, model.epoch));
    prop_assert_eq!(record.active.as_str(), POOLS[model.active()]);
    let Some(cutover) = &record.cutover else { return Ok(()) };
    prop_assert_eq!(
        (cutover.percent, cutover.paused.is_some()),
        (model.percent, model.paused)
    );
    prop_assert_eq!(
        (cutover.drained.is_some(), cutover.released),
        (model.drained, model.released)
    );
    prop_assert_eq!(
        (cutover.cut.is_some(), cutover.drain_extended),
        (model.cut, model.longer)
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_and_the_model_agree(acts in prop::collection::vec(act(), 1..80)) {
        let (mut story, mut model) = (Story::default(), Model::new());
        for act in acts {
            see(&mut story, act);
            let sight = sight(&story);
            if let Some(verb) = verb(act) {
                if let Ok(next) = story.record.command(&verb, "ann", "", &story.seen, story.now) {
                    story.record = next;
                }
                model.hear(act, &sight);
            }
            compare(&story, &model)?;
            let Act::Wait(time) = act else { continue };
            for second in 0..=time {
                if second > 0 {
                    story.now += Duration::from_secs(1);
                    model.tick();
                }
                loop {
                    let next = story.record.advance(&story.seen, story.now);
                    prop_assert_eq!(next.is_some(), model.advance(&sight), "{:?} {:?}", story.standing(), model);
                    let Some(next) = next else { break };
                    story.record = next;
                    compare(&story, &model)?;
                }
            }
        }
    }
}
