//! Header fields.

use crate::message::{Message, get, post, raw};
use crate::table::{Case, Over, case};

const GROUP: &str = "fields";

fn one(name: &str, field: &str, value: impl AsRef<[u8]>) -> Case {
    case(GROUP, name, get("/x").field(field, value))
}

/// What an application is told by its client arrives as it was sent.
#[allow(clippy::too_many_lines)] // a table
pub(crate) fn passing() -> Vec<Case> {
    let lines = |lines: &[(&str, &str)]| {
        let all = lines.iter();
        all.fold(get("/x"), |request, (name, value)| request.field(name, value))
    };
    let mut rows = vec![
        one("an empty value", "X-Empty", ""),
        one("capitals and small letters", "x-MiXeD-cAsE", "a"),
        one("every character that a name may have", "!#$%&'*+-.^`|~aZ09", "a"),
        one("a tab within the value", "X-Tab", "a\tb"),
        one("bytes above ASCII", "X-Text", b"\xe5\xbc\xa0\xff"),
        one("quotes and commas", "X-List", "a, \"b, c\", ,d"),
        one("a value that looks like a field", "X-Looks", "Host: evil"),
        one("an authorization", "Authorization", "Bearer app-x=="),
        one("a range", "Range", "bytes=0-1,-5"),
        one("a condition", "If-None-Match", "W/\"a\", \"b\""),
        one("codings that are accepted", "Accept-Encoding", "br;q=1.0, *;q=0"),
        one("a user agent", "User-Agent", "curl/8 (x; y)"),
        one("a referrer", "Referer", "https://h/a?b=%2F"),
        one("an origin", "Origin", "https://h"),
        one("Max-Forwards", "Max-Forwards", "0"),
        one("a cookie", "Cookie", "a=b; c=\"d\"; e"),
        one("a name with _", "X_Under", "a").drops("x_under"),
        one("another path", "X-Original-URL", "/admin").drops("x-original-url"),
        one("a client's own address", "X-Real-IP", "192.0.2.9").arrives("x-real-ip", &["127.0.0.1"]),
        one("a client's own hops", "X-Forwarded-For", "192.0.2.9").arrives("x-forwarded-for", &["127.0.0.1"]),
        case(
            GROUP,
            "two of a name",
            lines(&[("X-A", "1"), ("X-B", "2"), ("x-a", "3")]),
        ),
        case(
            GROUP,
            "a name three times, the same",
            lines(&[("X-A", "1"), ("X-A", "1"), ("X-A", "1")]),
        ),
        case(
            GROUP,
            "a type with a body",
            post("/x")
                .length(2)
                .field("Content-Type", "application/json; charset=utf-8"),
        ),
        case(
            GROUP,
            "a coding with a body",
            post("/x").length(2).field("Content-Encoding", "gzip"),
        ),
        // RFC 9113 section 8.2.3: what HTTP/2 may split must be one line again.
        case(
            GROUP,
            "crumbs of a cookie",
            lines(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=\"3\"")]),
        )
        .over(Over::Http2)
        .arrives("cookie", &["a=1; b=2; c=\"3\""]),
    ];
    for (name, text, value) in [
        ("no space before the value", "X-A:b", "b"),
        ("many spaces around the value", "X-A:  \t b \t ", "b"),
        ("a colon in the value", "X-A: :b:", ":b:"),
    ] {
        let bytes = format!("GET {{t}}/x HTTP/1.1\r\nHost: h\r\n{text}\r\n\r\n");
        rows.push(case(GROUP, name, raw(bytes)).at("/x").arrives("x-a", &[value]));
    }
    rows
}

/// Fields for the next hop alone (RFC 9110 section 7.6.1) do not arrive.
#[allow(clippy::too_many_lines)] // a table
pub(crate) fn of_one_hop() -> Vec<Case> {
    let sent = |name: &str, fields: &[(&str, &str)]| {
        let all = fields.iter();
        let request = all.fold(get("/x"), |request, (name, value)| request.field(name, value));
        case("one hop", name, request).over(Over::Http1)
    };
    let body = |request: Message| request.length(4).field("X-A", "b");
    vec![
        sent("Connection: close", &[("Connection", "close")]),
        sent("Connection: Close", &[("Connection", "Close")]),
        sent(
            "Connection: keep-alive",
            &[("Connection", "keep-alive"), ("Keep-Alive", "timeout=5")],
        )
        .drops("keep-alive"),
        sent("a nominated field", &[("Connection", "X-Hop"), ("X-Hop", "a")]).drops("x-hop"),
        sent(
            "two nominated on two lines",
            &[
                ("Connection", "x-hop, keep-alive"),
                ("Connection", "X-Two"),
                ("X-Hop", "a"),
                ("X-Two", "b"),
            ],
        )
        .drops("x-hop")
        .drops("x-two"),
        sent("a nominated field that is not there", &[("Connection", "X-None")]),
        sent("empty members", &[("Connection", ", ,keep-alive,,")]),
        // The framework refuses to remove what frames, routes or identifies a request.
        sent("a nominated Host", &[("Connection", "Host")]).same_or(&[400]),
        sent("a nominated X-Forwarded-For", &[("Connection", "X-Forwarded-For")])
            .arrives("x-forwarded-for", &["127.0.0.1"])
            .same_or(&[400]),
        case(
            "one hop",
            "a nominated Content-Length",
            body(post("/x")).field("Connection", "Content-Length"),
        )
        .over(Over::Http1),
        case(
            "one hop",
            "a nominated Transfer-Encoding",
            post("/x").chunked(&[4]).field("Connection", "Transfer-Encoding"),
        )
        .over(Over::Http1),
        sent("Proxy-Connection", &[("Proxy-Connection", "keep-alive")]).drops("proxy-connection"),
        sent("TE: trailers", &[("TE", "trailers"), ("Connection", "TE")]),
        sent("TE: gzip", &[("TE", "gzip;q=0.5"), ("Connection", "TE")]).drops("te"),
        sent("Upgrade without Connection", &[("Upgrade", "websocket")]).drops("upgrade"),
        sent(
            "Upgrade to what nobody speaks",
            &[("Upgrade", "foo/2"), ("Connection", "Upgrade")],
        )
        .drops("upgrade"),
        sent(
            "Upgrade to h2c",
            &[
                ("Upgrade", "h2c"),
                ("Connection", "Upgrade, HTTP2-Settings"),
                ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
            ],
        )
        .drops("upgrade")
        .drops("http2-settings"),
    ]
}

/// Many fields, and long ones. The gate's limits are 100 lines and 64 KiB.
pub(crate) fn sizes() -> Vec<Case> {
    let many = |count: usize| (0..count).fold(get("/x"), |request, n| request.field(format!("X-{n}"), n.to_string()));
    vec![
        one("a value of 8 KiB", "X-Long", "a".repeat(8 << 10)),
        one("a value of 30 KiB", "X-Long", "a".repeat(30 << 10)),
        one("a value of 60 KiB", "X-Long", "a".repeat(60 << 10)),
        one("a value of 66 KiB", "X-Long", "a".repeat(66 << 10)).refused(&[431]),
        one("a value of 200 KiB", "X-Long", "a".repeat(200 << 10)).refused(&[431]),
        one("a name of 1 KiB", &"a".repeat(1 << 10), "b"),
        one("a cookie of 16 KiB", "Cookie", "a=".to_owned() + &"b".repeat(16 << 10)),
        case(GROUP, "90 fields", many(90)),
        case(GROUP, "101 fields", many(101)).refused(&[431]),
        case(GROUP, "256 fields", many(256)).refused(&[431]),
        case(GROUP, "300 fields", many(300)).refused(&[431]),
        case(GROUP, "2,000 fields", many(2_000)).refused(&[431]),
        case(
            GROUP,
            "40 fields of 1 KiB",
            (0..40).fold(get("/x"), |request, n| {
                request.field(format!("X-{n}"), "a".repeat(1 << 10))
            }),
        ),
    ]
}

/// Lines that are no fields (RFC 9112 sections 2.2, 5.1 and 5.2).
pub(crate) fn malformed() -> Vec<Case> {
    let sent = |name: &str, line: &[u8]| {
        let bytes = [b"GET {t}/x HTTP/1.1\r\nHost: h\r\n", line, b"\r\n\r\n"].concat();
        case("malformed fields", name, raw(bytes)).at("/x")
    };
    vec![
        sent("a space before the colon", b"X-A : b").refused(&[400]),
        sent("a tab before the colon", b"X-A\t: b").refused(&[400]),
        sent("no name", b": b").refused(&[400]),
        sent("no colon", b"X-A").refused(&[400]),
        sent("a space in the name", b"X A: b").refused(&[400]),
        sent("a bracket in the name", b"X(A): b").refused(&[400]),
        sent("a control in the name", b"X\x01A: b").refused(&[400]),
        sent("a letter beyond ASCII in the name", "É: b".as_bytes()).refused(&[400]),
        sent("a NUL in the value", b"X-A: a\0b").refused(&[400]),
        sent("a bare CR in the value", b"X-A: a\rb").refused(&[400]),
        sent("a bare CR at the end of the value", b"X-A: a\r").refused(&[400]),
        sent("a bare CR before a field", b"X-A: a\rX-B: b").refused(&[400]),
        sent("a control in the value", b"X-A: a\x01b")
            .arrives("x-a", &["a\x01b"])
            .same_or(&[400]),
        sent("a DEL in the value", b"X-A: a\x7fb")
            .arrives("x-a", &["a\x7fb"])
            .same_or(&[400]),
        sent("a folded value", b"X-A: a\r\n b")
            .arrives("x-a", &["a b"])
            .same_or(&[400]),
        sent("a value folded by a tab", b"X-A: a\r\n\tb")
            .arrives("x-a", &["a b"])
            .same_or(&[400]),
        sent("a value folded to nothing", b"X-A: a\r\n ")
            .arrives("x-a", &["a"])
            .same_or(&[400]),
        sent("a folded Host", b"X-A: a\r\n Host: evil")
            .arrives("x-a", &["a Host: evil"])
            .same_or(&[400]),
        sent("a bare LF between fields", b"X-A: a\nX-B: b")
            .arrives("x-a", &["a"])
            .arrives("x-b", &["b"])
            .same_or(&[400]),
        case(
            "malformed fields",
            "bare LFs alone",
            raw("GET {t}/x HTTP/1.1\nHost: h\n\n"),
        )
        .at("/x")
        .same_or(&[400]),
        case(
            "malformed fields",
            "a space before the first field",
            raw("GET {t}/x HTTP/1.1\r\n Host: h\r\n\r\n"),
        )
        .refused(&[400]),
        case(
            "malformed fields",
            "an indented line before Host",
            raw("GET {t}/x HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n"),
        )
        .at("/x")
        .same_or(&[400]),
    ]
}

/// `Host` (RFC 9112 section 3.2, RFC 9110 section 7.2).
pub(crate) fn hosts() -> Vec<Case> {
    let host = |name: &str, host: &str| case("hosts", name, get("/x").host(host));
    let raw_host =
        |name: &str, lines: &str| case("hosts", name, raw(format!("GET {{t}}/x HTTP/1.1\r\n{lines}\r\n"))).at("/x");
    vec![
        host("with a port", "h:8080"),
        host("capitals", "H.Example"),
        host("a final dot", "h.example."),
        host("an address", "192.0.2.1:80"),
        host("an address of IPv6", "[2001:db8::1]:80"),
        host("an underscore", "my_host"),
        raw_host("none", "").refused(&[400]),
        raw_host("none with others", "X-A: b\r\n").refused(&[400]),
        raw_host("two", "Host: h\r\nHost: i\r\n").refused(&[400]),
        raw_host("two that are equal", "Host: h\r\nHost: h\r\n").refused(&[400]),
        raw_host("two far apart", "Host: h\r\nX-A: b\r\nhost: i\r\n").refused(&[400]),
        raw_host("empty", "Host:\r\n").arrives("host", &[""]).same_or(&[400]),
        raw_host("a space", "Host: a b\r\n").refused(&[400]),
        raw_host("a path", "Host: h/x\r\n").refused(&[400]),
        raw_host("a user", "Host: u@h\r\n").refused(&[400]),
        raw_host("a quote", "Host: h\"x\r\n").refused(&[400]),
        raw_host("a fragment", "Host: h#x\r\n").refused(&[400]),
        raw_host("a list", "Host: h, i\r\n").refused(&[400]),
        raw_host("a port that is none", "Host: h:abc\r\n")
            .arrives("host", &["h:abc"])
            .same_or(&[400]),
        raw_host("a port beyond all", "Host: h:99999\r\n")
            .arrives("host", &["h:99999"])
            .same_or(&[400]),
        raw_host("UTF-8", "Host: 张\r\n")
            .arrives("host", &["张"])
            .same_or(&[400]),
    ]
}
