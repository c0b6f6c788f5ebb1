//! First lines: methods, targets and versions.

use crate::message::{Message, get, post, raw, request};
use crate::table::{Case, Over, case};

/// Methods. Any word is one (RFC 9110 section 9.1); the gate serves those of capital letters.
pub(crate) fn methods() -> Vec<Case> {
    let group = "methods";
    let known = [
        "GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "PURGE", "REPORT", "UNLINK", "X",
    ];
    let mut rows: Vec<Case> = known
        .into_iter()
        .map(|method| case(group, method, request(method, "/x")))
        .collect();
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "SEARCH"] {
        let name = format!("{method} with a body");
        rows.push(case(group, name, request(method, "/x").length(3)));
    }
    rows.extend([
        case(group, "POST without a body", post("/x")).over(Over::Http1),
        case(group, "POST without a body and its length", post("/x").length(0)),
        case(group, "20 letters", request("ABCDEFGHIJKLMNOPQRST", "/x")),
        case(group, "21 letters", request("ABCDEFGHIJKLMNOPQRSTU", "/x")).same_or(&[400, 501]),
        case(group, "a dash", request("VERSION-CONTROL", "/x")).same_or(&[400, 501]),
        case(group, "small letters", request("get", "/x")).same_or(&[400, 501]),
        case(group, "TRACE", request("TRACE", "/x")).refused(&[405, 501]),
        case(group, "CONNECT of a path", request("CONNECT", "/x"))
            .over(Over::Http1)
            .refused(&[400, 405, 501]),
        case(group, "CONNECT", raw("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n")).own(&[400, 405, 501]),
        line("no method", " {t}/x HTTP/1.1").refused(&[400]),
        line("a method with a control", "GE\x01T {t}/x HTTP/1.1").refused(&[400]),
        line("a method with a bracket", "G(T {t}/x HTTP/1.1").refused(&[400]),
        line("a method with a letter beyond ASCII", "GÉT {t}/x HTTP/1.1").refused(&[400]),
    ]);
    rows
}

/// A row of a first line as it stands.
fn line(name: &str, line: &str) -> Case {
    case("first lines", name, raw(format!("{line}\r\nHost: h\r\n\r\n"))).at("/x")
}

/// Targets, which arrive byte for byte.
pub(crate) fn targets() -> Vec<Case> {
    const PLAIN: [&str; 33] = [
        "/",
        "",
        "/a%2Fb",
        "/a%2fb",
        "/a%20b",
        "/a+b",
        "/%E5%BC%A0%E4%B8%89",
        "/a%25b",
        "/a%252Fb",
        "/%7Euser/~user",
        "/a//b",
        "/a/./b",
        "/a/../b",
        "/a/",
        "/a;p=1/b;q",
        "/a:b@c",
        "/$&'()*,=!",
        "/index.html",
        "?",
        "?a",
        "/a?b=c&d=e",
        "/a?b=%2F%3F%26",
        "/a?b=?c",
        "/a?b=/../c",
        "/a?b=//c",
        "/a?b=a+b%20c",
        "/a?b=%",
        "/a?b=%zz",
        "/a?b[]=1&b[]=2",
        "/a?b=a|c",
        "/a?b=\"^`\\{}<>",
        "/a?b={\"c\":[1]}",
        "/a?b=https://h/c?d",
    ];
    let mut rows: Vec<Case> = PLAIN
        .into_iter()
        .map(|target| case("targets", target, get(target)))
        .collect();
    rows.extend([
        case("targets", "UTF-8 in the query", get("/v1/messages?user=张三")),
        case("targets", "4 KiB", get(long(4 << 10))),
        case("targets", "8,000 bytes", get(long(8_000))),
        case("targets", "8,000 bytes of query", get(format!("/x?{}", long(7_980)))),
        case(
            "targets",
            "100 parameters",
            get(format!("/x?{}", "abc=def&".repeat(100))),
        ),
    ]);
    // The library of the HTTP/2 client refuses these; HTTP/1.1 clients send them.
    for row in &mut rows {
        if row.name.contains(['"', '张']) {
            row.over = Over::Http1;
        }
    }
    rows
}

fn long(length: usize) -> String {
    "/".to_owned() + &"a".repeat(length - 1)
}

/// Targets that servers read in different ways, or that are none.
pub(crate) fn odd_targets() -> Vec<Case> {
    let sent = |name: &str, target: &str| case("odd targets", name, get(target)).over(Over::Http1);
    vec![
        case("odd targets", "beyond 8 KiB", get(long(8_200))).refused(&[414]),
        case("odd targets", "16 KiB of query", get(format!("/x?{}", long(16 << 10)))).refused(&[414]),
        case("odd targets", "60 KiB", get(long(60 << 10))).refused(&[414]),
        sent("a space", "/a b").refused(&[400]),
        sent("a tab", "/a\tb").refused(&[400]),
        sent("a control", "/a\x01b").refused(&[400]),
        sent("a DEL", "/a\x7fb").refused(&[400]),
        sent("a NUL", "/a\0b").refused(&[400]),
        sent("a fragment", "/a#b").at("/a").same_or(&[400]),
        sent("UTF-8 in the path", "/张").same_or(&[400]),
        sent("curly brackets in the path", "/{a}").same_or(&[400]),
        sent("a backslash in the path", "/a\\b").same_or(&[400]),
        sent("a half escape in the path", "/a%2").same_or(&[400]),
        sent("no escape in the path", "/a%zz").same_or(&[400]),
        sent("an encoded NUL", "/a%00b").same_or(&[400]),
        sent("an encoded line end", "/a%0d%0ab").same_or(&[400]),
        sent("an escape that is no UTF-8", "/a%ff").same_or(&[400]),
        sent("an encoded dot segment", "/a/%2e%2e/b").same_or(&[400]),
        case("odd targets", "a lone byte above ASCII", get(b"/a\xffb"))
            .over(Over::Http1)
            .same_or(&[400]),
        case("odd targets", "a lone byte above ASCII in the query", get(b"/a?b=\xff"))
            .over(Over::Http1)
            .same_or(&[400]),
    ]
}

/// The four forms of a target (RFC 9112 section 3.2). What is asked of another host than `Host` says goes by the target (section 3.2.2).
pub(crate) fn forms() -> Vec<Case> {
    let sent = |name: &str, text: &str| case("target forms", name, raw(text)).at("/x");
    vec![
        sent("absolute", "GET http://h{t}/x HTTP/1.1\r\nHost: h\r\n\r\n").arrives("host", &["h"]),
        sent("absolute, https", "GET https://h{t}/x HTTP/1.1\r\nHost: h\r\n\r\n").arrives("host", &["h"]),
        sent("absolute, capitals", "GET HTTP://h{t}/x HTTP/1.1\r\nHost: h\r\n\r\n").arrives("host", &["h"]),
        sent(
            "absolute with a port",
            "GET http://h:80{t}/x HTTP/1.1\r\nHost: h:80\r\n\r\n",
        )
        .arrives("host", &["h:80"]),
        sent(
            "absolute for another host",
            "GET http://other{t}/x HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .arrives("host", &["other"])
        .same_or(&[400]),
        sent("absolute without Host", "GET http://h{t}/x HTTP/1.1\r\n\r\n").refused(&[400]),
        sent("absolute in HTTP/1.0", "GET http://h{t}/x HTTP/1.0\r\n\r\n")
            .arrives("host", &["h"])
            .same_or(&[400]),
        sent(
            "absolute with a user",
            "GET http://u@h{t}/x HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .refused(&[400]),
        sent(
            "absolute without a host",
            "GET http://{t}/x HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .refused(&[400, 404]),
        sent(
            "absolute, another scheme",
            "GET ftp://h{t}/x HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .refused(&[400]),
        sent("authority", "GET h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n").own(&[400]),
        sent("asterisk", "GET * HTTP/1.1\r\nHost: h\r\n\r\n").own(&[400]),
        sent("asterisk to OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").own(&[200, 204, 404, 405]),
        sent("relative", "GET x{t}/x HTTP/1.1\r\nHost: h\r\n\r\n").refused(&[400]),
        sent("none", "GET  HTTP/1.1\r\nHost: h\r\n\r\n").own(&[400]),
    ]
}

/// Versions. A minor version beyond 1 is served as 1 (RFC 9110 section 2.5), or refused.
pub(crate) fn versions() -> Vec<Case> {
    let group = "versions";
    let old = |message: Message| message.version("HTTP/1.0");
    vec![
        case(group, "1.0", old(get("/x"))),
        case(group, "1.0 kept", old(get("/x")).field("Connection", "keep-alive"))
            .either()
            .over(Over::Http1),
        case(group, "1.0 without Host", old(get("/x")).without("host")),
        case(
            group,
            "1.0 without Host, kept",
            old(get("/x").without("host")).field("Connection", "Keep-Alive"),
        )
        .either()
        .over(Over::Http1),
        case(group, "1.0 with a body", old(post("/x")).length(70_000)),
        case(group, "1.0 with a small body", old(post("/x")).length(5)),
        case(group, "HEAD in 1.0", old(request("HEAD", "/x"))),
        // RFC 9112 section 6.1: the framing of such a message is faulty, and its connection ends after it.
        case(group, "1.0 with chunks", old(post("/x")).chunked(&[5]))
            .same_or(&[400])
            .ends(),
        // RFC 9110 section 10.1.1: the expectation is ignored.
        case(
            group,
            "1.0 that expects",
            old(post("/x")).length(5).field("Expect", "100-continue"),
        ),
        line("1.2", "GET {t}/x HTTP/1.2").same_or(&[400, 505]),
        line("2.0 in text", "GET {t}/x HTTP/2.0").refused(&[400, 505]),
        line("0.9", "GET {t}/x").refused(&[400, 505]),
        line("1", "GET {t}/x HTTP/1").refused(&[400, 505]),
        line("1.10", "GET {t}/x HTTP/1.10").refused(&[400, 505]),
        line("01.1", "GET {t}/x HTTP/01.1").refused(&[400, 505]),
        line("small letters", "GET {t}/x http/1.1").refused(&[400, 505]),
        line("another protocol", "GET {t}/x RTSP/1.0").refused(&[400, 505]),
        line("a space behind it", "GET {t}/x HTTP/1.1 ").same_or(&[400]),
        line("two spaces before it", "GET {t}/x  HTTP/1.1").same_or(&[400]),
        line("two spaces before the target", "GET  {t}/x HTTP/1.1").same_or(&[400]),
        line("a tab before the target", "GET\t{t}/x HTTP/1.1").same_or(&[400]),
        line("a word more", "GET {t}/x y HTTP/1.1").refused(&[400]),
        // RFC 9112 section 2.2: at least one empty line is ignored.
        line("an empty line before it", "\r\nGET {t}/x HTTP/1.1"),
        line("three empty lines before it", "\r\n\r\n\r\nGET {t}/x HTTP/1.1").same_or(&[400]),
        line("a bare LF before it", "\nGET {t}/x HTTP/1.1").same_or(&[400]),
        line("a space before it", " GET {t}/x HTTP/1.1").refused(&[400]),
        line("bytes of TLS", "\x16\x03\x01\x02{t}").own(&[400]),
        line("bytes of nothing", "\u{1}\u{2}\u{3}{t}").own(&[400]),
    ]
}
