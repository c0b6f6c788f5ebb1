//! How a cutover goes: its shares, its gates' terms, and how long each phase may take.

use std::time::Duration;

use crate::gate::direction::Split;

/// A share of the new pool on the way to all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of a hundred new requests.
    pub percent: u32,
    /// How long it stays at that at least.
    pub hold: Duration,
}

/// How a cutover goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The version that every endpoint of the new pool must name.
    pub expect_version: Option<String>,
    /// Whether it goes on by itself once it is ready.
    pub auto: bool,
    /// Shares on the way; after the last one all of it. Empty for everything at once.
    pub steps: Vec<Step>,
    /// Who is in a share.
    pub split: Split,
    /// Whether the old version cannot live with what the new one wrote.
    pub barrier: bool,
    /// How long each phase may take.
    pub clocks: Clocks,
    /// Whether what the old pool still serves at the end of the drain is cut.
    pub cut: bool,
    /// So many probes in a row must pass.
    pub rise: u32,
    /// Fewer samples judge nobody.
    pub min_samples: u64,
}

/// How long each phase may take, or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Until every endpoint of the new pool has passed once.
    pub prepare: Duration,
    /// Until every gate passes.
    pub verify: Duration,
    /// Until it is promoted.
    pub ready: Duration,
    /// Of the bake.
    pub bake: Duration,
    /// From the commitment on, the old pool could take over.
    pub hold: Duration,
    /// From the flip on, what the old pool still serves may go on.
    pub drain: Duration,
}

/// What is usual: half a minute more than Dify's longest workflow for the drain, and times that people stay awake for.
impl Default for Plan {
    fn default() -> Self {
        Self {
            expect_version: None,
            auto: false,
            steps: Vec::new(),
            split: Split::Cookie,
            barrier: false,
            clocks: Clocks {
                prepare: Duration::from_secs(300),
                verify: Duration::from_secs(120),
                ready: Duration::from_secs(24 * 3_600),
                bake: Duration::from_secs(600),
                hold: Duration::from_secs(3_600),
                drain: Duration::from_secs(1_260),
            },
            cut: true,
            rise: 3,
            min_samples: 50,
        }
    }
}
