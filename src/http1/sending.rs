//! A request body that is sent while the answer may already come: whichever can be done next is done (RFC 9112 section 9.3).

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Connection, Head, MAX_HEAD, Parsed, WireError};

/// Bytes on their way to an endpoint: a part of a body between the size line and the line end of its chunk, which are empty where it has a length.
pub type Outgoing = Chain<Chain<Bytes, Bytes>, Bytes>;

/// Bytes that are sent as they are.
pub fn plain(part: Bytes) -> Outgoing {
    Bytes::new().chain(part).chain(Bytes::new())
}

/// Bytes that are sent as a chunk (RFC 9112 section 7.1). No bytes are no chunk, since an empty one ends the body.
pub fn chunk(part: Bytes) -> Outgoing {
    if part.is_empty() {
        return plain(part);
    }
    let size = Bytes::from(format!("{:x}\r\n", part.len()));
    size.chain(part).chain(Bytes::from_static(b"\r\n"))
}

/// The end of a chunked body, with the lines of its trailer section.
pub fn last_chunk(trailers: &[u8]) -> Outgoing {
    let (start, trailers) = (Bytes::from_static(b"0\r\n"), Bytes::copy_from_slice(trailers));
    start.chain(trailers).chain(Bytes::from_static(b"\r\n"))
}

/// What could be done next.
#[derive(Debug)]
pub enum Step<T> {
    /// Something was sent, or all of it.
    Sent,
    /// The endpoint takes nothing more. It may have answered before.
    Refused,
    /// Something came.
    Came(T),
}

/// What a connection did.
enum Did {
    Read,
    Sent,
    Refused,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Sends what it can of `outgoing`, or reads the next head, interim ones as well. It may be dropped and called again.
    ///
    /// # Errors
    /// No answer came, or none that can be read.
    pub async fn head_while_sending(
        &mut self,
        to_head: bool,
        outgoing: &mut Outgoing,
    ) -> Result<Step<Head>, WireError> {
        loop {
            if let Some(parsed) = Parsed::of(&self.buffer)? {
                return self.begin(parsed, to_head).map(Step::Came);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(WireError::Malformed("its headers are too long"));
            }
            match self.read_or_send(outgoing).await? {
                Did::Read => {}
                Did::Sent => return Ok(Step::Sent),
                Did::Refused => return Ok(Step::Refused),
            }
        }
    }

    /// Sends what it can of `outgoing`, or reads the next part of the answer's body; nothing when that is over. It may be dropped and called again.
    ///
    /// # Errors
    /// The connection ended in the middle of the answer, or a chunk makes no sense.
    pub async fn part_while_sending(&mut self, outgoing: &mut Outgoing) -> Result<Step<Option<Bytes>>, WireError> {
        loop {
            if let Some(part) = self.buffered_part()? {
                return Ok(Step::Came(part));
            }
            match self.read_or_send(outgoing).await {
                Ok(Did::Read) => {}
                Ok(Did::Sent) => return Ok(Step::Sent),
                Ok(Did::Refused) => return Ok(Step::Refused),
                Err(WireError::Closed) => self.end_by_close()?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads if something is there, since an answer may end the sending, else sends.
    async fn read_or_send(&mut self, outgoing: &mut Outgoing) -> Result<Did, WireError> {
        self.buffer.reserve(self.room);
        let (stream, buffer, unflushed) = (&mut self.stream, &mut self.buffer, &mut self.unflushed);
        let did = poll_fn(|cx| {
            if let Poll::Ready(read) = pin!(stream.read_buf(buffer)).poll(cx) {
                return Poll::Ready(match read {
                    Ok(0) => Err(WireError::Closed),
                    Ok(_) => Ok(Did::Read),
                    Err(e) => Err(e.into()),
                });
            }
            if outgoing.has_remaining() {
                let written = pin!(stream.write_buf(outgoing)).poll(cx);
                *unflushed |= written.is_ready();
                return written.map(|written| Ok(if written.is_ok() { Did::Sent } else { Did::Refused }));
            }
            if !*unflushed {
                return Poll::Pending;
            }
            let flushed = pin!(stream.flush()).poll(cx);
            *unflushed &= flushed.is_pending();
            flushed.map(|flushed| Ok(if flushed.is_ok() { Did::Sent } else { Did::Refused }))
        });
        did.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(mut outgoing: Outgoing) -> Bytes {
        outgoing.copy_to_bytes(outgoing.remaining())
    }

    #[test]
    fn no_bytes_do_not_end_a_chunked_body() {
        assert_eq!(written(chunk(Bytes::from_static(b"hello"))), "5\r\nhello\r\n");
        assert_eq!(written(chunk(Bytes::new())), "");
        assert_eq!(written(last_chunk(b"X-A: b\r\n")), "0\r\nX-A: b\r\n\r\n");
    }
}
