//! Endpoints by DNS: each address of a name, or each target of a service (RFC 2782).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};
use tracing::info;

use super::{Found, LEAST, Look};
use crate::gate::names::Address;
use crate::upstream::settings::{DnsName, DnsSettings};

/// An answer is not believed for longer than this, whatever its time to live says.
const LONGEST: Duration = Duration::from_secs(300);
/// How soon a family of addresses is asked for again that failed and was never known: some name servers never answer for IPv6.
const AGAIN: Duration = Duration::from_secs(10);
/// A question that nobody answers is put again so often, and waited for so long each time.
const REPEATS: usize = 1;
const PATIENCE: Duration = Duration::from_secs(2);

/// One name and who is asked for it.
pub(super) struct Resolving {
    settings: DnsSettings,
    client: Option<Client>,
    known: Known,
}

impl Resolving {
    pub(super) fn new(settings: DnsSettings) -> Self {
        Self {
            settings,
            client: None,
            known: Known::default(),
        }
    }

    /// Asks once.
    pub(super) async fn look(&mut self) -> Result<Look, String> {
        // One that has failed is made anew, for the system may ask somebody else by now.
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::new(self.settings.server)?,
        };
        let looked = match &self.settings.name {
            DnsName::Addresses(address) => addresses(&client, &mut self.known, address).await,
            DnsName::Service(name) => service(&client.resolver, name).await,
        };
        match looked {
            Ok(look) if look.found.is_empty() => Err(format!("{} has no address", self.settings.name)),
            Ok(look) => {
                self.client = look.stale.is_none().then_some(client);
                Ok(look)
            }
            Err(why) => Err(format!("{}: {why}", self.settings.name)),
        }
    }
}

/// What asks name servers, and what it puts behind a name that does not end in a dot.
struct Client {
    resolver: TokioResolver,
    search: Vec<Name>,
    /// A name with more labels than this is asked for as it is first (resolv.conf(5)).
    ndots: usize,
}

impl Client {
    /// One that asks `server`, or whom the system asks. It keeps nothing: how long an answer lasts is counted elsewhere.
    fn new(server: Option<SocketAddr>) -> Result<Self, String> {
        let (config, mut options) = match server {
            Some(server) => {
                let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                connections
                    .iter_mut()
                    .for_each(|connection| connection.port = server.port());
                let server = NameServerConfig::new(server.ip(), true, connections.into());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                (config, ResolverOpts::default())
            }
            None => read_system_conf().map_err(|e| format!("the system's resolver cannot be had: {e}"))?,
        };
        options.cache_size = 0;
        options.attempts = REPEATS;
        options.timeout = PATIENCE;
        let (search, ndots) = (config.domain().into_iter().chain(config.search()), options.ndots);
        let search = search.cloned().collect();
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|e| e.to_string())?;
        Ok(Self {
            resolver,
            search,
            ndots,
        })
    }

    /// The names that `host` may stand for, in the order in which they are tried: one that ends in a dot for itself alone.
    fn candidates(&self, host: &str) -> Result<Vec<Name>, String> {
        let name = Name::from_utf8(host).map_err(|e| e.to_string())?;
        let mut whole = name.clone();
        whole.set_fqdn(true);
        if name.is_fqdn() {
            return Ok(vec![whole]);
        }
        let within = |domain: &Name| name.clone().append_domain(domain).ok();
        let mut candidates: Vec<Name> = self.search.iter().filter_map(within).collect();
        let first = usize::from(name.num_labels()) > self.ndots || name.is_localhost();
        candidates.insert(if first { 0 } else { candidates.len() }, whole);
        Ok(candidates)
    }

    /// The addresses of one family; none where the name is known to have none.
    async fn family(&self, name: &Name, kind: RecordType) -> Result<Addresses, String> {
        match self.resolver.lookup(name.clone(), kind).await {
            Ok(answer) => Ok(Addresses {
                all: answer
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .collect(),
                ttl: answer.answers().iter().map(|record| record.ttl).min(),
            }),
            Err(e) if e.is_no_records_found() => Ok(Addresses::default()),
            Err(e) => Err(format!("{kind}: {e}")),
        }
    }
}

/// The addresses of one family (IPv4 or IPv6), and for how many seconds they may be believed.
#[derive(Debug, Default)]
struct Addresses {
    all: Vec<IpAddr>,
    ttl: Option<u32>,
}

/// What the last answers for a name were.
#[derive(Debug, Default)]
struct Known {
    /// The name that had addresses, of all that a host may stand for.
    name: Option<Name>,
    v4: Addresses,
    v6: Addresses,
    /// Whether it was told that one family fails of which nothing is known.
    told: bool,
}

impl Known {
    /// Takes the answers for both families of a name, at least one of which has addresses. A family that failed keeps what was known of it.
    fn update(&mut self, name: Name, [v4, v6]: [Result<Addresses, String>; 2]) -> (Duration, Option<String>) {
        if self.name.as_ref() != Some(&name) {
            *self = Self {
                name: Some(name),
                ..Self::default()
            };
        }
        let (mut again, mut stale, mut silent) = (LONGEST, None, None);
        for (known, answer) in [(&mut self.v4, v4), (&mut self.v6, v6)] {
            match answer {
                Ok(addresses) => *known = addresses,
                Err(why) if known.all.is_empty() => (again, silent) = (again.min(AGAIN), Some(why)),
                Err(why) => (again, stale) = (LEAST, Some(why)),
            }
        }
        if let Some(why) = silent.as_ref().filter(|_| !self.told) {
            info!(name = ?self.name, why, "one family of addresses cannot be looked up; the other one is used");
        }
        self.told = silent.is_some();
        let ttls = [self.v4.ttl, self.v6.ttl];
        (lasts(ttls.into_iter().flatten()).min(again), stale)
    }
}

/// Every address of a name, both families at once.
async fn addresses(client: &Client, known: &mut Known, address: &Address) -> Result<Look, String> {
    let found = |ip: &IpAddr| {
        let address = Address::parse(&SocketAddr::new(*ip, address.port()).to_string()).ok()?;
        Some(Found { address, weight: 1 })
    };
    if let Some(literal) = address.literal() {
        return Ok(Look {
            found: found(&literal.ip()).into_iter().collect(),
            lasts: LONGEST,
            stale: None,
        });
    }
    let mut failure = None;
    for name in client.candidates(address.host())? {
        let (v4, v6) = tokio::join!(
            client.family(&name, RecordType::A),
            client.family(&name, RecordType::AAAA)
        );
        let both = [v4, v6];
        if both.iter().flatten().any(|family| !family.all.is_empty()) {
            let (lasts, stale) = known.update(name, both);
            let all = known.v4.all.iter().chain(&known.v6.all);
            return Ok(Look {
                found: all.filter_map(found).collect(),
                lasts,
                stale,
            });
        }
        failure = both.into_iter().find_map(Result::err).or(failure);
        if failure.is_some() && known.name.as_ref() == Some(&name) {
            // The next name in the search list may be somebody else's.
            break;
        }
    }
    Err(failure.unwrap_or_else(|| "it has no address".to_owned()))
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
        stale: None,
    })
}

/// How long an answer is believed: as long as the first of its records.
fn lasts(ttls: impl Iterator<Item = u32>) -> Duration {
    let least = ttls.min().map_or(LEAST, |ttl| Duration::from_secs(ttl.into()));
    least.clamp(LEAST, LONGEST)
}

#[cfg(test)]
mod tests;
