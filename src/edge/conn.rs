//! A client's connection with the deadlines that the proxy framework does not have: for a request's headers, and for the next
//! request. It also gathers small writes, so that a header and its body leave together, and never holds them back while the proxy waits.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::edge::farewell::Farewell;
use crate::edge::preface::Opening;
use crate::edge::{Door, Permit};
use crate::wire::Wire;

/// So much of the next request is taken from a client that does not wait for its answer.
const AHEAD: usize = 16 * 1024;

/// Small writes are gathered up to this many bytes.
const GATHER: usize = 8 * 1024;

const NEVER: u64 = u64::MAX;
const KEPT: u64 = u64::MAX - 1;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: Wire,
    door: Arc<Door>,
    digest: Arc<SocketDigest>,
    opened: SystemTime,
    start: Instant,
    /// Milliseconds after `start` at which the headers must be there, or [`NEVER`], or [`KEPT`] while nothing of the next request
    /// has come.
    deadline: AtomicU64,
    /// When the wait for the next request began, in milliseconds after `start`.
    rested: AtomicU64,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether requests share it, so that they have clocks of their own once the first byte is there.
    many_at_once: bool,
    gathered: Vec<u8>,
    /// Whether the request under way has come as a whole: what comes now belongs to the next one.
    whole: AtomicBool,
    /// The beginning of the next request.
    ahead: BytesMut,
    farewell: Farewell,
    /// Its place under the listener's limit, given back when it is dropped.
    _permit: Permit,
}

impl Conn {
    #[allow(clippy::disallowed_methods)]
    pub(super) fn new(stream: Wire, opening: Opening, peer: SocketAddr, door: Arc<Door>, permit: Permit) -> Self {
        let digest = SocketDigest::from_raw_fd(stream.fd());
        // The cell is fresh, so it takes the address.
        let _ = digest.peer_addr.set(Some(peer.into()));
        door.connections.inc();
        let header_timeout = millis(door.settings.header_timeout);
        Self {
            many_at_once: opening.is_http2,
            stream,
            door,
            digest: Arc::new(digest),
            opened: SystemTime::now(),
            start: Instant::now(),
            deadline: AtomicU64::new(header_timeout),
            rested: AtomicU64::new(0),
            timer: None,
            gathered: Vec::new(),
            whole: AtomicBool::new(false),
            ahead: opening.bytes,
            farewell: Farewell::default(),
            _permit: permit,
        }
    }

    /// The connection under a proxied session.
    pub(crate) fn of(stream: &dyn IO) -> Option<&Self> {
        stream.as_any().downcast_ref()
    }

    /// The headers are there: from here on the request has clocks of its own.
    pub(crate) fn headers_done(&self) {
        self.deadline.store(NEVER, Ordering::Relaxed);
    }

    /// The request has come as a whole. The framework watches for a client that goes away by reading on, and gives the connection up if it finds
    /// the next request; so that one is kept until it is asked for.
    pub(crate) fn request_done(&self) {
        self.whole.store(!self.many_at_once, Ordering::Relaxed);
    }

    /// The answer is done: the client may send another request.
    pub(crate) fn rest(&self) {
        self.whole.store(false, Ordering::Relaxed);
        self.rested.store(self.now(), Ordering::Relaxed);
        self.deadline.store(KEPT, Ordering::Relaxed);
    }

    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    fn due(&self) -> Option<u64> {
        match self.deadline.load(Ordering::Relaxed) {
            NEVER => None,
            KEPT => Some(self.rested.load(Ordering::Relaxed) + millis(self.door.settings.idle_timeout)),
            at => Some(at),
        }
    }

    /// The first byte of the next request starts the clock of its headers.
    fn received(&self) {
        if self.many_at_once {
            self.headers_done();
        } else if self.deadline.load(Ordering::Relaxed) == KEPT {
            let at = self.now() + millis(self.door.settings.header_timeout);
            self.deadline.store(at, Ordering::Relaxed);
        }
    }

    /// Ready once the deadline has passed. The timer is moved only when it fires, since a deadline mostly moves away.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(due) = self.due() else {
                return Poll::Pending;
            };
            let at = self.start + Duration::from_millis(due);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            if self.now() >= due {
                return Poll::Ready(());
            }
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(at);
            }
        }
    }

    /// Ready once the client is gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < AHEAD {
            let mut room = [MaybeUninit::uninit(); 2 * 1024];
            let mut part = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(part.filled());
        }
        Poll::Pending
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        while sent < self.gathered.len() {
            let rest = self.gathered.get(sent..).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.gathered.drain(..sent);
                    return Poll::Pending;
                }
            }
        }
        self.gathered.clear();
        Poll::Ready(Ok(()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(KEPT - 1).min(KEPT - 1)
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.door.connections.dec();
    }
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.gathered.is_empty()
            && let Poll::Ready(Err(e)) = this.poll_send(cx)
        {
            return Poll::Ready(Err(e));
        }
        if this.whole.load(Ordering::Relaxed) {
            return this.poll_gone(cx);
        }
        let before = buf.filled().len();
        if !this.ahead.is_empty() {
            let given = this.ahead.split_to(this.ahead.len().min(buf.remaining()));
            buf.put_slice(&given);
            this.received();
            return Poll::Ready(Ok(()));
        }
        if Pin::new(&mut this.stream).poll_read(cx, buf)?.is_ready() {
            if buf.filled().len() > before {
                this.received();
            }
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_overdue(cx));
        if !matches!(this.deadline.load(Ordering::Relaxed), KEPT | NEVER) {
            this.door.limit("header_timeout");
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came in time")))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len() + bytes.len() > GATHER {
            ready!(this.poll_send(cx))?;
        }
        let written = if bytes.len() > GATHER {
            ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?
        } else {
            this.gathered.extend_from_slice(bytes);
            bytes.len()
        };
        if this.many_at_once
            && let Some(code) = this.farewell.see(bytes.get(..written).unwrap_or_default())
        {
            this.door.give_up(code);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        // The peer may be gone already, and then there is nothing to shut down.
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.stream.fd()
    }
}

impl Ssl for Conn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.terms()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        if self.many_at_once {
            Some(ALPN::H2)
        } else {
            self.stream.protocol()
        }
    }
}

impl Peek for Conn {}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest {
            established_ts: self.opened,
            ..TimingDigest::default()
        })]
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}
