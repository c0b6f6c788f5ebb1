//! Connections that cut what is written to them where no library would.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection whose sending side can be closed in more ways than TLS has.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(crate) stream: TcpStream,
    /// Whether to send no FIN when asked to.
    pub(crate) no_fin: bool,
    /// So many bytes are written at a time, at the most.
    pub(crate) at_most: usize,
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let most = bytes.len().min(self.at_most);
        Pin::new(&mut self.stream).poll_write(cx, &bytes[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.no_fin {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection of which so many first bytes are written one by one, and so within TLS in records of their own.
#[derive(Debug)]
pub(crate) struct Sliced<S> {
    pub(crate) stream: S,
    pub(crate) first: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Sliced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sliced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let most = if self.first > 0 {
            bytes.len().min(1)
        } else {
            bytes.len()
        };
        let written = Pin::new(&mut self.stream).poll_write(cx, &bytes[..most]);
        if let Poll::Ready(Ok(written)) = written {
            self.first = self.first.saturating_sub(written);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
