//! Bodies of answers.

use crate::ledger::Then;
use crate::message::{Chunks, answer, answer_line, get, raw};
use crate::split::Split;
use crate::table::{Case, answered};

const SIZES: [usize; 9] = [
    0,
    1,
    2,
    1_000,
    (64 << 10) - 1,
    64 << 10,
    (64 << 10) + 1,
    1 << 20,
    3 << 20,
];

pub(crate) fn lengths() -> Vec<Case> {
    let mut rows: Vec<Case> = SIZES
        .into_iter()
        .map(|size| answered("lengths of answers", format!("{size} bytes"), answer(200).length(size)))
        .collect();
    for (name, size, split) in [
        ("100 bytes bytewise", 100, Split::Bytewise),
        ("200,000 bytes apart from the head", 200_000, Split::Body),
        ("200,000 bytes in segments", 200_000, Split::Every(1_448)),
    ] {
        rows.push(answered("lengths of answers", name, answer(200).length(size)).split(split));
    }
    rows.push(
        answered(
            "lengths of answers",
            "1 MiB to who reads late",
            answer(200).length(1 << 20),
        )
        .manner(crate::client::Manner::ReadsLate),
    );
    rows
}

fn given(group: &'static str, name: &str, lines: &str, body: &str) -> Case {
    let text = format!("HTTP/1.1 200 OK\r\n{{x}}{lines}\r\n\r\n{body}");
    answered(group, name, raw(text)).says("ok")
}

/// Lengths that are none, and two framings (RFC 9112 section 6.3): a proxy that sends either on lets its client choose.
pub(crate) fn faulty_lengths() -> Vec<Case> {
    let ok = |name: &str, lines: &str| given("faulty lengths of answers", name, lines, "ok");
    let chunks = |name: &str, lines: &str| {
        given("faulty lengths of answers", name, lines, "2\r\nok\r\n0\r\n\r\n").then(Then::Close)
    };
    vec![
        ok("two that are equal", "Content-Length: 2\r\nContent-Length: 2").whole_or_broken(),
        ok("a list of equal ones", "Content-Length: 2, 2").whole_or_broken(),
        ok("a list of equal ones without a space", "Content-Length: 2,2").whole_or_broken(),
        ok("two that differ", "Content-Length: 2\r\nContent-Length: 3").bad(),
        ok("a list of different ones", "Content-Length: 2, 3").bad(),
        ok("zeros before it", "Content-Length: 002"),
        ok("a plus", "Content-Length: +2").bad(),
        ok("a minus", "Content-Length: -2").bad(),
        ok("hexadecimal", "Content-Length: 0x2").bad(),
        ok("a word", "Content-Length: two").bad(),
        ok("empty", "Content-Length:").bad(),
        ok("beyond 64 bits", "Content-Length: 18446744073709551618").bad(),
        chunks(
            "chunks and a length",
            "Transfer-Encoding: chunked\r\nContent-Length: 12",
        )
        .whole_or_broken(),
        chunks(
            "a length and chunks",
            "Content-Length: 12\r\nTransfer-Encoding: chunked",
        )
        .whole_or_broken(),
        chunks(
            "chunks and a wrong length",
            "Content-Length: 2\r\nTransfer-Encoding: chunked",
        )
        .whole_or_broken(),
        chunks("gzip", "Transfer-Encoding: gzip").bad(),
        chunks("gzip, chunked", "Transfer-Encoding: gzip, chunked").bad(),
        chunks("chunked, gzip", "Transfer-Encoding: chunked, gzip").bad(),
        chunks(
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        )
        .whole_or_broken(),
        chunks("identity", "Transfer-Encoding: identity").bad(),
        chunks("a capital", "Transfer-Encoding: Chunked"),
    ]
}

pub(crate) fn chunks() -> Vec<Case> {
    let mut rows = Vec::new();
    let shapes: [(&str, &[usize]); 7] = [
        ("none", &[]),
        ("one byte", &[1]),
        ("10, 200 and 3,000", &[10, 200, 3_000]),
        ("64 KiB + 1", &[(64 << 10) + 1]),
        ("1 MiB", &[1 << 20]),
        ("300 of one byte", &[1; 300]),
        ("200 of 1,024", &[1_024; 200]),
    ];
    for (name, sizes) in shapes {
        rows.push(answered("chunks of answers", name, answer(200).chunked(sizes)));
    }
    for (name, split) in [
        ("whole", Split::Whole),
        ("bytewise", Split::Bytewise),
        ("at every mark", Split::Marks),
        ("apart from the head", Split::Body),
        ("in segments of 7", Split::Every(7)),
    ] {
        rows.push(
            answered(
                "chunks of answers",
                format!("two of 5, {name}"),
                answer(200).chunked(&[5, 5]),
            )
            .split(split),
        );
        rows.push(
            answered(
                "chunks of answers",
                format!("70, 16 and 1, {name}"),
                answer(200).chunked(&[70, 16, 1]),
            )
            .split(split),
        );
    }
    let events = answer(200)
        .field("Content-Type", "text/event-stream")
        .chunked(&[30; 20]);
    rows.push(answered("chunks of answers", "an event stream", events).split(Split::Marks));
    rows
}

pub(crate) fn extensions_and_trailers() -> Vec<Case> {
    let with = |name: &str, upper: bool, zeros: usize, extension: &str| {
        let chunks = Chunks {
            sizes: vec![26, 171, 5],
            upper,
            zeros,
            extension: extension.to_owned(),
        };
        answered(
            "extensions of answers",
            name,
            answer_line(200, "HTTP/1.1 200 OK").chunks(chunks),
        )
    };
    let trailed = |name: &str, trailers: &[(&str, &str)]| {
        let given = answer(200).chunked(&[5]);
        let given = trailers
            .iter()
            .fold(given, |answer, (name, value)| answer.trailer(name, value));
        answered("trailers of answers", name, given)
    };
    let mut rows = vec![
        with("capital digits", true, 0, ""),
        with("14 zeros before", false, 14, ""),
        with("a name and a quoted value", false, 0, ";a=b;c=\"d; e\""),
        with("1,000 bytes", false, 0, &format!(";a={}", "b".repeat(1_000))),
        with("20,000 bytes", false, 0, &format!(";a={}", "b".repeat(20_000))).whole_or_broken(),
        with("at every mark", true, 2, ";a=\"b\"").split(Split::Marks),
        trailed("one", &[("X-Checksum", "abc")]),
        trailed("two", &[("X-A", "1"), ("X-B", "2")]),
        trailed("a name twice", &[("X-A", "1"), ("X-A", "2")]),
        trailed("at every mark", &[("X-A", "1"), ("X-B", "2")]).split(Split::Marks),
        trailed("bytewise", &[("X-A", "1")]).split(Split::Bytewise),
        trailed("to HTTP/1.0", &[("X-A", "1")]).asked(get("/x").version("HTTP/1.0")),
    ];
    let announced = answer(200).field("Trailer", "X-A").chunked(&[5]).trailer("X-A", "1");
    rows.push(answered("trailers of answers", "announced", announced));
    let large = answer(200).chunked(&[100_000]).trailer("X-A", "1");
    rows.push(answered("trailers of answers", "behind 100,000 bytes", large));
    rows
}

pub(crate) fn faulty_chunks() -> Vec<Case> {
    const BODIES: [(&str, &str); 17] = [
        ("an empty size line", "\r\n\r\n"),
        ("an empty size line behind a chunk", "2\r\nok\r\n\r\n\r\n"),
        ("a semicolon for a size", ";a\r\n\r\n"),
        ("a bare LF behind a size", "2\nok\r\n0\r\n\r\n"),
        ("a bare LF behind a chunk", "2\r\nok\n0\r\n\r\n"),
        ("a bare LF at the end", "2\r\nok\r\n0\r\n\n"),
        ("a bare LF in an extension", "2;a\nb\r\nok\r\n0\r\n\r\n"),
        ("a bare CR in an extension", "2;a\rb\r\nok\r\n0\r\n\r\n"),
        ("a letter that is no digit", "2\r\nok\r\ng\r\n\r\n"),
        ("hexadecimal of C", "0x2\r\nok\r\n0\r\n\r\n"),
        ("a plus", "+2\r\nok\r\n0\r\n\r\n"),
        ("a minus", "-2\r\nok\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", "10000000000000002\r\nok\r\n0\r\n\r\n"),
        ("a chunk that is longer", "2\r\nok!\r\n0\r\n\r\n"),
        ("a chunk that is shorter", "3\r\nok\r\n0\r\n\r\n"),
        ("no line end behind a chunk", "2\r\nok0\r\n\r\n"),
        ("a trailer that is no field", "2\r\nok\r\n0\r\nno field\r\n\r\n"),
    ];
    let row = |(name, body): &(&str, &str)| {
        given("faulty chunks of answers", name, "Transfer-Encoding: chunked", body)
            .then(Then::Close)
            .broken()
    };
    BODIES.iter().map(row).collect()
}

/// Answers that end with their connection (RFC 9112 section 6.3, rule 8).
pub(crate) fn until_close() -> Vec<Case> {
    let old = |name: &str, lines: &str, body: &str| {
        let text = format!("HTTP/1.0 200 OK\r\n{{x}}{lines}\r\n{body}");
        answered("until the end", name, raw(text)).says("ok").then(Then::Close)
    };
    let mut rows: Vec<Case> = [0, 5, 1_000, (64 << 10) + 1, 1 << 20]
        .into_iter()
        .map(|size| {
            answered(
                "until the end",
                format!("{size} bytes"),
                answer_line(200, "HTTP/1.1 200 OK").until_close(size),
            )
            .then(Then::Close)
        })
        .collect();
    let reset = answer_line(200, "HTTP/1.1 200 OK").until_close(5_000);
    rows.push(answered("until the end", "a reset", reset).then(Then::Reset).broken());
    rows.extend([
        old("HTTP/1.0", "", "ok"),
        old("HTTP/1.0 with a length", "Content-Length: 2\r\n", "ok"),
        old("HTTP/1.0 kept", "Content-Length: 2\r\nConnection: keep-alive\r\n", "ok").then(Then::Keep),
        // RFC 9112 section 6.1: the framing of such a message is faulty.
        old(
            "HTTP/1.0 with chunks",
            "Transfer-Encoding: chunked\r\n",
            "2\r\nok\r\n0\r\n\r\n",
        )
        .whole_or_broken(),
    ]);
    rows
}

/// What a client of HTTP/1.0 can read: a length, or the end of the connection.
pub(crate) fn to_old_clients() -> Vec<Case> {
    let old = || get("/x").version("HTTP/1.0");
    let row = |name: &str, given: crate::message::Message| answered("to HTTP/1.0", name, given);
    vec![
        row("a length", answer(200).length(5)).asked(old()),
        row("a length, kept", answer(200).length(5)).asked(old().field("Connection", "keep-alive")),
        row("chunks", answer(200).chunked(&[5, 70_000])).asked(old()),
        row("chunks, kept", answer(200).chunked(&[5, 5])).asked(old().field("Connection", "keep-alive")),
        row("until the end", answer_line(200, "HTTP/1.1 200 OK").until_close(5_000))
            .then(Then::Close)
            .asked(old()),
        row(
            "an event stream",
            answer(200)
                .field("Content-Type", "text/event-stream")
                .chunked(&[30, 30]),
        )
        .asked(old()),
        row("a length that is cut", answer(200).length(5_000))
            .less(10, Then::Close)
            .asked(old()),
    ]
}
