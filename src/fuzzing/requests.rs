//! The reader of requests at the edge, and the one that watches the frames of HTTP/2 as they pass.

use bytes::BytesMut;

use super::answers::plain_chunks;
use super::{cut, with_cuts};
use crate::edge::frames::Traffic;
use crate::edge::framing::{Direct, Framer};
use crate::gate::hygiene::Refusal;

/// A head may have so many bytes.
const HEAD: usize = 2_048;

/// A request as the framework is given it.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    head: Vec<u8>,
    chunked: bool,
    body: Vec<u8>,
    trailers: Vec<u8>,
}

/// What becomes of a connection: its requests, and whether it ends because something cannot be taken.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    requests: Vec<Given>,
    /// The rule that the last one breaks. As much of it as had come is told beside that, which may be less than all.
    refused: Option<Refusal>,
    malformed: bool,
}

/// Reads a connection as it is read at the edge: some bytes are read past the reader of requests.
fn read(parts: Vec<&[u8]>) -> Read {
    let mut framer = Framer::new(BytesMut::new(), HEAD);
    let (mut all, mut given) = (Read::default(), Vec::new());
    for mut part in parts {
        while !part.is_empty() {
            let passed = match framer.direct() {
                Some(Direct::Plain(left)) => {
                    let passed = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
                    given.extend_from_slice(part.get(..passed).unwrap_or_default());
                    framer.passed(passed as u64);
                    passed
                }
                Some(Direct::Chunk(left)) => {
                    let passed = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
                    given.extend_from_slice(format!("{passed:x}\r\n").as_bytes());
                    given.extend_from_slice(part.get(..passed).unwrap_or_default());
                    given.extend_from_slice(b"\r\n");
                    framer.passed(passed as u64);
                    passed
                }
                None => {
                    framer.input().extend_from_slice(part);
                    part.len()
                }
            };
            part = part.get(passed..).unwrap_or_default();
            if !step(&mut framer, &mut given, &mut all) {
                return all;
            }
        }
    }
    all
}

/// Takes what there is to take; tells whether the connection goes on.
fn step(framer: &mut Framer, given: &mut Vec<u8>, all: &mut Read) -> bool {
    loop {
        if framer.advance().is_err() {
            all.malformed = true;
            return false;
        }
        let output = framer.output().split();
        given.extend_from_slice(&output);
        if !framer.is_over() {
            if output.is_empty() {
                return true;
            }
            continue;
        }
        if let Some(refused) = framer.refused() {
            all.refused = Some(refused.refusal);
            return false;
        }
        let mut request = taken_apart(&std::mem::take(given), framer.trailers());
        if let Some(target) = framer.target() {
            restore(&mut request.head, target);
        }
        all.requests.push(request);
        framer.next();
    }
}

/// Puts the target back as it came, for which the framework was given one of the same length that it takes.
fn restore(head: &mut [u8], target: &[u8]) {
    let start = head.iter().position(|byte| *byte == b' ').unwrap() + 1;
    let place = head.get_mut(start..start + target.len()).unwrap();
    assert_ne!(place, target, "it needed nothing in its place");
    place.copy_from_slice(target);
}

/// The head of a request, whose fields frame it in one way, and its body.
fn taken_apart(given: &[u8], trailers: &[u8]) -> Given {
    let mut room = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut room);
    let length = request.parse(given).unwrap().unwrap();
    let values = |name: &str| {
        let fields = request.headers.iter();
        fields
            .filter(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
            .collect::<Vec<_>>()
    };
    let (codings, lengths) = (values("transfer-encoding"), values("content-length"));
    let (head, rest) = given.split_at(length);
    let body = match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Vec::new(),
        ([], [length]) => {
            let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
            assert_eq!(rest.len(), length, "a body of another length");
            rest.to_vec()
        }
        (_, _) => {
            assert!(codings.len() == 1 && codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")));
            let (body, behind) = plain_chunks(rest).unwrap();
            assert!(behind.is_empty(), "bytes behind a body");
            body
        }
    };
    assert!(values("host").len() <= 1, "two hosts");
    Given {
        head: head.to_vec(),
        chunked: !codings.is_empty(),
        body,
        trailers: trailers.to_vec(),
    }
}

/// However a connection is cut, its requests are the same; and they lie in what came one behind the other, as a plain reading has them.
pub fn requests(data: &[u8]) {
    let (cuts, bytes) = with_cuts(data);
    // A head is looked at once a line of it has ended.
    let bytes = [bytes, b"\r\n\r\n"].concat();
    let whole = read(vec![&bytes]);
    assert_eq!(whole, read(cut(&bytes, cuts)));
    let mut rest = bytes.as_slice();
    for given in &whole.requests {
        while let [b'\r' | b'\n', behind @ ..] = rest {
            rest = behind;
        }
        rest = rest.strip_prefix(given.head.as_slice()).unwrap();
        if given.chunked {
            let (body, behind) = plain_chunks(rest).unwrap();
            assert_eq!(body, given.body);
            assert!(rest.len() - behind.len() >= given.trailers.len());
            rest = behind;
        } else {
            rest = rest.strip_prefix(given.body.as_slice()).unwrap();
        }
    }
}

/// However the bytes of a connection are cut, the same requests are under way on it.
pub fn http2(data: &[u8]) {
    let (cuts, bytes) = with_cuts(data);
    let (received, sent) = bytes.split_at(bytes.len() / 2);
    let (mut whole, mut parted) = (Traffic::new(), Traffic::new());
    whole.receive(received);
    whole.send(sent);
    cut(received, cuts).into_iter().for_each(|part| parted.receive(part));
    for part in cut(sent, cuts) {
        parted.send(part);
    }
    assert_eq!(format!("{whole:?}"), format!("{parted:?}"));
    while let Some(interim) = whole.interim() {
        assert_eq!(parted.interim(), Some(interim));
    }
    assert_eq!((whole.is_idle(), whole.goaway()), (parted.is_idle(), parted.goaway()));
}
