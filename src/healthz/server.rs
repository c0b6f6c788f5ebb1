//! The server: it listens, answers, and says before it stops that it is about to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use prometheus::{Registry, TextEncoder};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::info;

use super::answer::Answer;
use super::check::Tools;
use super::rounds::{Figures, Rounds};
use super::{Kind, Settings};
use crate::clock::Clock;
use crate::gate::cidr::CidrSet;
use crate::tls::Authorities;

/// Why the service cannot start.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The address cannot be bound.
    #[error("cannot listen on {address} (set `listen`)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Two checks cannot be told apart.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// What answers look at.
#[derive(Clone, Debug)]
struct Desk {
    ready: Arc<Rounds>,
    live: Option<Arc<Rounds>>,
    internal: CidrSet,
    registry: Registry,
    clock: Clock,
    /// Until then `/livez` fails for nobody.
    grace: Instant,
}

/// A service that listens.
#[derive(Debug)]
pub struct Service {
    listener: TcpListener,
    authorities: Arc<Authorities>,
    desk: Desk,
    drain: Duration,
}

impl Service {
    /// Binds its address.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn bind(settings: Settings) -> Result<Self, ServiceError> {
        let address = settings.listen;
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| ServiceError::Listen { address, source })?;
        let registry = Registry::new_custom(Some("difygate".into()), None)?;
        let clock = Clock::start();
        let figures = Figures::new(&registry)?;
        let tools = Tools {
            clock,
            authorities: Arc::new(Authorities::default()),
            checksums: Arc::default(),
        };
        for check in &settings.checks {
            if let Kind::Files(needed) = &check.kind {
                needed.iter().for_each(|file| file.begin(&tools.checksums));
            }
        }
        let rounds = |checks| Arc::new(Rounds::new(checks, tools.clone(), figures.clone(), settings.cache));
        Ok(Self {
            listener,
            authorities: tools.authorities.clone(),
            drain: settings.drain,
            desk: Desk {
                ready: rounds(settings.checks),
                live: settings.live.map(|live| rounds(vec![live])),
                internal: settings.internal,
                registry,
                clock,
                grace: clock.now() + settings.startup_grace,
            },
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` is ready, says then for the drain time that the instance is about to stop, and ends.
    ///
    /// # Errors
    /// The listener fails.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let (ready, drain) = (self.desk.ready.clone(), self.drain);
        let mut following = JoinSet::new();
        following.spawn(self.authorities.follow());
        let routes = Router::new()
            .route("/healthz", get(readiness))
            .route("/readyz", get(readiness))
            .route("/livez", get(liveness))
            .route("/startupz", get(startup))
            .route("/metrics", get(metrics))
            .route("/drain", post(begin_drain).delete(end_drain))
            .with_state(self.desk);
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let stopped = async move {
            stop.await;
            ready.drain(true);
            info!(?drain, "stopping: the instance is about to stop");
            tokio::time::sleep(drain).await;
        };
        axum::serve(self.listener, service)
            .with_graceful_shutdown(stopped)
            .await
    }
}

impl Desk {
    fn is_internal(&self, peer: SocketAddr) -> bool {
        self.internal.contains(peer.ip().to_canonical())
    }

    fn write(&self, answer: Answer, peer: SocketAddr) -> Response {
        let body = if self.is_internal(peer) {
            answer.internal
        } else {
            answer.public
        };
        respond(answer.healthy, body)
    }
}

fn respond(well: bool, body: Bytes) -> Response {
    let status = if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}

async fn readiness(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    desk.write(desk.ready.answer().await, peer)
}

async fn liveness(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    let alive = Bytes::from_static(br#"{"status":"healthy","details":{}}"#);
    match &desk.live {
        Some(live) if desk.clock.now() >= desk.grace => desk.write(live.answer().await, peer),
        Some(_) | None => respond(true, alive),
    }
}

async fn startup(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    if desk.ready.has_passed() {
        return respond(true, Bytes::from_static(br#"{"status":"healthy","details":{}}"#));
    }
    desk.write(desk.ready.answer().await, peer)
}

async fn metrics(State(desk): State<Desk>) -> Response {
    // A scrape is a look at what is: without one, a service that nobody asks would tell of long ago.
    desk.ready.answer().await;
    match TextEncoder::new().encode_to_string(&desk.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn begin_drain(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    said(&desk, peer, true)
}

async fn end_drain(State(desk): State<Desk>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    said(&desk, peer, false)
}

fn said(desk: &Desk, peer: SocketAddr, draining: bool) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "say this from the instance itself\n").into_response();
    }
    info!(draining, "told to drain, or no longer");
    desk.ready.drain(draining);
    StatusCode::NO_CONTENT.into_response()
}
