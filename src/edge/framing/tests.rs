//! Requests, wherever the network cuts them.

use bytes::BytesMut;
use proptest::prelude::*;

use super::{Direct, Framer, Refused};
use crate::gate::hygiene::Refusal;

const LIMIT: usize = 4096;

/// What the framework is given of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given {
    head: String,
    body: Vec<u8>,
    trailers: String,
}

/// Reads `wire` in pieces of the lengths `cuts`, then the rest, as a connection does: where the reader lets bytes pass, they pass it.
fn read(wire: &[u8], cuts: &[usize]) -> (Vec<Given>, Option<Refused>, Option<&'static str>) {
    let mut framer = Framer::new(BytesMut::new(), LIMIT);
    let (mut requests, mut given) = (Vec::new(), Vec::new());
    let mut pieces = cuts.iter().copied().chain(std::iter::repeat(usize::MAX));
    let mut rest = wire;
    loop {
        if let Err(malformed) = framer.advance() {
            return (requests, None, Some(malformed.0));
        }
        let output = framer.output().split();
        given.extend_from_slice(&output);
        if framer.is_over() {
            if let Some(refused) = framer.refused() {
                return (requests, Some(refused.clone()), None);
            }
            requests.push(parse(&given, framer.trailers()));
            given.clear();
            framer.next();
            continue;
        }
        if !output.is_empty() {
            continue;
        }
        if rest.is_empty() {
            assert!(given.is_empty(), "a request without its end: {given:?}");
            return (requests, None, None);
        }
        let length = pieces.next().unwrap().clamp(1, rest.len());
        let (piece, behind) = rest.split_at(length);
        match framer.direct() {
            Some(Direct::Plain(left)) => {
                let passed = (left as usize).min(piece.len());
                given.extend_from_slice(&piece[..passed]);
                framer.passed(passed as u64);
                rest = &rest[passed..];
            }
            Some(Direct::Chunk(left)) => {
                let passed = (left as usize).min(piece.len());
                given.extend_from_slice(format!("{passed:x}\r\n").as_bytes());
                given.extend_from_slice(&piece[..passed]);
                given.extend_from_slice(b"\r\n");
                framer.passed(passed as u64);
                rest = &rest[passed..];
            }
            None => {
                framer.input().extend_from_slice(piece);
                rest = behind;
            }
        }
    }
}

/// Takes apart what the framework was given; its chunks must be in the plainest form.
fn parse(given: &[u8], trailers: &[u8]) -> Given {
    let end = given.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (head, mut rest) = given.split_at(end);
    let head = String::from_utf8(head.to_vec()).unwrap();
    let mut body = Vec::new();
    if head.contains("chunked") {
        loop {
            let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            body.extend_from_slice(&rest[line + 2..line + 2 + size]);
            assert_eq!(&rest[line + 2 + size..line + 4 + size], b"\r\n");
            rest = &rest[line + 4 + size..];
            if size == 0 {
                break;
            }
        }
        assert!(rest.is_empty());
    } else {
        body.extend_from_slice(rest);
    }
    Given {
        head,
        body,
        trailers: String::from_utf8(trailers.to_vec()).unwrap(),
    }
}

fn chunked(parts: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{parts}")
}

#[test]
fn requests_that_follow_each_other_are_told_apart_bytewise() {
    let get = "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
    let post = "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    let chunks = chunked("5;a=\"x;y\"\r\nhello\r\n0A \r\n0123456789\r\n000\r\nX-Sum: 1\r\nX-B:\r\n\r\n");
    let old = "GET /3 HTTP/1.0\r\n\r\n";
    let wire = format!("{get}{post}\r\n{chunks}{old}{get}");
    for step in 1..wire.len() {
        let (requests, refused, malformed) = read(wire.as_bytes(), &vec![step; wire.len()]);
        assert_eq!(
            (refused, malformed, requests.len()),
            (None, None, 5),
            "in steps of {step}"
        );
        assert_eq!(requests[1].body, b"hello");
        assert_eq!(requests[2].body, b"hello0123456789");
        assert_eq!(requests[2].trailers, "X-Sum: 1\r\nX-B:\r\n");
        assert_eq!((requests[3].head.as_str(), requests[4].head.as_str()), (old, get));
    }
}

#[test]
fn a_body_that_could_be_read_in_two_ways_is_refused() {
    for (parts, why) in [
        ("\r\n0\r\n\r\n", "hexadecimal"),
        ("5\r\nhello\r\n\r\n", "hexadecimal"),
        ("5\nhello\r\n0\r\n\r\n", "CR LF"),
        ("5;a\nb\r\nhello\r\n0\r\n\r\n", "CR LF"),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", "CR LF"),
        ("5;a\0b\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("5 x\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("+5\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("0x5\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("-1\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("10000000000000000\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("4\r\nhello\r\n0\r\n\r\n", "longer than its size"),
        ("5\r\nhello\n0\r\n\r\n", "CR LF"),
        ("0\r\nno field\r\n\r\n", "trailer"),
        ("0\r\nX Y: 1\r\n\r\n", "trailer"),
        ("0\r\n: 1\r\n\r\n", "trailer"),
        ("0\r\nX: a\0\r\n\r\n", "trailer"),
        ("0\r\nX: 1\n\r\n", "CR LF"),
    ] {
        let wire = chunked(parts);
        for step in [1, 3, 7, wire.len()] {
            let (_, _, malformed) = read(wire.as_bytes(), &vec![step; wire.len()]);
            assert!(
                malformed.is_some_and(|said| said.contains(why)),
                "{parts:?}: {malformed:?}"
            );
        }
    }
    let long = chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(5000)));
    for step in [1, 64, long.len()] {
        assert_eq!(
            read(long.as_bytes(), &vec![step; long.len()]).2,
            Some("a line is too long"),
            "in pieces of {step} bytes"
        );
    }
    let trailers = chunked(&format!("0\r\n{}\r\n", "X-Y: zzzzzzzzzz\r\n".repeat(2000)));
    assert!(read(trailers.as_bytes(), &[]).2.is_some());
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn a_head_that_the_framework_would_refuse_is_replaced() {
    let many = format!("GET /m HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(300));
    let large = format!("GET /l HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "x".repeat(5000));
    let target = format!("GET /{}", "x".repeat(5000));
    for (wire, refusal, method, path) in [
        (
            "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            Refusal::Host,
            "GET",
            "/a",
        ),
        ("GET /a HTTP/1.1\r\nHost: u@h\r\n\r\n", Refusal::Host, "GET", "/a"),
        (
            "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
            Refusal::Host,
            "GET",
            "http://a/",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\nx",
            Refusal::ContentLength,
            "POST",
            "/b",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            Refusal::ContentLength,
            "POST",
            "/b",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx",
            Refusal::ContentLength,
            "POST",
            "/b",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nx",
            Refusal::ContentLength,
            "POST",
            "/b",
        ),
        (
            "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
            Refusal::TransferEncoding,
            "POST",
            "/c",
        ),
        (
            "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Refusal::TransferEncoding,
            "POST",
            "/c",
        ),
        (
            "POST /c HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refusal::TransferEncoding,
            "POST",
            "/c",
        ),
        (
            "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
            Refusal::MethodNotServed,
            "CONNECT",
            "h:1",
        ),
        ("GET /d\r\n", Refusal::Head, "GET", "/d"),
        ("GET /d HTTP/1.1\r\nA : b\r\n\r\n", Refusal::Head, "GET", "/d"),
        ("GET /d HTTP/1.1\r\nA\r\n\r\n", Refusal::Head, "GET", "/d"),
        ("GET /d HTTP/9.9\r\n\r\n", Refusal::Head, "GET", "/d"),
        ("SSH-2.0-x\r\n", Refusal::Head, "-", "/"),
        ("\u{16}\u{3}\u{1}\0\n", Refusal::Head, "-", "/"),
        (many.as_str(), Refusal::HeadersTooLarge, "GET", "/m"),
        (large.as_str(), Refusal::HeadersTooLarge, "GET", "/l"),
        (target.as_str(), Refusal::UriTooLong, "GET", &target[4..4 + 512]),
    ] {
        for step in [1, 5, 1000, wire.len()] {
            let (requests, refused, _) = read(wire.as_bytes(), &vec![step; wire.len()]);
            let refused = refused.unwrap_or_else(|| panic!("taken: {wire:?}"));
            assert!(requests.is_empty());
            assert_eq!(
                (refused.refusal, refused.method.as_str(), refused.target.as_str()),
                (refusal, method, path),
                "{wire:?} in steps of {step}"
            );
        }
    }
}

#[test]
fn a_head_in_the_frameworks_buffer_stays_there_unless_more_came_with_it() {
    let head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";
    let mut framer = Framer::new(BytesMut::new(), LIMIT);
    assert_eq!(framer.head_in_place(&mut head.to_vec()), Some(head.len()));
    assert_eq!(framer.direct(), Some(Direct::Plain(3)));
    let mut framer = Framer::new(BytesMut::new(), LIMIT);
    assert_eq!(framer.head_in_place(&mut [&head[..], b"ab"].concat()), Some(head.len()));
    assert_eq!(&framer.input()[..], b"ab");
    for partial in [
        &b"\r\nGET / HTTP/1.1\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n",
        b"",
        b"nonsense\r\n",
    ] {
        let mut framer = Framer::new(BytesMut::new(), LIMIT);
        assert_eq!(framer.head_in_place(&mut partial.to_vec()), None);
        assert_eq!(&framer.input()[..], partial);
    }
}

fn messages() -> impl Strategy<Value = Vec<(Vec<Vec<u8>>, bool)>> {
    let parts = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6);
    prop::collection::vec((parts, any::<bool>()), 1..5)
}

proptest! {
    #[test]
    fn no_segmentation_changes_a_byte(messages in messages(), cuts in prop::collection::vec(1_usize..30, 0..200)) {
        let mut wire = Vec::new();
        for (parts, is_chunked) in &messages {
            if *is_chunked {
                wire.extend_from_slice(chunked("").as_bytes());
                for part in parts {
                    wire.extend_from_slice(format!("{:X};ext\r\n", part.len()).as_bytes());
                    wire.extend_from_slice(part);
                    wire.extend_from_slice(b"\r\n");
                }
                wire.extend_from_slice(b"0\r\n\r\n");
            } else {
                let body = parts.concat();
                wire.extend_from_slice(format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
                wire.extend_from_slice(&body);
            }
        }
        let (requests, refused, malformed) = read(&wire, &cuts);
        prop_assert_eq!((refused, malformed), (None, None));
        let bodies: Vec<Vec<u8>> = requests.into_iter().map(|request| request.body).collect();
        let sent: Vec<Vec<u8>> = messages.iter().map(|(parts, _)| parts.concat()).collect();
        prop_assert_eq!(bodies, sent);
    }

    #[test]
    fn nothing_that_comes_makes_it_panic(wire in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(1_usize..30, 0..40)) {
        let mut framer = Framer::new(BytesMut::new(), LIMIT);
        let mut rest = wire.as_slice();
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            framer.input().extend_from_slice(piece);
            rest = behind;
            if framer.advance().is_err() {
                break;
            }
            framer.output().clear();
            if framer.is_over() {
                framer.next();
            }
        }
    }
}

#[test]
fn a_target_that_the_framework_does_not_take_is_kept_wherever_the_network_cuts_it() {
    let strange: [&[u8]; 4] = [b"/a?q=\"<x>\"", b"/?\xd5\xc5=\xff", b"/\xff?\"", b"/a\"b"];
    for target in strange {
        let wire = [
            b"GET ",
            target,
            b" HTTP/1.1\r\nHost: h\r\n\r\nGET /b?c HTTP/1.1\r\nHost: h\r\n\r\n",
        ]
        .concat();
        for cut in 1..wire.len() {
            let shown = format!("{} at {cut}", target.escape_ascii());
            let (first, rest) = wire.split_at(cut);
            let mut framer = Framer::new(BytesMut::new(), LIMIT);
            framer.input().extend_from_slice(first);
            framer.advance().unwrap();
            framer.input().extend_from_slice(rest);
            framer.advance().unwrap();
            let given = framer.output().split();
            assert!(framer.refused().is_none() && framer.is_over(), "{shown}");
            assert!(
                given.starts_with(b"GET /") && given.is_ascii() && !given.contains(&b'"'),
                "{shown}"
            );
            assert_eq!(framer.target(), Some(target), "{shown}");
            framer.next();
            framer.advance().unwrap();
            assert!(framer.output().split().starts_with(b"GET /b?c "), "{shown}");
            assert_eq!(framer.target(), None, "{shown}");
        }
        let mut framer = Framer::new(BytesMut::new(), LIMIT);
        let mut came = wire.clone();
        let kept = framer.head_in_place(&mut came).unwrap();
        assert_eq!((framer.target(), came.len() - kept), (Some(target), 30), "in place");
        assert!(came.get(..kept).unwrap().is_ascii());
    }
}

#[test]
fn a_target_with_a_space_or_a_control_character_is_none() {
    for target in [&b"/a b"[..], b"/a?b c", b"/?\x01", b"/?\"\x7f", b"/?\xff\x0b", b"/?\t"] {
        let mut framer = Framer::new(BytesMut::new(), LIMIT);
        let wire = [b"GET ", target, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
        framer.input().extend_from_slice(&wire);
        framer.advance().unwrap();
        let refused = framer.refused().map(|refused| refused.refusal);
        assert_eq!(refused, Some(Refusal::Head), "{}", target.escape_ascii());
    }
}
