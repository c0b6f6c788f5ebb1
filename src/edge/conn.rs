//! A client's connection with what the proxy framework does not have: deadlines for a request's headers and for the next request, one request at a
//! time ([`Framer`]), and an end that tells a whole answer from a cut one. It also gathers small writes, so that a header and its body leave together,
//! and never holds them back while the proxy waits.

mod framework;
mod leaving;
pub(crate) mod moved;
mod reading;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use pingora::protocols::{IO, SocketDigest};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::edge::conn::leaving::Ended;
use crate::edge::conn::moved::Moved;
use crate::edge::farewell::Farewell;
use crate::edge::framing::{Framer, Malformed, Refused};
use crate::edge::preface::Opening;
use crate::edge::trailers::Trailers;
use crate::edge::{Door, Permit};
use crate::wire::Wire;

/// Small writes are gathered up to this many bytes.
const GATHER: usize = 8 * 1024;

/// A head has a method and a version, and some room, beside its target and its fields.
const HEAD_REST: usize = 1024;

/// The preface of HTTP/2 and the header of its first frame (RFC 9113 section 3.4).
const OPENING: u64 = 24 + 9;

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
    moved: Moved,
    /// Whether requests share it, so that they have clocks of their own once the first frame is there.
    many_at_once: bool,
    /// Bytes that came, where requests share it.
    come: u64,
    gathered: Vec<u8>,
    /// What is to stand behind the last chunk of the answer under way.
    answer_trailers: Mutex<Option<Trailers>>,
    /// Whether TLS may hold back what was written.
    unflushed: bool,
    framer: Framer,
    /// Whether the request under way was answered, so that the next one may be read.
    answered: AtomicBool,
    /// Whether the protocol was switched.
    switched: AtomicBool,
    /// Whether a request is under way whose answer is not whole.
    under_way: AtomicBool,
    /// Whether a client that ends its direction is taken to have gone.
    strict: AtomicBool,
    /// Whether nobody reads the body under way. What comes of it is kept.
    held: AtomicBool,
    /// Whether something was written since the request under way began.
    has_begun: bool,
    ended: Option<Ended>,
    /// When it is looked again what became of the client.
    look: Option<Pin<Box<Sleep>>>,
    farewell: Farewell,
    /// Its place under the listener's limit, given back when it is dropped.
    _permit: Permit,
}

impl Conn {
    #[allow(clippy::disallowed_methods)]
    pub(super) fn new(
        stream: Wire,
        opening: Opening,
        peer: SocketAddr,
        (door, moved): (Arc<Door>, ShutdownWatch),
        permit: Permit,
    ) -> Self {
        let digest = SocketDigest::from_raw_fd(stream.fd());
        // The cell is fresh, so it takes the address.
        let _ = digest.peer_addr.set(Some(peer.into()));
        door.connections.inc();
        let header_timeout = millis(door.settings.header_timeout);
        let bounds = &door.settings.limits.bounds;
        let mut framer = Framer::new(opening.bytes, bounds.uri + bounds.headers + HEAD_REST);
        if opening.is_http2 {
            framer.tunnel();
        }
        Self {
            many_at_once: opening.is_http2,
            come: 0,
            stream,
            door,
            digest: Arc::new(digest),
            opened: SystemTime::now(),
            start: Instant::now(),
            deadline: AtomicU64::new(header_timeout),
            rested: AtomicU64::new(0),
            timer: None,
            moved: Moved::by(moved),
            gathered: Vec::new(),
            answer_trailers: Mutex::new(None),
            unflushed: false,
            framer,
            answered: AtomicBool::new(false),
            switched: AtomicBool::new(false),
            under_way: AtomicBool::new(false),
            strict: AtomicBool::new(false),
            held: AtomicBool::new(false),
            has_begun: false,
            ended: None,
            look: None,
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
        self.under_way.store(!self.many_at_once, Ordering::Relaxed);
    }

    /// Puts trailers behind the answer under way, which goes in chunks, and of which no chunk is half written.
    pub(crate) fn set_trailers(&self, trailers: &HeaderMap) {
        *self.answer_trailers.lock().unwrap_or_else(PoisonError::into_inner) = Some(Trailers::new(trailers));
    }

    /// The request under way is done: its answer is `whole`, or was cut. The client may send another request.
    pub(crate) fn rest(&self, whole: bool) {
        *self.answer_trailers.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.answered.store(true, Ordering::Relaxed);
        self.strict.store(false, Ordering::Relaxed);
        self.held.store(false, Ordering::Relaxed);
        self.under_way.store(!whole && !self.many_at_once, Ordering::Relaxed);
        self.rested.store(self.now(), Ordering::Relaxed);
        self.deadline.store(KEPT, Ordering::Relaxed);
    }

    /// The protocol was switched: from now on every byte passes.
    pub(crate) fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
        self.held.store(false, Ordering::Relaxed);
    }

    /// Whether a client that ends its direction is taken to have gone, since nothing of its request was sent yet.
    pub(crate) fn watch(&self, strict: bool) {
        self.strict.store(strict, Ordering::Relaxed);
    }

    /// Whether a read is to find out only whether the client has gone. The framework throws away the byte that such a read gets, which may be one of a
    /// body that is not read to its end.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// The request under way where it cannot be taken.
    pub(crate) fn refused(&self) -> Option<&Refused> {
        self.framer.refused()
    }

    /// The target of the request under way as it came, where the framework was given another one.
    pub(crate) fn target(&self) -> Option<&[u8]> {
        self.framer.target()
    }

    /// Why the body of the request under way cannot be read.
    pub(crate) fn malformed(&self) -> Option<Malformed> {
        self.framer.malformed()
    }

    /// The trailer section of the request under way, each line with its end.
    pub(crate) fn trailers(&self) -> &[u8] {
        self.framer.trailers()
    }

    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    fn due(&self) -> Option<u64> {
        match self.deadline.load(Ordering::Relaxed) {
            NEVER => None,
            KEPT => {
                let rested = self.rested.load(Ordering::Relaxed);
                let end = rested + millis(self.door.settings.idle_timeout);
                Some(self.moved.end(rested, end))
            }
            at => Some(at),
        }
    }

    /// The first byte of the next request starts the clock of its headers. Where requests share the connection, the first frame ends that of its
    /// beginning.
    fn received(&mut self, bytes: usize) {
        if self.many_at_once {
            self.come = self.come.saturating_add(bytes as u64);
            if self.come >= OPENING {
                self.headers_done();
            }
        } else if self.deadline.load(Ordering::Relaxed) == KEPT {
            let at = self.now() + millis(self.door.settings.header_timeout);
            self.deadline.store(at, Ordering::Relaxed);
        }
    }

    /// Ready once the deadline has passed. The timer is moved only when it fires, since a deadline mostly moves away.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline.load(Ordering::Relaxed) == KEPT && !self.many_at_once {
            let start = self.start;
            self.moved.poll(cx, || millis(start.elapsed()));
        }
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

    /// Writes what was gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        while sent < self.gathered.len() {
            let rest = self.gathered.get(sent..).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.unflushed = true;
                    sent += n;
                }
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

    /// Writes what was gathered, and what TLS holds back of what was written before.
    fn poll_send_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(KEPT - 1).min(KEPT - 1)
}

impl Drop for Conn {
    /// A connection that ends between two answers says so within TLS (RFC 8446 section 6.1), as far as that can be sent at once. A client takes the
    /// end without it for a cut answer, which it then is.
    fn drop(&mut self) {
        self.door.connections.dec();
        let mut nobody = Context::from_waker(Waker::noop());
        if self.stream.is_secure()
            && !self.under_way.load(Ordering::Relaxed)
            && self.poll_send_all(&mut nobody).is_ready()
        {
            // The client may have gone before.
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut nobody);
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if (this.unflushed || !this.gathered.is_empty())
            && let Poll::Ready(Err(e)) = this.poll_send_all(cx)
        {
            return Poll::Ready(Err(e));
        }
        if let Poll::Ready(read) = this.poll_request(cx, buf) {
            return Poll::Ready(read);
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
        this.has_begun |= !bytes.starts_with(b"HTTP/1.1 1");
        this.note_write();
        if this.gathered.len() + bytes.len() > GATHER {
            ready!(this.poll_send(cx))?;
        }
        let trailers = this.answer_trailers.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = trailers.as_ref().and_then(|trailers| trailers.in_place_of(bytes)) {
            *trailers = None;
            this.gathered.extend_from_slice(&end);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = if bytes.len() > GATHER {
            this.unflushed = true;
            ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?
        } else {
            this.gathered.extend_from_slice(bytes);
            bytes.len()
        };
        if let Some(trailers) = this.answer_trailers.get_mut().unwrap_or_else(PoisonError::into_inner) {
            trailers.see(bytes.get(..written).unwrap_or_default());
        }
        if this.many_at_once
            && let Some(code) = this.farewell.see(bytes.get(..written).unwrap_or_default())
        {
            this.door.give_up(code);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send_all(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send_all(cx))?;
        if this.under_way.load(Ordering::Relaxed) {
            return this.stream.poll_break_off(cx);
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
