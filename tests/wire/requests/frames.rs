//! HTTP/2 frame by frame: what RFC 9113 section 8 calls malformed is reset or refused, and nothing of it arrives.

use crate::http2::Request;
use crate::table::{Case, frames};

fn get() -> Request {
    Request::get(b"{t}/x")
}

fn post() -> Request {
    Request::of("POST", b"{t}/x")
}

/// A row that must not be served.
fn malformed(name: &str, request: Request) -> Case {
    frames(name, request).refused(&[400])
}

pub(crate) fn pseudo_fields() -> Vec<Case> {
    vec![
        frames("plain", get()),
        malformed("no method", get().without(":method")),
        malformed("no scheme", get().without(":scheme")),
        malformed("no path", get().without(":path")),
        malformed("an empty path", get().without(":path").with(":path", "")),
        malformed("a path without a slash", get().without(":path").with(":path", "x")),
        malformed("an asterisk to GET", get().without(":path").with(":path", "*")),
        malformed("two methods", get().with(":method", "POST")),
        malformed("two paths", get().with(":path", "{t}/y")),
        malformed(
            "a pseudo-field behind a field",
            get().without(":path").with("x-a", "b").with(":path", "{t}/x"),
        ),
        malformed("an unknown pseudo-field", get().with(":foo", "bar")),
        malformed("a status", get().with(":status", "200")),
        malformed(
            "a method with a space",
            get().without(":method").with(":method", "GET /y HTTP/1.1"),
        ),
        malformed(
            "a path with a line end",
            get().without(":path").with(":path", "{t}/x\r\nX: y"),
        ),
        malformed("a path with a space", get().without(":path").with(":path", "{t}/x y")),
        malformed("CONNECT", Request::of("CONNECT", b"{t}/x")),
        frames("no authority but a Host", get().without(":authority").with("host", "h")),
        malformed("neither an authority nor a Host", get().without(":authority")),
        malformed("an authority and another Host", get().with("host", "other")),
        malformed(
            "an authority with a user",
            get().without(":authority").with(":authority", "u@h"),
        ),
        malformed(
            "an authority with a line end",
            get().without(":authority").with(":authority", "h\r\nx: y"),
        ),
    ]
}

pub(crate) fn fields() -> Vec<Case> {
    vec![
        malformed("a capital in a name", get().with("X-A", "b")),
        malformed("Connection", get().with("connection", "close")),
        malformed("Keep-Alive", get().with("keep-alive", "timeout=5")),
        malformed("Proxy-Connection", get().with("proxy-connection", "keep-alive")),
        malformed("Transfer-Encoding", get().with("transfer-encoding", "chunked")),
        malformed("Upgrade", get().with("upgrade", "websocket")),
        malformed("TE: gzip", get().with("te", "gzip")),
        frames("TE: trailers", get().with("te", "trailers")),
        malformed("an empty name", get().with("", "a")),
        malformed("a space in a name", get().with("x a", "b")),
        malformed("a colon in a name", get().with("x:a", "b")),
        malformed("a NUL in a value", get().with("x-a", "a\0b")),
        malformed("a line end in a value", get().with("x-a", "a\r\nx-b: c")),
        malformed("a bare LF in a value", get().with("x-a", "a\nb")),
        frames("a space around a value", get().with("x-a", " b ")).same_or(&[400]),
        frames(
            "crumbs of a cookie, in frames",
            get().with("cookie", "a=1").with("cookie", "b=2"),
        )
        .arrives("cookie", &["a=1; b=2"]),
    ]
}

pub(crate) fn bodies() -> Vec<Case> {
    vec![
        frames("a body without a length", post().body("hello")),
        frames("a body of its length", post().with("content-length", "5").body("hello")),
        malformed(
            "a body that is longer",
            post().with("content-length", "3").body("hello"),
        ),
        malformed(
            "a body that is shorter",
            post().with("content-length", "9").body("hello"),
        ),
        malformed("a length and no body", post().with("content-length", "5")),
        malformed(
            "a length that is none",
            post().with("content-length", "five").body("hello"),
        ),
        malformed(
            "two lengths",
            post()
                .with("content-length", "5")
                .with("content-length", "6")
                .body("hello"),
        ),
        frames("trailers", post().body("hello").trailer("x-checksum", "abc")),
        // The HTTP/2 library of the gate drops it.
        frames(
            "a pseudo-field in trailers",
            post().body("hello").trailer(":path", "/y"),
        )
        .same_or(&[400]),
        malformed("a capital in trailers", post().body("hello").trailer("X-A", "b")),
        malformed(
            "Connection in trailers",
            post().body("hello").trailer("connection", "close"),
        ),
    ]
}
