//! A connection after its protocol was switched: bytes pass both ways until one side ends (RFC 9110 section 7.8).

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{MORE_ROOM, ROOM};
use crate::wire::Wire;

/// See the module's own words. Its two directions are independent: one that is blocked holds up nothing of the other.
#[derive(Debug)]
pub struct Tunnel<S = Wire> {
    stream: S,
    buffer: BytesMut,
    /// A read makes room for so many bytes.
    room: usize,
    /// Whether something was written that TLS may still hold back.
    unsent: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunnel<S> {
    /// A tunnel through a stream, of which this much has come already.
    pub(super) fn over(stream: S, buffer: BytesMut) -> Self {
        Self {
            stream,
            buffer,
            room: ROOM,
            unsent: false,
        }
    }

    /// The next bytes that the other side sends; none once it has ended the tunnel.
    ///
    /// # Errors
    /// What the network says.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.buffer.is_empty() {
            return Poll::Ready(Ok(Some(self.buffer.split().freeze())));
        }
        self.buffer.reserve(self.room);
        // Nothing is lost with a read that is dropped before it is ready.
        let length = ready!(pin!(self.stream.read_buf(&mut self.buffer)).poll(cx))?;
        if length >= self.room {
            self.room = MORE_ROOM;
        }
        Poll::Ready(Ok((length > 0).then(|| self.buffer.split().freeze())))
    }

    /// Sends `outgoing`, which shrinks by what has been sent. Ready once all of it is.
    ///
    /// # Errors
    /// What the network says.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, outgoing: &mut Bytes) -> Poll<io::Result<()>> {
        while !outgoing.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => outgoing.advance(sent),
            }
            self.unsent = true;
        }
        if self.unsent {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unsent = false;
        }
        Poll::Ready(Ok(()))
    }
}
