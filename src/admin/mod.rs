//! The admin API, on a listener of its own and never on the edge.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a status page for people |
//! | `/livez` | 200 while the process runs |
//! | `/startupz` | 200 once every endpoint has been asked, or the gate serves |
//! | `/readyz` | 200 while the gate serves and something may serve behind it |
//! | `/metrics` | Prometheus's text format |
//! | `/api/v1/status` | upstreams, pools, endpoints |
//! | `/api/v1/endpoints/{address}` | why an endpoint is in its state, with its last probes |
//! | `/api/v1/config:check`, `/api/v1/config:diff` | POST a configuration: whether it is valid, and what it would change |
//! | `/api/v1/config:reload` | POST: load the file again |
//! | `/api/v1/overrides`, `/api/v1/overrides/{address}` | the operator's word on endpoints: GET, PUT, DELETE |
//! | `/api/v1/cutovers`, `/api/v1/cutovers/{name}` | where every deployment stands, where one stands |
//! | `/api/v1/cutovers/{name}:start` and so on | POST a verb: start, promote, pause, resume, abort, rollback, traffic |
//! | `/api/v1/cutovers/{name}/inflight` | what its pools still serve |
//! | `/api/v1/alerts` | POST, as Prometheus's Alertmanager does: alerts hold cutovers and take them back |
//! | `/api/v1/audit` | who changed what, the last entries |

mod config;
pub mod cutovers;
pub mod inflight;
pub mod overrides;
pub mod terms;
pub mod view;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use serde_json::json;
use tokio::sync::watch;

use crate::admin::view::{ConfigView, EndpointView, Explanation, GuardView, Status, UpstreamView};
use crate::audit::AuditLog;
use crate::clock::Clock;
use crate::cutover::Cutovers;
use crate::gate::alarm::Alarm;
use crate::gate::cutover;
use crate::gate::names::{Address, EndpointId, UpstreamName};
use crate::mailbox::{Acquaintance, Mailbox};
use crate::metrics::{Metrics, endpoint_labels};
use crate::reload::{Applied, Loader};
use crate::upstream::streams::{Kind, Silence};
use crate::upstream::{Roster, Upstream};

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It asks its endpoints for the first time.
    Starting = 0,
    /// It serves.
    Serving = 1,
    /// It serves what comes and wants no more.
    Leaving = 2,
}

/// The process's phase, shared.
#[derive(Debug, Default)]
pub struct Lifecycle(AtomicU8);

impl Lifecycle {
    /// Enters `phase`. There is no way back.
    pub fn enter(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Leaving,
        }
    }
}

/// What the API reads.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where the process is in its life.
    pub lifecycle: Arc<Lifecycle>,
    /// The driver.
    pub mailbox: Mailbox,
    /// Who asks for guarded paths.
    pub alarm: Arc<Mutex<Alarm>>,
    /// Who is watched.
    pub roster: watch::Receiver<Roster>,
    /// The configuration's file.
    pub config_path: String,
    /// All metrics.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
    /// The configuration that is in force.
    pub applied: watch::Receiver<Applied>,
    /// Who loads another one.
    pub loader: Loader,
    /// The way to whoever carries cutovers out.
    pub cutovers: Cutovers,
    /// Who changed what, where that is kept.
    pub audit: Option<AuditLog>,
    /// Whether another process is about to take over.
    pub handing_over: Arc<AtomicBool>,
}

/// The routes of the API.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/livez", get(|| async { Json(json!({"status": "alive"})) }))
        .route("/startupz", get(startupz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/endpoints/{address}", get(explain))
        .route("/api/v1/config:check", post(config::check))
        .route("/api/v1/config:diff", post(config::diff))
        .route("/api/v1/config:reload", post(config::reload))
        .route("/api/v1/overrides", get(overrides::list))
        .route(
            "/api/v1/overrides/{address}",
            put(overrides::put).delete(overrides::delete),
        )
        .route("/api/v1/cutovers", get(cutovers::list))
        .route("/api/v1/cutovers/{name}", get(cutovers::one).post(cutovers::order))
        .route("/api/v1/cutovers/{name}/inflight", get(inflight::list))
        .route("/api/v1/alerts", post(cutovers::alert))
        .route("/api/v1/audit", get(cutovers::audit))
        .fallback(|| async {
            refusal(
                StatusCode::NOT_FOUND,
                "there is nothing at this address; see /api/v1/status",
            )
        })
        .layer(middleware::from_fn(same_site))
        .with_state(admin)
}

fn refusal(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}

/// What is answered once the driver has stopped.
fn stopping() -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the gate is stopping")
}

/// Refuses what a page of another site sends through an operator's browser: a foreign name that resolves to this address (DNS
/// rebinding), or a request that the browser itself marks as coming from elsewhere.
async fn same_site(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !is_own_host(headers) {
        return refusal(
            StatusCode::MISDIRECTED_REQUEST,
            "ask for this API by an IP address or as localhost",
        );
    }
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return refusal(StatusCode::FORBIDDEN, "this API answers no other site");
    }
    let mut response = next.run(request).await;
    let policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'";
    if let Ok(policy) = policy.parse() {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn is_own_host(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

async fn startupz(State(admin): State<Admin>) -> Response {
    match admin.lifecycle.phase() {
        Phase::Starting => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "endpoints are asked for the first time",
        ),
        Phase::Serving | Phase::Leaving => Json(json!({"status": "started"})).into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let fit = admin
        .roster
        .borrow()
        .upstreams
        .iter()
        .any(|upstream| upstream.can_serve());
    match admin.lifecycle.phase() {
        Phase::Starting => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "endpoints are asked for the first time",
        ),
        Phase::Leaving => stopping(),
        Phase::Serving if !fit => refusal(StatusCode::SERVICE_UNAVAILABLE, "no endpoint is fit to serve"),
        Phase::Serving => Json(json!({"status": "ready"})).into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let Roster {
        upstreams, endpoints, ..
    } = admin.roster.borrow().clone();
    for endpoint in endpoints.iter() {
        let gauge = admin
            .metrics
            .in_flight
            .with_label_values(&endpoint_labels(&endpoint.id));
        gauge.set(endpoint.in_flight.get().into());
    }
    for upstream in upstreams.iter() {
        let queued = admin
            .metrics
            .queued
            .with_label_values(&[upstream.settings.name.as_str()]);
        queued.set(upstream.flow.queue.waiting().into());
        admin.count_streams(upstream);
    }
    match admin.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(e) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    match admin.mailbox.known().await {
        Some(known) => Json(admin.status(&known)).into_response(),
        None => stopping(),
    }
}

async fn explain(State(admin): State<Admin>, Path(address): Path<String>) -> Response {
    let Some(known) = admin.mailbox.known().await else {
        return stopping();
    };
    let asked = Address::parse(&address);
    let is_meant = |one: &&Acquaintance| asked.as_ref().is_ok_and(|asked| one.known.id.address.matches(asked));
    let found = known.iter().filter(is_meant);
    let silences = silences(&admin.roster.borrow().upstreams);
    let explained: Vec<Explanation> = found
        .map(|one| Explanation::of(&one.known, &one.endpoint, silence(&silences, one), &admin.clock))
        .collect();
    if explained.is_empty() {
        return refusal(
            StatusCode::NOT_FOUND,
            &format!("no endpoint has the address {address}; `difygate status` lists them"),
        );
    }
    Json(explained).into_response()
}

impl Admin {
    /// Sets the gauges of an upstream's streams, by pool and kind.
    fn count_streams(&self, upstream: &Upstream) {
        let (settings, metrics, now) = (&upstream.settings, &self.metrics, self.clock.now());
        let name = settings.name.as_str();
        let streams = upstream.flow.streams.list();
        let silences = silences_of(upstream);
        for pool in &settings.pools {
            let of_pool = || streams.iter().filter(|stream| stream.about.endpoint.pool == pool.name);
            for kind in [Kind::Sse, Kind::Websocket] {
                let count = of_pool().filter(|stream| stream.about.kind == kind).count();
                let labels = [name, pool.name.as_str(), kind.as_str()];
                let gauge = metrics.streams_under_way.with_label_values(&labels);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            let oldest = of_pool().map(|stream| stream.about.since).min();
            let age = oldest.map_or(0, |since| now.saturating_duration_since(since).as_secs());
            let gauge = metrics.oldest_stream.with_label_values(&[name, pool.name.as_str()]);
            gauge.set(i64::try_from(age).unwrap_or(i64::MAX));
            let silent = silences.iter().filter(|(id, _)| id.pool == pool.name);
            let (count, longest) = silent.fold((0, Duration::ZERO), |(count, longest), (_, silence)| {
                (count + silence.streams, longest.max(silence.longest))
            });
            let labels = [name, pool.name.as_str()];
            metrics.silent_streams.with_label_values(&labels).set(count.into());
            let gauge = metrics.longest_silence.with_label_values(&labels);
            gauge.set(i64::try_from(longest.as_secs()).unwrap_or(i64::MAX));
        }
    }

    fn status(&self, known: &[Acquaintance]) -> Status {
        let upstreams = self.roster.borrow().upstreams.clone();
        let standings = self.cutovers.standings().borrow().clone();
        let phase = |name: &UpstreamName| {
            let standing = standings
                .values()
                .find(|standing| standing.deployment.upstreams.contains(name));
            standing.map_or(cutover::Phase::Steady, |standing| standing.record.phase())
        };
        let upstreams = upstreams.iter();
        let upstreams = upstreams.map(|upstream| UpstreamView::of(upstream, phase(&upstream.settings.name)));
        let mut upstreams: Vec<UpstreamView> = upstreams.collect();
        let silences = silences(&self.roster.borrow().upstreams);
        for one in known {
            let Acquaintance { known, endpoint } = one;
            let upstream = upstreams
                .iter_mut()
                .find(|upstream| upstream.name == known.id.upstream.as_str());
            let pool = upstream.and_then(|upstream| {
                let shared = known.shared.iter().next().cloned();
                upstream.shared_failure = upstream.shared_failure.take().or(shared);
                upstream
                    .pools
                    .iter_mut()
                    .find(|pool| pool.name == known.id.pool.as_str())
            });
            if let Some(pool) = pool {
                let silence = silence(&silences, one);
                pool.endpoints
                    .push(EndpointView::of(known, endpoint, silence, &self.clock));
            }
        }
        let applied = self.applied.borrow().clone();
        let alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = GuardView::of(&alarm, &self.clock);
        drop(alarm);
        Status {
            guard,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.clock.uptime().as_secs(),
            config: ConfigView {
                path: self.config_path.clone(),
                generation: applied.generation,
                loaded_at: self.clock.tell(applied.at),
            },
            upstreams,
        }
    }
}

/// The silent event streams of each endpoint of an upstream, where silence is looked for.
fn silences_of(upstream: &Upstream) -> HashMap<EndpointId, Silence> {
    let least = upstream.settings.terms.outlier.stream_silence;
    if least.is_zero() {
        return HashMap::new();
    }
    upstream.flow.streams.silences(least)
}

fn silences(upstreams: &[Arc<Upstream>]) -> HashMap<EndpointId, Silence> {
    upstreams.iter().flat_map(|upstream| silences_of(upstream)).collect()
}

fn silence(silences: &HashMap<EndpointId, Silence>, one: &Acquaintance) -> Silence {
    silences.get(&one.known.id).copied().unwrap_or_default()
}
