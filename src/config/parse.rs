//! What the file means: [`Raw`] becomes [`Config`], or every reason why it cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::error::{ConfigError, Mark};
use super::raw::{self, Raw};
use super::scalars::{self, Cidr, Socket, Time};
use super::secrets::Secrets;
use super::{AccessSink, Config, LogSettings, ServerSettings, StateDir, cutover, listeners, routes, upstreams};
use crate::gate::alarm::AlarmRules;
use crate::gate::cidr::CidrSet;
use crate::gate::guard::{DEFAULT_PATHS, Guard, GuardAnswer, GuardedPaths};
use crate::log;
use crate::upstream::settings::{Timeouts, UpstreamSettings};

/// Collects what is wrong, each with the place of its key.
pub(super) struct Findings<'a> {
    pub(super) marks: &'a BTreeMap<String, Mark>,
    pub(super) errors: &'a mut Vec<ConfigError>,
}

impl Findings<'_> {
    /// Something is wrong at `key`; the place is that of the nearest key that the file has.
    pub(super) fn error(&mut self, key: &str, message: impl Into<String>) {
        let mut near = key;
        let mark = loop {
            match (self.marks.get(near), near.rfind(['.', '['])) {
                (Some(mark), _) => break Some(*mark),
                (None, Some(end)) => near = near.get(..end).unwrap_or_default(),
                (None, None) => break None,
            }
        };
        self.errors.push(ConfigError {
            mark,
            key: key.to_owned(),
            message: message.into(),
        });
    }
}

/// Builds the configuration. It is meaningless if anything was found.
pub(super) fn config(
    path: &Path,
    raw: Raw,
    document: serde_json::Value,
    secrets: Secrets,
    findings: &mut Findings<'_>,
) -> Config {
    let trusts = raw
        .trusted_proxies
        .as_ref()
        .is_some_and(|networks| !networks.is_empty());
    let server = server(raw.server.unwrap_or_default(), &raw.listeners, findings);
    let listeners = listeners::listeners(raw.listeners, trusts, server.state_dir.as_ref(), findings);
    let own: Vec<SocketAddr> = listeners.iter().map(|listener| listener.address).collect();
    let upstreams = upstreams::upstreams(raw.upstreams, &own, findings);
    Config {
        path: path.to_owned(),
        server,
        admin: admin(raw.admin.unwrap_or_default(), &own, findings),
        log: log(raw.log.unwrap_or_default(), findings),
        trusted_proxies: cidrs("trusted_proxies", &raw.trusted_proxies.unwrap_or_default(), findings),
        alarm: alarm(raw.probe_guard.as_ref(), findings),
        guard: guard(raw.probe_guard.unwrap_or_default(), &upstreams, findings),
        routes: routes::routes(raw.routes, &upstreams, findings),
        cutover: cutover::cutover(raw.cutover.unwrap_or_default(), &upstreams, findings),
        deployments: cutover::deployments(raw.deployments.unwrap_or_default(), &upstreams, findings),
        listeners,
        upstreams,
        document,
        secrets,
    }
}

pub(super) fn time(time: Option<Time>, default: Duration) -> Duration {
    time.map_or(default, |time| time.0)
}

fn server(raw: raw::Server, listeners: &[raw::Listener], findings: &mut Findings<'_>) -> ServerSettings {
    for (key, path) in [("upgrade_socket", &raw.upgrade_socket), ("state_dir", &raw.state_dir)] {
        if path.as_ref().is_some_and(String::is_empty) {
            findings.error(&format!("server.{key}"), "is no path");
        }
    }
    let is_kept = |listener: &raw::Listener| listener.tls.as_ref().is_some_and(|tls| tls.acme.is_some());
    let state_dir = StateDir {
        wanted: raw.state_dir.is_some() || listeners.iter().any(is_kept),
        path: raw.state_dir.unwrap_or_else(|| "state".to_owned()).into(),
    };
    ServerSettings {
        threads: raw.threads.unwrap_or(0).into(),
        drain_timeout: time(raw.drain_timeout, Duration::from_secs(1_260)),
        lame_duck: time(raw.lame_duck, Duration::from_secs(10)),
        upgrade_socket: raw.upgrade_socket.map(PathBuf::from),
        state_dir: (state_dir.path != Path::new("off")).then_some(state_dir),
    }
}

pub(super) fn socket(raw: &Socket) -> SocketAddr {
    // The schema check has refused everything else.
    scalars::socket(&raw.0).unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 1)))
}

fn admin(raw: raw::Admin, listeners: &[SocketAddr], findings: &mut Findings<'_>) -> SocketAddr {
    let address = raw
        .address
        .as_ref()
        .map_or(SocketAddr::from(([127, 0, 0, 1], 9900)), socket);
    if !address.ip().is_loopback() {
        findings.error(
            "admin.address",
            "must be a loopback address, since the admin API has no login yet; write 127.0.0.1:9900",
        );
    }
    if listeners.iter().any(|listener| overlaps(*listener, address)) {
        findings.error("admin.address", format!("{address} is a listener's address too"));
    }
    address
}

fn log(raw: raw::Log, findings: &mut Findings<'_>) -> LogSettings {
    let sample = raw.sample.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample) {
        findings.error("log.sample", format!("is {sample}; it is a share from 0.0 to 1.0"));
    }
    LogSettings {
        level: match raw.level.unwrap_or(raw::Level::Info) {
            raw::Level::Error => LevelFilter::ERROR,
            raw::Level::Warn => LevelFilter::WARN,
            raw::Level::Info => LevelFilter::INFO,
            raw::Level::Debug => LevelFilter::DEBUG,
            raw::Level::Trace => LevelFilter::TRACE,
        },
        format: match raw.format.unwrap_or(raw::Format::Json) {
            raw::Format::Json => log::Format::Json,
            raw::Format::Text => log::Format::Text,
        },
        access: match raw.access.as_deref() {
            None | Some("stdout") => AccessSink::Stdout,
            Some("off") => AccessSink::Off,
            Some(path) => AccessSink::File(path.into()),
        },
        sample,
    }
}

pub(super) fn longer_than_zero(key: &str, value: Duration, findings: &mut Findings<'_>) {
    if value.is_zero() {
        findings.error(key, "must be longer than 0s");
    }
}

/// Whether two addresses cannot both be bound, or one reaches the other.
pub(super) fn overlaps(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// Whether a connection to `endpoint` comes to `listener`, as far as addresses alone tell.
pub(super) fn reaches(endpoint: SocketAddr, listener: SocketAddr) -> bool {
    endpoint == listener || (endpoint.ip().is_loopback() && overlaps(listener, endpoint))
}

pub(super) fn cidrs(key: &str, raw: &[Cidr], findings: &mut Findings<'_>) -> CidrSet {
    let mut networks = Vec::new();
    for (index, entry) in raw.iter().enumerate() {
        match CidrSet::parse_one(&entry.0) {
            Ok(found) => networks.extend(found),
            Err(e) => findings.error(&format!("{key}[{index}]"), e.to_string()),
        }
    }
    networks.into_iter().collect()
}

fn alarm(raw: Option<&raw::ProbeGuard>, findings: &mut Findings<'_>) -> AlarmRules {
    let defaults = AlarmRules::default();
    let Some(raw) = raw.and_then(|guard| guard.alarm.as_ref()) else {
        return defaults;
    };
    let requests: u32 = raw.requests.map_or(defaults.requests, Into::into);
    let rules = AlarmRules {
        window: time(raw.window, defaults.window),
        requests,
        total: raw.total.map_or(requests.saturating_mul(10), Into::into),
        block: time(raw.block, defaults.block),
    };
    longer_than_zero("probe_guard.alarm.window", rules.window, findings);
    rules
}

fn guard(raw: raw::ProbeGuard, upstreams: &[UpstreamSettings], findings: &mut Findings<'_>) -> Guard {
    let deny_status = raw.deny_status.unwrap_or(404);
    if ![403, 404].contains(&deny_status) {
        findings.error(
            "probe_guard.deny_status",
            format!("is {deny_status}; it may be 404, which hides that there is anything, or 403"),
        );
    }
    let named = raw
        .paths
        .map(|paths| paths.into_iter().map(|path| path.0).collect::<Vec<_>>());
    let named = named.unwrap_or_else(|| DEFAULT_PATHS.iter().map(|path| (*path).to_owned()).collect());
    let default = ["loopback", "private"].map(|preset| Cidr(preset.to_owned()));
    let allow = raw.allow.as_deref().unwrap_or(&default);
    Guard {
        paths: GuardedPaths::new(named.into_iter().chain(probe_paths(upstreams))),
        allow: cidrs("probe_guard.allow", allow, findings),
        deny_status,
        answer: match raw.answer.unwrap_or(raw::Answer::Summary) {
            raw::Answer::Summary => GuardAnswer::Summary,
            raw::Answer::Forward => GuardAnswer::Forward,
        },
    }
}

/// Paths that are asked for health alone. A page that is probed because nothing better exists (`/apps`) is for everyone.
fn probe_paths(upstreams: &[UpstreamSettings]) -> BTreeSet<String> {
    let pools = upstreams.iter().flat_map(|upstream| &upstream.pools);
    let probes = pools.flat_map(|pool| {
        let own = pool.endpoints.iter().flat_map(|endpoint| endpoint.probes.iter());
        own.chain(pool.probes.iter().filter(|_| pool.discovery.is_some()))
    });
    let lives = upstreams
        .iter()
        .filter_map(|upstream| Some(&upstream.live.as_ref()?.probe));
    let paths = probes
        .chain(lives)
        .map(|probe| probe.path.split('?').next().unwrap_or_default().to_owned());
    paths.filter(|path| path != "/apps" && path != "/").collect()
}

pub(super) fn timeouts(key: &str, raw: raw::Timeouts, below: Timeouts, findings: &mut Findings<'_>) -> Timeouts {
    let timeouts = Timeouts {
        connect: time(raw.connect, below.connect),
        first_byte: time(raw.first_byte, below.first_byte),
        idle: time(raw.idle, below.idle),
        pool_idle: time(raw.pool_idle, below.pool_idle),
    };
    for (name, value) in [
        ("connect", timeouts.connect),
        ("first_byte", timeouts.first_byte),
        ("idle", timeouts.idle),
    ] {
        longer_than_zero(&format!("{key}.{name}"), value, findings);
    }
    timeouts
}
