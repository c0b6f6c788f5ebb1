//! The admin API's listener through an upgrade: what was accepted before another process took over is answered.
//!
//! hyper closes a connection at once that is to end before any byte of a request has come over it. A client whose connection was accepted just before the
//! takeover would get no answer, so such connections are given time for their request.

use std::future::pending;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::error;

use super::handover::happened;
use crate::edge::RESTING;

/// After [`RESTING`] connections are asked to end; one that does not end within this time is not waited for.
const ENDING: Duration = Duration::from_secs(2);

/// Connections of the admin API that are open.
#[derive(Clone)]
pub(super) struct Open(Arc<watch::Sender<usize>>);

impl Open {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Ready once none is open, or those that are have had their time.
    pub(super) async fn ended(&self) {
        let _ = timeout(RESTING + ENDING, self.none()).await;
    }

    async fn none(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// Serves the admin API from the time that this process serves, where another one does so before, and until the next one does.
pub(super) async fn serve(
    listener: TcpListener,
    api: Router,
    after: Option<watch::Receiver<bool>>,
    handed_over: watch::Receiver<bool>,
    open: Open,
) {
    if let Some(opened) = after {
        happened(opened).await;
    }
    let listener = Accepting {
        listener,
        handed_over: handed_over.clone(),
        open: open.clone(),
    };
    let ends = async move {
        happened(handed_over).await;
        tokio::select! {
            () = open.none() => {}
            () = sleep(RESTING) => {}
        }
    };
    if let Err(e) = axum::serve(listener, api).with_graceful_shutdown(ends).await {
        error!(error = %e, "the admin API has ended");
    }
}

/// A listener that accepts until another process does.
struct Accepting {
    listener: TcpListener,
    handed_over: watch::Receiver<bool>,
    open: Open,
}

impl Listener for Accepting {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        let accepted = tokio::select! {
            biased;
            () = happened(self.handed_over.clone()) => pending().await,
            accepted = Listener::accept(&mut self.listener) => accepted,
        };
        let (stream, from) = accepted;
        self.open.0.send_modify(|open| *open += 1);
        let open = self.open.clone();
        (Counted { stream, open }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that counts as open until it is dropped.
struct Counted {
    stream: TcpStream,
    open: Open,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.0.send_modify(|open| *open -= 1);
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
