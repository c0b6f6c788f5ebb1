//! A strict reader of HTTP/1.1, for both ends: what it takes is what RFC 9112 lets be sent, so that whatever the proxy writes is judged and not repaired.

use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::message::{Field, says, values};
use crate::patience;

/// So many bytes are read at a time, at the most.
const ROOM: usize = 64 << 10;

/// Why nothing more can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The peer ended the connection as it should be ended: by FIN, within TLS by close_notify.
    Closed,
    /// Within TLS it ended without close_notify.
    NoGoodbye,
    /// It was reset.
    Reset,
    /// Nothing came for long.
    Stuck,
    /// What came is no HTTP/1.1.
    Malformed(String),
}

/// The first line and the fields of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) start: String,
    /// The second word of it, byte for byte.
    pub(crate) target: Vec<u8>,
    pub(crate) fields: Vec<Field>,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framed {
    #[default]
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// A body with what follows it, and why it is not whole, if it is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    pub(crate) framed: Framed,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Field>,
    pub(crate) fault: Option<Fault>,
}

/// What comes over a connection.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    stream: R,
    buffer: BytesMut,
    /// So many bytes are read at a time, at the most.
    pub(crate) at_most: usize,
    /// And so long is waited once as many have been read.
    pub(crate) rest: Duration,
    /// Nothing that comes takes longer.
    pub(crate) patience: Duration,
    /// Bytes since the last wait.
    unrested: usize,
}

impl Head {
    pub(crate) fn says(&self, name: &str, word: &str) -> bool {
        says(&self.fields, name, word)
    }

    pub(crate) fn one<'h>(&'h self, name: &'h str) -> Option<&'h [u8]> {
        values(&self.fields, name).next()
    }

    /// The number in an answer's first line.
    pub(crate) fn status(&self) -> u16 {
        self.start
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0)
    }

    /// What its fields say of the body; an error where they say two things, or what nobody may send.
    pub(crate) fn framing(&self, without: Framed) -> Result<Framed, Fault> {
        let wrong = |what: &str| Err(Fault::Malformed(what.to_owned()));
        let codings: Vec<_> = values(&self.fields, "transfer-encoding").collect();
        let lengths: Vec<_> = values(&self.fields, "content-length").collect();
        match (codings.as_slice(), lengths.as_slice()) {
            ([], []) => Ok(without),
            ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framed::Chunked),
            ([], [length]) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
                let length = std::str::from_utf8(length).unwrap_or_default().parse();
                length.map_or_else(
                    |_| wrong("a length beyond all numbers"),
                    |length| Ok(Framed::Length(length)),
                )
            }
            (_, []) => wrong("a transfer coding that is not chunked"),
            ([], _) => wrong("a length that is not one number"),
            (_, _) => wrong("a length and a transfer coding"),
        }
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            at_most: ROOM,
            rest: Duration::ZERO,
            patience: patience(),
            unrested: 0,
        }
    }

    /// What has come and was not read.
    pub(crate) fn left(&self) -> &[u8] {
        &self.buffer
    }

    /// Waits for the end of the connection; what comes before it is kept.
    pub(crate) async fn end(&mut self) -> Fault {
        loop {
            if let Err(fault) = self.fill().await {
                return fault;
            }
        }
    }

    async fn fill(&mut self) -> Result<(), Fault> {
        if self.unrested >= self.at_most && !self.rest.is_zero() {
            self.unrested = 0;
            tokio::time::sleep(self.rest).await;
        }
        self.buffer.reserve(ROOM);
        let mut room = (&mut self.buffer).limit(self.at_most);
        match timeout(self.patience, self.stream.read_buf(&mut room)).await {
            Err(_) => Err(Fault::Stuck),
            Ok(Ok(0)) => Err(Fault::Closed),
            Ok(Ok(read)) => {
                self.unrested += read;
                Ok(())
            }
            Ok(Err(e)) => Err(ended_by(&e)),
        }
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<Vec<u8>, Fault> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.buffer[looked..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(looked + at + 1).to_vec();
                line.pop();
                if line.pop() != Some(b'\r') || line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
                    let text = line.escape_ascii();
                    return Err(Fault::Malformed(format!("a line with a bare CR, LF or NUL: {text}")));
                }
                return Ok(line);
            }
            looked = self.buffer.len();
            self.fill().await?;
        }
    }

    /// The next head.
    pub(crate) async fn head(&mut self) -> Result<Head, Fault> {
        let start = self.line().await?;
        let fields = self.fields().await?;
        let target = start.split(|byte| *byte == b' ').nth(1).unwrap_or_default().to_vec();
        let start = String::from_utf8_lossy(&start).into_owned();
        Ok(Head { start, target, fields })
    }

    async fn fields(&mut self) -> Result<Vec<Field>, Fault> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
            let (name, value) = line.split_at(colon);
            if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
                return Err(Fault::Malformed(format!("no field: {}", line.escape_ascii())));
            }
            fields.push((name.to_vec(), value[1..].trim_ascii().to_vec()));
        }
    }

    /// A body that is framed so.
    pub(crate) async fn body(&mut self, framed: Framed) -> Read {
        let mut body = Vec::new();
        let mut read = self.stream(framed, &mut |part| body.extend_from_slice(part)).await;
        read.body = body;
        read
    }

    /// The same, of which each part is shown as it comes and none is kept.
    pub(crate) async fn stream(&mut self, framed: Framed, show: &mut (impl FnMut(&[u8]) + Send)) -> Read {
        let mut read = Read {
            framed,
            ..Read::default()
        };
        let result = match framed {
            Framed::None => Ok(()),
            Framed::Length(length) => self.exactly(length, show).await,
            Framed::Chunked => self.chunks(&mut read, show).await,
            Framed::UntilClose => loop {
                show(&self.buffer.split());
                match self.fill().await {
                    Ok(()) => {}
                    Err(Fault::Closed) => break Ok(()),
                    Err(fault) => break Err(fault),
                }
            },
        };
        read.fault = result.err();
        read
    }

    /// So many bytes.
    #[allow(dead_code)] // for those who read frames
    pub(crate) async fn exact(&mut self, length: usize) -> Result<Vec<u8>, Fault> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.split_to(length).to_vec())
    }

    async fn exactly(&mut self, length: u64, show: &mut (impl FnMut(&[u8]) + Send)) -> Result<(), Fault> {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        loop {
            let part = left.min(self.buffer.len());
            show(&self.buffer[..part]);
            self.buffer.advance(part);
            left -= part;
            if left == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn chunks(&mut self, read: &mut Read, show: &mut (impl FnMut(&[u8]) + Send)) -> Result<(), Fault> {
        loop {
            let line = self.line().await?;
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let text = std::str::from_utf8(digits).unwrap_or_default();
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = u64::from_str_radix(text, 16).ok().filter(|_| plain);
            let Some(size) = size else {
                return Err(Fault::Malformed(format!("no chunk size: {}", line.escape_ascii())));
            };
            if size == 0 {
                read.trailers = self.fields().await?;
                return Ok(());
            }
            self.exactly(size, show).await?;
            if !self.line().await?.is_empty() {
                return Err(Fault::Malformed("a chunk that is longer than it says".to_owned()));
            }
        }
    }
}

/// How a connection ended, from the error of a read.
fn ended_by(e: &io::Error) -> Fault {
    match e.kind() {
        ErrorKind::UnexpectedEof => Fault::NoGoodbye,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Fault::Reset,
        _ => Fault::Malformed(format!("the connection failed: {e}")),
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
