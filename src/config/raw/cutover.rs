//! Cutovers as the file writes them.

use std::num::NonZeroU32;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::scalars::{Method, Time, UrlPath};
use super::Expect;

/// How users are moved from one pool to another, where the command that starts it says nothing else.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Cutover {
    /// How long every endpoint of the new pool may take to pass its probes for the first time. Default: 300s.
    pub(in crate::config) prepare: Option<Time>,
    /// How long the gates may then take to pass. Default: 120s.
    pub(in crate::config) verify: Option<Time>,
    /// So many probes in a row must pass on every endpoint of the new pool, from the start of the cutover on; 1 to 20. Default: 3.
    #[schemars(range(min = 1, max = 20))]
    pub(in crate::config) rise: Option<u32>,
    /// How long a cutover that is ready waits to be promoted. Default: 24h.
    pub(in crate::config) ready: Option<Time>,
    /// Shares of the new pool on the way to all of it. Default: none, everything at once.
    pub(in crate::config) steps: Option<Vec<Step>>,
    /// What decides who is in a share: cookie, request, or {header: NAME}. Default: cookie.
    pub(in crate::config) split: Option<Split>,
    /// How long the new pool is watched with all of the traffic before the cutover is committed. Default: 10m.
    pub(in crate::config) bake: Option<Time>,
    /// How long the old pool stays ready to take everything back, from the commitment on. Default: 1h.
    pub(in crate::config) hold: Option<Time>,
    /// How long what the old pool still serves may go on, from the moment that it takes nothing new. Default: 1260s, a minute more than Dify's longest workflow.
    pub(in crate::config) drain: Option<Time>,
    /// Whether what is left then is cut. Default: true; false waits for ever.
    pub(in crate::config) cut: Option<bool>,
    /// Fewer requests than this within 30 s judge nobody, and a bake with fewer is inconclusive unless smoke requests pass. Default: 50.
    pub(in crate::config) min_samples: Option<u32>,
    /// `barrier`: the old version cannot live with what the new one wrote, so nothing is taken back without a person. Default: compatible.
    pub(in crate::config) migration: Option<Migration>,
    /// Requests that every endpoint of the new pool must answer as expected. Default: none.
    pub(in crate::config) smoke: Option<Vec<Smoke>>,
    /// Who is asked, or told, by POST.
    pub(in crate::config) hooks: Option<Vec<Hook>>,
    /// What takes everything back.
    pub(in crate::config) triggers: Option<Triggers>,
    /// How people of the internal networks see a pool before it serves.
    pub(in crate::config) preview: Option<Preview>,
    /// Files that are named for their content: one that a pool does not have is looked for in the others. Default: [/_next/static/].
    pub(in crate::config) assets: Option<Vec<UrlPath>>,
    /// How long a request may wait while traffic is paused. Default: 30s.
    pub(in crate::config) longest_pause: Option<Time>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Step {
    /// The new pool's share of new requests, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) percent: u32,
    /// How long it stays at that. Default: 60s.
    pub(in crate::config) hold: Option<Time>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Split {
    Word(SplitWord),
    Of(SplitOf),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum SplitWord {
    Cookie,
    Request,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SplitOf {
    /// The header whose value decides; requests without it stay with the old pool.
    pub(in crate::config) header: String,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Migration {
    Compatible,
    Barrier,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Smoke {
    /// The request target.
    pub(in crate::config) path: UrlPath,
    /// The upstream whose pool is asked. Default: every one that moves.
    pub(in crate::config) upstream: Option<String>,
    /// Default: GET.
    pub(in crate::config) method: Option<Method>,
    /// Further request headers.
    pub(in crate::config) headers: Option<IndexMap<String, String>>,
    /// What a passing answer looks like. Default: status 200.
    pub(in crate::config) expect: Option<Expect>,
    /// How long it may take. Default: 10s.
    pub(in crate::config) timeout: Option<Time>,
    /// So often it is asked before, to warm caches, whatever it answers. Default: 0.
    #[schemars(range(max = 1000))]
    pub(in crate::config) warm_up: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Hook {
    /// When: `confirm` (2xx lets the cutover go on, anything else holds it), `rollback` (2xx takes everything back), or `event` (told of every step).
    pub(in crate::config) when: HookWhen,
    /// Where a JSON body is posted.
    pub(in crate::config) webhook: String,
    /// How long it may take. Default: 10s.
    pub(in crate::config) timeout: Option<Time>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum HookWhen {
    Confirm,
    Rollback,
    Event,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Triggers {
    /// Answers of 5xx, in percent, over twice the old pool's as well. Default: 2.0.
    pub(in crate::config) errors: Option<f64>,
    /// Connections that do not come about, in percent. Default: 1.0.
    pub(in crate::config) connects: Option<f64>,
    /// The 95th percentile of the time to the first byte, over twice the old pool's as well. Default: 2s.
    pub(in crate::config) first_byte: Option<Time>,
    /// Event streams that end without their last event, in percent, over twice the old pool's as well. Default: 2.0.
    pub(in crate::config) aborts: Option<f64>,
    /// Event streams that fall silent for 35 s, in percent. Default: 5.0.
    pub(in crate::config) silent: Option<f64>,
    /// Over so long each is measured; two such times in a row decide. Default: 30s.
    pub(in crate::config) window: Option<Time>,
    /// Fewer endpoints of the new pool than this that are fit take everything back. Default: 1.
    pub(in crate::config) min_healthy: Option<NonZeroU32>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Preview {
    /// The header that names the pool. Default: X-Difygate-Pool.
    pub(in crate::config) header: Option<String>,
    /// Hosts that stand for a pool.
    pub(in crate::config) hosts: Option<IndexMap<String, String>>,
}

/// Several upstreams that move together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Deployment {
    /// Their names; each has the same pools.
    pub(in crate::config) upstreams: Vec<String>,
}
