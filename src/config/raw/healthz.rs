//! `difygate healthz` as its file writes it.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::scalars::{Cidr, Method, Size, Socket, Time};
use super::Expect;

/// The configuration of `difygate healthz`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "difygate healthz")]
pub(in crate::config) struct Healthz {
    /// Where it listens. Default: 0.0.0.0:9901.
    pub(in crate::config) listen: Option<Socket>,
    /// Networks that are told the reasons of failures. Default: loopback and private.
    pub(in crate::config) internal: Option<Vec<Cidr>>,
    /// How long an answer serves everybody who asks. Default: 1s.
    pub(in crate::config) cache: Option<Time>,
    /// For so long after the start /livez fails for nobody. Default: 30s.
    pub(in crate::config) startup_grace: Option<Time>,
    /// How long it says that the instance is about to stop, before it ends. Default: 15s.
    pub(in crate::config) drain: Option<Time>,
    /// What the instance needs, by the names that answers give.
    pub(in crate::config) checks: IndexMap<String, Check>,
    /// What tells that the process beside it lives, such as Dify's own /health. Default: nothing.
    pub(in crate::config) live: Option<Check>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Check {
    /// PostgreSQL: a connection, a login and SELECT 1.
    pub(in crate::config) postgres: Option<Postgres>,
    /// Redis: a connection, a login and PING.
    pub(in crate::config) redis: Option<Redis>,
    /// One request, and what its answer looks like.
    pub(in crate::config) http: Option<Http>,
    /// A connection to host:port.
    pub(in crate::config) tcp: Option<String>,
    /// Files that must be there.
    pub(in crate::config) files: Option<Vec<File>>,
    /// A program and its arguments, run without a shell, which must end with 0.
    pub(in crate::config) exec: Option<Vec<String>>,
    /// It fails when it takes longer. Default: 800ms, so that a probe with a second hears what is wrong.
    pub(in crate::config) timeout: Option<Time>,
    /// It fails when it passes, but takes longer than this. Default: no bound.
    pub(in crate::config) slow: Option<Time>,
    /// Whether the instance cannot do without it. Default: true.
    pub(in crate::config) critical: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Postgres {
    pub(in crate::config) host: String,
    /// Default: 5432.
    pub(in crate::config) port: Option<u16>,
    pub(in crate::config) user: String,
    pub(in crate::config) password: Option<String>,
    /// Default: the user's name.
    pub(in crate::config) database: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Redis {
    pub(in crate::config) host: String,
    /// Default: 6379.
    pub(in crate::config) port: Option<u16>,
    pub(in crate::config) user: Option<String>,
    pub(in crate::config) password: Option<String>,
    /// The number of the database. Default: 0.
    pub(in crate::config) database: Option<u32>,
    /// Whether a value is written and read again. Default: false.
    pub(in crate::config) write: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Http {
    /// What to ask, an http or https URL.
    pub(in crate::config) url: String,
    /// Default: GET.
    pub(in crate::config) method: Option<Method>,
    /// Further request headers.
    pub(in crate::config) headers: Option<IndexMap<String, String>>,
    /// What a passing answer looks like. Default: status 200.
    pub(in crate::config) expect: Option<Expect>,
    /// A PEM file with the authorities to trust. Default: the system's.
    pub(in crate::config) ca: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum File {
    Path(String),
    Terms(FileTerms),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FileTerms {
    pub(in crate::config) path: String,
    /// At least so many bytes. Default: 1.
    pub(in crate::config) min_size: Option<Size>,
}
