//! The file as it is written: types without logic, from which the JSON Schema is made. What a key means stands in `parse`.

use std::num::NonZeroU32;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::scalars::{Cidr, Method, Size, Socket, Statuses, Time, UrlPath};

pub(super) mod cutover;
pub(super) mod healthz;
pub(super) mod listener;
pub(super) mod pool;
pub(super) mod probe;
pub(super) mod tls;

pub(super) use listener::{ClientLimits, Http2, Listener, ProxyProtocol, Rate};
pub(super) use pool::{Dns, DnsTerms, Pool, PoolEndpoint};
pub(super) use probe::{Expect, Fall, Live, Preset, Probe};
pub(super) use tls::{ClientTls, Tls};

/// The configuration of difygate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "difygate")]
pub(super) struct Raw {
    /// The process.
    pub(super) server: Option<Server>,
    /// The admin API.
    pub(super) admin: Option<Admin>,
    /// What is logged.
    pub(super) log: Option<Log>,
    /// Where clients connect.
    pub(super) listeners: Vec<Listener>,
    /// Networks whose X-Forwarded-For or Forwarded header is believed. Default: none.
    pub(super) trusted_proxies: Option<Vec<Cidr>>,
    /// Who may ask for probe paths and diagnostics.
    pub(super) probe_guard: Option<ProbeGuard>,
    /// Services behind the gate, by name.
    pub(super) upstreams: IndexMap<String, Upstream>,
    /// Upstreams that move together, by name. Default: each moves alone.
    pub(super) deployments: Option<IndexMap<String, cutover::Deployment>>,
    /// What goes where; the longest path wins. Default: everything to the only upstream.
    pub(super) routes: Option<Vec<Route>>,
    /// How users are moved from one pool to another.
    pub(super) cutover: Option<cutover::Cutover>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    /// Threads that proxy. Default: 0, one a core.
    pub(super) threads: Option<u16>,
    /// How long requests may go on after a stop signal. Default: 1260s, a minute more than Dify's longest workflow.
    pub(super) drain_timeout: Option<Time>,
    /// How long the gate goes on accepting after a stop signal, while it says that it is not ready. Default: 10s.
    pub(super) lame_duck: Option<Time>,
    /// A folder for what is to outlive the process, the operators' overrides; off: nothing is. Default: ./state.
    pub(super) state_dir: Option<String>,
    /// Where a new process asks this one to hand over (`difygate run --upgrade`); a path in a folder of the gate's own. Default: nowhere.
    pub(super) upgrade_socket: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// Where the admin API listens; a loopback address. Default: 127.0.0.1:9900.
    pub(super) address: Option<Socket>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    /// The least severe level that is written. Default: info.
    pub(super) level: Option<Level>,
    /// Default: json.
    pub(super) format: Option<Format>,
    /// Where access lines go: stdout, off, or a file's path. Default: stdout.
    pub(super) access: Option<String>,
    /// The share of access lines that is written; refusals and failures always are. Default: 1.0.
    pub(super) sample: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Json,
    Text,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProbeGuard {
    /// Guarded paths, each with everything below it. Default: probe paths and Dify's diagnostics; every configured probe path is added.
    pub(super) paths: Option<Vec<UrlPath>>,
    /// Who may ask for them: networks, addresses, or loopback, private, link_local, cgnat. Default: loopback and private.
    pub(super) allow: Option<Vec<Cidr>>,
    /// What others get: 404 hides that there is anything, 403 says so. Default: 404.
    pub(super) deny_status: Option<u16>,
    /// What internal clients get: the gate's own summary, or the endpoint's answer. Default: summary.
    pub(super) answer: Option<Answer>,
    /// When requests for guarded paths are abnormally frequent.
    pub(super) alarm: Option<Alarm>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    Summary,
    Forward,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Alarm {
    /// The time over which requests are counted. Default: 10s.
    pub(super) window: Option<Time>,
    /// The most requests of one client within it that are normal. Default: 50.
    pub(super) requests: Option<NonZeroU32>,
    /// The most requests of all clients together within it that are normal. Default: ten times `requests`.
    pub(super) total: Option<NonZeroU32>,
    /// How long a client is refused after it was last over that rate. Default: 0s, which only reports it.
    pub(super) block: Option<Time>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    /// The pool that takes traffic. Default: the first.
    pub(super) active: Option<String>,
    /// How an endpoint is chosen. Default: least_request.
    pub(super) balance: Option<Balance>,
    /// What endpoints are asked.
    pub(super) probe: Option<Probe>,
    /// Several named probes, all of which must pass; instead of `probe`.
    pub(super) probes: Option<IndexMap<String, Probe>>,
    /// Whether endpoints live, and who is asked to restart those that do not. Default: nobody asks.
    pub(super) live: Option<Live>,
    /// What becomes of an endpoint whose probe names a component as failed, by component.
    pub(super) components: Option<IndexMap<String, Component>>,
    /// What live traffic may do to an endpoint.
    pub(super) outlier: Option<Outlier>,
    /// How an endpoint comes back.
    pub(super) slow_start: Option<SlowStart>,
    /// When an endpoint comes and goes too often.
    pub(super) flapping: Option<Flapping>,
    /// Whether to serve when no endpoint is fit to. Default: auto.
    pub(super) all_down: Option<AllDown>,
    /// Pools that serve, the first one first, while the active one has no endpoint that may. Default: none.
    pub(super) fallback: Option<Vec<String>>,
    /// How much an endpoint takes on, and who waits.
    pub(super) limits: Option<Limits>,
    /// What may be sent again after a failure.
    pub(super) retry: Option<Retry>,
    /// TLS to its endpoints: true, or its terms. Default: false.
    pub(super) tls: Option<ClientTls>,
    /// Whether they are spoken to in HTTP/2, over TLS where they agree. Default: false.
    pub(super) http2: Option<bool>,
    /// How long the gate waits.
    pub(super) timeouts: Option<Timeouts>,
    /// Its pools, by name.
    pub(super) pools: IndexMap<String, Pool>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Balance {
    Word(BalanceWord),
    Hash(BalanceHash),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum BalanceWord {
    LeastRequest,
    RoundRobin,
    Ewma,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BalanceHash {
    /// The same endpoint for the same key: `client`, `{header: NAME}` or `{cookie: NAME}`.
    pub(super) hash: HashKey,
    /// The most that one endpoint takes before its keys go elsewhere, in percent of the mean. Default: no bound, a key stays where it is.
    pub(super) bound: Option<u32>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum HashKey {
    Word(HashWord),
    Of(HashOf),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum HashWord {
    Client,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HashOf {
    /// The header whose value is the key.
    pub(super) header: Option<String>,
    /// The cookie whose value is the key.
    pub(super) cookie: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Requests under way on one endpoint, streams included. Default: 0, no limit.
    pub(super) in_flight: Option<u32>,
    /// Requests that may wait for an endpoint to have room. Default: 100.
    pub(super) queue: Option<u32>,
    /// How long each may wait; then it is refused with 503. Default: 1s.
    pub(super) queue_timeout: Option<Time>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Outlier {
    /// Whether failed requests take an endpoint out. Default: true.
    pub(super) eject: Option<bool>,
    /// How long it is held back the first time. Default: 10s.
    pub(super) hold: Option<Time>,
    /// How long at the most; each hold is twice the last. Default: 60s.
    pub(super) longest_hold: Option<Time>,
    /// The most of a pool that is held back, in percent; one may always be, and never the last one. Default: 34.
    #[schemars(range(min = 1, max = 100))]
    pub(super) at_most: Option<u32>,
    /// Statuses that count as failures. Default: "502-504".
    pub(super) statuses: Option<Statuses>,
    /// An event stream that is silent for so long has its endpoint probed at once, and is shown as silent. Default: 35s, for Dify pings every 10; 0s for never.
    pub(super) stream_silence: Option<Time>,
    /// Whether who answers much later than the others loses weight and is then held back. Default: no.
    pub(super) latency: Option<Latency>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Latency {
    /// Slow is who takes so many times as long to the first byte as the others' median. Default: 4.
    #[schemars(range(min = 2, max = 100))]
    pub(super) factor: Option<f32>,
    /// Who is slow for so long is held back. Default: 30s.
    pub(super) eject_after: Option<Time>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SlowStart {
    /// How long an endpoint that comes back takes to its whole share. Default: 30s; 0s for at once.
    pub(super) window: Option<Time>,
    /// The share that it begins with, in percent. Default: 10.
    #[schemars(range(min = 1, max = 100))]
    pub(super) floor: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Flapping {
    /// So many changes between serving and down are too many. Default: 4; 0 turns it off.
    pub(super) changes: Option<u16>,
    /// Within this time. Default: 300s.
    pub(super) within: Option<Time>,
    /// How long the endpoint stays down then, while others serve. Default: 60s.
    pub(super) hold: Option<Time>,
    /// Passes in a row that take it back afterwards. Default: 5.
    pub(super) rise: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Component {
    /// Default: eject.
    pub(super) on_failure: Option<OnFailure>,
    /// Whether all endpoints depend on the same one, so that its failure on most of them is one failure. Default: false.
    pub(super) shared: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnFailure {
    Eject,
    Degrade,
    Ignore,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AllDown {
    Auto,
    Closed,
    Open,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    /// Further attempts after the first. Default: 1; 0 turns retries off.
    pub(super) attempts: Option<u16>,
    /// Retries under way, as a share of the requests under way, in percent. Default: 20.
    pub(super) budget_percent: Option<u16>,
    /// Retries that may be under way whatever the share says. Default: 3.
    pub(super) budget_min: Option<u32>,
    /// Paths under which every method has effects, so that nothing is ever sent twice. Default: /triggers, /e/.
    pub(super) unsafe_paths: Option<Vec<UrlPath>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    /// To a connection. Default: 2s.
    pub(super) connect: Option<Time>,
    /// To the first byte of the answer. Default: 300s.
    pub(super) first_byte: Option<Time>,
    /// Between two bytes of the answer. Default: 3600s, as Dify's nginx.
    pub(super) idle: Option<Time>,
    /// How long an idle connection is kept. Default: 1s, for Dify closes after 2.
    pub(super) pool_idle: Option<Time>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Hosts that it is for; *.example.com is everything below it. Default: every host.
    pub(super) hosts: Option<Vec<String>>,
    /// The beginning of the path, byte by byte as in nginx. Default: /.
    pub(super) path: Option<UrlPath>,
    /// Whether the path must be this one rather than begin with it. Default: false.
    pub(super) exact: Option<bool>,
    /// The upstream that its requests go to; or `redirect`, or `answer`.
    pub(super) upstream: Option<String>,
    /// Where its requests are sent instead.
    pub(super) redirect: Option<Redirect>,
    /// What its requests are answered, by the gate itself.
    pub(super) answer: Option<FixedAnswer>,
    /// Whether the prefix is cut off before a request goes on; X-Forwarded-Prefix tells it. Default: false.
    pub(super) strip_prefix: Option<bool>,
    /// Headers that are set or removed on the way.
    pub(super) headers: Option<RouteHeaders>,
    /// How careful its requests make the gate, whatever their method says. Default: by method and `retry.unsafe_paths`.
    pub(super) retry: Option<RouteRetry>,
    /// Waits that differ from the upstream's.
    pub(super) timeouts: Option<Timeouts>,
    /// The largest request body. Default: the listener's.
    pub(super) body_limit: Option<Size>,
    /// How often each client may ask for it. Default: no limit but the listener's.
    pub(super) client_rate: Option<Rate>,
    /// Which pages of other origins may read its answers; the gate answers their questions and replaces what the endpoint says. Default: what the
    /// endpoint says.
    pub(super) cors: Option<RouteCors>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteCors {
    /// Origins such as https://app.example.com or https://*.example.com, or "*".
    pub(super) origins: Vec<String>,
    /// Whether their pages may use the visitor's cookies. Default: false.
    pub(super) credentials: Option<bool>,
    /// Default: GET, HEAD, POST, PUT, PATCH and DELETE.
    pub(super) methods: Option<Vec<Method>>,
    /// Request headers that pages may send. Default: what they ask for.
    pub(super) headers: Option<Vec<String>>,
    /// Headers of answers that pages may read. Default: X-Request-Id, X-Version, X-Env and X-Trace-Id.
    pub(super) expose: Option<Vec<String>>,
    /// For how long browsers may keep the answer to their question. Default: 10m.
    pub(super) max_age: Option<Time>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Redirect {
    /// The URL; {scheme}, {host}, {path}, {uri} and {client} are put in.
    pub(super) to: String,
    /// 301, 302, 303, 307 or 308. Default: 308, which keeps the method.
    pub(super) status: Option<u16>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FixedAnswer {
    /// Default: 200.
    pub(super) status: Option<u16>,
    /// Default: text/plain; charset=utf-8.
    pub(super) content_type: Option<String>,
    /// Default: empty.
    pub(super) body: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteHeaders {
    /// Of requests, before they go to an endpoint.
    pub(super) request: Option<HeaderEdits>,
    /// Of answers, before they go to the client.
    pub(super) response: Option<HeaderEdits>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderEdits {
    /// Set, whatever was there; {scheme}, {host}, {path}, {uri} and {client} are put in.
    pub(super) set: Option<IndexMap<String, String>>,
    /// Removed.
    pub(super) remove: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RouteRetry {
    Idempotent,
    Effects,
    Unsafe,
}
