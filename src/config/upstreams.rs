//! What the file says about upstreams: their pools and endpoints, and how requests to them are sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use super::check::meant;
use super::parse::{Findings, reaches, socket, timeouts};
use super::{probes, raw};
use crate::gate::components::{AllDown, ComponentRule, ComponentRules, OnFailure};
use crate::gate::flapping::FlapRules;
use crate::gate::keeper::Terms;
use crate::gate::latency::LatencyRules;
use crate::gate::names::{Address, PoolName, UpstreamName};
use crate::gate::passive::Outlier;
use crate::gate::ramp::SlowStart;
use crate::gate::retry::RetryRules;
use crate::gate::selection::{Balance, HashKey};
use crate::upstream::queue::Limits;
use crate::upstream::settings::{
    Discovery, DnsName, DnsSettings, EndpointSettings, PoolSettings, Timeouts, UpstreamSettings,
};

pub(super) fn upstreams(
    raw: IndexMap<String, raw::Upstream>,
    own: &[SocketAddr],
    findings: &mut Findings<'_>,
) -> Vec<UpstreamSettings> {
    if raw.is_empty() {
        findings.error(
            "upstreams",
            "is empty; name a service and its endpoints, as conf/minimal.yaml does",
        );
    }
    raw.into_iter()
        .map(|(name, raw)| upstream(&name, raw, own, findings))
        .collect()
}

/// The upstream of a name, which another key gives.
pub(super) fn named<'u>(
    key: &str,
    name: &str,
    upstreams: &'u [UpstreamSettings],
    findings: &mut Findings<'_>,
) -> Option<&'u UpstreamSettings> {
    let found = upstreams.iter().find(|upstream| upstream.name.as_str() == name);
    if found.is_none() {
        let names: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        let all = names.join(", ");
        findings.error(
            key,
            format!("there is no upstream `{name}`; there are: {all}{}", meant(name, &names)),
        );
    }
    found
}

fn upstream(name: &str, mut raw: raw::Upstream, own: &[SocketAddr], findings: &mut Findings<'_>) -> UpstreamSettings {
    let key = format!("upstreams.{name}");
    check_name(&key, name, findings);
    let tls = probes::tls(&format!("{key}.tls"), raw.tls.clone(), findings);
    // What is wrong with it is told of once.
    let inherited = raw.tls.filter(|_| tls.is_some());
    let probes = named_probes(&key, raw.probe, raw.probes, inherited.as_ref(), findings);
    if let Some(live) = &mut raw.live {
        let probe = live.probe.get_or_insert_default();
        probe.tls = probe.tls.take().or(inherited);
    }
    let names: Vec<&str> = raw.pools.keys().map(String::as_str).collect();
    let active = active(&key, raw.active, &names, findings);
    let timeouts = timeouts(
        &format!("{key}.timeouts"),
        raw.timeouts.unwrap_or_default(),
        Timeouts::default(),
        findings,
    );
    let live = raw
        .live
        .and_then(|raw| probes::live(&format!("{key}.live"), raw, findings));
    let balance = balance(&format!("{key}.balance"), raw.balance, findings);
    let fallback = fallback(&key, &active, &names, raw.fallback.unwrap_or_default(), findings);
    let pools = raw
        .pools
        .into_iter()
        .map(|(name, raw)| pool(&format!("{key}.pools.{name}"), &name, raw, &probes, own, findings));
    UpstreamSettings {
        name: UpstreamName::new(name),
        active: PoolName::new(&active),
        balance,
        live: live.map(Arc::new),
        fallback,
        limits: limits(raw.limits.unwrap_or_default()),
        pools: pools.collect(),
        terms: Arc::new(Terms {
            components: components(probes::dify_components(&probes), raw.components.unwrap_or_default()),
            outlier: outlier(&format!("{key}.outlier"), raw.outlier.unwrap_or_default(), findings),
            slow_start: slow_start(raw.slow_start.unwrap_or_default()),
            flapping: flapping(raw.flapping.unwrap_or_default()),
        }),
        all_down: match raw.all_down.unwrap_or(raw::AllDown::Auto) {
            raw::AllDown::Auto => AllDown::Auto,
            raw::AllDown::Closed => AllDown::Closed,
            raw::AllDown::Open => AllDown::Open,
        },
        retry: retry(raw.retry.unwrap_or_default()),
        tls,
        http2: raw.http2.unwrap_or(false),
        timeouts,
    }
}

/// The pool that takes traffic.
fn active(key: &str, active: Option<String>, names: &[&str], findings: &mut Findings<'_>) -> String {
    let Some(first) = names.first().copied() else {
        findings.error(
            &format!("{key}.pools"),
            "is empty; an upstream needs a pool with endpoints",
        );
        return active.unwrap_or_default();
    };
    let active = active.unwrap_or_else(|| first.to_owned());
    if !names.contains(&active.as_str()) {
        let all = names.join(", ");
        let message = format!("there is no pool `{active}`; there are: {all}{}", meant(&active, names));
        findings.error(&format!("{key}.active"), message);
    }
    active
}

/// The pools that stand in for the active one.
fn fallback(key: &str, active: &str, names: &[&str], pools: Vec<String>, findings: &mut Findings<'_>) -> Vec<PoolName> {
    for (index, pool) in pools.iter().enumerate() {
        let key = format!("{key}.fallback[{index}]");
        if !names.contains(&pool.as_str()) {
            let all = names.join(", ");
            findings.error(
                &key,
                format!("there is no pool `{pool}`; there are: {all}{}", meant(pool, names)),
            );
        } else if pool == active {
            findings.error(
                &key,
                format!("`{pool}` is the active pool; name those that stand in for it"),
            );
        }
    }
    pools.iter().map(|pool| PoolName::new(pool)).collect()
}

fn balance(key: &str, raw: Option<raw::Balance>, findings: &mut Findings<'_>) -> Balance {
    let of = match raw {
        None => return Balance::default(),
        Some(raw::Balance::Word(word)) => {
            return match word {
                raw::BalanceWord::LeastRequest => Balance::LeastRequest,
                raw::BalanceWord::RoundRobin => Balance::RoundRobin,
                raw::BalanceWord::Ewma => Balance::Ewma,
            };
        }
        Some(raw::Balance::Hash(of)) => of,
    };
    if of.bound.is_some_and(|bound| bound < 100) {
        findings.error(
            &format!("{key}.bound"),
            "is a share of the mean in percent, and nobody can take less than 100",
        );
    }
    let key = format!("{key}.hash");
    let token = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_graphic() && !br#"()<>@,;:\"/[]?={}"#.contains(&b))
    };
    let name = match of.hash {
        raw::HashKey::Word(raw::HashWord::Client) => HashKey::Client,
        raw::HashKey::Of(raw::HashOf {
            header: Some(name),
            cookie: None,
        }) if token(&name) => HashKey::Header(name.to_ascii_lowercase()),
        raw::HashKey::Of(raw::HashOf {
            header: None,
            cookie: Some(name),
        }) if token(&name) => HashKey::Cookie(name),
        raw::HashKey::Of(_) => {
            findings.error(&key, "names one key: client, {header: NAME} or {cookie: NAME}");
            HashKey::Client
        }
    };
    Balance::Hash {
        key: name,
        bound: of.bound,
    }
}

fn limits(raw: raw::Limits) -> Limits {
    let defaults = Limits::default();
    Limits {
        in_flight: raw.in_flight.filter(|most| *most > 0),
        queue: raw.queue.unwrap_or(defaults.queue),
        queue_timeout: raw.queue_timeout.map_or(defaults.queue_timeout, |time| time.0),
    }
}

pub(super) fn check_name(key: &str, name: &str, findings: &mut Findings<'_>) {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !(1..=63).contains(&name.len()) || !name.bytes().all(fits) {
        findings.error(
            key,
            format!("`{name}` is no name; a name has 1 to 63 letters, digits, `-`, `_` or `.`"),
        );
    }
}

/// Key, name and terms of each probe of an upstream. They speak TLS where it does, unless they say otherwise.
fn named_probes(
    key: &str,
    one: Option<raw::Probe>,
    several: Option<IndexMap<String, raw::Probe>>,
    tls: Option<&raw::ClientTls>,
    findings: &mut Findings<'_>,
) -> Vec<(String, String, raw::Probe)> {
    if one.is_some() && several.is_some() {
        findings.error(&format!("{key}.probes"), "stands beside `probe`; name all probes here");
    }
    match several {
        None => vec![(
            format!("{key}.probe"),
            "default".to_owned(),
            within(tls, one.unwrap_or_default()),
        )],
        Some(probes) => {
            if probes.is_empty() {
                findings.error(&format!("{key}.probes"), "is empty; leave it out for the default probe");
            }
            let named = probes.into_iter().map(|(name, probe)| {
                let key = format!("{key}.probes.{name}");
                check_name(&key, &name, findings);
                (key, name, within(tls, probe))
            });
            named.collect()
        }
    }
}

fn within(tls: Option<&raw::ClientTls>, probe: raw::Probe) -> raw::Probe {
    let tls = probe.tls.or_else(|| tls.cloned());
    raw::Probe { tls, ..probe }
}

/// How more endpoints are found.
fn discovery(key: &str, dns: Option<raw::Dns>, file: Option<String>, findings: &mut Findings<'_>) -> Option<Discovery> {
    let file = file.map(|path| Discovery::File(path.into()));
    let key = format!("{key}.dns");
    let Some(dns) = dns else { return file };
    if file.is_some() {
        findings.error(&key, "and `file` are two ways to find endpoints; take one");
    }
    let terms = match dns {
        raw::Dns::Name(name) => raw::DnsTerms {
            name: Some(name),
            srv: None,
            server: None,
        },
        raw::Dns::Terms(terms) => terms,
    };
    let name = match (terms.name, terms.srv) {
        (Some(name), None) => DnsName::Addresses(Address::parse(&name.0).ok()?),
        (None, Some(name)) => DnsName::Service(name),
        (Some(_), Some(_)) | (None, None) => {
            findings.error(&key, "takes either `name`, a host and a port, or `srv`, a service");
            return file;
        }
    };
    Some(Discovery::Dns(DnsSettings {
        name,
        server: terms.server.as_ref().map(socket),
    }))
}

fn pool(
    key: &str,
    name: &str,
    raw: raw::Pool,
    probes: &[(String, String, raw::Probe)],
    own: &[SocketAddr],
    findings: &mut Findings<'_>,
) -> PoolSettings {
    check_name(key, name, findings);
    let is_found = raw.dns.is_some() || raw.file.is_some();
    let discovery = discovery(key, raw.dns, raw.file, findings);
    let written = raw.endpoints.unwrap_or_default();
    if written.is_empty() && !is_found {
        findings.error(
            &format!("{key}.endpoints"),
            "is empty; a pool needs an endpoint such as \"10.0.0.11:80\", or `dns` or `file` to find some",
        );
    }
    let mut endpoints: Vec<EndpointSettings> = Vec::new();
    for (index, raw) in written.into_iter().enumerate() {
        let key = format!("{key}.endpoints[{index}]");
        let (text, weight, probe) = match raw {
            raw::PoolEndpoint::Address(address) => (address.0, None, None),
            raw::PoolEndpoint::Terms(terms) => (terms.address.0, terms.weight, terms.probe),
        };
        // The schema check has told of what is no address.
        let Ok(address) = Address::parse(&text) else {
            continue;
        };
        if let Some(other) = endpoints.iter().find(|other| other.address.matches(&address)) {
            findings.error(&key, twice(&text, &other.address));
        }
        if address
            .literal()
            .is_some_and(|literal| own.iter().any(|listener| reaches(literal, *listener)))
        {
            findings.error(
                &key,
                format!("\"{address}\" is this gate's own listener: requests would go round in circles"),
            );
        }
        let named: Vec<_> = probes
            .iter()
            .map(|(upstream, name, terms)| {
                let place = if probe.is_some() {
                    format!("{key}.probe")
                } else {
                    upstream.clone()
                };
                (place, name.clone(), terms.clone())
            })
            .collect();
        endpoints.push(EndpointSettings {
            address,
            weight: weight.map_or(1, Into::into),
            probes: probes::build(probe.as_ref(), &named, findings).into(),
        });
    }
    PoolSettings {
        discovery,
        probes: probes::build(None, probes, findings).into(),
        name: PoolName::new(name),
        endpoints,
    }
}

/// Tells that an address is one that the pool has already, perhaps in another spelling.
fn twice(text: &str, other: &Address) -> String {
    let same = if other.as_str() == text {
        String::new()
    } else {
        format!(" is \"{other}\", which")
    };
    format!("\"{text}\"{same} stands twice in this pool; remove one (`weight` gives an endpoint a larger share)")
}

fn outlier(key: &str, raw: raw::Outlier, findings: &mut Findings<'_>) -> Outlier {
    let defaults = Outlier::default();
    let hold = raw.hold.map_or(defaults.hold, |time| time.0);
    let longest_hold = raw.longest_hold.map_or(defaults.longest_hold.max(hold), |time| time.0);
    if longest_hold < hold {
        findings.error(
            &format!("{key}.longest_hold"),
            "is shorter than `hold`, the first one; make it as long at least",
        );
    }
    Outlier {
        eject: raw.eject.unwrap_or(defaults.eject),
        hold,
        longest_hold,
        at_most: raw.at_most.unwrap_or(defaults.at_most),
        statuses: raw.statuses.map_or(defaults.statuses, |statuses| statuses.0),
        latency: raw.latency.map(|raw| LatencyRules {
            factor: raw.factor.unwrap_or(4.0),
            eject_after: raw.eject_after.map_or(Duration::from_secs(30), |time| time.0),
        }),
        stream_silence: raw.stream_silence.map_or(defaults.stream_silence, |time| time.0),
    }
}

fn slow_start(raw: raw::SlowStart) -> SlowStart {
    let defaults = SlowStart::default();
    SlowStart {
        window: raw.window.map_or(defaults.window, |time| time.0),
        floor: raw.floor.unwrap_or(defaults.floor),
    }
}

fn flapping(raw: raw::Flapping) -> FlapRules {
    let defaults = FlapRules::default();
    FlapRules {
        changes: raw.changes.map_or(defaults.changes, Into::into),
        within: raw.within.map_or(defaults.within, |time| time.0),
        hold: raw.hold.map_or(defaults.hold, |time| time.0),
        rise: raw.rise.unwrap_or(defaults.rise),
    }
}

/// The rules of components: those that the file names over those that a preset knows.
fn components(known: Vec<(&'static str, ComponentRule)>, raw: IndexMap<String, raw::Component>) -> ComponentRules {
    let rule = |raw: raw::Component| ComponentRule {
        on_failure: match raw.on_failure.unwrap_or(raw::OnFailure::Eject) {
            raw::OnFailure::Eject => OnFailure::Eject,
            raw::OnFailure::Degrade => OnFailure::Degrade,
            raw::OnFailure::Ignore => OnFailure::Ignore,
        },
        shared: raw.shared.unwrap_or(false),
    };
    let known = known.into_iter().map(|(name, rule)| (name.to_owned(), rule));
    ComponentRules(
        known
            .chain(raw.into_iter().map(|(name, raw)| (name, rule(raw))))
            .collect(),
    )
}

fn retry(raw: raw::Retry) -> RetryRules {
    let defaults = RetryRules::default();
    RetryRules {
        attempts: raw.attempts.map_or(defaults.attempts, Into::into),
        budget_percent: raw.budget_percent.map_or(defaults.budget_percent, Into::into),
        budget_min: raw.budget_min.unwrap_or(defaults.budget_min),
        unsafe_paths: raw.unsafe_paths.map_or(defaults.unsafe_paths, |paths| {
            paths.into_iter().map(|path| path.0).collect()
        }),
    }
}
