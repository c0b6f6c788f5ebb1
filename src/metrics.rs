//! Every metric of the gate. Labels come from the configuration or from closed lists, never from a request.

use std::collections::{HashMap, HashSet};

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::gate::names::EndpointId;

/// Answers take from a millisecond to an hour, so the buckets are wide.
const REQUEST_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// A probe takes from a fraction of a millisecond to its deadline.
const PROBE_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0];

/// A phase of a cutover takes from a moment to a day.
const CUTOVER_BUCKETS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];

const ENDPOINT: &[&str] = &["upstream", "pool", "endpoint"];
const UPSTREAM: &[&str] = &["upstream"];

/// Declares every metric once: what it means, which is its help text as well, its field, its kind, its name and its labels.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ident = $make:ident($name:literal $(, $more:expr)*);)+) => {
        /// All metrics, registered once.
        #[derive(Clone, Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl Metrics {
            /// Registers them.
            ///
            /// # Errors
            /// A metric of the same name exists: a fault of this file.
            pub fn new() -> prometheus::Result<Self> {
                let registry = Registry::new_custom(Some("difygate".into()), None)?;
                let family = Family(&registry);
                // Of the process, not of one gate.
                registry.register(Box::new(crate::log::dropped()?))?;
                Ok(Self {
                    $($field: family.$make($name, concat!($($help),+).trim() $(, $more)*)?,)+
                    registry,
                })
            }

            /// Drops every series of endpoints that are not watched any more.
            pub fn forget(&self, gone: &[EndpointId]) {
                if gone.is_empty() {
                    return;
                }
                let gone = gone.iter().map(endpoint_labels).collect();
                $(self.$field.forget(&gone);)+
            }
        }
    };
}

metrics! {
    /// 1 where requests may go.
    endpoint_routable: IntGaugeVec = gauges("endpoint_routable", &[ENDPOINT]);
    /// 1 at the state that an endpoint is in.
    endpoint_state: IntGaugeVec = gauges("endpoint_state", &[ENDPOINT, &["state"]]);
    /// 1 where the probe's body says that a component is well.
    component_up: IntGaugeVec = gauges("component_up", &[ENDPOINT, &["component"]]);
    /// Probes by outcome and class.
    probes: IntCounterVec = counters("probes_total", &[ENDPOINT, &["outcome", "class"]]);
    /// How long probes took.
    probe_duration: HistogramVec = times("probe_duration_seconds", PROBE_BUCKETS, &[ENDPOINT]);
    /// Changes of state by cause.
    state_changes: IntCounterVec = counters("state_changes_total", &[ENDPOINT, &["to", "cause"]]);
    /// 1 while a dependency that instances share fails.
    shared_failure: IntGaugeVec = gauges("shared_failure", &[UPSTREAM, &["component"]]);
    /// Endpoints that were not ejected, since too few would be left or the others fail as well.
    ejections_refused: IntCounterVec = counters("ejections_refused_total", &[ENDPOINT]);
    /// Restarts that were wanted, by what came of it.
    restarts: IntCounterVec = counters("restarts_wanted_total", &[ENDPOINT, &["outcome"]]);
    /// Times that the gate itself did not run for a while.
    lapses: IntCounter = counter("lapses_total");
    /// Requests by endpoint and status.
    requests: IntCounterVec = counters("requests_total", &[ENDPOINT, &["code"]]);
    /// From the request to the end of its answer.
    request_duration: HistogramVec = times("request_duration_seconds", REQUEST_BUCKETS, &[UPSTREAM]);
    /// From the request to the first byte of its answer.
    first_byte: HistogramVec = times("first_byte_seconds", REQUEST_BUCKETS, &[UPSTREAM]);
    /// Requests under way.
    in_flight: IntGaugeVec = gauges("in_flight", &[ENDPOINT]);
    /// Answers that stream events, and tunnels, under way.
    streams_open: IntGaugeVec = gauges("streams_open", &[UPSTREAM]);
    /// How streams ended.
    stream_end: IntCounterVec = counters("stream_end_total", &[UPSTREAM, &["how"]]);
    /// Streams and other requests that the gate ended before their end, by reason.
    streams_cut: IntCounterVec = counters("streams_cut_total", &[UPSTREAM, &["pool", "reason"]]);
    /// Attempts made again, by reason.
    retries: IntCounterVec = counters("retries_total", &[UPSTREAM, &["reason"]]);
    /// Requests that wait for an endpoint with room.
    queued: IntGaugeVec = gauges("queued", &[UPSTREAM]);
    /// Requests refused since every endpoint was full.
    overflows: IntCounterVec = counters("overflows_total", &[UPSTREAM, &["reason"]]);
    /// 1 while a pool stands in for the active one.
    fallback_active: IntGaugeVec = gauges("fallback_active", &[UPSTREAM, &["pool"]]);
    /// Endpoints that discovery found.
    discovery_endpoints: IntGaugeVec = gauges("discovery_endpoints", &[UPSTREAM, &["pool"]]);
    /// Times that endpoints could not be looked up.
    discovery_failures: IntCounterVec = counters("discovery_failures_total", &[UPSTREAM, &["pool"]]);
    /// 1 while the last look failed and an older list is in force.
    discovery_stale: IntGaugeVec = gauges("discovery_stale", &[UPSTREAM, &["pool"]]);
    /// Requests that the guard refused.
    guard_denied: IntCounterVec = counters("guard_denied_total", &[&["reason"]]);
    /// Times that guarded paths were asked for abnormally often.
    guard_alarms: IntCounter = counter("guard_alarms_total");
    /// Connections of clients.
    connections_open: IntGaugeVec = gauges("connections_open", &[&["listener"]]);
    /// Connections that a limit turned away.
    connections_refused: IntCounterVec = counters("connections_refused_total", &[&["listener", "limit"]]);
    /// HTTP/2 connections that the gate gave up, by the code that it told.
    http2_errors: IntCounterVec = counters("http2_errors_total", &[&["listener", "code"]]);
    /// Requests that a limit ended or refused.
    limited: IntCounterVec = counters("limited_total", &[&["listener", "limit"]]);
    /// Times that a listener's certificates, or its authorities for clients, were read, by what came of it.
    certificates_loaded: IntCounterVec = counters("tls_certificates_loaded_total", &[&["listener", "outcome"]]);
    /// Certificates that the gate ordered, by what came of it.
    acme_orders: IntCounterVec = counters("acme_orders_total", &[&["host", "outcome"]]);
    /// When the first of a listener's certificates ends, in seconds of Unix time.
    certificate_ends: IntGaugeVec = gauges("tls_certificate_end_timestamp_seconds", &[&["listener"]]);
    /// TLS handshakes that came to nothing.
    handshakes_failed: IntCounterVec = counters("tls_handshakes_failed_total", &[&["listener"]]);
    /// Connections closed for want of a PROXY header, or since nobody believes who sent one.
    proxy_header_refused: IntCounterVec = counters("proxy_header_refused_total", &[&["listener"]]);
    /// Times that what is to outlive the process could not be written.
    state_write_failures: IntCounter = counter("state_write_failures_total");
    /// 1 at the phase in which a cutover is.
    cutover_phase: IntGaugeVec = gauges("cutover_phase", &[&["cutover", "phase"]]);
    /// The epoch of what is kept of a deployment, or of an upstream that moves alone.
    cutover_epoch: IntGaugeVec = gauges("cutover_epoch", &[&["cutover"]]);
    /// A pool's share of new requests, in percent.
    cutover_weight: IntGaugeVec = gauges("cutover_weight", &[UPSTREAM, &["pool"]]);
    /// Requests that a pool of a cutover serves, streams included.
    cutover_in_flight: IntGaugeVec = gauges("cutover_in_flight", &[&["cutover", "pool"]]);
    /// Streams that a pool serves, by kind.
    streams_under_way: IntGaugeVec = gauges("streams_under_way", &[UPSTREAM, &["pool", "kind"]]);
    /// The age of the oldest of them, in seconds.
    oldest_stream: IntGaugeVec = gauges("oldest_stream_seconds", &[UPSTREAM, &["pool"]]);
    /// Event streams of a pool that are silent: their runs may wait for a Celery worker.
    silent_streams: IntGaugeVec = gauges("silent_streams", &[UPSTREAM, &["pool"]]);
    /// For how long the most silent of them has been so, in seconds.
    longest_silence: IntGaugeVec = gauges("longest_silence_seconds", &[UPSTREAM, &["pool"]]);
    /// What a gate or a reason to go back says: 1 pass, 0 inconclusive, -1 fail.
    cutover_gate: IntGaugeVec = gauges("cutover_gate", &[&["cutover", "gate"]]);
    /// Cutovers by what they came to.
    cutovers: IntCounterVec = counters("cutover_total", &[&["cutover", "result"]]);
    /// How long cutovers stayed in a phase.
    cutover_state_seconds: HistogramVec = times("cutover_state_seconds", CUTOVER_BUCKETS, &[&["cutover", "phase"]]);
    /// Access lines that were not written.
    access_lines_dropped: IntCounter = counter("access_lines_dropped_total");
    /// Requests that the process before this one still serves.
    predecessor_in_flight: IntGauge = gauge("predecessor_in_flight");
    /// Counts applied configurations.
    config_generation: IntGauge = gauge("config_generation");
    /// 1 if the last configuration could be applied.
    config_last_reload_ok: IntGauge = gauge("config_last_reload_ok");
}

/// Makes families of metrics and registers them.
struct Family<'r>(&'r Registry);

/// What may hold series of endpoints.
trait Forget {
    /// Drops those of the endpoints with these labels.
    fn forget(&self, _gone: &HashSet<[&str; 3]>) {}
}

impl Forget for IntGauge {}
impl Forget for IntCounter {}

impl<B: MetricVecBuilder> Forget for MetricVec<B> {
    fn forget(&self, gone: &HashSet<[&str; 3]>) {
        for family in self.collect() {
            for series in family.get_metric() {
                let labels: HashMap<&str, &str> = series
                    .get_label()
                    .iter()
                    .map(|label| (label.name(), label.value()))
                    .collect();
                let endpoint = ENDPOINT
                    .iter()
                    .map(|name| labels.get(name).copied().unwrap_or_default());
                if endpoint
                    .collect::<Vec<_>>()
                    .try_into()
                    .is_ok_and(|endpoint: [&str; 3]| gone.contains(&endpoint))
                {
                    // It was there a moment ago, and nobody else drops it.
                    let _ = self.remove(&labels);
                }
            }
        }
    }
}

/// Parts of a list of labels.
type Labels<'a> = &'a [&'a [&'a str]];

impl Family<'_> {
    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: Labels<'_>) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), &labels.concat())?)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: Labels<'_>) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), &labels.concat())?)
    }

    fn times(&self, name: &str, help: &str, buckets: &[f64], labels: Labels<'_>) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, &labels.concat())?)
    }
}

impl Metrics {
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

/// The metrics that every probe of an endpoint touches, found once.
#[derive(Clone, Debug)]
pub struct ProbeCounts {
    /// Probes that passed.
    pub passed: IntCounter,
    /// How long probes took.
    pub duration: Histogram,
}

impl ProbeCounts {
    /// Those of the endpoint `id`.
    pub fn of(metrics: &Metrics, id: &EndpointId) -> Self {
        let [upstream, pool, endpoint] = endpoint_labels(id);
        Self {
            passed: metrics
                .probes
                .with_label_values(&[upstream, pool, endpoint, "pass", ""]),
            duration: metrics.probe_duration.with_label_values(&[upstream, pool, endpoint]),
        }
    }
}
