//! A new process takes over from an old one: it is given the listening sockets and all that is known of the endpoints, serves, says so, and the
//! old one lets what it still carries come to its end. No connection is refused and no verdict is forgotten. The way is that of Envoy's hot
//! restart, over a socket of the gate's own user.
//!
//! | old process | new process |
//! |---|---|
//! | | connects to `server.upgrade_socket` |
//! | offers what it knows of its endpoints, the listening sockets beside it | starts, and serves |
//! | goes on serving | sends one byte |
//! | accepts nothing more | |
//! | tells how many requests it still serves, until it ends | counts them as its own |
//! | does the same | tells what operators order: where requests go, who is in maintenance, what is cut |

mod memory;
mod orders;
mod socket;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::gate::keeper::Memory;
use crate::gate::names::EndpointId;
use memory::Told;
pub(crate) use memory::Who;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use memory::retell;
pub use orders::{Cut, Orders};

/// What is spoken; another format is another number.
const FORMAT: u32 = 1;

/// A process that has been asked to hand over answers within this time.
const ANSWERS: Duration = Duration::from_secs(10);

/// A process that has been handed everything serves within this time, or nothing has happened.
const SERVES: Duration = Duration::from_secs(60);

/// Why nothing can be handed over.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// The socket cannot be had.
    #[error("cannot listen on {} (set `server.upgrade_socket`)", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Everybody may write to the socket's folder, and could put another one there.
    #[error("`server.upgrade_socket` is {}, and everybody may write to {}; use a folder of the gate's own", path.display(), folder.display())]
    Shared {
        /// The socket's path.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// Another process answers there already.
    #[error("a gate answers at {} already; `difygate run --upgrade` takes over from it", path.display())]
    Taken {
        /// The socket's path.
        path: PathBuf,
    },
    /// The other process is of another user.
    #[error("the other process is of another user, {user}")]
    Stranger {
        /// Its number.
        user: u32,
    },
    /// The other process hands over in another way.
    #[error("the gate that runs is of version {version} and hands over in another way; stop it and start this one")]
    Format {
        /// The version of the gate that runs.
        version: String,
    },
    /// More listeners than can be handed over.
    #[error("{count} listeners are more than can be handed over")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// What came is not what was agreed.
    #[error("what the other process sent cannot be read: {0}")]
    Malformed(&'static str),
    /// The other process says nothing.
    #[error("the other process is silent")]
    Silent,
    /// The other process went away.
    #[error("the other process has gone")]
    Gone,
    /// The connection broke.
    #[error("the connection to the other process broke")]
    Broken(#[from] io::Error),
}

/// What the old process offers.
#[derive(Debug, Deserialize, Serialize)]
struct Offer {
    format: u32,
    version: String,
    pid: u32,
    /// The addresses of the sockets beside it, as its configuration has them; the last one is the admin API's.
    sockets: Vec<SocketAddr>,
    #[serde(default)]
    endpoints: Vec<Told>,
    /// Whether it does what operators order in the new process.
    #[serde(default)]
    hears_orders: bool,
}

/// An endpoint, and how many requests a process still serves there.
#[derive(Debug, Deserialize, Serialize)]
struct Count {
    who: Who,
    in_flight: u32,
}

/// Where new processes ask.
#[derive(Debug)]
pub struct UpgradeSocket(UnixListener);

impl UpgradeSocket {
    /// Binds it, in the place of one that a process left behind.
    ///
    /// # Errors
    /// Another process answers there, its folder is not there or everybody's, or it cannot be bound.
    pub fn bind(path: &Path) -> Result<Self, UpgradeError> {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(UpgradeError::Taken { path: path.to_owned() }),
            Err(_) => Self::succeed(path),
        }
    }

    /// Binds it in the place of that of the process before this one.
    ///
    /// # Errors
    /// As those of [`UpgradeSocket::bind`].
    pub fn succeed(path: &Path) -> Result<Self, UpgradeError> {
        socket::bind(path).map(Self)
    }

    /// The next process that asks.
    ///
    /// # Errors
    /// It is of another user, or its connection broke.
    pub async fn accept(&self) -> Result<Successor, UpgradeError> {
        let (stream, _) = self.0.accept().await?;
        socket::check_peer(&stream)?;
        Ok(Successor(stream))
    }
}

/// Listening sockets and the addresses that they were asked to listen on.
#[derive(Debug, Default)]
pub struct Sockets {
    addresses: Vec<SocketAddr>,
    sockets: Vec<OwnedFd>,
}

impl Sockets {
    /// One more.
    pub fn push(&mut self, address: SocketAddr, socket: OwnedFd) {
        self.addresses.push(address);
        self.sockets.push(socket);
    }

    /// The first one that was asked to listen on an address.
    pub fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.addresses.iter().position(|asked| *asked == address)?;
        self.addresses.remove(at);
        Some(self.sockets.remove(at).into())
    }
}

/// A new process, as the old one meets it.
#[derive(Debug)]
pub struct Successor(UnixStream);

impl Successor {
    /// Hands everything over and waits until the new process serves. Until then nothing has changed for the old one.
    ///
    /// # Errors
    /// The new process does not come to serve.
    pub async fn hand_over(
        &mut self,
        sockets: &Sockets,
        endpoints: &[Memory],
        now: Instant,
    ) -> Result<(), UpgradeError> {
        if sockets.sockets.len() > socket::MOST {
            return Err(UpgradeError::TooMany {
                count: sockets.sockets.len() - 1,
            });
        }
        let offer = Offer {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            sockets: sockets.addresses.clone(),
            endpoints: endpoints.iter().map(|memory| Told::of(memory, now)).collect(),
            hears_orders: true,
        };
        let sent = socket::send(&mut self.0, &offer, &sockets.sockets);
        timeout(ANSWERS, sent).await.map_err(|_| UpgradeError::Silent)??;
        match timeout(SERVES, self.0.read_u8()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(UpgradeError::Gone),
            Err(_) => Err(UpgradeError::Silent),
        }
    }

    /// The two directions: what is told it, and what it orders.
    pub fn split(self) -> (Teller, Hearer) {
        let (reader, writer) = self.0.into_split();
        (Teller(writer), Hearer(reader))
    }
}

/// Tells the other process something, until it has gone.
#[derive(Debug)]
pub struct Teller(OwnedWriteHalf);

impl Teller {
    /// Tells the new process how many requests are still served here.
    ///
    /// # Errors
    /// The new process has gone.
    pub async fn left(&mut self, in_flight: &[(EndpointId, u32)]) -> Result<(), UpgradeError> {
        let counts = in_flight.iter().map(|(id, in_flight)| Count {
            who: Who::of(id),
            in_flight: *in_flight,
        });
        socket::tell(&mut self.0, &counts.collect::<Vec<_>>()).await
    }

    /// Tells the old process what operators have ordered.
    ///
    /// # Errors
    /// The old process has gone.
    pub async fn orders(&mut self, orders: &Orders, now: Instant) -> Result<(), UpgradeError> {
        socket::tell(&mut self.0, &orders::Told::of(orders, now)).await
    }
}

/// Hears what the other process tells, until it has gone.
#[derive(Debug)]
pub struct Hearer(OwnedReadHalf);

impl Hearer {
    /// How many requests the old process still serves, when that has changed; `None` once it has ended.
    pub async fn left(&mut self) -> Option<Vec<(EndpointId, u32)>> {
        let counts: Vec<Count> = socket::hear(&mut self.0).await.ok()??;
        let counts = counts.into_iter();
        Some(
            counts
                .filter_map(|count| Some((count.who.id()?, count.in_flight)))
                .collect(),
        )
    }

    /// What operators have ordered in the new process, when that has changed; `None` once it has gone. Times are by this process's clock.
    pub async fn orders(&mut self, now: impl Fn() -> Instant) -> Option<Orders> {
        let told: orders::Told = socket::hear(&mut self.0).await.ok()??;
        Some(told.orders(now()))
    }
}

/// The old process, as the new one meets it.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    offer: Offer,
    sockets: Sockets,
}

impl Predecessor {
    /// The process that answers at a socket; `None` where nobody does.
    ///
    /// # Errors
    /// Somebody does, but hands nothing over that could be used.
    pub async fn find(path: &Path) -> Result<Option<Self>, UpgradeError> {
        let stream = UnixStream::connect(path).await;
        let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        let mut stream = match stream {
            Err(e) if nobody.contains(&e.kind()) => return Ok(None),
            stream => stream?,
        };
        socket::check_peer(&stream)?;
        let received = timeout(ANSWERS, socket::receive::<serde_json::Value>(&mut stream)).await;
        let (offer, sockets) = received.map_err(|_| UpgradeError::Silent)??.ok_or(UpgradeError::Gone)?;
        if offer["format"] != FORMAT {
            let version = offer["version"].as_str().unwrap_or("unknown").to_owned();
            return Err(UpgradeError::Format { version });
        }
        let mut offer: Offer =
            serde_json::from_value(offer).map_err(|_| UpgradeError::Malformed("it says something else"))?;
        let addresses = std::mem::take(&mut offer.sockets);
        if addresses.len() != sockets.len() {
            return Err(UpgradeError::Malformed("sockets are missing"));
        }
        Ok(Some(Self {
            stream,
            offer,
            sockets: Sockets { addresses, sockets },
        }))
    }

    /// Its number as a process.
    pub fn pid(&self) -> u32 {
        self.offer.pid
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.offer.version
    }

    /// What it listens on. Whatever is left there is closed with it.
    pub fn sockets(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// What it knows of its endpoints.
    pub fn memories(&mut self, now: Instant) -> Vec<Memory> {
        let endpoints = std::mem::take(&mut self.offer.endpoints);
        endpoints.into_iter().filter_map(|told| told.memory(now)).collect()
    }

    /// Tells it that this process serves; it accepts nothing more then.
    ///
    /// # Errors
    /// It has gone, and so have the connections that it had.
    pub async fn relieve(&mut self) -> Result<(), UpgradeError> {
        self.sockets = Sockets::default();
        Ok(self.stream.write_u8(1).await?)
    }

    /// Whether it listens to what operators order in this process. One of an earlier version does not.
    pub fn hears_orders(&self) -> bool {
        self.offer.hears_orders
    }

    /// The two directions: what it is told, and what it tells.
    pub fn split(self) -> (Teller, Hearer) {
        let (reader, writer) = self.stream.into_split();
        (Teller(writer), Hearer(reader))
    }
}
