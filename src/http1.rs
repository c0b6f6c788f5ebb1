//! One connection, as an HTTP/1.1 client: a request that is whole goes out, an answer comes back part by part.
//!
//! What could be framed in two ways is an error rather than a guess (RFC 9112 section 6.3), so that the end of one answer is never
//! taken for the start of the next.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::wire::Wire;

mod framing;
mod sending;
mod tunnel;

pub use framing::members;
use framing::{chunk_size, framing, keeps_alive, trailer};
pub use sending::{Outgoing, Step, chunk, last_chunk, plain};
pub use tunnel::Tunnel;

/// The headers of an answer may be as long as this, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// And as many.
const MAX_HEADERS: usize = 128;
/// A read makes room for so many bytes, and for more once an answer has filled it.
const ROOM: usize = 4 * 1024;
const MORE_ROOM: usize = 64 * 1024;
/// An answer may have as many trailers.
const MAX_TRAILERS: usize = 64;
/// A line between two chunks, or of a trailer, may be as long as this, in bytes.
const MAX_CHUNK_LINE: usize = 4 * 1024;
/// The first write of a request takes no more than this many bytes: what fits into the smallest send buffer of Linux, and into one record of TLS
/// (RFC 8446 section 5.1). So where that write fails, no byte can be read by the endpoint.
const FIRST_WRITE: usize = 16 * 1024;

/// Why no answer, or no more of it, came.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// It was closed in the middle.
    #[error("the connection was closed before the answer was complete")]
    Closed,
    /// What came is no HTTP answer, or one that could be read in two ways.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
}

/// Header lines in their order.
pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// The status and the headers of an answer.
#[derive(Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The headers, as they came; but several lengths that are equal have become one (RFC 9110 section 8.6).
    pub headers: Fields,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// It is over, or there is none.
    Over,
    /// So many bytes are to come.
    Length(u64),
    /// A chunk's size line is next.
    ChunkSize,
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// The end of a chunk's line is next.
    ChunkEnd,
    /// Trailers, until an empty line.
    Trailers,
    /// It ends with the connection.
    UntilClose,
}

/// A connection. One request at a time.
#[derive(Debug)]
pub struct Connection<S = Wire> {
    stream: S,
    buffer: BytesMut,
    room: usize,
    body: Body,
    trailers: Fields,
    keeps_alive: bool,
    /// Whether TLS may hold back what was written.
    unflushed: bool,
    /// Bytes of the request that the stream has taken.
    sent: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection over a stream that stands.
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            room: ROOM,
            body: Body::Over,
            trailers: Fields::new(),
            keeps_alive: true,
            unflushed: false,
            sent: 0,
        }
    }

    /// The stream itself.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Sends a request, all of it.
    ///
    /// # Errors
    /// What the network says. [`Connection::has_sent`] tells whether the endpoint may have got some of it.
    pub async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.sent = 0;
        while let Some(rest) = request.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let most = if self.sent == 0 { FIRST_WRITE } else { rest.len() };
            let part = rest.get(..most).unwrap_or(rest);
            match self.stream.write(part).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => self.sent += taken,
            }
        }
        self.stream.flush().await
    }

    /// Whether the endpoint may have got some of the last request.
    pub fn has_sent(&self) -> bool {
        self.sent > 0
    }

    /// The next head: that of the answer, or an interim one (1xx), after which another follows. `to_head` tells that the request was a
    /// `HEAD`, whose answer has no body whatever its headers say. It may be dropped and called again.
    ///
    /// # Errors
    /// No answer came, or none that can be read.
    pub async fn head(&mut self, to_head: bool) -> Result<Head, WireError> {
        loop {
            if let Some(parsed) = Parsed::of(&self.buffer)? {
                return self.begin(parsed, to_head);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(WireError::Malformed("its headers are too long"));
            }
            self.fill().await?;
        }
    }

    fn begin(&mut self, parsed: Parsed, to_head: bool) -> Result<Head, WireError> {
        let version = parsed.version;
        let mut head = parsed.cut(&mut self.buffer)?;
        self.trailers.clear();
        if head.status.is_informational() {
            // A tunnel is no place for another request.
            self.keeps_alive &= head.status != StatusCode::SWITCHING_PROTOCOLS;
            return Ok(head);
        }
        self.body = framing(&mut head, version, to_head)?;
        self.keeps_alive = self.body != Body::UntilClose && keeps_alive(&head, version);
        Ok(head)
    }

    /// The next part of the body, or nothing when it is over. It may be dropped and called again.
    ///
    /// # Errors
    /// The connection ended in the middle, or a chunk makes no sense.
    pub async fn part(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            if let Some(part) = self.buffered_part()? {
                return Ok(part);
            }
            match self.fill().await {
                Err(WireError::Closed) => self.end_by_close()?,
                other => other?,
            }
        }
    }

    /// The next part of the body as far as it was read: nothing inside where the body is over, nothing at all where more must be read.
    fn buffered_part(&mut self) -> Result<Option<Option<Bytes>>, WireError> {
        loop {
            match self.body {
                Body::Over => return Ok(Some(None)),
                Body::Length(left) | Body::Chunk(left) if left > 0 && !self.buffer.is_empty() => {
                    return Ok(Some(Some(self.take(left))));
                }
                Body::Chunk(0) => self.body = Body::ChunkEnd,
                Body::UntilClose if !self.buffer.is_empty() => return Ok(Some(Some(self.buffer.split().freeze()))),
                Body::ChunkSize | Body::ChunkEnd | Body::Trailers => {
                    if !self.read_line()? {
                        return Ok(None);
                    }
                }
                Body::UntilClose | Body::Length(_) | Body::Chunk(_) => return Ok(None),
            }
        }
    }

    /// Notes that the connection was closed, which ends a body that has no other end.
    fn end_by_close(&mut self) -> Result<(), WireError> {
        if self.body != Body::UntilClose {
            return Err(WireError::Closed);
        }
        self.body = Body::Over;
        Ok(())
    }

    /// Whether the body of the answer comes in chunks, so that trailers may stand behind it.
    pub fn is_chunked(&self) -> bool {
        matches!(
            self.body,
            Body::ChunkSize | Body::Chunk(_) | Body::ChunkEnd | Body::Trailers
        )
    }

    /// The trailers of the answer, once its body is over.
    pub fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
    }

    /// Whether the endpoint closed it, or sent something unasked, while nobody looked. What belongs to TLS alone, such as a ticket, is none of
    /// that.
    pub fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        let mut nobody = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut nobody, &mut ReadBuf::new(&mut byte));
        read.is_ready()
    }

    /// The connection as a tunnel, after the protocol was switched.
    pub fn into_tunnel(self) -> Tunnel<S> {
        Tunnel::over(self.stream, self.buffer)
    }

    /// Whether no byte has come since the last answer.
    pub fn is_silent(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether the body is over.
    pub fn is_over(&self) -> bool {
        self.body == Body::Over
    }

    /// Whether another request may be sent here: the answer was read to its end, nothing came after it, and nobody wants to close.
    pub fn is_reusable(&self) -> bool {
        self.is_over() && self.keeps_alive && self.buffer.is_empty()
    }

    fn take(&mut self, left: u64) -> Bytes {
        let length = usize::try_from(left).map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
        let left = left - length as u64;
        self.body = match (self.body, left) {
            (Body::Chunk(_), left) => Body::Chunk(left),
            (_, 0) => Body::Over,
            (_, left) => Body::Length(left),
        };
        self.buffer.split_to(length).freeze()
    }

    /// Reads one line between chunks; tells whether there was one.
    fn read_line(&mut self) -> Result<bool, WireError> {
        let length = self.buffer.windows(2).position(|pair| pair == b"\r\n");
        if length.unwrap_or(self.buffer.len()) > MAX_CHUNK_LINE {
            return Err(WireError::Malformed("a chunk's line is too long"));
        }
        let Some(length) = length else {
            return Ok(false);
        };
        let line = self.buffer.split_to(length);
        self.buffer.advance(2);
        self.body = match (self.body, line.is_empty()) {
            (Body::ChunkSize, _) => match chunk_size(&line)? {
                0 => Body::Trailers,
                size => Body::Chunk(size),
            },
            (Body::Trailers, false) => {
                self.trailers.push(trailer(&line)?);
                if self.trailers.len() > MAX_TRAILERS {
                    return Err(WireError::Malformed("it has too many trailers"));
                }
                Body::Trailers
            }
            (Body::Trailers, true) => Body::Over,
            (_, true) => Body::ChunkSize,
            (_, false) => return Err(WireError::Malformed("a chunk is longer than it says")),
        };
        Ok(true)
    }

    /// Reads what is there, at least a byte.
    async fn fill(&mut self) -> Result<(), WireError> {
        self.buffer.reserve(self.room);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(WireError::Closed),
            read if read >= self.room => {
                self.room = MORE_ROOM;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A complete head within a buffer.
struct Parsed {
    status: u16,
    version: Version,
    length: usize,
    headers: Vec<(HeaderName, Range<usize>)>,
}

impl Parsed {
    /// The head at the start of `buffer`, once it is complete.
    fn of(buffer: &[u8]) -> Result<Option<Self>, WireError> {
        if buffer.is_empty() {
            return Ok(None);
        }
        let mut room = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut room);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(WireError::Malformed("its head is no HTTP/1 head")),
        };
        let start = buffer.as_ptr() as usize;
        let mut headers = Vec::with_capacity(response.headers.len());
        for header in response.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            let name = name.map_err(|_| WireError::Malformed("a header has no name"))?;
            let at = header.value.as_ptr() as usize - start;
            headers.push((name, at..at + header.value.len()));
        }
        Ok(Some(Self {
            status: response.code.unwrap_or(0),
            version: if response.version == Some(1) {
                Version::HTTP_11
            } else {
                Version::HTTP_10
            },
            length,
            headers,
        }))
    }

    /// Takes the head out of the buffer that it was found in.
    fn cut(self, buffer: &mut BytesMut) -> Result<Head, WireError> {
        let bytes = buffer.split_to(self.length).freeze();
        let value = |range: Range<usize>| HeaderValue::from_maybe_shared(bytes.slice(range));
        let headers = self.headers.into_iter();
        let headers: Result<_, _> = headers.map(|(name, range)| Ok((name, value(range)?))).collect();
        let bad = |_: http::header::InvalidHeaderValue| WireError::Malformed("a header has no value");
        Ok(Head {
            status: StatusCode::from_u16(self.status).map_err(|_| WireError::Malformed("its status is none"))?,
            headers: headers.map_err(bad)?,
        })
    }
}

impl Head {
    /// The values of a header.
    pub fn all(&self, name: HeaderName) -> impl Iterator<Item = &HeaderValue> {
        self.headers
            .iter()
            .filter(move |(given, _)| *given == name)
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests;
