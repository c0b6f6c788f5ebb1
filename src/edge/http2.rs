//! A client's connection in HTTP/2, which is ended where no request is under way: GOAWAY (RFC 9113 section 6.8) comes behind the end of the last
//! answer, or while the connection rests, and names the last request that was read. So a client that knows the protocol sends the next one by another
//! connection, and one that gives up what is under way at a GOAWAY, as httpx does, has nothing to give up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::edge::frames::Traffic;
use crate::edge::{Door, Ending};

/// After GOAWAY a client has so long to end the connection. What it sends meanwhile is read and dropped: unread bytes would make the kernel reset the
/// connection, and a client that does not read while it rests would lose the GOAWAY.
const LINGER: Duration = Duration::from_secs(5);

type Told = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// A connection.
pub(super) struct Http2<S> {
    stream: S,
    traffic: Traffic,
    door: Arc<Door>,
    /// Since when no request has been under way.
    rests: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// Ready once it is to end when no request is under way; `None` after that.
    close: Option<Told>,
    /// Ready once it is to take no more requests; `None` after that.
    late: Option<Told>,
    /// Has the framework take no more requests, whatever is under way.
    refuse: watch::Sender<bool>,
    /// What is left of an interim answer.
    interim: Bytes,
    parting: Option<Parting>,
}

/// The end of a connection.
struct Parting {
    /// What is left of GOAWAY.
    goaway: Bytes,
    /// Whether the client has been told.
    told: bool,
    timer: Pin<Box<Sleep>>,
}

impl<S> std::fmt::Debug for Http2<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2")
            .field("traffic", &self.traffic)
            .finish_non_exhaustive()
    }
}

/// Ready once `watch` says so, and never if it cannot any more.
fn told(mut watch: ShutdownWatch) -> Told {
    Box::pin(async move {
        if watch.wait_for(|told| *told).await.is_err() {
            std::future::pending().await
        }
    })
}

/// Whether a sign has come; it is taken then.
fn has_come(sign: &mut Option<Told>, cx: &mut Context<'_>) -> bool {
    let comes = sign.as_mut().is_some_and(|sign| sign.as_mut().poll(cx).is_ready());
    if comes {
        *sign = None;
    }
    comes
}

impl<S: IO> Http2<S> {
    /// A connection over a stream, and what tells the framework that it is to take no more requests.
    #[allow(clippy::disallowed_methods)]
    pub(super) fn over(stream: S, door: Arc<Door>, ending: &Ending) -> (Self, ShutdownWatch) {
        let (refuse, refuses) = watch::channel(false);
        let connection = Self {
            stream,
            traffic: Traffic::new(),
            door,
            rests: Instant::now(),
            timer: None,
            close: Some(told(ending.close.clone())),
            late: Some(told(ending.late.clone())),
            refuse,
            interim: Bytes::new(),
            parting: None,
        };
        (connection, refuses)
    }

    /// Whether the connection is to end now. Tells the framework where it is to end and is busy.
    fn is_to_end(&mut self, cx: &mut Context<'_>) -> bool {
        has_come(&mut self.close, cx);
        let is_idle = self.traffic.is_idle();
        if has_come(&mut self.late, cx) && !is_idle {
            self.refuse.send_replace(true);
        }
        is_idle && (self.close.is_none() || self.late.is_none() || self.has_rested(cx))
    }

    /// Whether nobody has asked anything for the listener's `idle_timeout`. The timer is moved only when it fires.
    #[allow(clippy::disallowed_methods)]
    fn has_rested(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.rests + self.door.settings.idle_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return true;
            }
            timer.as_mut().reset(due);
        }
        false
    }

    /// Tells clients that wait for it to send their bodies. What cannot be sent now is when something else is.
    fn go_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.interim.is_empty() {
            let Some(interim) = self.traffic.interim() else {
                return Ok(());
            };
            self.interim = Bytes::copy_from_slice(&interim);
            self.traffic.send(&interim);
            if self.poll_interim(cx)?.is_pending() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        while !self.interim.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.interim)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(sent) => self.interim.advance(sent),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        Ok(Poll::Ready(()))
    }

    fn part(&mut self) {
        self.parting = Some(Parting {
            goaway: self.traffic.goaway().into(),
            told: false,
            timer: Box::pin(sleep(LINGER)),
        });
    }

    /// Sends GOAWAY and ends this direction.
    fn poll_parted(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(parting) = self.parting.as_mut().filter(|parting| !parting.told) else {
            return Poll::Ready(Ok(()));
        };
        while !parting.goaway.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &parting.goaway))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => parting.goaway.advance(sent),
            }
        }
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        parting.told = true;
        // Whoever writes is to read as well, or nobody sees the end of the client's direction.
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    /// Drops what the client still sends. Ready at its end, which the framework takes for that of the connection.
    fn poll_lingered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(e)) = self.poll_parted(cx) {
            return Poll::Ready(Err(e));
        }
        let mut room = [0; 4096];
        loop {
            if let Some(parting) = &mut self.parting
                && parting.timer.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ok(()));
            }
            let mut part = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: IO> AsyncRead for Http2<S> {
    #[allow(clippy::disallowed_methods)]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.parting.is_none() && this.is_to_end(cx) {
            this.part();
        }
        if this.parting.is_some() {
            return this.poll_lingered(cx);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let was_idle = this.traffic.is_idle();
        this.traffic.receive(buf.filled().get(before..).unwrap_or_default());
        if !was_idle {
            this.rests = Instant::now();
        }
        this.go_ahead(cx)?;
        Poll::Ready(Ok(()))
    }
}

impl<S: IO> AsyncWrite for Http2<S> {
    #[allow(clippy::disallowed_methods)]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.parting.is_some() {
            // Nothing of a request, for none is under way.
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(this.poll_interim(cx)?);
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        if this.traffic.send(bytes.get(..written).unwrap_or_default()) {
            this.rests = Instant::now();
            let is_leaving = this.door.is_leaving() || this.close.is_none() || this.late.is_none();
            if is_leaving && this.traffic.is_idle() {
                this.part();
            } else {
                // From now on the timer is to wake whoever waits.
                this.has_rested(cx);
            }
        }
        this.go_ahead(cx)?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_parted(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.parting.is_some() {
            return this.poll_parted(cx);
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl<S: IO> Shutdown for Http2<S> {
    async fn shutdown(&mut self) {
        // The peer may be gone already, and then there is nothing to shut down.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl<S: IO> UniqueID for Http2<S> {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl<S: IO> Ssl for Http2<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl<S: IO> Peek for Http2<S> {}

impl<S: IO> GetTimingDigest for Http2<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl<S: IO> GetProxyDigest for Http2<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl<S: IO> GetSocketDigest for Http2<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}
