//! The requests of an HTTP/1 connection: where each one begins and ends (RFC 9112 section 6).
//!
//! The proxy framework is given one request at a time, with its chunks written anew. So a request that follows in the same segment is kept for its
//! turn, a chunk-size line means the same wherever the network cuts it, and a head that the framework would refuse on its own is replaced by one
//! that it takes, so that the refusal has the gate's status, body and access line.

mod body;
mod head;
mod target;

pub(super) use body::{SIZE_LINE, size_line};

use bytes::BytesMut;

use crate::gate::hygiene::Refusal;

/// Less of a chunk than this is read together with what follows it, in bytes.
const LEAST_DIRECT: u64 = 32 * 1024;

/// Where the reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A head is awaited, or its rest.
    Head,
    /// This many bytes of a body of known length are to come.
    Length(u64),
    /// A chunk-size line is next.
    ChunkSize,
    /// This many bytes of a chunk are to come.
    Chunk(u64),
    /// The line end behind a chunk is next.
    ChunkEnd,
    /// Trailer fields are next, up to an empty line.
    Trailers,
    /// The request is complete. What comes belongs to the next one.
    Over,
    /// The protocol was switched: every byte passes.
    Tunnel,
}

/// A request that cannot be taken, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The rule that it breaks.
    pub refusal: Refusal,
    /// Its method; `-` where it could not be read.
    pub method: String,
    /// Its target, at most 512 bytes of it; `/` where it could not be read.
    pub target: String,
}

/// Why a body cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body: {0}")]
pub struct Malformed(pub &'static str);

/// Reads the requests of one connection.
#[derive(Debug)]
pub struct Framer {
    stage: Stage,
    /// What came and was not looked at yet.
    input: BytesMut,
    /// What the framework is given next.
    output: BytesMut,
    /// Bytes that a head may have.
    head_limit: usize,
    /// Bytes of the input that are known to hold no whole head.
    scanned: usize,
    refused: Option<Refused>,
    /// The target of the request under way as it came, where others stand in for some of its bytes.
    target: Option<Box<[u8]>>,
    /// Whether the request under way came by a version that has interim answers.
    takes_interim: bool,
    /// The trailer section of the request under way, as it came.
    trailers: BytesMut,
    malformed: Option<Malformed>,
    /// Where in the output the chunk begins that more bytes may be put behind.
    grows: Option<usize>,
}

impl Framer {
    /// A reader of a connection on which `first` has come already. A head of more than `head_limit` bytes is refused.
    pub fn new(first: BytesMut, head_limit: usize) -> Self {
        Self {
            stage: Stage::Head,
            input: first,
            output: BytesMut::new(),
            head_limit,
            scanned: 0,
            refused: None,
            target: None,
            takes_interim: false,
            trailers: BytesMut::new(),
            malformed: None,
            grows: None,
        }
    }

    /// What was read from the connection goes behind this.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// What the framework is to be given.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Moves what can be moved from the input to the output.
    ///
    /// # Errors
    /// The body breaks the rules of its framing; nothing more of it can be read.
    pub fn advance(&mut self) -> Result<(), Malformed> {
        if let Some(malformed) = self.malformed {
            return Err(malformed);
        }
        let moved = self.step();
        self.malformed = moved.err();
        moved
    }

    fn step(&mut self) -> Result<(), Malformed> {
        // What was put there before may have been taken.
        self.grows = None;
        loop {
            let goes_on = match self.stage {
                // A head is given alone: the framework may be given it once more, and must not lose what comes behind it.
                Stage::Head => {
                    self.head();
                    false
                }
                Stage::Length(left) => self.length(left),
                Stage::Chunk(left) => self.chunk(left),
                Stage::ChunkSize | Stage::ChunkEnd | Stage::Trailers => self.line()?,
                Stage::Over => false,
                Stage::Tunnel => {
                    self.output.unsplit(self.input.split());
                    false
                }
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// How many bytes of a body may be read past this reader, since all that came before was given. `None` where it must see them.
    pub fn direct(&self) -> Option<Direct> {
        if !self.input.is_empty() || !self.output.is_empty() {
            return None;
        }
        match self.stage {
            Stage::Length(left) => Some(Direct::Plain(left)),
            Stage::Chunk(left) if left >= LEAST_DIRECT => Some(Direct::Chunk(left)),
            Stage::Tunnel => Some(Direct::Plain(u64::MAX)),
            Stage::Head | Stage::Chunk(_) | Stage::ChunkSize | Stage::ChunkEnd | Stage::Trailers | Stage::Over => None,
        }
    }

    /// Whether chunks are read, which are put together as far as they have come.
    pub fn gathers(&self) -> bool {
        matches!(self.stage, Stage::Chunk(_) | Stage::ChunkSize | Stage::ChunkEnd)
    }

    /// Notes that `length` bytes were read past this reader.
    pub fn passed(&mut self, length: u64) {
        self.stage = match self.stage {
            Stage::Length(left) => length_left(left.saturating_sub(length)),
            Stage::Chunk(left) => match left.saturating_sub(length) {
                0 => Stage::ChunkEnd,
                left => Stage::Chunk(left),
            },
            stage @ (Stage::Head
            | Stage::ChunkSize
            | Stage::ChunkEnd
            | Stage::Trailers
            | Stage::Over
            | Stage::Tunnel) => stage,
        };
    }

    /// Whether the request under way has come to its end.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over && self.output.is_empty()
    }

    /// Whether a head is awaited and nothing of it has come.
    pub fn is_between(&self) -> bool {
        self.stage == Stage::Head && self.input.is_empty()
    }

    /// Begins the next request.
    pub fn next(&mut self) {
        // A connection that rests holds no buffer.
        let rest = Some(std::mem::take(&mut self.input)).filter(|rest| !rest.is_empty());
        *self = Self::new(rest.unwrap_or_default(), self.head_limit);
    }

    /// From now on every byte passes.
    pub fn tunnel(&mut self) {
        self.stage = Stage::Tunnel;
    }

    /// The request under way where it cannot be taken.
    pub fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    /// Its target as it came, where the framework was given another one.
    pub fn target(&self) -> Option<&[u8]> {
        self.target.as_deref()
    }

    /// Whether its client takes interim answers (RFC 9110 section 15.2).
    pub fn takes_interim(&self) -> bool {
        self.takes_interim
    }

    /// Why its body cannot be read.
    pub fn malformed(&self) -> Option<Malformed> {
        self.malformed
    }

    /// The trailer section of the request, each line with its end; empty where there is none, or until it has come.
    pub fn trailers(&self) -> &[u8] {
        if self.stage == Stage::Over { &self.trailers } else { &[] }
    }
}

/// What may be read past the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// As it comes, and no more than this.
    Plain(u64),
    /// As a chunk of its own, and no more than this.
    Chunk(u64),
}

fn length_left(left: u64) -> Stage {
    match left {
        0 => Stage::Over,
        left => Stage::Length(left),
    }
}

#[cfg(test)]
mod tests;
