//! Bodies: lengths, chunks, and what could be framed in two ways (RFC 9112 sections 6 and 7).

use crate::client::Manner;
use crate::message::{Chunks, get, post, raw, request};
use crate::split::Split;
use crate::table::{Case, Over, case};

/// A body up to this many bytes is received before the request is sent on.
const SMALL: usize = 64 << 10;

pub(crate) fn lengths() -> Vec<Case> {
    let sizes = [1, 2, 1_000, SMALL - 1, SMALL, SMALL + 1, 100_000, 1 << 20, 3 << 20];
    let mut rows: Vec<Case> = sizes
        .into_iter()
        .map(|size| case("lengths", format!("{size} bytes"), post("/x").length(size)))
        .collect();
    for (name, size, split) in [
        ("100 bytes bytewise", 100, Split::Bytewise),
        ("1,000 bytes apart from the head", 1_000, Split::Body),
        ("200,000 bytes apart from the head", 200_000, Split::Body),
        ("200,000 bytes in segments", 200_000, Split::Every(1_448)),
        ("a body at every mark", 20, Split::Marks),
    ] {
        rows.push(case("lengths", name, request("PUT", "/x").length(size)).split(split));
    }
    let zeros = raw("POST {t}/x HTTP/1.1\r\nHost: h\r\nContent-Length: 0005\r\n\r\nhello");
    rows.push(case("lengths", "zeros before a length", zeros).at("/x").says("hello"));
    let zero = raw("GET {t}/x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    rows.push(case("lengths", "GET of length 0", zero).at("/x"));
    rows
}

/// Lengths that are none (RFC 9112 section 6.3, RFC 9110 section 8.6).
pub(crate) fn faulty_lengths() -> Vec<Case> {
    let sent = |name: &str, lines: &str| {
        let text = format!("POST {{t}}/x HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\nhello");
        case("faulty lengths", name, raw(text)).at("/x").says("hello")
    };
    let one = |name: &str, value: &str| sent(name, &format!("Content-Length: {value}"));
    vec![
        one("a plus", "+5").refused(&[400]),
        one("a minus", "-5").refused(&[400]),
        one("hexadecimal", "0x5").refused(&[400]),
        one("a space within", "5 5").refused(&[400]),
        one("a fraction", "5.0").refused(&[400]),
        one("an exponent", "5e0").refused(&[400]),
        one("empty", "").refused(&[400]),
        one("a word", "five").refused(&[400]),
        one("other digits", "５").refused(&[400]),
        one("a list of equal ones", "5, 5").same_or(&[400]),
        one("a list of different ones", "5, 6").refused(&[400]),
        one("a list with nothing", "5,").refused(&[400]),
        one("2 to the power of 64", "18446744073709551616").refused(&[400, 413]),
        one("2 to the power of 64, and 5", "18446744073709551621").refused(&[400, 413]),
        one("2 to the power of 63", "9223372036854775808").refused(&[400, 413]),
        one("beyond the limit", "200000000").refused(&[413]),
        sent("two that are equal", "Content-Length: 5\r\nContent-Length: 5").same_or(&[400]),
        sent("two that differ", "Content-Length: 5\r\nContent-Length: 6").refused(&[400]),
        sent("two that differ in zeros", "Content-Length: 5\r\nContent-Length: 05").same_or(&[400]),
        sent(
            "two, the second far away",
            "Content-Length: 5\r\nX-A: b\r\ncontent-length: 0",
        )
        .refused(&[400]),
        sent("folded", "Content-Length:\r\n 5").same_or(&[400]),
    ]
}

fn chunked(name: impl Into<String>, sizes: &[usize]) -> Case {
    case("chunks", name, post("/x").chunked(sizes)).over(Over::Http1)
}

/// Chunks of every size, in every segmentation.
pub(crate) fn chunks() -> Vec<Case> {
    let mut rows = Vec::new();
    let shapes: [(&str, &[usize]); 10] = [
        ("none", &[]),
        ("one byte", &[1]),
        ("two of 5", &[5, 5]),
        ("10, 200 and 3,000", &[10, 200, 3_000]),
        ("64 KiB - 1", &[SMALL - 1]),
        ("64 KiB", &[SMALL]),
        ("64 KiB + 1", &[SMALL + 1]),
        ("1 MiB", &[1 << 20]),
        ("300 of one byte", &[1; 300]),
        ("200 of 1,024", &[1_024; 200]),
    ];
    for (name, sizes) in shapes {
        rows.push(case("chunks", name, post("/x").chunked(sizes)));
    }
    for (name, split) in [
        ("whole", Split::Whole),
        ("bytewise", Split::Bytewise),
        ("at every mark", Split::Marks),
        ("apart from the head", Split::Body),
        ("in segments of 7", Split::Every(7)),
        ("in segments of 1,448", Split::Every(1_448)),
    ] {
        rows.push(chunked(format!("two of 5, {name}"), &[5, 5]).split(split));
        rows.push(chunked(format!("70, 16 and 1, {name}"), &[70, 16, 1]).split(split));
        rows.push(chunked(format!("none, {name}"), &[]).split(split));
    }
    rows.push(chunked("100 of 1,024, in segments of 1,448", &[1_024; 100]).split(Split::Every(1_448)));
    rows.push(chunked("20 of 3, at every mark", &[3; 20]).split(Split::Marks));
    rows.push(case("chunks", "GET", get("/x").chunked(&[5])).over(Over::Http1));
    rows.push(case("chunks", "DELETE", request("DELETE", "/x").chunked(&[5, 70_000])).over(Over::Http1));
    let capital = "POST {t}/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n000\r\n\r\n";
    rows.push(
        case("chunks", "a capital, and zeros at the end", raw(capital))
            .at("/x")
            .says("hello"),
    );
    rows
}

/// What a size line may have besides its size, and what may follow the last chunk (RFC 9112 sections 7.1.1 and 7.1.2).
#[allow(clippy::too_many_lines)] // a table
pub(crate) fn extensions_and_trailers() -> Vec<Case> {
    let with = |name: &str, upper: bool, zeros: usize, extension: &str| {
        let chunks = Chunks {
            sizes: vec![26, 171, 5],
            upper,
            zeros,
            extension: extension.to_owned(),
        };
        case("extensions", name, post("/x").chunks(chunks)).over(Over::Http1)
    };
    let long = |length: usize| format!(";a={}", "b".repeat(length));
    let trailed = |name: &str, trailers: &[(&str, &str)]| {
        let request = post("/x").chunked(&[5]);
        let request = trailers
            .iter()
            .fold(request, |request, (name, value)| request.trailer(name, value));
        case("trailers", name, request)
    };
    let mut rows = vec![
        with("capital digits", true, 0, ""),
        with("a zero before", false, 1, ""),
        with("14 zeros before", false, 14, ""),
        with("a name", false, 0, ";a"),
        with("a name and a value", false, 0, ";a=b"),
        with("a quoted value", false, 0, ";a=\"b; \\\"c\\\"\""),
        with("three", false, 0, ";a=b;c;d=\"e\""),
        with("spaces around it", false, 0, " ; a = b").same_or_cut(&[400]),
        with("100 bytes", false, 0, &long(100)),
        with("1,000 bytes", false, 0, &long(1_000)),
        with("3,000 bytes", false, 0, &long(3_000)).same_or_cut(&[400, 413]),
        with("20,000 bytes", false, 0, &long(20_000)).same_or_cut(&[400, 413]),
        with("at every mark", false, 3, ";a=\"b\"").split(Split::Marks),
        with("bytewise", true, 2, ";a=\"b c\";d").split(Split::Bytewise),
        trailed("one", &[("X-Checksum", "abc")]),
        trailed("two", &[("X-A", "1"), ("X-B", "2")]),
        trailed("a name twice", &[("X-A", "1"), ("X-A", "2")]),
        trailed("20", &[("X-A", "a"); 20]),
        trailed("bytewise", &[("X-Checksum", "abc")]).split(Split::Bytewise),
        trailed("at every mark", &[("X-A", "1"), ("X-B", "2")]).split(Split::Marks),
        case(
            "trailers",
            "behind nothing",
            post("/x").chunked(&[]).trailer("X-A", "1"),
        ),
        case(
            "trailers",
            "announced",
            post("/x").field("Trailer", "X-A").chunked(&[5]).trailer("X-A", "1"),
        ),
        case(
            "trailers",
            "behind 100,000 bytes",
            post("/x").chunked(&[100_000]).trailer("X-A", "1"),
        ),
    ];
    // RFC 9110 section 6.5.1: what frames, routes or authenticates a message may not be merged into its head.
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Authorization",
        "X-Forwarded-For",
    ] {
        let row = trailed(name, &[(name, "7")]).over(Over::Http1).same_or(&[400]);
        let row = if name == "X-Forwarded-For" {
            row.arrives("x-forwarded-for", &["127.0.0.1"])
        } else {
            row
        };
        rows.push(row.without_trailers());
    }
    rows
}

/// Bodies that break the grammar of chunks. Some servers take each of them for something else, so none may arrive as a whole one.
pub(crate) fn faulty_chunks() -> Vec<Case> {
    const BODIES: [(&str, &str); 27] = [
        ("an empty size line", "\r\n\r\n"),
        ("an empty size line behind a chunk", "5\r\nhello\r\n\r\n\r\n"),
        ("a space for a size", " \r\n\r\n"),
        ("a semicolon for a size", ";a=b\r\n\r\n"),
        ("a bare LF behind a size", "5\nhello\r\n0\r\n\r\n"),
        ("a bare LF behind a chunk", "5\r\nhello\n0\r\n\r\n"),
        ("a bare LF behind the last size", "5\r\nhello\r\n0\n\r\n"),
        ("a bare LF at the end", "5\r\nhello\r\n0\r\n\n"),
        ("bare LFs alone", "5\nhello\n0\n\n"),
        ("a bare CR behind a size", "5\rhello\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("a bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a letter that is no digit", "g\r\nhello\r\n0\r\n\r\n"),
        ("a letter behind a size", "5g\r\nhello\r\n0\r\n\r\n"),
        ("hexadecimal of C", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a space before a size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a space within a size", "0 5\r\nhello\r\n0\r\n\r\n"),
        ("an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a chunk that is longer", "5\r\nhello!\r\n0\r\n\r\n"),
        ("a chunk that is shorter", "6\r\nhello\r\n0\r\n\r\n"),
        ("no line end behind a chunk", "5\r\nhello0\r\n\r\n"),
        ("a trailer that is no field", "5\r\nhello\r\n0\r\nno field\r\n\r\n"),
        (
            "a trailer with a space before its colon",
            "5\r\nhello\r\n0\r\nX-A : b\r\n\r\n",
        ),
        ("a trailer with a NUL", "5\r\nhello\r\n0\r\nX-A: \0\r\n\r\n"),
    ];
    let mut rows = Vec::new();
    for (name, body) in BODIES {
        let text = format!("POST {{t}}/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        rows.push(case("faulty chunks", name, raw(text)).cut(&[400, 413]));
    }
    let largest =
        "POST {t}/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n";
    let row = case("faulty chunks", "the largest size", raw(largest)).lost();
    rows.push(row.manner(Manner::HalfCloses));
    let long = format!("5\r\nhello\r\n0\r\nX-A: {}\r\n\r\n", "a".repeat(200 << 10));
    let text = format!("POST {{t}}/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{long}");
    rows.push(case("faulty chunks", "a trailer of 200 KiB", raw(text)).cut(&[400, 413, 431]));
    rows
}

/// Messages that one server ends where another goes on (RFC 9112 section 6.1: such a connection ends).
#[allow(clippy::too_many_lines)] // a table
pub(crate) fn two_framings() -> Vec<Case> {
    const INNER: &str = "0\r\n\r\nGET {t}/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let sent = |name: &str, lines: &str, body: &str| {
        let text = format!("POST {{t}}/x HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n{body}");
        case("two framings", name, raw(text)).at("/x")
    };
    let hello = |name: &str, lines: &str| sent(name, lines, "5\r\nhello\r\n0\r\n\r\n").says("hello");
    vec![
        hello(
            "chunks and a length",
            "Transfer-Encoding: chunked\r\nContent-Length: 15",
        )
        .same_or(&[400])
        .ends(),
        hello(
            "a length and chunks",
            "Content-Length: 15\r\nTransfer-Encoding: chunked",
        )
        .same_or(&[400])
        .ends(),
        sent(
            "a length over a hidden request",
            "Content-Length: 60\r\nTransfer-Encoding: chunked",
            INNER,
        )
        .says("")
        .same_or(&[400])
        .ends(),
        sent(
            "chunks over a hidden request",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            INNER,
        )
        .says("")
        .same_or(&[400])
        .ends(),
        hello("gzip", "Transfer-Encoding: gzip").refused(&[400, 501]),
        hello("gzip, chunked", "Transfer-Encoding: gzip, chunked").refused(&[400, 501]),
        hello("chunked, gzip", "Transfer-Encoding: chunked, gzip").refused(&[400, 501]),
        hello("chunked, chunked", "Transfer-Encoding: chunked, chunked").refused(&[400, 501]),
        hello(
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        )
        .refused(&[400, 501]),
        hello(
            "chunked and identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        )
        .refused(&[400, 501]),
        hello("identity", "Transfer-Encoding: identity").refused(&[400, 501]),
        hello("an empty coding", "Transfer-Encoding:").refused(&[400, 501]),
        hello("a list with nothing", "Transfer-Encoding: ,chunked").same_or(&[400, 501]),
        hello("a parameter", "Transfer-Encoding: chunked;q=1").refused(&[400, 501]),
        hello("nearly chunked", "Transfer-Encoding: xchunked").refused(&[400, 501]),
        hello("quoted", "Transfer-Encoding: \"chunked\"").refused(&[400, 501]),
        hello("spaces around it", "Transfer-Encoding: \t chunked \t"),
        hello("a vertical tab", "Transfer-Encoding: \x0bchunked").refused(&[400, 501]),
        hello("a space before the colon", "Transfer-Encoding : chunked").refused(&[400]),
        hello("folded", "Transfer-Encoding:\r\n chunked").same_or(&[400]),
        hello("in a name with _", "Transfer_Encoding: chunked\r\nContent-Length: 15").says("5\r\nhello\r\n0\r\n\r\n"),
    ]
}
