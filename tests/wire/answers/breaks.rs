//! Answers that break off, and what comes behind the end of one.

use crate::ledger::Then;
use crate::message::{answer, answer_line, post, raw};
use crate::table::{Case, answered};

/// A part of an answer must never look like a whole one.
pub(crate) fn cut() -> Vec<Case> {
    let mut rows = Vec::new();
    for (then, how) in [(Then::Close, "closed"), (Then::Reset, "reset")] {
        for (size, less) in [
            (5, 5),
            (5, 1),
            (100_000, 1),
            (100_000, 50_000),
            (1 << 20, 1),
            (1 << 20, 700_000),
        ] {
            let name = format!("{less} bytes less of {size}, {how}");
            rows.push(answered("cut", name, answer(200).length(size)).less(less, then));
        }
        let chunks = || answer_line(200, "HTTP/1.1 200 OK").chunked(&[5, 70_000]);
        for (name, less) in [
            ("the last byte", 1),
            ("the last line end", 2),
            ("the last line end but a byte", 3),
            ("the last chunk", 5),
            ("the end of a chunk", 6),
            ("a byte of a chunk", 8),
            ("half of a chunk", 35_000),
            ("all but a chunk", 70_007),
            ("a part of a size line", 70_010),
            ("everything", 70_024),
        ] {
            rows.push(answered("cut", format!("{name}, {how}"), chunks()).less(less, then));
        }
        let trailed = || answer_line(200, "HTTP/1.1 200 OK").chunked(&[5]).trailer("X-A", "b");
        rows.push(answered("cut", format!("a part of the trailers, {how}"), trailed()).less(4, then));
        rows.push(answered("cut", format!("the line end behind the trailers, {how}"), trailed()).less(2, then));
    }
    rows
}

/// A connection that ends within a head has no answer.
pub(crate) fn within_heads() -> Vec<Case> {
    let mut rows = Vec::new();
    for (then, how) in [(Then::Close, "closed"), (Then::Reset, "reset")] {
        for (name, text) in [
            ("nothing", ""),
            ("a part of the first line", "HTTP/1.1 20"),
            ("the first line", "HTTP/1.1 200 OK\r\n"),
            ("a part of a field", "HTTP/1.1 200 OK\r\nContent-Le"),
            ("all but the last line end", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"),
            ("all but a byte", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r"),
            ("an interim one", "HTTP/1.1 103 Early Hints\r\n\r\n"),
        ] {
            rows.push(
                answered("within the head", format!("{name}, {how}"), raw(text))
                    .then(then)
                    .bad(),
            );
        }
    }
    rows
}

/// Bytes behind an answer belong to nobody, and least of all to the next request.
pub(crate) fn behind_the_end() -> Vec<Case> {
    const OTHER: &str = "HTTP/1.1 200 OK\r\nX-Trial: 0\r\nContent-Length: 5\r\n\r\nwrong";
    let length = |name: &str| answered("behind the end", name, answer(200).length(5));
    let chunks = |name: &str| answered("behind the end", name, answer(200).chunked(&[5]));
    vec![
        length("garbage").more("garbage"),
        length("a line end").more("\r\n"),
        length("another answer").more(OTHER),
        length("another answer behind 70,000 bytes").more(OTHER),
        length("garbage, and closed").more("garbage").then(Then::Close),
        length("a reset").then(Then::Reset).whole_or_broken(),
        chunks("garbage behind chunks").more("garbage"),
        chunks("another answer behind chunks").more(OTHER),
        chunks("a reset behind chunks").then(Then::Reset).whole_or_broken(),
        answered(
            "behind the end",
            "a body behind 204",
            answer_line(204, "HTTP/1.1 204 No"),
        )
        .more("hello"),
        answered(
            "behind the end",
            "a body behind 304",
            answer_line(304, "HTTP/1.1 304 No"),
        )
        .more("hello"),
        answered(
            "behind the end",
            "another answer behind 204",
            answer_line(204, "HTTP/1.1 204 No"),
        )
        .more(OTHER),
    ]
}

/// Answers that do not wait for the request's end.
pub(crate) fn early() -> Vec<Case> {
    let row = |name: &str, size: usize| {
        answered("early", name, answer(413).length(20))
            .early()
            .asked(post("/x").length(size))
            .either()
    };
    vec![
        row("to 5 bytes", 5),
        row("to 100,000 bytes", 100_000),
        row("to 1 MiB", 1 << 20),
        row("to 100,000 bytes, and closed", 100_000).then(Then::Close),
        row("to 3 MiB, and closed", 3 << 20).then(Then::Close),
        answered("early", "to chunks", answer(413).chunked(&[20]))
            .early()
            .asked(post("/x").chunked(&[100_000, 5]))
            .either(),
    ]
}
