//! Listeners: they bind first, or the process ends with an error that names the address; they accept, count and limit, and hand each
//! connection to the proxy.

pub(crate) mod conn;
pub(crate) mod crowd;
mod farewell;
pub(crate) mod frames;
pub mod framing;
mod http2;
mod preface;
pub(crate) mod proxied;
pub mod tls;
mod trailers;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pingora::apps::ServerApp;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use prometheus::{IntCounter, IntCounterVec, IntGauge};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::warn;

use crate::clock::Coarse;
use crate::config::{ListenerSettings, ProxyProtocol};
use crate::edge::conn::Conn;
pub(crate) use crate::edge::conn::moved::RESTING;
use crate::edge::crowd::{Crowd, Place, Refusal};
use crate::edge::http2::Http2;
use crate::edge::preface::Opening;
use crate::edge::tls::{Terminator, TlsError};
use crate::gate::cidr::CidrSet;
use crate::log;
use crate::metrics::Metrics;
use crate::wire::Wire;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Connections that are turned away are told of once in so many milliseconds.
const SPARSE: u64 = 10_000;

/// What every connection of one listener shares.
#[derive(Debug)]
pub(crate) struct Door {
    /// The address, as logs and metrics name it.
    pub(crate) name: String,
    pub(crate) settings: ListenerSettings,
    pub(crate) connections: IntGauge,
    /// What speaks TLS, where the listener does.
    tls: Option<Arc<Terminator>>,
    /// Handshakes that came to nothing.
    handshakes_failed: IntCounter,
    /// HTTP/2 connections that were given up, by code.
    given_up: IntCounterVec,
    /// What limits kept from going on.
    limited: IntCounterVec,
    /// Connections that were turned away.
    refused: IntCounterVec,
    /// When it was told last, in milliseconds of the coarse clock.
    told: AtomicU64,
    /// Whether clients are asked to come back by another connection.
    leaving: AtomicBool,
}

impl Door {
    /// Whether clients come within TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// From now on answers ask clients to come back by another connection.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether answers are to do so.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Counts what a limit keeps from going on.
    pub(crate) fn limit(&self, limit: &str) {
        self.limited.with_label_values(&[self.name.as_str(), limit]).inc();
    }

    /// Counts an HTTP/2 connection that is given up for what its client did.
    fn give_up(&self, code: &str) {
        self.given_up.with_label_values(&[self.name.as_str(), code]).inc();
    }

    /// Counts a connection that is turned away, and tells of it now and then: a flood of them must not become one of lines.
    fn refuse(&self, client: IpAddr, refusal: Refusal) {
        let limit = refusal.as_str();
        self.refused.with_label_values(&[self.name.as_str(), limit]).inc();
        let now = Coarse::get().millis();
        let told = self.told.load(Ordering::Relaxed);
        let first = told == 0 || now >= told + SPARSE;
        if first
            && self
                .told
                .compare_exchange(told, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            warn!(listener = self.name, %client, limit, "connections are turned away");
        }
    }
}

/// Why there is no listener.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address is in use or not this machine's.
    #[error(transparent)]
    Address(#[from] io::Error),
    /// Its TLS cannot be set up.
    #[error("`tls` cannot be used")]
    Tls(#[from] TlsError),
}

/// How a listener comes to its end.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// It accepts nothing more.
    pub(crate) shut: ShutdownWatch,
    /// Another process accepts: connections of HTTP/1.1 end once they have rested for [`RESTING`].
    pub(crate) moved: ShutdownWatch,
    /// Connections of HTTP/1.1 that wait for their next request end; one that is on its way may be lost.
    pub(crate) end: ShutdownWatch,
    /// Connections of HTTP/2 end once no request is under way there. From the time that the listener is left each does so at the end of an answer.
    pub(crate) close: ShutdownWatch,
    /// Connections of HTTP/2 take no more requests, whatever is under way there: clients are told by GOAWAY (RFC 9113 section 6.8), and some of them
    /// give up what is under way.
    pub(crate) late: ShutdownWatch,
}

/// Room for one connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _own: Option<OwnedSemaphorePermit>,
    place: Place,
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    door: Arc<Door>,
    room: Option<Arc<Semaphore>>,
    crowd: Crowd,
    /// Who may say whom a connection is from.
    trusted: CidrSet,
    metrics: Metrics,
}

impl Listener {
    /// Binds the address of `settings`, unless a process before this one left its socket. Clients that connect wait from now on; they are
    /// served once [`Listener::serve`] runs.
    ///
    /// # Errors
    /// The address cannot be had, or a certificate cannot be used.
    pub(crate) fn bind(
        settings: ListenerSettings,
        crowd: Crowd,
        trusted: CidrSet,
        metrics: &Metrics,
        left: Option<std::net::TcpListener>,
    ) -> Result<Self, ListenError> {
        let tls = settings
            .tls
            .clone()
            .map(|tls| Terminator::new(tls, settings.http2))
            .transpose()?;
        let listener = match left {
            Some(left) => {
                left.set_nonblocking(true)?;
                TcpListener::from_std(left)?
            }
            None => listen(settings.address)?,
        };
        let address = listener.local_addr()?;
        let name = address.to_string();
        let limit = settings.max_connections;
        Ok(Self {
            door: Arc::new(Door {
                connections: metrics.connections_open.with_label_values(&[&name]),
                handshakes_failed: metrics.handshakes_failed.with_label_values(&[&name]),
                given_up: metrics.http2_errors.clone(),
                limited: metrics.limited.clone(),
                refused: metrics.connections_refused.clone(),
                told: AtomicU64::new(0),
                leaving: AtomicBool::new(false),
                name,
                settings,
                tls: tls.map(Arc::new),
            }),
            room: (limit > 0).then(|| Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)))),
            crowd,
            trusted,
            metrics: metrics.clone(),
            listener,
        })
    }

    /// The address that it is bound to; the port is the real one even where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Its socket once more, for a process after this one. While that is kept the address stays taken.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// What its connections share.
    pub(crate) fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// Accepts until `ending` says so, each connection on a task of its own.
    pub(crate) async fn serve<A: ServerApp + Send + Sync + 'static>(self, app: Arc<A>, ending: Ending) {
        let mut stop = ending.shut.clone();
        let mut following = JoinSet::new();
        if let Some(tls) = self.door.tls.clone() {
            following.spawn(tls.follow(self.door.name.clone(), self.metrics.clone()));
        }
        loop {
            let accepted = tokio::select! {
                biased;
                // First, so that what comes after it is left to the process that takes over.
                _ = stop.wait_for(|stopping| *stopping) => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.welcome(stream, peer, &app, &ending),
                Err(e) => self.turn_away(&e).await,
            }
        }
    }

    fn welcome<A: ServerApp + Send + Sync + 'static>(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        app: &Arc<A>,
        ending: &Ending,
    ) {
        let mut permit = match self.permit() {
            Ok(permit) => permit,
            Err(refusal) => return self.door.refuse(peer.ip(), refusal),
        };
        let (proxied, trusted) = (
            self.door.settings.proxy_protocol != ProxyProtocol::Off,
            self.trusted.clone(),
        );
        let believed = !proxied || trusted.contains(peer.ip());
        if !believed {
            self.metrics
                .proxy_header_refused
                .with_label_values(&[&self.door.name])
                .inc();
            return;
        }
        // Without it small answers wait for an acknowledgement; a socket that cannot have it is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let (door, refused) = (self.door.clone(), self.metrics.proxy_header_refused.clone());
        let (app, ending) = (app.clone(), ending.clone());
        tokio::spawn(async move {
            let Ok(peer) = real_peer(&mut stream, peer, &door).await else {
                return refused.with_label_values(&[&door.name]).inc();
            };
            // Behind a proxy that is trusted there are many.
            if !trusted.contains(peer.ip())
                && let Err(refusal) = permit.place.count(peer.ip(), door.settings.limits.client_connections)
            {
                return door.refuse(peer.ip(), refusal);
            }
            let Some(mut wire) = handshake(stream, &door).await else {
                return door.handshakes_failed.inc();
            };
            let Some(opening) = opening(&mut wire, &door).await else {
                return door.limit("header_timeout");
            };
            let is_http2 = opening.is_http2;
            let told = (door.clone(), ending.moved.clone());
            let conn = Conn::new(wire, opening, peer, told, permit);
            let (stream, shutdown): (Stream, ShutdownWatch) = if is_http2 {
                let (conn, refuses) = Http2::over(conn, door, &ending);
                (Box::new(conn), refuses)
            } else {
                (Box::new(conn), ending.end)
            };
            log::on_behalf_of(peer.ip(), async {
                let mut next = app.process_new(stream, &shutdown).await;
                while let Some(stream) = next {
                    next = app.process_new(stream, &shutdown).await;
                }
            })
            .await;
        });
    }

    /// Room for one more connection, here and in the process.
    fn permit(&self) -> Result<Permit, Refusal> {
        let own = match &self.room {
            None => None,
            Some(room) => Some(room.clone().try_acquire_owned().map_err(|_| Refusal::Room)?),
        };
        Ok(Permit {
            _own: own,
            place: self.crowd.join()?,
        })
    }

    /// A client that gave up is no trouble; without descriptors a pause lets some be closed.
    async fn turn_away(&self, e: &io::Error) {
        let gone = [
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::Interrupted,
        ];
        if !gone.contains(&e.kind()) {
            warn!(listener = self.door.name, error = %e, "no connection can be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The connection within TLS, if the listener speaks it. A client has as long for its handshake as for its headers.
async fn handshake(stream: TcpStream, door: &Door) -> Option<Wire> {
    let Some(tls) = &door.tls else {
        return Some(Wire::Clear(stream));
    };
    let shaken = tokio::time::timeout(door.settings.header_timeout, tls.accept(stream)).await;
    Some(Wire::Tls(Box::new(shaken.ok()?.ok()?.into())))
}

/// What a client speaks: what it has agreed on within TLS, or what its first bytes tell where it may speak HTTP/2 in the clear. None for one that
/// says nothing.
async fn opening(wire: &mut Wire, door: &Door) -> Option<Opening> {
    if !door.settings.http2_in_clear {
        return Some(Opening {
            is_http2: matches!(wire.protocol(), Some(ALPN::H2)),
            ..Opening::default()
        });
    }
    preface::read(wire, door.settings.header_timeout).await.ok()
}

/// Whom a connection is from: the socket's peer, or whom a PROXY header names.
async fn real_peer(stream: &mut TcpStream, peer: SocketAddr, door: &Door) -> io::Result<SocketAddr> {
    let settings = &door.settings;
    if settings.proxy_protocol == ProxyProtocol::Off {
        return Ok(peer);
    }
    let told = proxied::source(stream, settings.proxy_protocol, settings.header_timeout).await?;
    Ok(told.unwrap_or(peer))
}
