//! Every metric of the gate. Labels come from the configuration or from closed lists, never from a request.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::gate::names::EndpointId;

/// Answers take from a millisecond to an hour, so the buckets are wide.
const REQUEST_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// A probe takes from a fraction of a millisecond to its deadline.
const PROBE_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0];

/// All metrics, registered once.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// 1 where requests may go.
    pub endpoint_routable: IntGaugeVec,
    /// 1 at the state that an endpoint is in.
    pub endpoint_state: IntGaugeVec,
    /// 1 where the probe's body says that a component is well.
    pub component_up: IntGaugeVec,
    /// Probes by outcome and class.
    pub probes: IntCounterVec,
    /// How long probes took.
    pub probe_duration: HistogramVec,
    /// Changes of state by cause.
    pub state_changes: IntCounterVec,
    /// Whether a dependency that instances share fails.
    pub shared_failure: IntGaugeVec,
    /// Endpoints that were not ejected, since too few would be left.
    pub ejections_refused: IntCounterVec,
    /// Requests by endpoint and status.
    pub requests: IntCounterVec,
    /// From the request to the end of its answer.
    pub request_duration: HistogramVec,
    /// From the request to the first byte of its answer.
    pub first_byte: HistogramVec,
    /// Requests under way.
    pub in_flight: IntGaugeVec,
    /// Answers that stream events, and tunnels, under way.
    pub streams_open: IntGaugeVec,
    /// How streams ended.
    pub stream_end: IntCounterVec,
    /// Attempts made again.
    pub retries: IntCounterVec,
    /// Requests that the guard refused.
    pub guard_denied: IntCounterVec,
    /// Times that guarded paths were asked for abnormally often.
    pub guard_alarms: IntCounter,
    /// Connections of clients.
    pub connections_open: IntGaugeVec,
    /// Connections that a limit turned away.
    pub connections_refused: IntCounterVec,
    /// Counts applied configurations.
    pub config_generation: IntGauge,
    /// 1 if the last one could be applied.
    pub config_last_reload_ok: IntGauge,
}

const ENDPOINT: [&str; 3] = ["upstream", "pool", "endpoint"];

fn labels<'a>(more: &'a [&'a str]) -> Vec<&'a str> {
    ENDPOINT.iter().chain(more).copied().collect()
}

/// Makes families of metrics and registers them.
struct Family<'r>(&'r Registry);

impl Family<'_> {
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn times(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> prometheus::Result<HistogramVec> {
        let times = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
        self.0.register(Box::new(times.clone()))?;
        Ok(times)
    }
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A metric of the same name exists: a fault of this file.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("difygate".into()), None)?;
        let family = Family(&registry);
        let gauges = |name, help, labels: &[&str]| family.gauges(name, help, labels);
        let counters = |name, help, labels: &[&str]| family.counters(name, help, labels);
        let times = |name, help, buckets, labels: &[&str]| family.times(name, help, buckets, labels);
        let guard_alarms = IntCounter::new(
            "guard_alarms_total",
            "Times that guarded paths were asked for abnormally often",
        )?;
        let config_generation = IntGauge::new("config_generation", "Applied configurations")?;
        let config_last_reload_ok = IntGauge::new(
            "config_last_reload_ok",
            "Whether the last configuration could be applied",
        )?;
        registry.register(Box::new(guard_alarms.clone()))?;
        registry.register(Box::new(config_generation.clone()))?;
        registry.register(Box::new(config_last_reload_ok.clone()))?;
        Ok(Self {
            endpoint_routable: gauges("endpoint_routable", "Whether requests may go there", &ENDPOINT)?,
            endpoint_state: gauges("endpoint_state", "1 at the endpoint's state", &labels(&["state"]))?,
            component_up: gauges("component_up", "Whether a component is well", &labels(&["component"]))?,
            probes: counters("probes_total", "Probes", &labels(&["outcome", "class"]))?,
            probe_duration: times("probe_duration_seconds", "Duration of probes", PROBE_BUCKETS, &ENDPOINT)?,
            state_changes: counters("state_changes_total", "Changes of state", &labels(&["to", "cause"]))?,
            ejections_refused: counters(
                "ejections_refused_total",
                "Endpoints that were not ejected, since too few would be left",
                &ENDPOINT,
            )?,
            shared_failure: gauges(
                "shared_failure",
                "Whether a dependency that instances share fails",
                &["upstream", "component"],
            )?,
            requests: counters("requests_total", "Requests", &labels(&["code"]))?,
            request_duration: times(
                "request_duration_seconds",
                "Duration of requests",
                REQUEST_BUCKETS,
                &["upstream"],
            )?,
            first_byte: times(
                "first_byte_seconds",
                "Time to the first byte of an answer",
                REQUEST_BUCKETS,
                &["upstream"],
            )?,
            in_flight: gauges("in_flight", "Requests under way", &ENDPOINT)?,
            streams_open: gauges("streams_open", "Streams under way", &["upstream"])?,
            stream_end: counters("stream_end_total", "Ends of streams", &["upstream", "how"])?,
            retries: counters("retries_total", "Attempts made again", &["upstream", "reason"])?,
            guard_denied: counters("guard_denied_total", "Requests that the guard refused", &["reason"])?,
            connections_open: gauges("connections_open", "Connections of clients", &["listener"])?,
            connections_refused: counters("connections_refused_total", "Connections over the limit", &["listener"])?,
            guard_alarms,
            config_generation,
            config_last_reload_ok,
            registry,
        })
    }

    /// Notes that a configuration was applied.
    pub fn config_applied(&self, generation: i64) {
        self.config_generation.set(generation);
        self.config_last_reload_ok.set(1);
    }

    /// All of them in Prometheus's text format.
    ///
    /// # Errors
    /// A family cannot be encoded, which the encoder allows for and none of ours does.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// The label values of an endpoint.
pub fn endpoint_labels(id: &EndpointId) -> [&str; 3] {
    [id.upstream.as_str(), id.pool.as_str(), id.address.as_str()]
}

/// The metrics that every request touches, found once per upstream.
#[derive(Clone, Debug)]
pub struct RequestTimes {
    /// From the request to the end of its answer.
    pub duration: Histogram,
    /// From the request to the first byte of its answer.
    pub first_byte: Histogram,
    /// Streams under way.
    pub streams_open: IntGauge,
}

impl RequestTimes {
    /// Those of the upstream `name`.
    pub fn of(metrics: &Metrics, name: &str) -> Self {
        Self {
            duration: metrics.request_duration.with_label_values(&[name]),
            first_byte: metrics.first_byte.with_label_values(&[name]),
            streams_open: metrics.streams_open.with_label_values(&[name]),
        }
    }
}
