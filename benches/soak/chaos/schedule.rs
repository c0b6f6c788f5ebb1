//! The schedule: everything that is done to the instances and said to the gate, drawn from the seed before the run begins.

use std::time::Duration;

use super::ledger::{Fault, Who, members};

/// A fault of one instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blow {
    pub(crate) at: Duration,
    pub(crate) who: Who,
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
}

/// What the operator does. One comes after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Act {
    /// Another process of the gate takes over.
    Upgrade,
    /// Another weight.
    Reload(u32),
    /// An instance leaves the configuration for this time.
    Remove(Who, Duration),
    /// To the pool that is not active, and on.
    Switch(After),
    Pause(Duration),
    Stop(Duration),
    Maintain(Who, Duration),
    Drain(Who, Duration),
    /// A dependency of all instances goes, with an upgrade meanwhile or without.
    Outage(&'static str, Duration, bool),
}

/// What becomes of a cutover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Commits,
    IsAborted(Duration),
    IsRolledBack(Duration),
    IsPaused(Duration),
    /// It has shares on its way, and an upgrade while it bakes.
    HasSharesAndUpgrade,
}

/// The whole schedule.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) blows: Vec<Blow>,
    /// What the operator does, each so long after the one before.
    pub(crate) acts: Vec<(Duration, Act)>,
}

const FAULTS: [Fault; 13] = [
    Fault::Kill,
    Fault::Worker,
    Fault::Freeze,
    Fault::Stop,
    Fault::Drains,
    Fault::Refuses,
    Fault::Sick,
    Fault::Slow,
    Fault::Full,
    Fault::Limited,
    Fault::Closes,
    Fault::Cuts,
    Fault::Silent,
];

impl Schedule {
    /// The schedule of a seed, for so long. In the last five seconds nothing begins.
    pub(crate) fn of(seed: u64, lasts: Duration) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let end = lasts.saturating_sub(Duration::from_secs(5));
        Self {
            blows: blows(&mut rng, end),
            acts: acts(&mut rng, end),
        }
    }
}

fn millis(rng: &mut fastrand::Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.u64(least..most))
}

/// Faults, of which an instance has one at a time. Most of the time an instance of each pool is well; one in ten blows may take the last one.
fn blows(rng: &mut fastrand::Rng, end: Duration) -> Vec<Blow> {
    let mut blows: Vec<Blow> = Vec::new();
    let mut at = millis(rng, 500, 1_500);
    while at < end {
        let blow = Blow {
            at,
            who: rng.usize(0..6),
            fault: FAULTS[rng.usize(..FAULTS.len())],
            lasts: millis(rng, 500, 5_000),
        };
        // Another one follows a while after it is over.
        let hit = |who: Who, blows: &[Blow]| {
            let mut blows = blows.iter();
            blows.any(|one| one.who == who && one.at + one.lasts + Duration::from_secs(2) > at)
        };
        let pool = members(super::ledger::pool_of(blow.who));
        let well = pool.filter(|who| *who != blow.who && !hit(*who, &blows)).count();
        if !hit(blow.who, &blows) && (well > 0 || rng.u8(..10) == 0) {
            blows.push(blow);
        }
        at += millis(rng, 200, 1_200);
    }
    blows
}

fn acts(rng: &mut fastrand::Rng, end: Duration) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    let mut at = Duration::ZERO;
    while at < end {
        let wait = millis(rng, 300, 2_500);
        let act = match rng.u8(..16) {
            0..3 => Act::Upgrade,
            3 => Act::Reload(rng.u32(1..5)),
            4 => Act::Remove(rng.usize(0..6), millis(rng, 1_500, 4_000)),
            5..11 => Act::Switch(after(rng)),
            11 => Act::Pause(millis(rng, 500, 6_000)),
            12 => Act::Stop(millis(rng, 300, 1_500)),
            13 => Act::Maintain(rng.usize(0..6), millis(rng, 1_500, 4_000)),
            14 => Act::Drain(rng.usize(0..6), millis(rng, 1_500, 4_000)),
            _ => {
                let name = ["cache", "database"][rng.usize(..2)];
                Act::Outage(name, millis(rng, 1_000, 5_000), rng.bool())
            }
        };
        acts.push((wait, act));
        // An act takes some time of its own, so a few are left over at the end.
        at += wait;
    }
    acts
}

fn after(rng: &mut fastrand::Rng) -> After {
    match rng.u8(..6) {
        0 => After::IsAborted(millis(rng, 0, 5_000)),
        1 => After::IsRolledBack(millis(rng, 0, 3_000)),
        2 => After::IsPaused(millis(rng, 500, 2_000)),
        3 => After::HasSharesAndUpgrade,
        _ => After::Commits,
    }
}
