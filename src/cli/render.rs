//! What the live commands print for people.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::admin::overrides::Outcome;
use crate::admin::view::{EndpointView, Explanation, GuardView, ProbeView, Status, UpstreamView};

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table
}

pub(super) fn trimmed(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The status, an upstream at a time.
pub(super) fn status(status: &Status) -> String {
    let head = format!(
        "difygate {}, up {} s, {}",
        status.version, status.uptime_seconds, status.config.path
    );
    let shared = status.upstreams.iter().filter_map(shared_failure);
    shared
        .chain(std::iter::once(head))
        .chain(guard(&status.guard))
        .chain(status.upstreams.iter().map(upstream))
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// The dependency that fails for a whole pool, if one does. It comes first, since it explains the rest.
fn shared_failure(upstream: &UpstreamView) -> Option<String> {
    let component = upstream.shared_failure.as_ref()?;
    Some(format!(
        "DEPENDENCY FAILS: {component}, on most instances of upstream {}; no instance is ejected for it",
        upstream.name
    ))
}

/// Who asks for guarded paths too often, if anybody does.
fn guard(guard: &GuardView) -> Option<String> {
    let total = guard.abnormal.then(|| {
        let requests = guard.requests;
        format!("guarded paths are asked for abnormally often: {requests} requests in the alarm's window")
    });
    let clients = guard.clients.iter().map(|one| {
        let client = one.client.as_deref().unwrap_or("clients whose address cannot be told");
        let (requests, since) = (one.requests, time_of_day(&one.since));
        let refused = if one.blocked { ", refused" } else { "" };
        format!("{client} asks for guarded paths abnormally often: {requests} requests, since {since}{refused}")
    });
    let lines: Vec<String> = total.into_iter().chain(clients).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn upstream(upstream: &UpstreamView) -> String {
    let mut rows = table(&["POOL", "ENDPOINT", "STATE", "IN FLIGHT", "PROBE", "SINCE", "CAUSE"]);
    for pool in &upstream.pools {
        for endpoint in &pool.endpoints {
            rows.add_row([
                pool.name.clone(),
                endpoint.address.clone(),
                endpoint.state.clone(),
                endpoint.in_flight.to_string(),
                endpoint.last_probe.as_ref().map(took).unwrap_or_default(),
                time_of_day(&endpoint.since),
                endpoint.cause.clone(),
            ]);
        }
    }
    let head = format!(
        "upstream {}: active pool {}, {}",
        upstream.name, upstream.active, upstream.phase
    );
    let lines = std::iter::once(head).chain(silence(upstream));
    let lines: Vec<String> = lines.chain(std::iter::once(trimmed(&rows))).collect();
    lines.join("\n")
}

/// How many event streams of an upstream are silent, if any is.
fn silence(upstream: &UpstreamView) -> Option<String> {
    let endpoints = || upstream.pools.iter().flat_map(|pool| &pool.endpoints);
    let streams: u32 = endpoints().map(|endpoint| endpoint.silent_streams).sum();
    let longest = endpoints().map(|endpoint| endpoint.longest_silence_seconds).max();
    let (are, their) = if streams == 1 {
        ("event stream is", "its run waits")
    } else {
        ("event streams are", "their runs wait")
    };
    (streams > 0).then(|| {
        let longest = longest.unwrap_or_default();
        format!("{streams} {are} silent, the longest for {longest} s: perhaps {their} for a Celery worker")
    })
}

fn took(probe: &ProbeView) -> String {
    format!("{:.1} ms", probe.took_ms)
}

pub(super) fn time_of_day(rfc3339: &str) -> String {
    rfc3339.get(11..19).unwrap_or(rfc3339).to_owned()
}

/// What an operator's word did, a line an endpoint.
pub(super) fn overridden(outcome: &Outcome) -> String {
    let would = if outcome.dry_run { "would be" } else { "is" };
    let lines = outcome.endpoints.iter().map(|endpoint| {
        format!(
            "{} in pool {} of upstream {} {would} {}: {} of its pool take traffic ({} before), {} requests under way",
            endpoint.address,
            endpoint.pool,
            endpoint.upstream,
            endpoint.state,
            endpoint.routable_after,
            endpoint.routable_before,
            endpoint.in_flight
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// An endpoint's state, what would change it, and its last probes.
pub(super) fn explanation(explained: &Explanation) -> String {
    let EndpointView {
        address,
        state,
        since,
        cause,
        in_flight,
        components,
        ..
    } = &explained.endpoint;
    let mut lines = vec![
        format!(
            "{address} in pool {} of upstream {}",
            explained.pool, explained.upstream
        ),
        format!("  state       {state} since {since}"),
        format!("  cause       {cause}"),
        format!("  in flight   {in_flight}"),
    ];
    if !components.is_empty() {
        let words: Vec<String> = components
            .iter()
            .map(|(name, up)| format!("{name} {}", if *up { "up" } else { "failed" }))
            .collect();
        lines.push(format!("  components  {}", words.join(", ")));
    }
    lines.extend(explained.next.iter().map(|next| format!("  next        {next}")));
    let mut rows = table(&[
        "TIME",
        "PROBE",
        "OUTCOME",
        "CLASS",
        "STATUS",
        "CONNECTED",
        "HEADERS",
        "TOTAL",
        "DETAIL",
    ]);
    for probe in &explained.history {
        let phase = |name: &str| {
            probe
                .phases_ms
                .get(name)
                .map(|ms| format!("{ms:.1} ms"))
                .unwrap_or_default()
        };
        rows.add_row([
            probe.at.get(11..23).unwrap_or(&probe.at).to_owned(),
            probe.probe.clone(),
            probe.outcome.clone(),
            probe.class.clone().unwrap_or_default(),
            probe.status.map(|status| status.to_string()).unwrap_or_default(),
            phase("connected"),
            phase("headers"),
            phase("total"),
            probe.detail.clone().unwrap_or_default(),
        ]);
    }
    lines.push(String::new());
    lines.push(trimmed(&rows));
    lines.join("\n")
}
