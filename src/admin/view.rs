//! What the admin API says, as types: the server writes them and the live commands read them, so the two cannot drift apart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::gate::alarm::Alarm;
use crate::gate::cutover::Phase;
use crate::gate::health::Health;
use crate::gate::keeper::{Known, ProbeRecord};
use crate::gate::passive::Standing;
use crate::upstream::streams::Silence;
use crate::upstream::{Endpoint, Upstream};

/// `GET /api/v1/status`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// The gate's version.
    pub version: String,
    /// Seconds since the gate started.
    pub uptime_seconds: u64,
    /// The configuration that it runs on.
    pub config: ConfigView,
    /// Who asks for guarded paths.
    pub guard: GuardView,
    /// Each upstream.
    pub upstreams: Vec<UpstreamView>,
}

/// Requests for guarded paths.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct GuardView {
    /// How many came within the alarm's window.
    pub requests: u32,
    /// Whether that is too many.
    pub abnormal: bool,
    /// Who alone asks too often, the worst first; twenty at the most.
    pub clients: Vec<AbnormalView>,
}

/// Somebody who asks for guarded paths abnormally often.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AbnormalView {
    /// Its address, the network of an IPv6 one; absent for all whose address cannot be told.
    pub client: Option<String>,
    /// Its requests within the alarm's window.
    pub requests: u32,
    /// Since when, RFC 3339.
    pub since: String,
    /// Whether it is refused.
    pub blocked: bool,
}

/// So many are told of.
const TOLD: usize = 20;

impl GuardView {
    /// What an alarm knows.
    pub fn of(alarm: &Alarm, clock: &Clock) -> Self {
        let now = clock.now();
        let (requests, abnormal) = alarm.total(now);
        let clients = alarm.abnormal(TOLD, now).into_iter().map(|one| AbnormalView {
            client: one.client.map(|client| client.to_string()),
            requests: one.requests,
            since: clock.tell(one.since),
            blocked: one.blocked,
        });
        Self {
            requests,
            abnormal,
            clients: clients.collect(),
        }
    }
}

/// The configuration that the gate runs on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ConfigView {
    /// Its file.
    pub path: String,
    /// Counts applied configurations.
    pub generation: u64,
    /// When it was applied, RFC 3339.
    pub loaded_at: String,
}

/// One upstream.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UpstreamView {
    /// Its name.
    pub name: String,
    /// The pool that takes traffic.
    pub active: String,
    /// Where a cutover stands; `steady` without one.
    pub phase: String,
    /// The component that fails on most of the pool, where one does.
    pub shared_failure: Option<String>,
    /// Its pools.
    pub pools: Vec<PoolView>,
}

/// One pool.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Its share of new requests, in percent.
    pub weight: u32,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// One endpoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EndpointView {
    /// Where it listens.
    pub address: String,
    /// `unknown`, `up`, `ramping`, `busy`, `degraded`, `suspect`, `ejected`, `down`, `draining` or `maintenance`.
    pub state: String,
    /// Whether requests may go there.
    pub routable: bool,
    /// Since when it is in that state, RFC 3339.
    pub since: String,
    /// Why.
    pub cause: String,
    /// Requests under way.
    pub in_flight: u32,
    /// Its event streams that have been silent for `outlier.stream_silence`: their runs may wait for a Celery worker.
    #[serde(default, skip_serializing_if = "is_none")]
    pub silent_streams: u32,
    /// For how long the most silent of them has been so, in seconds.
    #[serde(default, skip_serializing_if = "is_none")]
    pub longest_silence_seconds: u64,
    /// The latest word on each component.
    pub components: BTreeMap<String, bool>,
    /// The last probe.
    pub last_probe: Option<ProbeView>,
    /// The operator's word on it, where there is one.
    #[serde(rename = "override", default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<OverrideView>,
}

/// Whether a count is left out: there is nothing to tell of.
fn is_none<T: Default + PartialEq>(count: &T) -> bool {
    *count == T::default()
}

/// An operator's word on an endpoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OverrideView {
    /// The endpoint's upstream.
    pub upstream: String,
    /// Its pool.
    pub pool: String,
    /// Where it listens.
    pub address: String,
    /// `draining` or `maintenance`.
    pub state: String,
    /// Why.
    pub reason: String,
    /// When it was said, RFC 3339.
    pub since: String,
    /// When it ends by itself, RFC 3339.
    pub until: Option<String>,
}

impl OverrideView {
    /// The word on an endpoint, if there is one.
    pub fn of(known: &Known, clock: &Clock) -> Option<Self> {
        let word = known.overridden.as_ref()?;
        Some(Self {
            upstream: known.id.upstream.to_string(),
            pool: known.id.pool.to_string(),
            address: known.id.address.to_string(),
            state: word.wish.to_string(),
            reason: word.reason.clone(),
            since: clock.tell(word.since),
            until: word.until.map(|until| clock.tell(until)),
        })
    }
}

/// One probe that was answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ProbeView {
    /// When, RFC 3339.
    pub at: String,
    /// The probe's name.
    pub probe: String,
    /// `pass`, `fail` or `unknown`.
    pub outcome: String,
    /// `status`, `timeout`, `connect`, `tls`, `protocol` or `body`.
    pub class: Option<String>,
    /// The outcome in words.
    pub detail: Option<String>,
    /// The status, where an answer came.
    pub status: Option<u16>,
    /// How long it took.
    pub took_ms: f64,
    /// How far it had come after how long, in milliseconds.
    pub phases_ms: BTreeMap<String, f64>,
    /// Components that the answer calls failed.
    pub failed: Vec<String>,
    /// The version that the answer names.
    pub version: Option<String>,
}

/// `GET /api/v1/endpoints/{address}`: why an endpoint is in its state, once for each pool that it is in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Explanation {
    /// Its upstream.
    pub upstream: String,
    /// Its pool.
    pub pool: String,
    /// Where it stands.
    pub endpoint: EndpointView,
    /// What must happen for the state to change, probe by probe.
    pub next: Vec<String>,
    /// The last probes, oldest first.
    pub history: Vec<ProbeView>,
}

impl EndpointView {
    /// What is known of an endpoint.
    pub fn of(known: &Known, endpoint: &Endpoint, silence: Silence, clock: &Clock) -> Self {
        Self {
            silent_streams: silence.streams,
            longest_silence_seconds: silence.longest.as_secs(),
            address: known.id.address.to_string(),
            state: known.state.to_string(),
            routable: known.state.is_routable(),
            since: clock.tell(known.since),
            cause: known.cause.to_string(),
            in_flight: endpoint.in_flight.get(),
            components: known.components.clone(),
            last_probe: known.history.back().map(|record| ProbeView::of(record, clock)),
            overridden: OverrideView::of(known, clock),
        }
    }
}

impl UpstreamView {
    /// An upstream in a phase of a cutover, without its endpoints.
    pub fn of(upstream: &Upstream, phase: Phase) -> Self {
        let (settings, world) = (&upstream.settings, upstream.flow.world.load());
        let pools = settings.pools.iter().map(|pool| PoolView {
            name: pool.name.to_string(),
            weight: world.direction.weight(&pool.name),
            endpoints: Vec::new(),
        });
        Self {
            name: settings.name.to_string(),
            active: world.direction.active.to_string(),
            phase: phase.to_string(),
            shared_failure: None,
            pools: pools.collect(),
        }
    }
}

impl ProbeView {
    fn of(record: &ProbeRecord, clock: &Clock) -> Self {
        use crate::gate::health::Outcome;
        let report = &record.report;
        let phases = &report.phases;
        let steps = [
            ("resolved", phases.resolved),
            ("connected", phases.connected),
            ("secured", phases.secured),
            ("headers", phases.headers),
            ("total", Some(phases.total)),
        ];
        let millis = |time: std::time::Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        Self {
            at: clock.tell(record.at),
            probe: record.probe.to_string(),
            outcome: report.outcome.as_str().to_owned(),
            class: report.outcome.class().map(|class| class.to_string()),
            detail: match &report.outcome {
                Outcome::Pass => None,
                Outcome::Sheds { seconds } => Some(format!("status 429: it asks to be spared for {seconds} s")),
                Outcome::Fail { detail, .. }
                | Outcome::Misconfigured { detail }
                | Outcome::Leaving { detail }
                | Outcome::Absent { detail }
                | Outcome::Unknown { detail } => Some(detail.clone()),
            },
            status: report.status,
            took_ms: millis(phases.total),
            phases_ms: steps
                .iter()
                .filter_map(|(name, time)| Some(((*name).to_owned(), millis((*time)?))))
                .collect(),
            failed: report
                .components
                .iter()
                .filter(|(_, up)| !**up)
                .map(|(name, _)| name.clone())
                .collect(),
            version: report.version.clone(),
        }
    }
}

/// What an endpoint's load, and an answer that is overdue, mean for it.
fn load(known: &Known) -> [Option<String>; 3] {
    let busy = known
        .busy
        .then(|| "busy: the next probe that passes ends `busy`".to_owned());
    let late = known
        .late
        .map(|_| "late: an answer that passes takes the endpoint back at once, and no answer takes it out".to_owned());
    let capacity = known.capacity.limit().map(|limit| {
        format!(
            "capacity: it is given {limit} requests at a time; with more it refused or was late, and probes passed with up to {} connections, their own included",
            known.capacity.probed()
        )
    });
    [late, busy, capacity]
}

/// What beside its probes must happen for an endpoint's state to change.
fn others(known: &Known, clock: &Clock) -> Vec<String> {
    let traffic = match known.passive.standing() {
        Standing::Clear => None,
        Standing::Suspect { .. } => {
            Some("traffic: the probe under way decides: down if it fails, ejected if it passes".to_owned())
        }
        Standing::Ejected { until } => Some(format!(
            "traffic: held back until {}; then one request tries it",
            clock.tell(until)
        )),
        Standing::OnTrial { .. } => Some("traffic: the next request that can be sent again tries it".to_owned()),
    };
    let [late, busy, capacity] = load(known);
    let ramp = known
        .ramp
        .map(|ramp| format!("slow start: {} % of its share", ramp.share(clock.now())));
    let shared = known.shared.iter();
    let shared =
        shared.map(|component| format!("shared: nobody is ejected for `{component}` while most of the pool lacks it"));
    let operator = OverrideView::of(known, clock).map(|word| {
        let until = word.until.map(|until| format!(" or until {until}")).unwrap_or_default();
        format!(
            "operator: {} until `difygate endpoint enable {}`{until}",
            word.state, word.address
        )
    });
    let slow = known.slowness.is_slow().then(|| {
        format!(
            "latency: it answers much later than the others and has {} % of its share",
            known.share(clock.now())
        )
    });
    let flaps = known.flapping.until().map(|until| {
        format!(
            "flapping: held down until {}, and then {} passes in a row take it back",
            clock.tell(until),
            known.terms.flapping.rise
        )
    });
    let turn = known.turn.map(|turn| {
        format!(
            "return: its turn comes at {}, for a pool comes back one by one",
            clock.tell(turn)
        )
    });
    let (answered, failed) = known.window.sums(clock.now());
    let window = (answered > 0).then(|| format!("traffic: {failed} of {answered} requests failed within 10 s"));
    [operator, window, traffic, late, busy, capacity, slow, flaps, turn, ramp]
        .into_iter()
        .flatten()
        .chain(shared)
        .collect()
}

impl Explanation {
    /// All that is known of an endpoint.
    pub fn of(known: &Known, endpoint: &Endpoint, silence: Silence, clock: &Clock) -> Self {
        let next = known.verdicts.iter().map(|(plan, health)| {
            let name = &plan.name;
            match health {
                Health::Unknown { fails } => {
                    format!("probe `{name}`: the next pass counts at once ({fails} failures so far)")
                }
                Health::Up { fails } => format!(
                    "probe `{name}`: passes; {} failures in a row take the endpoint out ({fails} so far)",
                    plan.fall.default
                ),
                Health::Down { passes } => format!(
                    "probe `{name}`: fails; {} passes in a row take the endpoint back ({passes} so far)",
                    plan.rise
                ),
            }
        });
        Self {
            upstream: known.id.upstream.to_string(),
            pool: known.id.pool.to_string(),
            endpoint: EndpointView::of(known, endpoint, silence, clock),
            next: next.chain(others(known, clock)).collect(),
            history: known
                .history
                .iter()
                .map(|record| ProbeView::of(record, clock))
                .collect(),
        }
    }
}
