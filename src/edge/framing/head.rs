//! The head of a request: where it ends, how its body is framed, and whether it can be taken at all.

use std::mem::MaybeUninit;

use http::header::HOST;
use pingora::http::RequestHeader;
use pingora::protocols::http::authority::validate_request_authority;

use super::target::{is_strange, stand_in};
use super::{Framer, Refused, Stage, length_left};
use crate::gate::hygiene::Refusal;

/// The framework takes no more header fields than this.
const MAX_FIELDS: usize = 256;
/// As much of a target is kept for the access line.
const KEPT_TARGET: usize = 512;

/// What a buffer begins with.
enum Read {
    /// Not all of a head.
    Partial,
    /// A head.
    Head(Head),
    /// Something that cannot be taken.
    Refused(Refusal),
}

/// What is known of a whole head.
struct Head {
    /// Its length in bytes.
    length: usize,
    /// What follows it.
    stage: Stage,
    /// Whether its version is HTTP/1.1.
    is_new: bool,
    /// Whether the framework does not take its target.
    is_strange: bool,
}

impl Framer {
    /// Reads a head, if it is there.
    pub(super) fn head(&mut self) {
        // Empty lines before a request are skipped (RFC 9112 section 2.2).
        let empty = self
            .input
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        let _ = self.input.split_to(empty);
        let is_new = self.input.get(self.scanned..).unwrap_or_default();
        let is_first = self.scanned == 0;
        if is_new.is_empty() || !(is_first || is_new.contains(&b'\n') || self.input.len() > self.head_limit) {
            self.scanned = self.input.len();
            return;
        }
        let (read, target) = read_target(&mut self.input);
        self.target = target.or(self.target.take());
        match read {
            Read::Head(head) if head.length > self.head_limit => self.refuse(Refusal::HeadersTooLarge),
            Read::Head(head) => {
                self.output.unsplit(self.input.split_to(head.length));
                (self.stage, self.scanned, self.takes_interim) = (head.stage, 0, head.is_new);
            }
            Read::Refused(refusal) => self.refuse(refusal),
            Read::Partial if self.input.len() > self.head_limit => {
                let has_line = self.input.contains(&b'\n');
                self.refuse(if has_line {
                    Refusal::HeadersTooLarge
                } else {
                    Refusal::UriTooLong
                });
            }
            Read::Partial => self.scanned = self.input.len(),
        }
    }

    /// Reads a head that came into the framework's own buffer, without a copy. Tells how many bytes of `came` are the framework's: all, or those of
    /// the head; `None` where the reader has taken all of them.
    pub fn head_in_place(&mut self, came: &mut [u8]) -> Option<usize> {
        let starts = self.is_between() && !came.starts_with(b"\r") && !came.starts_with(b"\n");
        if starts && came.len() <= self.head_limit {
            let (read, target) = read_target(came);
            self.target = target;
            if let Read::Head(head) = read {
                self.input
                    .extend_from_slice(came.get(head.length..).unwrap_or_default());
                (self.stage, self.takes_interim) = (head.stage, head.is_new);
                return Some(head.length);
            }
        }
        self.input.extend_from_slice(came);
        None
    }

    /// Gives the framework a request that it takes, for one that it would not.
    fn refuse(&mut self, refusal: Refusal) {
        let line = self
            .input
            .as_ref()
            .split(|byte: &u8| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let mut words = line.trim_ascii().split(|byte| *byte == b' ');
        let method = words.next().filter(|word| is_token(word)).unwrap_or(b"-");
        let target = self.target.as_deref().or(words.next());
        let target = target.filter(|word| is_printable(word)).unwrap_or(b"/");
        let kept = target.get(..target.len().min(KEPT_TARGET)).unwrap_or_default();
        self.refused = Some(Refused {
            refusal,
            method: String::from_utf8_lossy(method).into_owned(),
            target: String::from_utf8_lossy(kept).into_owned(),
        });
        self.input.clear();
        self.output
            .extend_from_slice(b"GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n");
        (self.stage, self.scanned) = (Stage::Over, 0);
    }
}

fn is_token(word: &[u8]) -> bool {
    (1..=20).contains(&word.len()) && word.iter().all(u8::is_ascii_alphabetic)
}

fn is_printable(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(u8::is_ascii_graphic)
}

/// Reads the head of which the buffer has the start. Where the framework does not take its target, others stand in for some of its bytes, and it is
/// returned as it came.
fn read_target(buffer: &mut [u8]) -> (Read, Option<Box<[u8]>>) {
    let seen = read(buffer);
    let may_be_strange = match &seen {
        Read::Head(head) => head.is_strange,
        // Such as a target that is no UTF-8.
        Read::Refused(refusal) => *refusal == Refusal::Head,
        Read::Partial => false,
    };
    match may_be_strange.then(|| stand_in(buffer)).flatten() {
        None => (seen, None),
        target => (read(buffer), target),
    }
}

fn read(buffer: &[u8]) -> Read {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(buffer, &mut room) {
        Ok(httparse::Status::Complete(length)) => match framing(&request) {
            Ok(stage) => Read::Head(Head {
                length,
                stage,
                is_new: request.version == Some(1),
                is_strange: request.path.unwrap_or_default().bytes().any(is_strange),
            }),
            Err(refusal) => Read::Refused(refusal),
        },
        Ok(httparse::Status::Partial) => Read::Partial,
        Err(httparse::Error::TooManyHeaders) => Read::Refused(Refusal::HeadersTooLarge),
        Err(_) => Read::Refused(Refusal::Head),
    }
}

/// How the body of a request is framed (RFC 9112 section 6.3).
fn framing(request: &httparse::Request<'_, '_>) -> Result<Stage, Refusal> {
    let (mut hosts, mut length, mut is_chunked) = (0, None, false);
    for field in request.headers.iter() {
        match field.name.len() {
            4 if field.name.eq_ignore_ascii_case("host") => {
                hosts += 1;
                require(hosts == 1 && !field.value.contains(&b'@'), Refusal::Host)?;
            }
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let value = number(field.value).filter(|_| length.is_none());
                length = Some(value.ok_or(Refusal::ContentLength)?);
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                let once = !is_chunked && request.version == Some(1);
                require(
                    once && field.value.eq_ignore_ascii_case(b"chunked"),
                    Refusal::TransferEncoding,
                )?;
                is_chunked = true;
            }
            _ => {}
        }
    }
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    require(method != "CONNECT", Refusal::MethodNotServed)?;
    require(target.starts_with('/') || names_one_host(request), Refusal::Host)?;
    Ok(if is_chunked {
        Stage::ChunkSize
    } else {
        length_left(length.unwrap_or(0))
    })
}

fn require(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

/// Whether the framework finds one host in a target that is no path (RFC 9112 section 3.2.2).
fn names_one_host(request: &httparse::Request<'_, '_>) -> bool {
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let Ok(mut header) = RequestHeader::build(method, target.as_bytes(), None) else {
        return false;
    };
    let host = request
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("host"));
    let inserted = host.is_none_or(|host| header.insert_header(HOST, host.value).is_ok());
    inserted && validate_request_authority(&header).is_ok()
}

/// Digits alone: no sign, no space, no overflow.
fn number(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| plain)?.parse().ok()
}
