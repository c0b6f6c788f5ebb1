//! Cutovers as the rest of the gate speaks of them: what the configuration says, and the way to the one who carries them out.

use std::time::Duration;

use http::HeaderName;

use crate::gate::cutover::Plan;
use crate::gate::cutover::triggers::Limits;
use crate::gate::names::{PoolName, UpstreamName};
use crate::probe::spec::ProbeSpec;
use crate::restart::Webhook;

/// What a configuration says of cutovers.
#[derive(Clone, Debug)]
pub struct CutoverSettings {
    /// How one goes, where the command that starts it says nothing else.
    pub plan: Plan,
    /// Requests that the new pool must answer.
    pub smoke: Vec<SmokeSettings>,
    /// Who is asked or told.
    pub hooks: Vec<HookSettings>,
    /// What takes everything back.
    pub limits: Limits,
    /// What repairs the time in which both pools serve.
    pub overlap: Overlap,
}

/// A request that every endpoint of the new pool must answer as expected.
#[derive(Clone, Debug)]
pub struct SmokeSettings {
    /// The upstream that is asked; every one that moves where absent.
    pub upstream: Option<UpstreamName>,
    /// What is asked, and what is expected.
    pub spec: ProbeSpec,
}

/// Somebody who is asked or told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSettings {
    /// What they are for.
    pub ask: Ask,
    /// Where they are.
    pub webhook: Webhook,
    /// How long they may take.
    pub timeout: Duration,
}

/// What a hook is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// 2xx lets the cutover go on; anything else holds it.
    Confirm,
    /// 2xx takes everything back.
    Rollback,
    /// It is told of every step.
    Event,
}

/// What requests need to know while two pools live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The header by which internal clients choose a pool.
    pub preview_header: HeaderName,
    /// Hosts, in lower case, that stand for a pool to internal clients.
    pub preview_hosts: Vec<(String, PoolName)>,
    /// Paths of files that are named for their content.
    pub assets: Vec<String>,
    /// How long a request may wait while traffic is paused.
    pub longest_pause: Duration,
}

/// Upstreams that move together; of an upstream that is in no deployment, itself alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentSettings {
    /// What commands call it.
    pub name: String,
    /// What moves; never empty.
    pub upstreams: Vec<UpstreamName>,
}
