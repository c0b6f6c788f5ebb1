//! Heads of answers.

use crate::ledger::Then;
use crate::message::{Message, answer, answer_line, get, raw, request};
use crate::table::{Case, answered};

pub(crate) fn statuses() -> Vec<Case> {
    let statuses = [
        200, 201, 202, 203, 206, 226, 299, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 409, 410, 412, 413,
        416, 418, 422, 429, 431, 451, 500, 501, 502, 503, 504, 507, 511, 599,
    ];
    let row = |status| {
        answered(
            "statuses",
            format!("{status}"),
            answer(status).length(20).field("X-A", "b"),
        )
    };
    statuses.into_iter().map(row).collect()
}

/// Answers without a body, whatever their fields say (RFC 9110 section 6.4.1).
pub(crate) fn bodiless() -> Vec<Case> {
    let row = |name: &str, answer: Message| answered("bodiless", name, answer);
    let to_head = |name: &str, answer: Message| row(name, answer).asked(request("HEAD", "/x"));
    vec![
        row("204", answer(204)),
        row(
            "204 with a length of 0",
            answer_line(204, "HTTP/1.1 204 No Content").field("Content-Length", "0"),
        ),
        row(
            "204 with a length",
            answer_line(204, "HTTP/1.1 204 No Content").field("Content-Length", "5"),
        )
        .whole_or_broken(),
        row(
            "204 with chunks",
            answer_line(204, "HTTP/1.1 204 No Content").field("Transfer-Encoding", "chunked"),
        )
        .whole_or_broken(),
        row("304", answer(304).field("ETag", "\"a\"")),
        row(
            "304 with a length",
            answer_line(304, "HTTP/1.1 304 Not Modified").field("Content-Length", "500"),
        ),
        row(
            "304 with chunks",
            answer_line(304, "HTTP/1.1 304 Not Modified").field("Transfer-Encoding", "chunked"),
        )
        .whole_or_broken(),
        row("205 of length 0", answer(205).length(0)),
        to_head(
            "HEAD, a length",
            answer_line(200, "HTTP/1.1 200 OK").field("Content-Length", "500"),
        )
        .arrives("content-length", &["500"]),
        to_head(
            "HEAD, a large length",
            answer_line(200, "HTTP/1.1 200 OK").field("Content-Length", "5000000000"),
        ),
        to_head(
            "HEAD, chunks",
            answer_line(200, "HTTP/1.1 200 OK").field("Transfer-Encoding", "chunked"),
        ),
        to_head("HEAD, neither", answer(200)),
        to_head(
            "HEAD, 404",
            answer_line(404, "HTTP/1.1 404 No").field("Content-Length", "9"),
        ),
    ]
}

/// Interim answers (RFC 9110 section 15.2).
pub(crate) fn interim() -> Vec<Case> {
    let hints = || answer(103).field("Link", "</a.css>; rel=preload");
    let row = |name: &str| answered("interim", name, answer(200).length(5));
    let upgrade = || {
        answer_line(101, "HTTP/1.1 101 Switching")
            .field("Connection", "Upgrade")
            .field("Upgrade", "websocket")
    };
    vec![
        row("100 unasked").after(answer_line(100, "HTTP/1.1 100 Continue")),
        row("100 twice")
            .after(answer_line(100, "HTTP/1.1 100 Continue"))
            .after(answer_line(100, "HTTP/1.1 100 Continue")),
        row("102").after(answer(102)),
        row("103").after(hints()),
        row("103 twice").after(hints()).after(hints()),
        row("103 before chunks").after(hints()),
        row("199").after(answer_line(199, "HTTP/1.1 199 What")),
        (0..20).fold(row("20 of 103"), |row, _| row.after(hints())),
        row("103 to HTTP/1.0")
            .after(hints())
            .asked(get("/x").version("HTTP/1.0")),
        answered("interim", "101 unasked", upgrade()).bad(),
        answered("interim", "101 unasked, and bytes", upgrade())
            .more("\x01\x02")
            .bad(),
        answered("interim", "101 to an upgrade that is not passed on", upgrade())
            .asked(get("/x").field("Connection", "Upgrade").field("Upgrade", "foo"))
            .bad(),
    ]
}

#[allow(clippy::too_many_lines)] // a table
pub(crate) fn passing() -> Vec<Case> {
    let row = |name: &str, fields: &[(&str, &[u8])]| {
        let given = fields.iter();
        let given = given.fold(answer(200), |answer, (name, value)| answer.field(name, value));
        answered("fields", name, given.length(5))
    };
    vec![
        row(
            "three cookies",
            &[
                ("Set-Cookie", b"a=1; Path=/"),
                ("Set-Cookie", b"b=2"),
                ("Set-Cookie", b"a=1; Path=/"),
            ],
        ),
        row("an empty value", &[("X-Empty", b"")]),
        row("bytes above ASCII", &[("X-Text", b"\xe5\xbc\xa0\xff")]),
        row("a tab within the value", &[("X-Tab", b"a\tb")]),
        row("every character that a name may have", &[("!#$%&'*+-.^`|~aZ09", b"a")]),
        row("two of a name", &[("X-A", b"1"), ("X-B", b"2"), ("x-a", b"3")]),
        row(
            "a coding",
            &[("Content-Encoding", b"gzip"), ("Vary", b"Accept-Encoding")],
        ),
        row("a location", &[("Location", b"http://h/a?b=%2F#c")]),
        row("a link", &[("Link", b"</a>; rel=\"next\", </b>; rel=\"last\"")]),
        row(
            "a challenge",
            &[
                ("WWW-Authenticate", b"Bearer realm=\"a, b\""),
                ("WWW-Authenticate", b"Basic"),
            ],
        ),
        row(
            "a date",
            &[
                ("Date", b"Mon, 01 Jan 2024 00:00:00 GMT"),
                ("Last-Modified", b"Mon, 01 Jan 2024 00:00:00 GMT"),
            ],
        ),
        row(
            "a range",
            &[
                ("Content-Range", b"bytes 0-4/10"),
                ("Accept-Ranges", b"bytes"),
                ("ETag", b"W/\"a\""),
            ],
        ),
        row("a name with _", &[("X_Under", b"a")]),
        row("Alt-Svc", &[("Alt-Svc", b"h3=\":443\"; ma=60")]),
        row(
            "what pages may do",
            &[
                ("Access-Control-Allow-Origin", b"*"),
                ("Content-Security-Policy", b"default-src 'self'"),
            ],
        ),
        row(
            "an event stream with a length",
            &[("Content-Type", b"text/event-stream")],
        ),
    ]
}

/// Fields for the gate alone are not passed on; what HTTP/2 forbids least of all.
pub(crate) fn of_one_hop() -> Vec<Case> {
    let row = |name: &str, fields: &[(&str, &str)]| {
        let given = fields.iter();
        let given = given.fold(answer_line(200, "HTTP/1.1 200 OK"), |answer, (name, value)| {
            answer.field(name, value)
        });
        answered("one hop of answers", name, given.length(5))
    };
    vec![
        row("Connection: close", &[("Connection", "close")]).then(Then::Close),
        row("Connection: close, and it stays", &[("Connection", "close")]),
        row("Connection: keep-alive", &[("Connection", "keep-alive")]),
        row(
            "Keep-Alive",
            &[("Connection", "keep-alive"), ("Keep-Alive", "timeout=5, max=9")],
        ),
        row("Keep-Alive alone", &[("Keep-Alive", "timeout=5")]),
        row("Proxy-Connection", &[("Proxy-Connection", "keep-alive")]),
        row("a nominated field", &[("Connection", "X-Hop"), ("X-Hop", "a")]),
        row(
            "two nominated",
            &[
                ("Connection", "keep-alive, x-hop"),
                ("Connection", "X-Two"),
                ("X-Hop", "a"),
                ("X-Two", "b"),
            ],
        ),
        row("a nominated Content-Length", &[("Connection", "Content-Length")]),
        row("Upgrade alone", &[("Upgrade", "h2,h2c")]),
        row(
            "Upgrade and Connection",
            &[("Connection", "Upgrade"), ("Upgrade", "h2c")],
        ),
        row("TE", &[("TE", "trailers")]),
        row("Trailer without trailers", &[("Trailer", "X-A")]),
    ]
}

pub(crate) fn malformed() -> Vec<Case> {
    let row = |name: &str, line: &[u8]| {
        let bytes = [b"HTTP/1.1 200 OK\r\n{x}", line, b"\r\nContent-Length: 2\r\n\r\nok"].concat();
        answered("malformed answers", name, raw(bytes)).says("ok")
    };
    vec![
        row("a space before the colon", b"X-A : b").whole_or_broken(),
        row("no name", b": b").bad(),
        row("no colon", b"X-A").bad(),
        row("a space in the name", b"X A: b").bad(),
        row("a control in the name", b"X\x01A: b").bad(),
        row("a NUL in the value", b"X-A: a\0b").bad(),
        row("a bare CR in the value", b"X-A: a\rb").bad(),
        row("a control in the value", b"X-A: a\x01b").whole_or_broken(),
        row("a folded value", b"X-A: a\r\n b").whole_or_broken(),
        row("a folded length", b"X-A: a\r\n Content-Length: 1").whole_or_broken(),
        row("a bare LF between fields", b"X-A: a\nX-B: b").whole_or_broken(),
        answered(
            "malformed answers",
            "bare LFs alone",
            raw("HTTP/1.1 200 OK\n{x}Content-Length: 2\n\nok"),
        )
        .says("ok")
        .whole_or_broken(),
        answered(
            "malformed answers",
            "a space before the first field",
            raw("HTTP/1.1 200 OK\r\n X-A: b\r\n{x}Content-Length: 2\r\n\r\nok"),
        )
        .says("ok")
        .whole_or_broken(),
    ]
}

/// First lines (RFC 9112 section 4).
pub(crate) fn first_lines() -> Vec<Case> {
    let row = |name: &str, line: &str| {
        let text = format!("{line}\r\n{{x}}Content-Length: 2\r\n\r\nok");
        answered("status lines", name, raw(text)).says("ok")
    };
    let bytes = |name: &str, bytes: &[u8]| answered("status lines", name, raw(bytes)).then(Then::Close).bad();
    vec![
        row("no reason", "HTTP/1.1 200 "),
        row("no reason and no space", "HTTP/1.1 200").whole_or_broken(),
        row("a long reason", &format!("HTTP/1.1 200 {}", "a".repeat(1_000))),
        row("a reason beyond ASCII", "HTTP/1.1 200 好"),
        row("HTTP/1.2", "HTTP/1.2 200 OK").whole_or_broken(),
        row("HTTP/2", "HTTP/2 200 OK").bad(),
        row("HTTP/2.0", "HTTP/2.0 200 OK").bad(),
        row("HTTP/9.9", "HTTP/9.9 200 OK").bad(),
        row("small letters", "http/1.1 200 OK").bad(),
        row("another protocol", "ICY 200 OK").bad(),
        row("two digits", "HTTP/1.1 20 OK").bad(),
        row("four digits", "HTTP/1.1 2000 OK").bad(),
        row("no digits", "HTTP/1.1 abc OK").bad(),
        row("status 000", "HTTP/1.1 000 What").bad(),
        row("status 099", "HTTP/1.1 099 What").bad(),
        row("two spaces", "HTTP/1.1  200 OK").whole_or_broken(),
        row("an empty line before it", "\r\nHTTP/1.1 200 OK").whole_or_broken(),
        bytes("nothing", b""),
        bytes("a banner of SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        bytes("an alert of TLS", b"\x15\x03\x03\x00\x02\x02\x46"),
        bytes("a page without a head", b"<html>hello</html>"),
        bytes("a line end", b"\r\n\r\n"),
        bytes("a request", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    ]
}

/// Long heads. The gate reads 64 KiB of them; what is longer is an error, never a part of one.
pub(crate) fn sizes() -> Vec<Case> {
    let many = |count: usize| (0..count).fold(answer(200), |answer, n| answer.field(format!("X-{n}"), n.to_string()));
    let long = |length: usize| answer(200).field("X-Long", "a".repeat(length)).length(5);
    vec![
        answered("sizes of answers", "a value of 8 KiB", long(8 << 10)),
        answered("sizes of answers", "a value of 30 KiB", long(30 << 10)),
        answered("sizes of answers", "a value of 60 KiB", long(60 << 10)),
        answered("sizes of answers", "a value of 200 KiB", long(200 << 10)).whole_or_broken(),
        answered(
            "sizes of answers",
            "a value of 2 MiB",
            raw([
                b"HTTP/1.1 200 OK\r\n{x}X-Long: ",
                "a".repeat(2 << 20).as_bytes(),
                b"\r\n\r\n",
            ]
            .concat()),
        )
        .bad(),
        answered("sizes of answers", "100 fields", many(100).length(5)),
        answered("sizes of answers", "300 fields", many(300).length(5)).whole_or_broken(),
        answered(
            "sizes of answers",
            "40 fields of 1 KiB",
            (0..40)
                .fold(answer(200), |answer, n| {
                    answer.field(format!("X-{n}"), "a".repeat(1 << 10))
                })
                .length(5),
        ),
    ]
}
