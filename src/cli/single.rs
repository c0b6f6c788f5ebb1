//! `probe`: one probe of one URL, and what the gate would make of the answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Exit, block_on, say};
use crate::clock::Clock;
use crate::gate::health::{Outcome, ProbePlan};
use crate::gate::keeper::ProbeReport;
use crate::gate::names::Address;
use crate::probe::spec::{Expect, ProbeSpec};
use crate::probe::{Kept, Prober};
use crate::tls::TlsTerms;

/// What `difygate probe` is given.
#[derive(clap::Args, Debug)]
pub(super) struct ProbeArgs {
    /// What to ask, such as http://10.0.0.11/healthz
    url: String,
    /// The deadline over connect, TLS, headers and body, in seconds
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    timeout: f64,
    /// A request header, `Name: value`; may be repeated
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// A status that passes; may be repeated
    #[arg(long = "expect", value_name = "STATUS", default_values_t = [200])]
    statuses: Vec<u16>,
}

/// Sends one probe. Exit 1 if it does not pass.
pub(super) fn probe(args: &ProbeArgs) -> anyhow::Result<Exit> {
    let (address, spec) = spec(args)?;
    let report = block_on(async {
        Prober::new(Clock::start(), Arc::default())
            .probe(&address, &spec, &Kept::default())
            .await
    })?;
    say(&tell(&report))?;
    Ok(if report.outcome.is_pass() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn spec(args: &ProbeArgs) -> anyhow::Result<(Address, ProbeSpec)> {
    let uri: http::Uri = args.url.parse().with_context(|| format!("{} is no URL", args.url))?;
    let (tls, port) = match uri.scheme_str() {
        Some("http") => (None, 80),
        Some("https") => (Some(TlsTerms::default()), 443),
        Some(_) | None => bail!("{} is no http or https URL, such as http://10.0.0.11/healthz", args.url),
    };
    let authority = uri.authority().with_context(|| format!("{} names no host", args.url))?;
    let text = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port));
    let address = Address::parse(&text).with_context(|| format!("{text} is no address"))?;
    if !(args.timeout > 0.0 && args.timeout <= 3_600.0) {
        bail!("--timeout takes more than 0 and at most 3600 seconds");
    }
    let spec = ProbeSpec {
        plan: Arc::new(ProbePlan {
            timeout: Duration::from_secs_f64(args.timeout),
            ..ProbePlan::default()
        }),
        path: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        host: Some(authority.as_str().to_owned()),
        tls,
        headers: args
            .headers
            .iter()
            .map(|line| header(line))
            .collect::<anyhow::Result<_>>()?,
        expect: Expect {
            status: args.statuses.iter().map(|status| *status..=*status).collect(),
            ..Expect::default()
        },
        ..ProbeSpec::default()
    };
    Ok((address, spec))
}

fn header(line: &str) -> anyhow::Result<(http::HeaderName, http::HeaderValue)> {
    let (name, value) = line
        .split_once(':')
        .with_context(|| format!("--header {line}: write `Name: value`"))?;
    let name = name
        .trim()
        .parse()
        .with_context(|| format!("--header {line}: no header has this name"))?;
    let value = value
        .trim()
        .parse()
        .with_context(|| format!("--header {line}: no header has this value"))?;
    Ok((name, value))
}

fn tell(report: &ProbeReport) -> String {
    let verdict = match &report.outcome {
        Outcome::Pass => "pass".to_owned(),
        Outcome::Absent { detail } => format!("absent: {detail}"),
        Outcome::Fail { class, detail } => format!("fail ({class}): {detail}"),
        Outcome::Misconfigured { detail } => format!("fail (status), and the probe looks misconfigured: {detail}"),
        Outcome::Sheds { seconds } => format!("fail (status 429): the instance asks to be spared for {seconds} s"),
        Outcome::Leaving { detail } => format!("fail, and the instance is about to stop: {detail}"),
        Outcome::Unknown { detail } => format!("unknown: {detail}"),
    };
    let mut lines = vec![format!("verdict     {verdict}")];
    let mut line = |name: &str, value: Option<String>| lines.extend(value.map(|value| format!("{name:<12}{value}")));
    line("status", report.status.map(|status| status.to_string()));
    line("asked", report.asked.map(|asked| asked.to_string()));
    line("version", report.version.clone());
    let components = report
        .components
        .iter()
        .map(|(name, up)| format!("{name} {}", if *up { "up" } else { "failed" }));
    line(
        "components",
        (!report.components.is_empty()).then(|| components.collect::<Vec<_>>().join(", ")),
    );
    let phases = &report.phases;
    for (name, time) in [
        ("connected", phases.connected),
        ("secured", phases.secured),
        ("headers", phases.headers),
        ("total", Some(phases.total)),
    ] {
        line(name, time.map(|time| format!("{:.2} ms", time.as_secs_f64() * 1_000.0)));
    }
    lines.join("\n")
}
