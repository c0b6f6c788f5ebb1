//! What the file says about cutovers: how users are moved where the command that starts it says nothing else, and which upstreams move together.

use std::time::Duration;

use http::HeaderName;
use indexmap::IndexMap;

use super::check::meant;
use super::parse::{Findings, longer_than_zero, time};
use super::probes;
use super::raw::cutover as raw;
use super::upstreams::named;
use crate::cutover::{Ask, CutoverSettings, DeploymentSettings, HookSettings, Overlap, SmokeSettings};
use crate::gate::cutover::triggers::Limits;
use crate::gate::cutover::{Clocks, Plan, Step};
use crate::gate::direction::Split;
use crate::gate::health::ProbePlan;
use crate::gate::names::{PoolName, UpstreamName};
use crate::probe::spec::ProbeSpec;
use crate::restart::Webhook;
use crate::upstream::settings::UpstreamSettings;

const KEY: &str = "cutover";

/// A year, for which anything may be waited.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3_600);

pub(super) fn cutover(
    raw: raw::Cutover,
    upstreams: &[UpstreamSettings],
    findings: &mut Findings<'_>,
) -> CutoverSettings {
    let plan = plan(&raw, findings);
    let at = |key: &str| format!("{KEY}.{key}");
    let smoke = raw.smoke.unwrap_or_default().into_iter().enumerate();
    let smoke = smoke.filter_map(|(index, raw)| smoked(&at(&format!("smoke[{index}]")), raw, upstreams, findings));
    let smoke = smoke.collect();
    let hooks = raw.hooks.unwrap_or_default().into_iter().enumerate();
    let hooks = hooks.filter_map(|(index, raw)| hook(&at(&format!("hooks[{index}]")), raw, findings));
    let hooks = hooks.collect();
    CutoverSettings {
        plan,
        smoke,
        hooks,
        limits: limits(raw.triggers.unwrap_or_default(), findings),
        overlap: Overlap {
            assets: raw.assets.map_or_else(
                || vec!["/_next/static/".to_owned()],
                |paths| paths.into_iter().map(|path| path.0).collect(),
            ),
            longest_pause: time(raw.longest_pause, Duration::from_secs(30)),
            ..preview(raw.preview.unwrap_or_default(), upstreams, findings)
        },
    }
}

fn plan(raw: &raw::Cutover, findings: &mut Findings<'_>) -> Plan {
    let defaults = Plan::default();
    let clocks = Clocks {
        prepare: time(raw.prepare, defaults.clocks.prepare),
        verify: time(raw.verify, defaults.clocks.verify),
        ready: time(raw.ready, defaults.clocks.ready),
        bake: time(raw.bake, defaults.clocks.bake),
        hold: time(raw.hold, defaults.clocks.hold),
        drain: time(raw.drain, defaults.clocks.drain),
    };
    longer_than_zero("cutover.prepare", clocks.prepare, findings);
    longer_than_zero("cutover.verify", clocks.verify, findings);
    let steps = raw.steps.iter().flatten().map(|step| Step {
        percent: step.percent,
        hold: time(step.hold, Duration::from_secs(60)),
    });
    let steps: Vec<Step> = steps.collect();
    let pairs = steps.iter().zip(steps.iter().skip(1));
    if let Some(index) = pairs.into_iter().position(|(one, next)| next.percent <= one.percent) {
        let key = format!("cutover.steps[{}].percent", index + 1);
        findings.error(&key, "is no larger than the step before: shares only grow");
    }
    Plan {
        steps,
        split: split(raw.split.as_ref(), findings),
        barrier: matches!(raw.migration, Some(raw::Migration::Barrier)),
        clocks,
        cut: raw.cut.unwrap_or(defaults.cut),
        rise: raw.rise.unwrap_or(defaults.rise),
        min_samples: raw.min_samples.map_or(defaults.min_samples, Into::into),
        ..defaults
    }
}

fn split(raw: Option<&raw::Split>, findings: &mut Findings<'_>) -> Split {
    match raw {
        None | Some(raw::Split::Word(raw::SplitWord::Cookie)) => Split::Cookie,
        Some(raw::Split::Word(raw::SplitWord::Request)) => Split::Request,
        Some(raw::Split::Of(of)) => {
            let name = probes::header_name("cutover.split.header", &of.header, findings);
            name.map_or(Split::Cookie, |name| Split::Header(name.as_str().to_owned()))
        }
    }
}

fn smoked(
    key: &str,
    raw: raw::Smoke,
    upstreams: &[UpstreamSettings],
    findings: &mut Findings<'_>,
) -> Option<SmokeSettings> {
    let timeout = time(raw.timeout, Duration::from_secs(10));
    longer_than_zero(&format!("{key}.timeout"), timeout, findings);
    let spec = ProbeSpec {
        plan: std::sync::Arc::new(ProbePlan {
            timeout,
            ..ProbePlan::default()
        }),
        path: raw.path.0,
        method: raw
            .method
            .and_then(|method| super::scalars::method(&method.0).ok())
            .unwrap_or(http::Method::GET),
        headers: probes::headers(key, raw.headers.unwrap_or_default(), findings),
        expect: probes::expect(key, raw.expect.unwrap_or_default(), findings),
        ..ProbeSpec::default()
    };
    let upstream = match raw.upstream {
        Some(name) => Some(
            named(&format!("{key}.upstream"), &name, upstreams, findings)?
                .name
                .clone(),
        ),
        None => None,
    };
    Some(SmokeSettings {
        upstream,
        spec,
        warm_up: raw.warm_up.unwrap_or(0),
    })
}

fn hook(key: &str, raw: raw::Hook, findings: &mut Findings<'_>) -> Option<HookSettings> {
    let timeout = time(raw.timeout, Duration::from_secs(10));
    longer_than_zero(&format!("{key}.timeout"), timeout, findings);
    let webhook = Webhook::parse(&raw.webhook);
    let webhook = webhook.map_err(|message| findings.error(&format!("{key}.webhook"), message));
    Some(HookSettings {
        ask: match raw.when {
            raw::HookWhen::Confirm => Ask::Confirm,
            raw::HookWhen::Rollback => Ask::Rollback,
            raw::HookWhen::Event => Ask::Event,
        },
        webhook: webhook.ok()?,
        timeout,
    })
}

fn limits(raw: raw::Triggers, findings: &mut Findings<'_>) -> Limits {
    let defaults = Limits::default();
    let mut share = |name: &str, value: Option<f64>, default: f64| {
        let value = value.unwrap_or(default);
        if !(0.0..=100.0).contains(&value) {
            let message = format!("is {value}; it is a share in percent, from 0 to 100");
            findings.error(&format!("cutover.triggers.{name}"), message);
        }
        value
    };
    let limits = Limits {
        errors: share("errors", raw.errors, defaults.errors),
        connects: share("connects", raw.connects, defaults.connects),
        aborts: share("aborts", raw.aborts, defaults.aborts),
        silent: share("silent", raw.silent, defaults.silent),
        first_byte: time(raw.first_byte, defaults.first_byte),
        window: time(raw.window, defaults.window),
        min_healthy: raw
            .min_healthy
            .map_or(defaults.min_healthy, |least| least.get() as usize),
    };
    longer_than_zero("cutover.triggers.window", limits.window, findings);
    limits
}

fn preview(raw: raw::Preview, upstreams: &[UpstreamSettings], findings: &mut Findings<'_>) -> Overlap {
    let named = raw.header.as_deref().unwrap_or("X-Difygate-Pool");
    let header = probes::header_name("cutover.preview.header", named, findings);
    let mut hosts = Vec::new();
    for (host, pool) in raw.hosts.unwrap_or_default() {
        let all: Vec<&str> = upstreams
            .iter()
            .flat_map(|upstream| &upstream.pools)
            .map(|pool| pool.name.as_str())
            .collect();
        if !all.contains(&pool.as_str()) {
            let message = format!("no upstream has a pool `{pool}`{}", meant(&pool, &all));
            findings.error(&format!("cutover.preview.hosts.{host}"), message);
        }
        hosts.push((host.to_ascii_lowercase(), PoolName::new(&pool)));
    }
    Overlap {
        preview_header: header.unwrap_or(HeaderName::from_static("x-difygate-pool")),
        preview_hosts: hosts,
        assets: Vec::new(),
        longest_pause: LONGEST,
    }
}

/// What moves together: each deployment, and each upstream that is in none.
pub(super) fn deployments(
    raw: IndexMap<String, raw::Deployment>,
    upstreams: &[UpstreamSettings],
    findings: &mut Findings<'_>,
) -> Vec<DeploymentSettings> {
    let mut all: Vec<DeploymentSettings> = Vec::new();
    for (name, raw) in raw {
        let key = format!("deployments.{name}");
        super::upstreams::check_name(&key, &name, findings);
        if upstreams.iter().any(|upstream| upstream.name.as_str() == name) {
            findings.error(&key, "is an upstream's name too; commands could not tell them apart");
        }
        if raw.upstreams.is_empty() {
            findings.error(
                &format!("{key}.upstreams"),
                "is empty; name the upstreams that move together",
            );
        }
        let mut members: Vec<UpstreamName> = Vec::new();
        for (index, member) in raw.upstreams.iter().enumerate() {
            let key = format!("{key}.upstreams[{index}]");
            let Some(member) = named(&key, member, upstreams, findings) else {
                continue;
            };
            let member = member.name.clone();
            let other = all.iter().find(|other| other.upstreams.contains(&member));
            if let Some(other) = other {
                findings.error(
                    &key,
                    format!("`{member}` moves with deployment `{}` already", other.name),
                );
            } else if members.contains(&member) {
                findings.error(&key, format!("`{member}` stands here twice"));
            }
            members.push(member);
        }
        same_pools(&key, &members, upstreams, findings);
        all.push(DeploymentSettings {
            name,
            upstreams: members,
        });
    }
    let alone: Vec<DeploymentSettings> = upstreams
        .iter()
        .filter(|upstream| {
            !all.iter()
                .any(|deployment| deployment.upstreams.contains(&upstream.name))
        })
        .map(|upstream| DeploymentSettings {
            name: upstream.name.to_string(),
            upstreams: vec![upstream.name.clone()],
        })
        .collect();
    all.extend(alone);
    all
}

/// Those that move together begin in the same pool and can go to the same ones.
fn same_pools(key: &str, members: &[UpstreamName], upstreams: &[UpstreamSettings], findings: &mut Findings<'_>) {
    let mut settings = members
        .iter()
        .filter_map(|name| upstreams.iter().find(|upstream| upstream.name == *name));
    let Some(first) = settings.next() else { return };
    let names = |upstream: &UpstreamSettings| {
        let mut names: Vec<PoolName> = upstream.pools.iter().map(|pool| pool.name.clone()).collect();
        names.sort();
        names
    };
    for other in settings {
        if names(first) != names(other) {
            let message = format!(
                "`{}` and `{}` have pools of other names; those that move together need the same",
                first.name, other.name
            );
            findings.error(&format!("{key}.upstreams"), message);
        } else if first.active != other.active {
            let message = format!(
                "`{}` begins with pool `{}` and `{}` with `{}`; those that move together begin in the same",
                first.name, first.active, other.name, other.active
            );
            findings.error(&format!("{key}.upstreams"), message);
        }
    }
}
