//! Connections: several requests at once, the end of one side, expectations, and clients that give up.

use crate::client::Manner;
use crate::message::{Message, get, post, raw, request};
use crate::split::Split;
use crate::table::{Case, Over, case, cases};

const GROUP: &str = "pipelined";

/// Requests that do not wait for answers get them in their order (RFC 9112 section 9.3.2).
#[allow(clippy::too_many_lines)] // a table
pub(crate) fn pipelined() -> Vec<Case> {
    let gets = |count: usize| (0..count).map(|n| get(format!("/{n}"))).collect::<Vec<_>>();
    let closes = |request: Message| request.field("Connection", "close");
    vec![
        cases(GROUP, "two", gets(2)),
        cases(GROUP, "three", gets(3)),
        cases(GROUP, "three at once", gets(3)).split(Split::Whole),
        cases(GROUP, "three bytewise", gets(3)).split(Split::Bytewise),
        cases(GROUP, "three at every mark", gets(3)).split(Split::Marks),
        cases(GROUP, "ten", gets(10)),
        cases(GROUP, "ten at once", gets(10)).split(Split::Whole),
        cases(GROUP, "ten in segments", gets(10)).split(Split::Every(50)),
        cases(GROUP, "40 at once", gets(40)).split(Split::Whole),
        cases(
            GROUP,
            "small bodies between",
            vec![post("/1").length(5), get("/2"), post("/3").length(500)],
        ),
        cases(
            GROUP,
            "small bodies at once",
            vec![post("/1").length(5), get("/2"), post("/3").length(500)],
        )
        .split(Split::Whole),
        cases(
            GROUP,
            "large bodies between",
            vec![
                post("/1").length(100_000),
                get("/2"),
                post("/3").length(70_000),
                get("/4"),
            ],
        ),
        cases(
            GROUP,
            "chunks between",
            vec![
                post("/1").chunked(&[5, 5]),
                get("/2"),
                post("/3").chunked(&[1]),
                get("/4"),
            ],
        ),
        cases(
            GROUP,
            "chunks at once",
            vec![post("/1").chunked(&[5, 5]), get("/2"), post("/3").chunked(&[])],
        )
        .split(Split::Whole),
        cases(
            GROUP,
            "chunks with trailers",
            vec![post("/1").chunked(&[5]).trailer("X-A", "1"), get("/2")],
        ),
        cases(GROUP, "HEAD between", vec![get("/1"), request("HEAD", "/2"), get("/3")]),
        cases(GROUP, "an empty body between", vec![post("/1").length(0), get("/2")]),
        cases(GROUP, "the last one closes", vec![get("/1"), closes(get("/2"))]),
        cases(
            GROUP,
            "bodies, the last one closes",
            vec![post("/1").length(10), closes(post("/2").length(10))],
        )
        .split(Split::Whole),
        cases(
            GROUP,
            "many sizes",
            [1, 65_536, 0, 65_537, 3]
                .iter()
                .map(|size| post("/x").length(*size))
                .collect(),
        ),
    ]
}

/// What stands behind good requests and is none: the good ones are served, the rest is refused.
pub(crate) fn pipelined_faults() -> Vec<Case> {
    let behind = |name: &str, text: &str| cases(GROUP, name, vec![get("/1"), raw(text)]).refused(&[400]);
    vec![
        behind("then no Host", "GET {t}/2 HTTP/1.1\r\n\r\n"),
        behind("then no request", "no request at all\r\n\r\n"),
        behind(
            "then two lengths",
            "POST {t}/2 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ),
        cases(
            GROUP,
            "a body longer than its length",
            vec![post("/1").length(5), raw("xx\r\n\r\n")],
        )
        .refused(&[400]),
        cases(
            GROUP,
            "a part of a head, and the end",
            vec![get("/1"), raw("GET {t}/2 HTTP/1.1\r\nHo")],
        )
        .lost()
        .manner(Manner::HalfCloses),
    ]
}

/// A client that says that it sends nothing more is still answered.
pub(crate) fn half_closed() -> Vec<Case> {
    let mut rows = Vec::new();
    for (manner, how) in [(Manner::HalfCloses, "FIN"), (Manner::SaysGoodbye, "close_notify")] {
        let half = |name: &str, requests: Vec<Message>| {
            cases("half-closed", format!("{name}, {how}"), requests)
                .over(Over::Http1)
                .manner(manner)
                .either()
        };
        rows.extend([
            half("GET", vec![get("/x")]),
            half("GET in HTTP/1.0", vec![get("/x").version("HTTP/1.0")]),
            half("a small body", vec![post("/x").length(5)]),
            half("a large body", vec![post("/x").length(100_000)]),
            half("chunks", vec![post("/x").chunked(&[5, 70_000])]),
            half("three at once", vec![get("/1"), post("/2").length(4), get("/3")]),
        ]);
    }
    rows
}

/// `Expect: 100-continue` (RFC 9110 section 10.1.1).
pub(crate) fn expecting() -> Vec<Case> {
    let expects = |request: Message| request.field("Expect", "100-continue");
    let waits = |name: &str, request: Message| case("expecting", name, expects(request)).manner(Manner::Waits);
    let other = |value: &str| post("/x").length(5).field("Expect", value);
    vec![
        waits("waits, 5 bytes", post("/x").length(5)),
        waits("waits, 100,000 bytes", post("/x").length(100_000)),
        waits("waits, 1 MiB", post("/x").length(1 << 20)),
        waits("waits, chunks", post("/x").chunked(&[5, 5])),
        waits("waits, large chunks", post("/x").chunked(&[100_000, 5])),
        waits("waits and closes", post("/x").length(5).field("Connection", "close")).over(Over::Http1),
        case("expecting", "does not wait", expects(post("/x").length(5))),
        case(
            "expecting",
            "does not wait, at once",
            expects(post("/x").length(50_000)),
        )
        .split(Split::Whole),
        case(
            "expecting",
            "does not wait, bytewise",
            expects(post("/x").chunked(&[5])),
        )
        .split(Split::Bytewise),
        case(
            "expecting",
            "capitals",
            post("/x").length(5).field("Expect", "100-Continue"),
        ),
        case("expecting", "without a body", expects(get("/x"))).over(Over::Http1),
        case("expecting", "something else", other("200-ok")).refused(&[417]),
        case("expecting", "something more", other("100-continue, 200-ok")).refused(&[417]),
        cases(
            "expecting",
            "then another request",
            vec![expects(post("/1").length(5)), get("/2")],
        ),
    ]
}

/// Clients that end or reset their connection within a request: no whole one arrives.
pub(crate) fn given_up() -> Vec<Case> {
    let mut rows = Vec::new();
    for (end, how) in [
        (Manner::EndsEarly as fn(usize) -> Manner, "ends"),
        (Manner::Resets, "resets"),
    ] {
        let left = |name: &str, request: Message, less: usize| {
            case("given up", format!("{name}, {how}"), request)
                .lost()
                .manner(end(less))
        };
        rows.extend([
            left("one byte less of 5", post("/x").length(5), 1),
            left("one byte less of 100,000", post("/x").length(100_000), 1),
            left("half of 200,000", post("/x").length(200_000), 100_000),
            left("half of 1 MiB", post("/x").length(1 << 20), 512 << 10),
            left("the last chunk less", post("/x").chunked(&[5, 5]), 5).over(Over::Http1),
            left("the last line end less", post("/x").chunked(&[5, 5]), 2).over(Over::Http1),
            left("the last byte less", post("/x").chunked(&[5, 5]), 1).over(Over::Http1),
            left("within a chunk", post("/x").chunked(&[100, 70_000]), 35_000),
            left("within a size line", post("/x").chunked(&[70_000, 256]), 265).over(Over::Http1),
            left("within the head", get("/x"), 10).over(Over::Http1),
        ]);
    }
    rows.push(case("given up", "reads late", post("/x").length(100_000)).manner(Manner::ReadsLate));
    rows
}
