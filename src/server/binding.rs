//! What a gate must have before it does anything: its addresses and files. Sockets of a process before this one are taken over.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use thiserror::Error;
use tokio::net::TcpListener;

use crate::config::{Config, Mistrust};
use crate::edge::crowd::Crowd;
use crate::edge::tls::TlsError;
use crate::edge::{ListenError, Listener};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use crate::upgrade::{Predecessor, Sockets, UpgradeError, UpgradeSocket};

use super::remembering;
use super::threads::Threads;

/// Why the gate cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listener's address cannot be bound.
    #[error("cannot listen on {address} (is another process using it?)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A listener cannot speak TLS.
    #[error("cannot speak TLS on {address}")]
    Tls {
        /// The listener's address.
        address: SocketAddr,
        /// Which file, and what is wrong with it.
        source: Box<TlsError>,
    },
    /// TLS cannot be spoken to an upstream.
    #[error(transparent)]
    Trust(#[from] Mistrust),
    /// The admin API's address cannot be bound.
    #[error("cannot listen on {address} for the admin API (set `admin.address`)")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The access log cannot be written.
    #[error("cannot write the access log {path} (set `log.access`)")]
    AccessLog {
        /// Its file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// What is to outlive the process cannot be kept.
    #[error("`server.state_dir`: {0}")]
    State(StoreError),
    /// What is kept of a cutover cannot be used.
    #[error("`server.state_dir`: {0}")]
    Cutover(String),
    /// Nobody could take over from this process.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// There is no key to sign cookies with.
    #[error("cannot make a key")]
    Key(io::Error),
    /// No thread can be started.
    #[error("cannot start threads")]
    Threads(#[from] io::Error),
    /// Two metrics share a name.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// What a gate holds before it does anything.
pub(super) struct Bound {
    pub(super) listeners: Vec<Listener>,
    pub(super) admin: TcpListener,
    /// All of these once more, for whoever takes over.
    pub(super) sockets: Sockets,
    /// Where that process asks; that of the process before this one is left to it until it is relieved.
    pub(super) upgrades: Option<UpgradeSocket>,
    pub(super) store: Option<Store>,
}

impl Bound {
    /// Binds all that `config` names, on the runtimes that will serve it.
    pub(super) fn by(
        config: &Config,
        metrics: &Metrics,
        [edge, control]: [&Threads; 2],
        mut predecessor: Option<&mut Predecessor>,
    ) -> Result<Self, StartError> {
        let mut none = Sockets::default();
        let upgrade_socket = config.server.upgrade_socket.as_deref();
        let own_upgrades = upgrade_socket.filter(|_| predecessor.is_none());
        let left = predecessor
            .as_mut()
            .map_or(&mut none, |predecessor| predecessor.sockets());
        let listeners = edge.within(|| bind(config, metrics, left))?;
        let admin = control.within(|| bind_admin(config.admin, left))?;
        Ok(Self {
            sockets: sockets(config, &listeners, &admin)?,
            upgrades: control.within(|| own_upgrades.map(UpgradeSocket::bind).transpose())?,
            store: remembering::store(config.server.state_dir.as_ref())?,
            listeners,
            admin,
        })
    }
}

/// The sockets of a gate once more, for whoever takes over; none where nobody can.
fn sockets(config: &Config, listeners: &[Listener], admin: &TcpListener) -> io::Result<Sockets> {
    let mut sockets = Sockets::default();
    if config.server.upgrade_socket.is_some() {
        for (settings, listener) in config.listeners.iter().zip(listeners) {
            sockets.push(settings.address, listener.socket()?);
        }
        sockets.push(config.admin, admin.as_fd().try_clone_to_owned()?);
    }
    Ok(sockets)
}

fn bind(config: &Config, metrics: &Metrics, left: &mut Sockets) -> Result<Vec<Listener>, StartError> {
    let pools = config.upstreams.iter().flat_map(|upstream| &upstream.pools);
    let crowd = Crowd::before(pools.map(|pool| pool.endpoints.len()).sum());
    let listeners = config.listeners.iter().map(|settings| {
        let address = settings.address;
        let trusted = config.trusted_proxies.clone();
        let left = left.take(address);
        let bound = Listener::bind(settings.clone(), crowd.clone(), trusted, metrics, left);
        bound.map_err(|e| match e {
            ListenError::Address(source) => StartError::Listen { address, source },
            ListenError::Tls(source) => StartError::Tls {
                address,
                source: Box::new(source),
            },
        })
    });
    listeners.collect()
}

fn bind_admin(address: SocketAddr, left: &mut Sockets) -> Result<TcpListener, StartError> {
    let mut bind = || {
        let listener = match left.take(address) {
            Some(left) => left,
            None => std::net::TcpListener::bind(address)?,
        };
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|source| StartError::Admin { address, source })
}
