//! What is published while a dependency fails that a pool shares: who lacks it serves only where all do, and few requests are sent there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::world::Due;
use super::{Driver, Slot};
use crate::gate::components::AllDown;
use crate::gate::names::{EndpointId, PoolName};
use crate::gate::state::Tier;
use crate::upstream::snapshot::Candidate;

impl Driver {
    /// Requests that wait on an endpoint which lacks a dependency of its pool, and may be sent again, wait no longer.
    pub(super) fn tell_waiting(&mut self, slot: Slot) {
        let now = self.clock.now();
        if !self.keeper.get(slot).is_some_and(|known| known.lacks_shared(now)) {
            return;
        }
        if let Some(serving) = self.serving_of(slot)
            && serving.upstream.settings.all_down == AllDown::Auto
        {
            serving.lost.push(slot);
        }
    }

    /// A dependency of a pool fails from now on, or does no longer. Requests that wait on endpoints which lack it, and may be sent again, wait no longer. An
    /// endpoint whose answer has not come yet may have it, and what waits there goes on: [`Self::tell_waiting`] follows its answer.
    pub(super) fn begin_outage(&mut self, at: &EndpointId, failing: bool) {
        let now = self.clock.now();
        let found = self
            .serving
            .iter_mut()
            .find(|serving| serving.upstream.settings.name == at.upstream);
        let Some(serving) = found else {
            return;
        };
        serving.due = Due::Now;
        serving.upstream.flow.attempts.begin();
        if failing && serving.upstream.settings.all_down == AllDown::Auto {
            let slots = serving.members(&at.pool).map(|members| members.slots.clone());
            let lacks = |slot: &Slot| self.keeper.get(*slot).is_some_and(|known| known.lacks_shared(now));
            serving.lost.extend(slots.into_iter().flatten().filter(lacks));
        }
    }

    /// Who may serve in a pool. Who lacks a dependency that its pool shares serves only where all do; then it is named, unless the configuration wants
    /// requests sent on all the same, or none at all.
    pub(super) fn able(&self, upstream: usize, pool: &PoolName, now: Instant) -> (Vec<Candidate>, Option<Arc<str>>) {
        let all = self.pool(upstream, pool).filter_map(|(watched, known)| {
            Some((self.candidate(watched, known, false, now)?, known.lacks_shared(now)))
        });
        let (lacking, able): (Vec<_>, Vec<_>) = all.partition(|(_, lacks)| *lacks);
        let candidates = |all: Vec<(Candidate, bool)>| all.into_iter().map(|(candidate, _)| candidate).collect();
        let rule = self
            .serving
            .get(upstream)
            .map(|serving| serving.upstream.settings.all_down);
        // Whose traffic fails is no better.
        let serves = able.iter().any(|(candidate, _)| candidate.tier != Tier::Accused);
        if serves || lacking.is_empty() {
            return (candidates(able), None);
        }
        let mut all = candidates(lacking);
        all.extend(candidates(able));
        match rule.unwrap_or_default() {
            AllDown::Open => (all, None),
            AllDown::Closed => (Vec::new(), None),
            AllDown::Auto => (all, Some(self.lacked(upstream, pool, now).into())),
        }
    }

    /// The dependencies that fail for a pool, where few requests are to be sent for that.
    pub(super) fn outage(&self, upstream: usize, pool: &PoolName, now: Instant) -> Option<Arc<str>> {
        let rule = self.serving.get(upstream)?.upstream.settings.all_down;
        let lacks = self.pool(upstream, pool).any(|(_, known)| known.lacks_shared(now));
        (lacks && rule == AllDown::Auto).then(|| self.lacked(upstream, pool, now).into())
    }

    /// The components that endpoints of a pool lack, in one line.
    pub(super) fn lacked(&self, upstream: usize, pool: &PoolName, now: Instant) -> String {
        let lacked = self.pool(upstream, pool).flat_map(|(_, known)| known.lacked(now));
        let lacked: BTreeSet<&str> = lacked.collect();
        lacked.into_iter().collect::<Vec<_>>().join(", ")
    }
}
