//! HTTP/2 frame by frame (RFC 9113), since a library would refuse to write just what is tested.

use std::io::{Read, Write};

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A request: its fields, its body, and what comes after that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How a request over HTTP/2 ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With an answer of this status.
    Answered(u16),
    /// With an answer of another status than the table has.
    AnsweredOtherwise,
    /// It was reset, or the connection was given up.
    Refused,
}

impl Request {
    /// An ordinary request for `target`.
    pub(crate) fn get(target: &[u8]) -> Self {
        Self::of("GET", target)
    }

    pub(crate) fn of(method: &str, target: &[u8]) -> Self {
        Self::default()
            .with(":method", method)
            .with(":scheme", "https")
            .with(":authority", "h")
            .with(":path", target)
    }

    /// With a field more.
    pub(crate) fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Without the fields of a name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(own, _)| own != name.as_bytes());
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.into(), value.into()));
        self
    }

    /// Sends it on a connection of its own, and reads how it ends.
    pub(crate) fn send(&self, stream: &mut (impl Read + Write)) -> End {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut out, SETTINGS, 0, 0, &[]);
        let ends = |last: bool| if last { END_STREAM } else { 0 };
        let (bodiless, trailerless) = (self.body.is_none(), self.trailers.is_empty());
        let flags = END_HEADERS | ends(bodiless && trailerless);
        frame(&mut out, HEADERS, flags, 1, &block(&self.fields));
        if let Some(body) = &self.body {
            frame(&mut out, DATA, ends(trailerless), 1, body);
        }
        if !trailerless {
            frame(&mut out, HEADERS, END_HEADERS | END_STREAM, 1, &block(&self.trailers));
        }
        // A gate that has given up takes no more; what it said before is still there.
        let _ = stream.write_all(&out).and_then(|()| stream.flush());
        end(stream)
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Fields as literals that are not indexed (RFC 7541 section 6.2.2).
fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// A length with a prefix of seven bits (RFC 7541 section 5.1).
fn integer(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(length as u8);
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.push(rest as u8);
}

fn end(stream: &mut impl Read) -> End {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return End::Refused;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).is_err() {
            return End::Refused;
        }
        match (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]])) {
            (HEADERS, 1) => return status(&payload),
            (RST_STREAM, 1) | (GOAWAY, _) => return End::Refused,
            _ => {}
        }
    }
}

/// The status is the first field; seven of them stand in the static table (RFC 7541 appendix A).
fn status(block: &[u8]) -> End {
    // A change of the table's size may come first.
    let first = block.iter().find(|byte| !(0x20..0x40).contains(*byte));
    let known = [200, 204, 206, 304, 400, 404, 500];
    let index = first.and_then(|byte| usize::from(*byte).checked_sub(0x88));
    match index.and_then(|index| known.get(index)) {
        Some(status) => End::Answered(*status),
        None => End::AnsweredOtherwise,
    }
}
