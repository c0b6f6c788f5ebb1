//! What holds whatever people say, whatever is seen, and wherever the process dies and starts again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use difygate::gate::cutover::{Cutover, Phase, Record};
use difygate::gate::names::PoolName;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::reference::{Act, POOLS, act, see, verb};
use crate::story::Story;

/// Steps of which a record keeps the last.
const REMEMBERED: usize = 64;

/// What one step may do, by itself or by a verb.
fn look(before: &Record, after: &Record, is_said: bool) -> Result<(), TestCaseError> {
    prop_assert_eq!(after.epoch, before.epoch + 1, "one step, one epoch");
    let direction = after.direction("dify");
    let weights = POOLS.map(|pool| direction.weight(&PoolName::new(pool)));
    prop_assert_eq!(weights.iter().sum::<u32>(), 100);
    prop_assert_eq!(&direction.active, &after.active);
    let Some(cutover) = &after.cutover else {
        prop_assert!(is_said && before.cutover.is_none(), "a cutover is never forgotten");
        return Ok(());
    };
    prop_assert!(cutover.percent <= 100 && cutover.from != cutover.to);
    prop_assert_eq!(
        &after.active,
        if cutover.percent == 100 {
            &cutover.to
        } else {
            &cutover.from
        }
    );
    prop_assert_eq!(direction.weight(&cutover.to), cutover.percent);
    prop_assert_eq!(cutover.flipped.is_some(), cutover.percent == 100);
    prop_assert!((1..=REMEMBERED).contains(&cutover.log.len()));
    prop_assert!(
        cutover
            .log
            .iter()
            .all(|entry| !entry.why.is_empty() && !entry.by.is_empty())
    );
    prop_assert!(cutover.paused.is_none() || !(cutover.phase.is_over() || cutover.phase == Phase::Frozen));
    let users = match cutover.phase {
        Phase::Shifting => (1..100).contains(&cutover.percent),
        Phase::Baking | Phase::Committed | Phase::Retired => cutover.percent == 100,
        Phase::Frozen => cutover.percent > 0,
        _ => cutover.percent == 0,
    };
    prop_assert!(users, "{} with {} %", cutover.phase, cutover.percent);
    if after.traffic != before.traffic {
        prop_assert!(
            is_said && after.cutover == before.cutover,
            "traffic and cutovers are two things"
        );
        return Ok(());
    }
    match before.cutover.as_ref().filter(|before| before.id == cutover.id) {
        Some(before) => follow(before, cutover, is_said),
        None => {
            prop_assert!(is_said, "none begins by itself");
            prop_assert_eq!((cutover.id, cutover.phase), (after.epoch, Phase::Preparing));
            prop_assert_eq!(&after.active, &before.active, "to begin moves nobody");
            Ok(())
        }
    }
}

/// What one cutover may become.
fn follow(before: &Cutover, after: &Cutover, is_said: bool) -> Result<(), TestCaseError> {
    let (old, new) = (before.phase, after.phase);
    prop_assert!(!old.is_over(), "{} is the end, and it became {}", old, new);
    prop_assert!(is_said || old != Phase::Frozen, "left by a verb alone");
    let ways: &[Phase] = match old {
        Phase::Preparing => &[Phase::Verifying, Phase::Failed],
        Phase::Verifying => &[Phase::Ready, Phase::Failed],
        Phase::Ready => &[Phase::Verifying, Phase::Shifting, Phase::Baking, Phase::Failed],
        Phase::Shifting => &[Phase::Shifting, Phase::Baking, Phase::RollingBack, Phase::Frozen],
        Phase::Baking => &[Phase::Baking, Phase::Committed, Phase::RollingBack, Phase::Frozen],
        Phase::Committed => &[Phase::Retired, Phase::RollingBack],
        Phase::RollingBack => &[Phase::RolledBack],
        Phase::Frozen => &[Phase::Shifting, Phase::Baking, Phase::Committed, Phase::RollingBack],
        Phase::Steady | Phase::Retired | Phase::Failed | Phase::RolledBack => &[],
    };
    prop_assert!(new == old || ways.contains(&new), "{} became {}", old, new);
    let goes_back = new == Phase::RollingBack;
    prop_assert!(goes_back || before.percent <= after.percent, "shares only grow");
    prop_assert!(before.cut.is_none() || before.cut == after.cut, "it is cut once");
    prop_assert!(goes_back || before.drained.is_none() || before.drained == after.drained);
    prop_assert!(
        after.cut == before.cut || old == Phase::Committed && after.plan.cut,
        "cut in its time"
    );
    prop_assert!(
        new != Phase::Retired || after.drained.is_some(),
        "empty before it is retired"
    );
    prop_assert!(
        !goes_back || is_said || !after.plan.barrier,
        "a barrier is crossed by a person alone"
    );
    let news = after.log.len() == before.log.len() + 1 || after.log.len() == REMEMBERED;
    prop_assert!(news, "every step is told once");
    prop_assert_eq!(after.log.back().map(|entry| entry.phase), Some(new));
    Ok(())
}

/// Does an act, and looks at every step. What died and started again does the same.
fn take(story: &mut Story, act: Act, seen: &mut BTreeMap<Phase, u32>) -> Result<(), TestCaseError> {
    see(story, act);
    if let Some(verb) = verb(act)
        && let Ok(next) = story.record.command(&verb, "ann", "", &story.seen, story.now)
        && next.epoch != story.record.epoch
    {
        look(&story.record, &next, true)?;
        story.record = next;
    }
    let Act::Wait(time) = act else { return Ok(()) };
    for second in 0..=time {
        story.now += Duration::from_secs(second.min(1).into());
        let mut steps = 0;
        while let Some(next) = story.record.advance(&story.seen, story.now) {
            prop_assert_eq!(&story.record.advance(&story.seen, story.now), &Some(next.clone()));
            look(&story.record, &next, false)?;
            *seen.entry(next.phase()).or_default() += 1;
            story.record = next;
            steps += 1;
            prop_assert!(steps < 16, "it does not come to rest");
        }
    }
    Ok(())
}

/// The record as a process that starts anew finds it: what is kept, field by field, and nothing else.
fn kept(record: &Record) -> Record {
    let Record {
        epoch,
        active,
        traffic,
        cutover,
        done,
    } = record;
    Record {
        epoch: *epoch,
        active: PoolName::new(active.as_str()),
        traffic: traffic.clone(),
        cutover: cutover.clone(),
        done: done.clone(),
    }
}

#[test]
fn nothing_breaks_the_rules_and_every_phase_is_seen() {
    let seen = RefCell::new(BTreeMap::new());
    let mut runner = TestRunner::new(Config {
        cases: 500,
        failure_persistence: None,
        ..Config::default()
    });
    let walks = prop::collection::vec(act(), 1..80);
    let outcome = runner.run(&walks, |acts| {
        let mut story = Story::default();
        acts.into_iter()
            .try_for_each(|act| take(&mut story, act, &mut seen.borrow_mut()))
    });
    outcome.unwrap();
    // Nobody is steady again, and nobody prepares by itself.
    assert_eq!(seen.borrow().len(), Phase::ALL.len() - 2, "{:?}", seen.borrow());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_starts_again_goes_on_as_if_nothing_had_been(acts in prop::collection::vec(act(), 1..50)) {
        let mut whole = Story::default();
        let mut dying = whole.clone();
        for act in acts {
            let mut seen = BTreeMap::new();
            take(&mut whole, act, &mut seen)?;
            dying.record = kept(&dying.record);
            take(&mut dying, act, &mut seen)?;
            prop_assert_eq!(&whole.record, &dying.record);
        }
    }

    #[test]
    fn a_process_that_was_away_takes_the_steps_that_are_due_and_none_twice(
        acts in prop::collection::vec(act(), 1..50),
        away in 1..5_000_u64,
    ) {
        let mut story = Story::default();
        let mut seen = BTreeMap::new();
        for act in acts {
            take(&mut story, act, &mut seen)?;
            let mut late = story.clone();
            late.record = kept(&story.record);
            late.now += Duration::from_secs(away);
            take(&mut late, Act::Wait(0), &mut seen)?;
            prop_assert_eq!(late.record.advance(&late.seen, late.now), None);
        }
    }
}
