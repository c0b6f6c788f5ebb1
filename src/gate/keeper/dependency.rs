//! Dependencies: what an answer is worth that names failed components, and when a pool shares the failure.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Effect, Keeper, Outcome, ProbeReport, Slot, Worth};

/// An endpoint's last word on its components counts for so many intervals.
const FRESH: u32 = 3;

impl Keeper {
    /// What an answer is worth, and the outcome that counts.
    pub(super) fn worth(&mut self, slot: Slot, report: &ProbeReport) -> (Worth, Outcome) {
        let Some(known) = self.known.get_mut(slot) else {
            return (Worth::Face, report.outcome.clone());
        };
        let worth = known
            .terms
            .components
            .weigh(&report.outcome, &report.components, &known.shared);
        match worth {
            Worth::Pass | Worth::Degraded => {
                known.degraded = worth == Worth::Degraded;
                return (worth, Outcome::Pass);
            }
            Worth::Face if report.outcome.is_evidence() => known.degraded = false,
            Worth::Face | Worth::Frozen => {}
        }
        (worth, report.outcome.clone())
    }

    /// Looks at every shared component of the pool of `slot`: does it fail on most endpoints?
    pub(super) fn correlate(&mut self, slot: Slot, now: Instant) {
        let Some(known) = self.known.get(slot) else {
            return;
        };
        let names: Vec<String> = known
            .terms
            .components
            .0
            .iter()
            .filter(|(_, rule)| rule.shared)
            .map(|(name, _)| name.clone())
            .collect();
        if names.is_empty() {
            return;
        }
        let (terms, slots) = (known.terms.clone(), self.pool_of(slot).to_vec());
        let before = known.shared.clone();
        let failing: BTreeSet<String> = names
            .into_iter()
            .filter(|name| {
                let count = slots.iter().filter(|slot| self.misses(**slot, name, now)).count();
                terms.components.is_shared_failure(name, count, slots.len())
            })
            .collect();
        if failing == before {
            return;
        }
        let at = known.id.clone();
        for component in before.symmetric_difference(&failing) {
            self.effects.push_back(Effect::Shared {
                at: at.clone(),
                component: component.clone(),
                failing: failing.contains(component),
            });
        }
        for slot in slots {
            if let Some(known) = self.known.get_mut(slot) {
                known.shared.clone_from(&failing);
            }
        }
    }

    /// Whether the last word of an endpoint, if it is fresh, is that a component fails.
    fn misses(&self, slot: Slot, component: &str, now: Instant) -> bool {
        let Some(known) = self.known.get(slot) else {
            return false;
        };
        let interval = known
            .verdicts
            .iter()
            .map(|(plan, _)| plan.interval)
            .max()
            .unwrap_or_default();
        let fresh = known
            .history
            .back()
            .is_some_and(|record| now.saturating_duration_since(record.at) <= interval * FRESH);
        fresh && known.components.get(component) == Some(&false)
    }
}
