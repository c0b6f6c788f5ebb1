//! The bytes of a connection, a client's or an endpoint's, in the clear or within TLS.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pingora::protocols::ALPN;
use pingora::protocols::tls::SslDigest;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// See the module's own words.
#[derive(Debug)]
pub enum Wire {
    /// What is written is what is sent.
    Clear(TcpStream),
    /// Within TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// The socket's descriptor.
    pub fn fd(&self) -> RawFd {
        match self {
            Self::Clear(stream) => stream.as_raw_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_raw_fd(),
        }
    }

    /// The error that the connection has met since this was asked last.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Clear(stream) => stream.take_error(),
            Self::Tls(stream) => stream.get_ref().0.take_error(),
        }
    }

    /// Whether the peer has ended its direction, though not all that it sent was read.
    pub fn is_read_closed(&self) -> bool {
        let stream = match self {
            Self::Clear(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        let mut nobody = Context::from_waker(Waker::noop());
        match pin!(stream.ready(Interest::READABLE)).poll(&mut nobody) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Whether it is within TLS.
    pub fn is_secure(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Ends what is written without the alert by which TLS tells a whole answer from a cut one (RFC 8446 section 6.1).
    ///
    /// # Errors
    /// What the network says.
    pub fn poll_break_off(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.get_mut().0).poll_shutdown(cx),
        }
    }

    /// The protocol that both sides have agreed on (RFC 7301).
    pub fn protocol(&self) -> Option<ALPN> {
        let Self::Tls(stream) = self else { return None };
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Some(ALPN::H2),
            Some(_) | None => Some(ALPN::H1),
        }
    }

    /// What was agreed on in the handshake.
    pub fn terms(&self) -> Option<Arc<SslDigest>> {
        let Self::Tls(stream) = self else { return None };
        let session = stream.get_ref().1;
        let cipher = session
            .negotiated_cipher_suite()
            .map(|suite| format!("{:?}", suite.suite()));
        let version = session.protocol_version().map(|version| format!("{version:?}"));
        Some(Arc::new(SslDigest::new(
            cipher.unwrap_or_default(),
            version.unwrap_or_default(),
            None,
            None,
            Vec::new(),
        )))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Clear(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
