//! The settings of one upstream, as the configuration hands them over: complete, checked, with every default filled in.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::gate::components::AllDown;
use crate::gate::keeper::Terms;
use crate::gate::liveness::LivePlan;
use crate::gate::names::{Address, PoolName, UpstreamName};
use crate::gate::retry::RetryRules;
use crate::gate::selection::Balance;
use crate::probe::spec::ProbeSpec;
use crate::restart::Hook;
use crate::tls::TlsTerms;
use crate::upstream::queue::Limits;

/// One upstream: its pools, and how requests to it are sent.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Its name.
    pub name: UpstreamName,
    /// The pool that takes traffic.
    pub active: PoolName,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// What decides about its endpoints beside their probes.
    pub terms: Arc<Terms>,
    /// Whether to serve when nothing is fit to.
    pub all_down: AllDown,
    /// What may be sent again.
    pub retry: RetryRules,
    /// Whether its endpoints live, and who restarts those that do not.
    pub live: Option<Arc<LiveSettings>>,
    /// How much its endpoints take on.
    pub limits: Limits,
    /// Pools that serve, the first one first, while the active one has nobody who may.
    pub fallback: Vec<PoolName>,
    /// How its endpoints are spoken to within TLS; in the clear where absent.
    pub tls: Option<TlsTerms>,
    /// Whether they are spoken to in HTTP/2: over TLS where they agree (RFC 7301), in the clear because they are known to (RFC 9113 section 3.3).
    pub http2: bool,
    /// How long the gate waits, where a route says nothing else.
    pub timeouts: Timeouts,
    /// Its pools, in the order of the file; never empty.
    pub pools: Vec<PoolSettings>,
}

/// How endpoints are asked whether they live, and who is asked to restart them.
#[derive(Clone, Debug)]
pub struct LiveSettings {
    /// What is asked.
    pub probe: ProbeSpec,
    /// When a restart is wanted.
    pub plan: LivePlan,
    /// Who restarts.
    pub hook: Hook,
    /// No two restarts of an upstream's endpoints are asked for within this time.
    pub apart: Duration,
}

/// One pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Its name.
    pub name: PoolName,
    /// Its endpoints, in the order of the file, then those that were found.
    pub endpoints: Vec<EndpointSettings>,
    /// How more are found.
    pub discovery: Option<Discovery>,
    /// What those that are found are asked; all must pass. Never empty.
    pub probes: Arc<[ProbeSpec]>,
}

/// How endpoints are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// By name.
    Dns(DnsSettings),
    /// In a file: an address on each line.
    File(PathBuf),
}

/// A name, and who is asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// The name.
    pub name: DnsName,
    /// Who is asked; whom the system asks, where absent.
    pub server: Option<SocketAddr>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsName {
    /// Each address of the host is an endpoint, at this port (A and AAAA).
    Addresses(Address),
    /// Each target of the service is an endpoint, at its own port (SRV, RFC 2782).
    Service(String),
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(address) => write!(f, "{}", address.host()),
            Self::Service(name) => f.write_str(name),
        }
    }
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// Where it listens.
    pub address: Address,
    /// Its share of the traffic relative to its neighbours; at least 1.
    pub weight: u32,
    /// What it is asked; all must pass. Never empty.
    pub probes: Arc<[ProbeSpec]>,
}

/// The clocks of one request. There is no total: a workflow may stream for an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To a connection.
    pub connect: Duration,
    /// From the request to the first byte of the answer; a blocking workflow is silent until its end.
    pub first_byte: Duration,
    /// Between two reads of an answer, and on a tunnel. Dify's nginx waits 3600 s (`proxy_read_timeout`), and a run that no Celery worker takes says
    /// nothing for as long as that lasts.
    pub idle: Duration,
    /// How long an idle connection is kept for the next request. Dify's gunicorn closes after 2.00 s, so 1 s loses no race.
    pub pool_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(300),
            idle: Duration::from_secs(3600),
            pool_idle: Duration::from_secs(1),
        }
    }
}
