//! Endpoints by DNS: each address of a name, or each target of a service (RFC 2782).

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

use super::{Found, LEAST, Look};
use crate::gate::names::Address;
use crate::upstream::settings::{DnsName, DnsSettings};

/// An answer is not believed for longer than this, whatever its time to live says.
const LONGEST: Duration = Duration::from_secs(300);
/// A question is put so often, each for so long.
const ATTEMPTS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(2);

/// One name and who is asked for it.
pub(super) struct Resolving {
    settings: DnsSettings,
    resolver: Option<TokioResolver>,
}

impl Resolving {
    pub(super) fn new(settings: DnsSettings) -> Self {
        Self {
            settings,
            resolver: None,
        }
    }

    /// Asks once.
    pub(super) async fn look(&mut self) -> Result<Look, String> {
        // One that has failed is made anew, for the system may ask somebody else by now.
        let resolver = match self.resolver.take() {
            Some(resolver) => resolver,
            None => resolver(self.settings.server)?,
        };
        let looked = match &self.settings.name {
            DnsName::Addresses(address) => addresses(&resolver, address.host(), address.port()).await,
            DnsName::Service(name) => service(&resolver, name).await,
        };
        match looked {
            Ok(look) if look.found.is_empty() => Err(format!("{} has no address", self.settings.name)),
            Ok(look) => {
                self.resolver = Some(resolver);
                Ok(look)
            }
            Err(why) => Err(format!("{}: {why}", self.settings.name)),
        }
    }
}

/// One that asks `server`, or whom the system asks. It keeps nothing: how long an answer lasts is counted elsewhere.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let mut builder = match server {
        Some(server) => {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            connections
                .iter_mut()
                .for_each(|connection| connection.port = server.port());
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => Resolver::builder_tokio().map_err(|e| format!("the system's resolver cannot be had: {e}"))?,
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.attempts = ATTEMPTS;
    options.timeout = PATIENCE;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build().map_err(|e| e.to_string())
}

/// Every address of a name.
async fn addresses(resolver: &TokioResolver, host: &str, port: u16) -> Result<Look, String> {
    let answer = resolver.lookup_ip(host).await.map_err(|e| e.to_string())?;
    let ttls = answer.as_lookup().answers().iter().map(|record| record.ttl);
    let lasts = lasts(ttls);
    let found = answer.iter().filter_map(|ip| {
        let address = Address::parse(&SocketAddr::new(ip, port).to_string()).ok()?;
        Some(Found { address, weight: 1 })
    });
    Ok(Look {
        found: found.collect(),
        lasts,
    })
}

/// The targets of a service that are to be tried first.
#[allow(clippy::wildcard_enum_match_arm)] // of a name service's many kinds of records one is a service's
async fn service(resolver: &TokioResolver, name: &str) -> Result<Look, String> {
    let answer = resolver
        .lookup(name, RecordType::SRV)
        .await
        .map_err(|e| e.to_string())?;
    let records = answer.answers();
    let services = || {
        records.iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv),
            _ => None,
        })
    };
    let first = services().map(|srv| srv.priority).min();
    let found = services().filter(|srv| Some(srv.priority) == first).filter_map(|srv| {
        let host = srv.target.to_ascii();
        let address = Address::parse(&format!("{}:{}", host.trim_end_matches('.'), srv.port)).ok()?;
        Some(Found {
            address,
            weight: u32::from(srv.weight).max(1),
        })
    });
    Ok(Look {
        found: found.collect(),
        lasts: lasts(records.iter().map(|record| record.ttl)),
    })
}

/// How long an answer is believed: as long as the first of its records.
fn lasts(ttls: impl Iterator<Item = u32>) -> Duration {
    let least = ttls.min().map_or(LEAST, |ttl| Duration::from_secs(ttl.into()));
    least.clamp(LEAST, LONGEST)
}
