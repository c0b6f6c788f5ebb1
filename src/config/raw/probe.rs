//! Probes as they are written.

use std::num::{NonZeroU16, NonZeroU32};

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::scalars::{Method, Pattern, Statuses, Time, UrlPath};
use super::tls::ClientTls;

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Probe {
    /// A service whose probe is known; other keys override it. `dify` is two probes: the api's /health, and the /healthz beside it where there is one;
    /// `port` and `path` are the latter's. Default: dify-healthz.
    pub(in crate::config) preset: Option<Preset>,
    /// The path to ask. Default: /healthz.
    pub(in crate::config) path: Option<UrlPath>,
    /// Default: GET.
    pub(in crate::config) method: Option<Method>,
    /// The Host header. Default: the endpoint's address.
    pub(in crate::config) host: Option<String>,
    /// The port to ask. Default: the endpoint's; 9901 for the service beside it that preset dify asks.
    pub(in crate::config) port: Option<NonZeroU16>,
    /// TLS to that port: true, or its terms. Default: as `tls` of the upstream.
    pub(in crate::config) tls: Option<ClientTls>,
    /// Whether a connection serves up to ten questions in turn. Default: false, a new one for each.
    pub(in crate::config) reuse: Option<bool>,
    /// Further request headers.
    pub(in crate::config) headers: Option<IndexMap<String, String>>,
    /// From the start of one probe to the start of the next. Default: 2s.
    pub(in crate::config) interval: Option<Time>,
    /// One deadline over name resolution, connect, TLS, headers and body. Default: 1s.
    pub(in crate::config) timeout: Option<Time>,
    /// Passes in a row that take a down endpoint back. Default: 2.
    pub(in crate::config) rise: Option<NonZeroU32>,
    /// Failures in a row that take an endpoint out: a number, or one for each class. Default: 2.
    pub(in crate::config) fall: Option<Fall>,
    /// How long after the start the first probe is sent. Default: 0s.
    pub(in crate::config) initial_delay: Option<Time>,
    /// What a passing answer looks like.
    pub(in crate::config) expect: Option<Expect>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Live {
    /// What endpoints are asked. Defaults: path /livez, initial_delay 30s, interval 10s, timeout 5s, fall 3; `rise` means nothing here.
    pub(in crate::config) probe: Option<Probe>,
    /// Who is asked to restart an endpoint.
    pub(in crate::config) restart: Restart,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Restart {
    /// A program and its arguments, run without a shell; {endpoint}, {host}, {port}, {upstream} and {pool} are put in.
    pub(in crate::config) command: Option<Vec<String>>,
    /// A URL that gets a JSON body.
    pub(in crate::config) webhook: Option<String>,
    /// The least time between two restarts of the same endpoint. Default: 5m.
    pub(in crate::config) pause: Option<Time>,
    /// The least time between two restarts within the upstream. Default: 1m.
    pub(in crate::config) apart: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum Preset {
    Dify,
    DifyHealthz,
    DifyApi,
    DifyWeb,
    PluginDaemon,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Fall {
    Count(NonZeroU32),
    ByClass(FallByClass),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FallByClass {
    /// For classes that are not named. Default: 2.
    pub(in crate::config) default: Option<NonZeroU32>,
    pub(in crate::config) status: Option<NonZeroU32>,
    pub(in crate::config) timeout: Option<NonZeroU32>,
    /// Default: 2, or the default where that is less: a port that is closed twice is closed.
    pub(in crate::config) connect: Option<NonZeroU32>,
    pub(in crate::config) tls: Option<NonZeroU32>,
    pub(in crate::config) protocol: Option<NonZeroU32>,
    pub(in crate::config) body: Option<NonZeroU32>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Expect {
    /// Accepted status codes, such as "200" or "200-299,301". Default: "200".
    pub(in crate::config) status: Option<Statuses>,
    /// JSON pointers and the values that must stand there.
    pub(in crate::config) json: Option<IndexMap<String, serde_json::Value>>,
    /// A pattern that the body must match.
    pub(in crate::config) body_regex: Option<Pattern>,
    /// Patterns that headers must match, by header.
    pub(in crate::config) headers: Option<IndexMap<String, Pattern>>,
}
