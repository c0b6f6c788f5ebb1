//! What may come of a history: what an operator may rely on, whatever happens, and how cutovers go on in it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::world::{EACH, Is, POOLS, SEEN, World, members};
use crate::gate::cutover::gates::{EndpointSeen, health};
use crate::gate::cutover::triggers::{Limits, Tally, healthy};
use crate::gate::cutover::{Phase, Record, Seen, Verb, bake};
use crate::gate::names::PoolName;
use crate::gate::state::{Event, State};

/// An endpoint that breaks what it gets may break so many requests in ten seconds while another one serves well, of the 400 that there are.
pub(super) const MOST_BROKEN: usize = 40;
pub(super) const MIN_SAMPLES: u64 = 20;

/// Who is well serves again within this time: a probe that waits in vain, an interval, and as many passes as it takes.
const BACK: Duration = Duration::from_secs(9);

impl World {
    /// Faults 1, 2 and 5: silence, a dependency that all share, and streams that fill an endpoint take nobody out.
    pub(super) fn may_become(&mut self, endpoint: usize, event: &Event) -> Result<(), TestCaseError> {
        let truth = &self.truth[endpoint];
        let is_out = matches!(event.to, State::Down | State::Ejected);
        let mut excused = truth.is != Is::Well || self.was(truth.ill) || self.was(self.thin[endpoint / EACH]);
        if event.to == State::Suspect {
            self.truth[endpoint].justly_accused = excused;
        }
        let truth = &self.truth[endpoint];
        // No probe clears who was accused for a reason while the database is away.
        excused |= (event.from, event.to) == (State::Suspect, State::Ejected) && truth.justly_accused;
        prop_assert!(
            !is_out || excused,
            "{endpoint} is well, and {}: {} (streams {}, database away {})",
            event.to,
            event.cause,
            truth.streams,
            self.lacks_database
        );
        Ok(())
    }

    /// Fault 13: somebody serves while somebody can, and who breaks what it gets loses its share while another one serves.
    pub(super) fn look(&self) -> Result<(), TestCaseError> {
        for pool in 0..POOLS.len() {
            // Who comes back while the database is away is no part of this rule.
            let excused = self.was(self.thin[pool]) || self.away.is_some_and(|at| self.now - at < BACK);
            let back = |endpoint: &usize| self.now - self.truth[*endpoint].well_since > BACK;
            let well: Vec<usize> = self.well(pool).into_iter().filter(back).collect();
            let serves = members(pool).any(|endpoint| self.tier(endpoint).is_some());
            prop_assert!(
                well.is_empty() || serves || excused,
                "{well:?} are well, and nobody serves: {:?}",
                self.states()
            );
            for endpoint in members(pool) {
                let broken = self.truth[endpoint].broken.len();
                prop_assert!(
                    broken <= MOST_BROKEN,
                    "{endpoint} broke {broken} requests in ten seconds while {well:?} served: {:?}",
                    self.states()
                );
            }
        }
        Ok(())
    }

    /// The states with their causes.
    fn states(&self) -> Vec<String> {
        let known = self.keeper.all().map(|(_, known)| known);
        known.map(|known| format!("{}: {}", known.state, known.cause)).collect()
    }

    /// Endpoints that have been well for long enough to be seen to be.
    pub(super) fn well(&self, pool: usize) -> Vec<usize> {
        let is_well = |endpoint: &usize| {
            let truth = &self.truth[*endpoint];
            truth.is == Is::Well && self.now - truth.well_since > SEEN
        };
        members(pool).filter(is_well).collect()
    }

    pub(super) fn seen(&self) -> Option<Seen> {
        let cutover = self.record.cutover.as_ref()?;
        let limits = limits();
        let new: Vec<EndpointSeen> = members(usize::from(cutover.to.as_str() == POOLS[1]))
            .map(|endpoint| {
                let known = self.keeper.get(self.slots[endpoint]).unwrap();
                let records = known.history.iter().rev();
                let fresh: Vec<bool> = records
                    .take_while(|record| record.at >= cutover.started)
                    .map(|record| record.report.outcome.is_pass())
                    .collect();
                EndpointSeen {
                    name: known.id.to_string(),
                    state: known.state.to_string(),
                    fit: known.state.is_routable(),
                    passes: fresh.iter().take_while(|pass| **pass).count() as u32,
                    asked: !fresh.is_empty(),
                    version: None,
                }
            })
            .collect();
        let old = members(usize::from(cutover.from.as_str() == POOLS[1]));
        let routable = |endpoint: &usize| {
            let known = self.keeper.get(self.slots[*endpoint]);
            known.is_some_and(|known| known.state.is_routable())
        };
        let fit = new.iter().filter(|one| one.fit).count();
        let watch = self.samples.watch(cutover);
        let mut triggers = vec![healthy(fit, new.len(), &limits)];
        triggers.extend(watch.judge(&cutover.baseline, &limits, MIN_SAMPLES));
        Some(Seen {
            gates: vec![health(&new, cutover.plan.rise)],
            prepared: new.iter().all(|one| one.fit && one.passes > 0),
            old_fit: old.filter(routable).count(),
            bake: bake::bake(watch, &cutover.baseline, &limits, MIN_SAMPLES, None),
            usual: self.samples.usual(&cutover.from),
            triggers: if cutover.phase.is_watched() {
                triggers
            } else {
                Vec::new()
            },
            ..Seen::default()
        })
    }

    /// Samples, and takes the steps that are due, in the order of the conductor.
    pub(super) fn conduct(&mut self) -> Result<(), TestCaseError> {
        let sums: BTreeMap<PoolName, Tally> = POOLS.map(PoolName::new).into_iter().zip(self.sums).collect();
        self.samples.note(&sums, &self.record, limits().window, self.now);
        for _ in 0..16 {
            let Some(seen) = self.seen() else { return Ok(()) };
            let Some(next) = self.record.advance(&seen, self.now) else {
                return Ok(());
            };
            self.may_step(&next)?;
            self.record = next;
            self.note_stage();
        }
        Err(TestCaseError::fail("it does not come to rest"))
    }

    pub(super) fn note_stage(&mut self) {
        let cutover = self.record.cutover.as_ref();
        let stage = cutover.and_then(|cutover| cutover.stage());
        if let Some(cutover) = cutover.filter(|_| self.at_stage.0 != stage) {
            let to = usize::from(cutover.to.as_str() == POOLS[1]);
            self.at_stage = (stage, self.sums[to]);
        }
    }

    /// Fault 11: a cutover goes back, or is committed, by what the new pool did in this stage of it.
    pub(super) fn may_step(&self, next: &Record) -> Result<(), TestCaseError> {
        let Some(cutover) = &next.cutover else { return Ok(()) };
        let to = usize::from(cutover.to.as_str() == POOLS[1]);
        let here = self.record.cutover.as_ref().and_then(|cutover| cutover.stage());
        let did = if here == self.at_stage.0 {
            self.sums[to].since(&self.at_stage.1)
        } else {
            Tally::default()
        };
        let why = cutover.log.back().map(|entry| entry.why.clone()).unwrap_or_default();
        let by_traffic = cutover.phase == Phase::RollingBack && !why.contains("healthy");
        prop_assert!(
            !by_traffic || did.requests >= MIN_SAMPLES && did.errors > 0,
            "it went back ({why}) after {} requests and {} errors in this stage",
            did.requests,
            did.errors
        );
        let commits = cutover.phase == Phase::Committed && self.record.phase() == Phase::Baking;
        prop_assert!(
            !commits || did.requests >= MIN_SAMPLES,
            "it was committed after {} requests",
            did.requests
        );
        Ok(())
    }

    pub(super) fn say(&mut self, verb: &Verb) {
        let seen = self.seen().unwrap_or_default();
        if let Ok(next) = self.record.command(verb, "ann", "", &seen, self.now) {
            self.record = next;
            self.note_stage();
        }
    }
}

fn limits() -> Limits {
    Limits {
        window: Duration::from_secs(2),
        ..Limits::default()
    }
}
