//! Holds the times of each pool's endpoints against each other, where latency counts.

use super::{Driver, Slot};
use crate::gate::latency::{self, FirstBytes};
use crate::upstream::pulse::GROUPS;

/// So many beats apart, which is ten seconds: time enough for the answers that a comparison needs.
pub(super) const BEATS: u32 = 200;

impl Driver {
    /// Compares, and tells the keeper who is slow.
    pub(super) fn compare_times(&mut self) {
        let now = self.clock.now();
        for upstream in 0..self.serving.len() {
            let serving = self.serving.get(upstream);
            let Some(rules) = serving.and_then(|serving| serving.upstream.settings.terms.outlier.latency) else {
                continue;
            };
            let serving = self.serving(upstream).filter(|(_, known)| known.state.is_routable());
            let felt: Vec<(Slot, [FirstBytes; GROUPS])> = serving
                .map(|(watched, _)| (watched.endpoint.slot, watched.endpoint.pulse.take_groups()))
                .collect();
            let mut worst = vec![None; felt.len()];
            for group in 0..GROUPS {
                let all: Vec<FirstBytes> = felt
                    .iter()
                    .filter_map(|(_, groups)| groups.get(group).copied())
                    .collect();
                for (worst, slow) in worst.iter_mut().zip(latency::slow(&rules, &all)) {
                    *worst = worst.or(slow);
                }
            }
            for ((slot, _), slow) in felt.iter().zip(worst) {
                let whole = slow.map(|(own, median): (f32, f32)| (own.round() as u32, median.round() as u32));
                self.keeper.handle_latency(*slot, whole, now);
            }
        }
    }
}
