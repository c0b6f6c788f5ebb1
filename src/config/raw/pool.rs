//! Pools as the file writes them: endpoints that are written down, and how more are found.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Probe;
use crate::config::scalars::{Endpoint, Socket};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    /// Its endpoints: host:port, or address, weight and probe.
    pub(crate) endpoints: Option<Vec<PoolEndpoint>>,
    /// More of them by DNS: host:port, of which each address is one, or a service and who is asked for it.
    pub(crate) dns: Option<Dns>,
    /// More of them in a file, which is read again when it changes: an address on each line, perhaps followed by weight=N.
    pub(crate) file: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Dns {
    Name(Endpoint),
    Terms(DnsTerms),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsTerms {
    /// A host and a port; each of its addresses is an endpoint.
    pub(crate) name: Option<Endpoint>,
    /// A service such as _http._tcp.dify.example.com; each of its targets is an endpoint, by its own port and weight.
    pub(crate) srv: Option<String>,
    /// Who is asked. Default: whom the system asks.
    pub(crate) server: Option<Socket>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum PoolEndpoint {
    Address(Endpoint),
    Terms(Box<EndpointTerms>),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointTerms {
    /// host:port
    pub(crate) address: Endpoint,
    /// Its share relative to its neighbours. Default: 1.
    pub(crate) weight: Option<NonZeroU32>,
    /// What is different about its probes.
    pub(crate) probe: Option<Probe>,
}
