//! `difygate healthz` as its file writes it.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::scalars::{Cidr, Method, Size, Socket, Time, UrlPath};
use super::tls::ClientTlsTerms;
use super::{ClientTls, Expect};

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
    pub(in crate::config) postgres: Option<Database>,
    /// MySQL, MariaDB and what speaks as they do: a connection, a login and SELECT 1.
    pub(in crate::config) mysql: Option<Database>,
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
    /// How long what it found serves; rounds meanwhile do not ask again. Default: every round asks, and 30s for the presets pinecone and openai, which
    /// others run and count.
    pub(in crate::config) interval: Option<Time>,
    /// Whether the instance cannot do without it. Default: true.
    pub(in crate::config) critical: Option<bool>,
}

/// A database and who asks it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Database {
    pub(in crate::config) host: String,
    /// Default: 5432 for PostgreSQL, 3306 for MySQL.
    pub(in crate::config) port: Option<u16>,
    pub(in crate::config) user: String,
    pub(in crate::config) password: Option<String>,
    /// Default: the user's name for PostgreSQL, none for MySQL.
    pub(in crate::config) database: Option<String>,
    /// TLS, verified: true, or its terms. For PostgreSQL also `prefer`, as its own clients do: within TLS where the server has it, and not verified.
    /// Default: false.
    pub(in crate::config) tls: Option<DatabaseTls>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum DatabaseTls {
    Word(Prefer),
    Flag(bool),
    Terms(ClientTlsTerms),
}

impl DatabaseTls {
    /// The terms of TLS that is verified; none for `prefer`.
    pub(in crate::config) fn verified(self) -> Option<ClientTls> {
        match self {
            Self::Word(Prefer::Prefer) => None,
            Self::Flag(flag) => Some(ClientTls::Flag(flag)),
            Self::Terms(terms) => Some(ClientTls::Terms(terms)),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Prefer {
    Prefer,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Redis {
    /// The one that is asked, where no Sentinel tells.
    pub(in crate::config) host: Option<String>,
    /// Default: 6379.
    pub(in crate::config) port: Option<u16>,
    /// Who knows the master, instead of a host.
    pub(in crate::config) sentinel: Option<Sentinel>,
    pub(in crate::config) user: Option<String>,
    pub(in crate::config) password: Option<String>,
    /// The number of the database. Default: 0.
    pub(in crate::config) database: Option<u32>,
    /// TLS, always verified. Default: false.
    pub(in crate::config) tls: Option<ClientTls>,
    /// Whether a value is written and read again. Default: false.
    pub(in crate::config) write: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Sentinel {
    /// The name that the Sentinels know the master by.
    pub(in crate::config) service: String,
    /// Where they are, host:port; whoever answers first is believed.
    pub(in crate::config) addresses: Vec<String>,
    pub(in crate::config) user: Option<String>,
    pub(in crate::config) password: Option<String>,
    /// TLS to the Sentinels, always verified. Default: false.
    pub(in crate::config) tls: Option<ClientTls>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Http {
    /// What is known of a service: the path, the answer, and how a key is shown. Every other key goes before it.
    pub(in crate::config) preset: Option<Preset>,
    /// What to ask, an http or https URL; the path comes after it. Default: none, and that of the service for the preset pinecone.
    pub(in crate::config) url: Option<String>,
    /// What comes after the URL. Default: the preset's, or nothing.
    pub(in crate::config) path: Option<UrlPath>,
    /// A key, in the header that the preset has for it: weaviate, qdrant, pinecone and openai.
    pub(in crate::config) api_key: Option<String>,
    /// Default: GET.
    pub(in crate::config) method: Option<Method>,
    /// Further request headers.
    pub(in crate::config) headers: Option<IndexMap<String, String>>,
    /// What a passing answer looks like. Default: the preset's, or status 200.
    pub(in crate::config) expect: Option<Expect>,
    /// A PEM file with the authorities to trust. Default: the system's.
    pub(in crate::config) ca: Option<String>,
}

/// The services around Dify.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum Preset {
    DifyApi,
    DifyWeb,
    PluginDaemon,
    Sandbox,
    LocalSandbox,
    Weaviate,
    Qdrant,
    Milvus,
    Pinecone,
    Openai,
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
    /// What `sha256sum` prints for it. It is read once, from the start on, and again after the file has changed. Default: anything.
    pub(in crate::config) sha256: Option<String>,
}
