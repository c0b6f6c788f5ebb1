//! The `/healthz` that a Dify instance should have: a small server beside it that asks what Dify depends on, and says what is broken. Dify's own
//! `/health` is a constant 200, also while its database is down.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz`, `/readyz` | 200 `{"status":"healthy","details":{...}}` while every critical check passes, else 503 with the failing ones in `failed` |
//! | `/livez` | 200 while the process beside it lives; what others share never fails it |
//! | `/startupz` | 200 once every critical check has passed once |
//! | `/metrics` | Prometheus's text format |
//! | `/drain` | POST: say that it is about to stop; DELETE: take that back. From loopback alone |
//!
//! **One run serves everybody**: an answer is kept for a moment, and whoever asks meanwhile gets it, so a thousand probes a second cost the database
//! one query a second. Nobody asks, nothing runs.

mod answer;
mod check;
mod connection;
mod files;
mod mysql;
mod opportunistic;
mod postgres;
mod redis;
mod rounds;
mod server;

use std::net::SocketAddr;
use std::time::Duration;

use crate::gate::cidr::CidrSet;
use crate::gate::names::Address;
use crate::probe::spec::ProbeSpec;

pub use files::{Needed, Sha256};
pub use mysql::Mysql;
pub use postgres::{Postgres, Security};
pub use redis::{Login, Redis, Sentinels, Whereabouts};
pub use server::{Service, ServiceError};

/// What the service does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who is told the reasons of failures.
    pub internal: CidrSet,
    /// How long an answer serves everybody.
    pub cache: Duration,
    /// For so long after the start `/livez` fails for nobody: Dify takes its time to boot.
    pub startup_grace: Duration,
    /// How long it says that it is about to stop before it does.
    pub drain: Duration,
    /// What is checked; the order of the file.
    pub checks: Vec<Check>,
    /// What tells that the process beside it lives; none where this process is all that is asked.
    pub live: Option<Check>,
}

/// One thing that the instance needs.
#[derive(Clone, Debug)]
pub struct Check {
    /// What it is called in answers.
    pub name: String,
    /// What is asked.
    pub kind: Kind,
    /// Whether the instance cannot do without it.
    pub critical: bool,
    /// It fails when it takes longer.
    pub timeout: Duration,
    /// It fails when it passes, but takes longer than this.
    pub slow: Option<Duration>,
    /// How long what it found serves; rounds meanwhile do not ask again.
    pub interval: Duration,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A connection, a login and `SELECT 1`.
    Postgres(Box<Postgres>),
    /// The same, of MySQL and MariaDB.
    Mysql(Box<Mysql>),
    /// A connection, a login and PING, and where asked for a value that is written and read again.
    Redis(Box<Redis>),
    /// One request and what its answer looks like.
    Http {
        /// Whom.
        address: Address,
        /// What, and what is expected.
        spec: Box<ProbeSpec>,
    },
    /// A connection.
    Tcp(Address),
    /// Files that must be there.
    Files(Vec<Needed>),
    /// A program that must end with 0; no shell.
    Exec(Vec<String>),
}

impl Kind {
    /// The word that the configuration has for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Mysql(_) => "mysql",
            Self::Redis(_) => "redis",
            Self::Http { .. } => "http",
            Self::Tcp(_) => "tcp",
            Self::Files(_) => "files",
            Self::Exec(_) => "exec",
        }
    }
}
