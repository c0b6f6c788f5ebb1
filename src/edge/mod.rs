//! Listeners: they bind first, or the process ends with an error that names the address; they accept, count and limit, and hand each
//! connection to the proxy.

pub(crate) mod conn;
pub(crate) mod crowd;
mod proxied;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use pingora::apps::ServerApp;
use pingora::server::ShutdownWatch;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::config::{ListenerSettings, ProxyProtocol};
use crate::edge::conn::Conn;
use crate::edge::crowd::Crowd;
use crate::gate::cidr::CidrSet;
use crate::metrics::Metrics;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// What every connection of one listener shares.
#[derive(Debug)]
pub(crate) struct Door {
    /// The address, as logs and metrics name it.
    pub(crate) name: String,
    /// The port, as the upstream is told it.
    pub(crate) port: HeaderValue,
    pub(crate) settings: ListenerSettings,
    pub(crate) connections: IntGauge,
}

/// Room for one connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _own: Option<OwnedSemaphorePermit>,
    _crowd: OwnedSemaphorePermit,
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
    /// Binds the address of `settings`. Clients that connect wait from now on; they are served once [`Listener::serve`] runs.
    ///
    /// # Errors
    /// The address is in use or not this machine's.
    pub(crate) fn bind(
        settings: ListenerSettings,
        crowd: Crowd,
        trusted: CidrSet,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let socket = match settings.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(settings.address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let name = address.to_string();
        let limit = settings.max_connections;
        Ok(Self {
            door: Arc::new(Door {
                connections: metrics.connections_open.with_label_values(&[&name]),
                port: address.port().into(),
                name,
                settings,
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

    /// Accepts until `shutdown` says so, each connection on a task of its own.
    pub async fn serve<A: ServerApp + Send + Sync + 'static>(self, app: Arc<A>, shutdown: ShutdownWatch) {
        let mut stop = shutdown.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|stopping| *stopping) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.welcome(stream, peer, &app, &shutdown),
                Err(e) => self.turn_away(&e).await,
            }
        }
    }

    fn welcome<A: ServerApp + Send + Sync + 'static>(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        app: &Arc<A>,
        shutdown: &ShutdownWatch,
    ) {
        let Some(permit) = self.permit() else {
            self.metrics
                .connections_refused
                .with_label_values(&[&self.door.name])
                .inc();
            return;
        };
        let believed = self.door.settings.proxy_protocol == ProxyProtocol::Off || self.trusted.contains(peer.ip());
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
        let (app, shutdown) = (app.clone(), shutdown.clone());
        tokio::spawn(async move {
            let Ok(peer) = real_peer(&mut stream, peer, &door).await else {
                return refused.with_label_values(&[&door.name]).inc();
            };
            let conn = Conn::new(stream, peer, door, permit);
            let mut next = app.process_new(Box::new(conn), &shutdown).await;
            while let Some(stream) = next {
                next = app.process_new(stream, &shutdown).await;
            }
        });
    }

    /// Room for one more connection, here and in the process.
    fn permit(&self) -> Option<Permit> {
        let own = match &self.room {
            None => None,
            Some(room) => Some(room.clone().try_acquire_owned().ok()?),
        };
        Some(Permit {
            _own: own,
            _crowd: self.crowd.join()?,
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

/// Whom a connection is from: the socket's peer, or whom a PROXY header names.
async fn real_peer(stream: &mut TcpStream, peer: SocketAddr, door: &Door) -> io::Result<SocketAddr> {
    let settings = &door.settings;
    if settings.proxy_protocol == ProxyProtocol::Off {
        return Ok(peer);
    }
    let told = proxied::source(stream, settings.proxy_protocol, settings.header_timeout).await?;
    Ok(told.unwrap_or(peer))
}
