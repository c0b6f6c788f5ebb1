//! A line is one connection to an endpoint with a handle to it, so that it can be ended from outside.
//!
//! The proxy waits on a connection with clocks that know nothing of verdicts. A second handle on the same socket lets the gate end
//! the wait when the first byte or the next one is overdue.
//! Shutting a socket down wakes its reader at once, and the descriptor stays valid until both handles are dropped.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream as Handle};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{Tracer, Tracing};
use pingora::{Error, ErrorType};
use tokio::net::TcpStream;

use crate::clock::Coarse;
use crate::upstream::streams::PATIENCE;

/// Deadlines at this value never come.
const NEVER: u64 = u64::MAX;

/// One connection. Its reader is the proxy; this handle only ends it.
#[derive(Debug)]
pub struct Line {
    fd: RawFd,
    handle: Handle,
    deadline: AtomicU64,
    overdue: AtomicBool,
    /// Whether an event stream comes on it, which is to end between two events.
    streams: AtomicBool,
}

impl Line {
    /// The next byte must come in time. Late by a tick at most.
    pub fn expect_byte(&self, within: Duration) {
        let within = u64::try_from(within.as_millis()).unwrap_or(NEVER);
        let deadline = Coarse::get().millis().saturating_add(within);
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    /// What comes on it is an event stream.
    pub fn stream(&self) {
        self.streams.store(true, Ordering::SeqCst);
    }

    /// Nobody waits on it.
    pub fn rest(&self) {
        self.streams.store(false, Ordering::SeqCst);
        self.deadline.store(NEVER, Ordering::Relaxed);
    }

    /// Whether it was ended because nothing came in time.
    pub fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.rest();
        self.overdue.store(true, Ordering::Release);
        // It fails only when the peer is gone already, and then the reader is awake.
        let _ = self.handle.shutdown(Shutdown::Both);
    }
}

/// The lines of one endpoint, and the way to open another.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<BTreeMap<RawFd, Arc<Line>>>>);

impl Lines {
    /// The line behind the descriptor that the proxy uses.
    pub fn find(&self, fd: RawFd) -> Option<Arc<Line>> {
        self.lock().get(&fd).cloned()
    }

    /// Ends every line on which something is overdue at `now`, in milliseconds of the coarse clock.
    pub fn end_overdue(&self, now: u64) {
        for line in self.lock().values() {
            if line.deadline.load(Ordering::Relaxed) <= now {
                line.end();
            }
        }
    }

    /// Ends every line on which somebody waits; where events stream, a little later.
    pub fn sever(&self) {
        for line in self.lock().values() {
            if line.streams.load(Ordering::SeqCst) {
                line.expect_byte(PATIENCE);
            } else if line.deadline.load(Ordering::Relaxed) != NEVER {
                line.end();
            }
        }
    }

    fn open(&self, stream: &TcpStream) -> std::io::Result<Arc<Line>> {
        let fd = stream.as_raw_fd();
        let line = Arc::new(Line {
            fd,
            handle: Handle::from(stream.as_fd().try_clone_to_owned()?),
            deadline: AtomicU64::new(NEVER),
            overdue: AtomicBool::new(false),
            streams: AtomicBool::new(false),
        });
        self.lock().insert(fd, line.clone());
        Ok(line)
    }

    /// The kernel gives a closed descriptor's number to the next socket, so only the very line is removed.
    fn close(&self, line: &Arc<Line>) {
        let mut lines = self.lock();
        if lines.get(&line.fd).is_some_and(|found| Arc::ptr_eq(found, line)) {
            lines.remove(&line.fd);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RawFd, Arc<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl pingora::connectors::l4::Connect for Lines {
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "an endpoint is reached over TCP only");
        };
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| connect_error(*address, e))?;
        let line = self.open(&stream).map_err(|e| connect_error(*address, e))?;
        let mut stream = Stream::from(stream);
        stream.tracer = Some(Tracer(Box::new(Closing {
            line,
            lines: self.clone(),
        })));
        Ok(stream)
    }
}

fn connect_error(address: std::net::SocketAddr, e: std::io::Error) -> Box<Error> {
    let kind = if e.kind() == std::io::ErrorKind::ConnectionRefused {
        ErrorType::ConnectRefused
    } else {
        ErrorType::ConnectError
    };
    Error::because(kind, format!("connecting to {address}"), e)
}

/// Forgets a line when the proxy closes its connection, just before the descriptor is free.
#[derive(Clone, Debug)]
struct Closing {
    line: Arc<Line>,
    lines: Lines,
}

impl Tracing for Closing {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        self.lines.close(&self.line);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}
