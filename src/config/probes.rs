//! What the file says about probes becomes what is sent: an endpoint's keys over its upstream's, over a preset's, over the defaults.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use super::parse::Findings;
use super::raw::{ClientTls, Expect as RawExpect, Fall as RawFall, Live, Preset, Probe};
use super::scalars::{Pattern, Time, UrlPath};
use crate::gate::components::{ComponentRule, OnFailure};
use crate::gate::health::{FailureClass, Fall, ProbePlan};
use crate::gate::liveness::LivePlan;
use crate::probe::spec::{Expect, ProbeSpec};
use crate::restart::{Hook, Webhook};
use crate::tls::{Identity, TlsFiles, TlsTerms, is_name};
use crate::upstream::settings::LiveSettings;

impl Probe {
    /// This probe where it says something, else `below`.
    fn over(self, below: Self) -> Self {
        Self {
            preset: self.preset.or(below.preset),
            path: self.path.or(below.path),
            method: self.method.or(below.method),
            host: self.host.or(below.host),
            port: self.port.or(below.port),
            tls: self.tls.or(below.tls),
            reuse: self.reuse.or(below.reuse),
            headers: self.headers.or(below.headers),
            interval: self.interval.or(below.interval),
            timeout: self.timeout.or(below.timeout),
            rise: self.rise.or(below.rise),
            fall: self.fall.or(below.fall),
            initial_delay: self.initial_delay.or(below.initial_delay),
            expect: self.expect.or(below.expect),
        }
    }
}

/// What is known of the services of a Dify deployment.
fn preset(preset: Preset) -> Probe {
    let path = |path: &str| Some(UrlPath(path.to_owned()));
    let says_ok = RawExpect {
        json: Some(IndexMap::from([("/status".to_owned(), "ok".into())])),
        ..RawExpect::default()
    };
    let probe = Probe::default();
    match preset {
        Preset::DifyHealthz => Probe {
            path: path("/healthz"),
            ..probe
        },
        Preset::Dify | Preset::DifyApi => Probe {
            path: path("/health"),
            expect: Some(says_ok),
            ..probe
        },
        Preset::PluginDaemon => Probe {
            path: path("/health/check"),
            expect: Some(says_ok),
            ..probe
        },
        Preset::DifyWeb => Probe {
            path: path("/apps"),
            headers: Some(IndexMap::from([("accept-language".to_owned(), "en".to_owned())])),
            expect: Some(RawExpect {
                // The page sends a visitor without a session to /signin: the renderer works.
                status: "200,307".parse().ok(),
                ..RawExpect::default()
            }),
            ..probe
        },
    }
}

/// The probes of one endpoint: each of the upstream's with the endpoint's own keys over it.
pub(super) fn build(
    own: Option<&Probe>,
    named: &[(String, String, Probe)],
    findings: &mut Findings<'_>,
) -> Vec<ProbeSpec> {
    let merged = |probe: &Probe| own.cloned().unwrap_or_default().over(probe.clone());
    let mut specs = Vec::new();
    for (key, name, probe) in named {
        let probe = merged(probe);
        if probe.preset != Some(Preset::Dify) {
            specs.push(spec(key, name, probe, findings));
            continue;
        }
        let prefix = if name == "default" {
            String::new()
        } else {
            format!("{name}-")
        };
        let [process, dependencies] = process_and_dependencies(probe);
        let mut beside = spec(key, &format!("{prefix}dependencies"), dependencies, findings);
        beside.plan = Arc::new(ProbePlan {
            optional: true,
            ..ProbePlan::clone(&beside.plan)
        });
        // What is wrong with keys of both is told of once.
        let told = findings.errors.len();
        let process = spec(key, &format!("{prefix}process"), process, findings);
        findings.errors.truncate(told);
        specs.extend([process, beside]);
    }
    specs
}

/// Where `difygate healthz` listens beside an instance.
const BESIDE: NonZeroU16 = NonZeroU16::MIN.saturating_add(9_900);

/// The two probes of a Dify api: of its process, and of what it depends on, which a service beside it tells in the clear.
fn process_and_dependencies(probe: Probe) -> [Probe; 2] {
    let process = Probe {
        preset: Some(Preset::DifyApi),
        path: None,
        port: None,
        method: None,
        expect: None,
        ..probe.clone()
    };
    let dependencies = Probe {
        preset: Some(Preset::DifyHealthz),
        port: probe.port.or(Some(BESIDE)),
        tls: Some(ClientTls::Flag(false)),
        ..probe
    };
    [process, dependencies]
}

/// Whether one of these probes asks for what a Dify api depends on: its database and its cache, which all instances share. Its process is asked by the
/// gate itself, which can tell a full one from a dead one.
pub(super) fn dify_components(named: &[(String, String, Probe)]) -> Vec<(&'static str, ComponentRule)> {
    if !named.iter().any(|(_, _, probe)| probe.preset == Some(Preset::Dify)) {
        return Vec::new();
    }
    let rule = |on_failure, shared| ComponentRule { on_failure, shared };
    vec![
        ("database", rule(OnFailure::Eject, true)),
        ("cache", rule(OnFailure::Eject, true)),
        ("process", rule(OnFailure::Ignore, false)),
    ]
}

fn spec(key: &str, name: &str, probe: Probe, findings: &mut Findings<'_>) -> ProbeSpec {
    let below = preset(probe.preset.unwrap_or(Preset::DifyHealthz));
    let probe = probe.over(below);
    let time = |time: Option<Time>, default| time.map_or(default, |time| time.0);
    let defaults = ProbeSpec::default();
    let plan = defaults.plan;
    let (interval, timeout) = (time(probe.interval, plan.interval), time(probe.timeout, plan.timeout));
    if interval.is_zero() {
        findings.error(&format!("{key}.interval"), "must be longer than 0s");
    }
    if timeout.is_zero() {
        findings.error(&format!("{key}.timeout"), "must be longer than 0s");
    } else if timeout > interval && !interval.is_zero() {
        let message = format!("is longer than the interval of {interval:?}: probes of a silent endpoint would pile up");
        findings.error(&format!("{key}.timeout"), message);
    }
    ProbeSpec {
        plan: Arc::new(ProbePlan {
            name: name.into(),
            interval,
            timeout,
            rise: probe.rise.unwrap_or(plan.rise),
            fall: fall(probe.fall, plan.fall.default),
            initial_delay: time(probe.initial_delay, plan.initial_delay),
            optional: false,
        }),
        path: probe.path.map_or(defaults.path, |path| path.0),
        method: probe
            .method
            .and_then(|method| super::scalars::method(&method.0).ok())
            .unwrap_or(defaults.method),
        host: probe.host,
        port: probe.port.map(Into::into),
        tls: tls(&format!("{key}.tls"), probe.tls, findings),
        reuse: probe.reuse.unwrap_or(defaults.reuse),
        headers: headers(key, probe.headers.unwrap_or_default(), findings),
        expect: expect(key, probe.expect.unwrap_or_default(), findings),
    }
}

/// The probe that asks whether an endpoint lives.
pub(super) fn live(key: &str, raw: Live, findings: &mut Findings<'_>) -> Option<LiveSettings> {
    let plan = LivePlan::default();
    let usual = Probe {
        path: Some(UrlPath("/livez".to_owned())),
        interval: Some(Time(plan.interval)),
        timeout: Some(Time(Duration::from_secs(5))),
        fall: Some(RawFall::Count(plan.fall)),
        initial_delay: Some(Time(plan.initial_delay)),
        ..Probe::default()
    };
    let own = raw.probe.unwrap_or_default();
    // A preset knows its path, and the rest is as for every other service.
    let below = match own.preset {
        Some(named) => Probe { path: None, ..usual }.over(preset(named)),
        None => usual,
    };
    let probe = spec(&format!("{key}.probe"), "live", own.over(below), findings);
    let key = format!("{key}.restart");
    let hook = match (raw.restart.command, raw.restart.webhook) {
        (Some(words), None) if words.first().is_some_and(|program| !program.is_empty()) => Hook::Command(words),
        (Some(_), None) => {
            findings.error(&format!("{key}.command"), "is empty; name a program and its arguments");
            return None;
        }
        (None, Some(url)) => match Webhook::parse(&url) {
            Ok(webhook) => Hook::Webhook(webhook),
            Err(message) => {
                findings.error(&format!("{key}.webhook"), message);
                return None;
            }
        },
        (None, None) | (Some(_), Some(_)) => {
            findings.error(&key, "names one way to ask: `command` or `webhook`");
            return None;
        }
    };
    Some(LiveSettings {
        plan: LivePlan {
            initial_delay: probe.plan.initial_delay,
            interval: probe.plan.interval,
            fall: probe.plan.fall.default,
            pause: raw.restart.pause.map_or(plan.pause, |time| time.0),
        },
        probe,
        hook,
        apart: raw.restart.apart.map_or(Duration::from_secs(60), |time| time.0),
    })
}

/// A port that is closed twice is closed.
const TWICE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

fn fall(raw: Option<RawFall>, usual: NonZeroU32) -> Fall {
    let (default, classes) = match raw {
        None => (usual, Default::default()),
        Some(RawFall::Count(count)) => (count, Default::default()),
        Some(RawFall::ByClass(by)) => {
            let classes = [
                (FailureClass::Status, by.status),
                (FailureClass::Timeout, by.timeout),
                (FailureClass::Connect, by.connect),
                (FailureClass::Tls, by.tls),
                (FailureClass::Protocol, by.protocol),
                (FailureClass::Body, by.body),
            ];
            let named = classes.into_iter().filter_map(|(class, count)| Some((class, count?)));
            (by.default.unwrap_or(usual), named.collect())
        }
    };
    let mut by_class: BTreeMap<FailureClass, NonZeroU32> = classes;
    // Nobody is there: two refusals say so as surely as ten, and each further one costs requests.
    by_class.entry(FailureClass::Connect).or_insert(default.min(TWICE));
    Fall { default, by_class }
}

/// How somebody is spoken to within TLS, if at all.
pub(super) fn tls(key: &str, raw: Option<ClientTls>, findings: &mut Findings<'_>) -> Option<TlsTerms> {
    let terms = match raw? {
        ClientTls::Flag(false) => return None,
        ClientTls::Flag(true) => return Some(TlsTerms::default()),
        ClientTls::Terms(terms) => terms,
    };
    let misnamed = terms.server_name.as_ref().filter(|name| !is_name(name));
    if let Some(name) = misnamed {
        let message = format!("`{name}` is no name that a certificate could be for");
        findings.error(&format!("{key}.server_name"), message);
    }
    let identity = match (&terms.cert, &terms.key) {
        (Some(cert), Some(key)) => Some(Identity {
            cert: cert.into(),
            key: key.into(),
        }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            findings.error(
                key,
                "takes `cert` and `key` together, a certificate and its private key",
            );
            return None;
        }
    };
    misnamed.is_none().then(|| TlsTerms {
        server_name: terms.server_name.clone(),
        files: TlsFiles {
            ca: terms.ca.map(Into::into),
            identity,
        },
    })
}

pub(super) fn headers(
    key: &str,
    raw: IndexMap<String, String>,
    findings: &mut Findings<'_>,
) -> Vec<(http::HeaderName, http::HeaderValue)> {
    let mut headers = Vec::new();
    for (name, value) in raw {
        let at = format!("{key}.headers.{name}");
        let (Some(parsed), value) = (header_name(&at, &name, findings), value.parse()) else {
            continue;
        };
        match value {
            Ok(value) if parsed != http::header::HOST => headers.push((parsed, value)),
            Ok(_) => findings.error(&at, "set `host` instead"),
            Err(_) => findings.error(&at, "its value holds characters that no header may hold"),
        }
    }
    headers
}

pub(super) fn header_name(at: &str, name: &str, findings: &mut Findings<'_>) -> Option<http::HeaderName> {
    let parsed = name.parse().ok();
    if parsed.is_none() {
        findings.error(at, format!("`{name}` is no name of a header"));
    }
    parsed
}

pub(super) fn expect(key: &str, raw: RawExpect, findings: &mut Findings<'_>) -> Expect {
    let json = raw.json.unwrap_or_default();
    for pointer in json
        .keys()
        .filter(|pointer| !pointer.is_empty() && !pointer.starts_with('/'))
    {
        let at = format!("{key}.expect.json.{pointer}");
        findings.error(
            &at,
            format!("`{pointer}` is no JSON pointer; write `/{pointer}` (RFC 6901)"),
        );
    }
    let mut headers = Vec::new();
    for (name, pattern) in raw.headers.unwrap_or_default() {
        let name = header_name(&format!("{key}.expect.headers.{name}"), &name, findings);
        headers.extend(name.zip(regex(pattern)));
    }
    Expect {
        status: raw.status.map_or(Expect::default().status, |statuses| statuses.0),
        json: json.into_iter().collect(),
        body: raw.body_regex.and_then(regex),
        headers,
    }
}

/// A pattern that the schema check has already compiled once.
fn regex(pattern: Pattern) -> Option<regex::Regex> {
    regex::Regex::new(&pattern.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_refused_connections_are_enough_unless_the_file_says_otherwise() {
        let count = |n| NonZeroU32::new(n).unwrap();
        let connect = |raw| fall(Some(raw), count(2)).of(FailureClass::Connect).get();
        assert_eq!(connect(RawFall::Count(count(5))), 2);
        assert_eq!(connect(RawFall::Count(count(1))), 1);
        assert_eq!(
            fall(Some(RawFall::Count(count(5))), count(2))
                .of(FailureClass::Timeout)
                .get(),
            5
        );
        let named = super::super::raw::probe::FallByClass {
            default: Some(count(5)),
            connect: Some(count(4)),
            status: None,
            timeout: None,
            tls: None,
            protocol: None,
            body: None,
        };
        assert_eq!(connect(RawFall::ByClass(named)), 4);
    }
}
