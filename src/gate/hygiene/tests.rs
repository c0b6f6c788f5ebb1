//! Headers that are dropped, and requests that break a rule.

use super::*;

#[test]
fn override_headers_are_always_dropped() {
    let names = [
        "SCRIPT_NAME",
        "PATH_INFO",
        "x_forwarded_for",
        "X-Original-URL",
        "x-rewrite-url",
        "X-Original-URI",
        "x-forwarded-prefix",
        "x-forwarded-uri",
        "X-Script-Name",
        "x-accel-redirect",
        "x-envoy-original-path",
        "X-Middleware-Subrequest",
        "Proxy",
    ];
    for name in names {
        assert!(is_dropped(name), "{name}");
    }
}

#[test]
fn what_only_a_trusted_proxy_may_say_is_a_claim() {
    let names = [
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-ssl",
        "x-real-ip",
        "X-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "x-original-forwarded-for",
        "x-original-host",
        "Dify-Hook-Url",
    ];
    for name in names {
        assert!(is_claim(name), "{name}");
        assert!(!is_dropped(name), "{name}");
    }
}

#[test]
fn what_dify_and_its_clients_need_passes() {
    let names = [
        "",
        "host",
        "authorization",
        "cookie",
        "x-csrf-token",
        "x-app-code",
        "x-app-passport",
        "x-requested-with",
        "x-request-id",
        "x-nextjs-data",
        "x-api-key",
        "x-github-event",
        "x-hub-signature-256",
        "traceparent",
        "content-type",
        "cf-ray",
        "forward",
        "dify-plugin",
        "proxy-authorization",
        "next-router-state-tree",
        "sec-websocket-key",
    ];
    for name in names {
        assert!(!is_dropped(name) && !is_claim(name), "{name}");
    }
}

fn check(version: HttpVersion, method: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
    check_request(
        version,
        method,
        headers.iter().map(|(name, value)| (*name, value.as_bytes())),
    )
}

#[test]
fn an_honest_request_passes() {
    const NAMED: (&str, &str) = ("host", "dify.example:8080");
    let cases: [(HttpVersion, &str, Headers); 7] = [
        (HttpVersion::Http11, "GET", &[NAMED]),
        (
            HttpVersion::Http11,
            "POST",
            &[NAMED, ("content-length", "5"), ("expect", "100-Continue")],
        ),
        (HttpVersion::Http11, "POST", &[NAMED, ("transfer-encoding", "Chunked")]),
        (HttpVersion::Http11, "PROPFIND", &[("Host", "[::1]:80")]),
        (HttpVersion::Http11, "GET", &[("host", "api_websocket")]),
        (HttpVersion::Http10, "GET", &[]),
        (HttpVersion::Http2, "GET", &[]),
    ];
    for (version, method, headers) in cases {
        assert_eq!(check(version, method, headers), Ok(()), "{method} {headers:?}");
    }
}

type Headers = &'static [(&'static str, &'static str)];

const HOST: (&str, &str) = ("host", "h");

/// Method, headers, and how an HTTP/1.1 request with them is refused.
const REFUSED: &[(&str, Headers, Refusal, u16)] = &[
    ("GET", &[], Refusal::Host, 400),
    ("GET", &[("host", "")], Refusal::Host, 400),
    ("GET", &[HOST, ("Host", "h")], Refusal::Host, 400),
    ("GET", &[("host", "a, b")], Refusal::Host, 400),
    ("GET", &[("host", "u@h")], Refusal::Host, 400),
    ("GET", &[("host", "h/x")], Refusal::Host, 400),
    ("POST", &[HOST, ("content-length", "5, 5")], Refusal::ContentLength, 400),
    (
        "POST",
        &[HOST, ("content-length", "5"), ("content-length", "5")],
        Refusal::ContentLength,
        400,
    ),
    ("POST", &[HOST, ("content-length", "+5")], Refusal::ContentLength, 400),
    ("POST", &[HOST, ("content-length", "")], Refusal::ContentLength, 400),
    (
        "POST",
        &[HOST, ("transfer-encoding", "identity, chunked")],
        Refusal::TransferEncoding,
        400,
    ),
    (
        "POST",
        &[HOST, ("transfer-encoding", "gzip")],
        Refusal::TransferEncoding,
        400,
    ),
    (
        "POST",
        &[HOST, ("transfer-encoding", "\u{b}chunked")],
        Refusal::TransferEncoding,
        400,
    ),
    (
        "POST",
        &[HOST, ("transfer-encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        Refusal::TransferEncoding,
        400,
    ),
    ("POST", &[HOST, ("expect", "200-ok")], Refusal::Expect, 417),
    ("POST", &[HOST, ("expect", "")], Refusal::Expect, 417),
    ("get", &[HOST], Refusal::Method, 400),
    ("GeT", &[HOST], Refusal::Method, 400),
    ("", &[HOST], Refusal::Method, 400),
    ("M-SEARCH", &[HOST], Refusal::Method, 400),
    ("G ET", &[HOST], Refusal::Method, 400),
    ("ABCDEFGHIJKLMNOPQRSTU", &[HOST], Refusal::Method, 400),
    ("TRACE", &[HOST], Refusal::MethodNotServed, 405),
    ("CONNECT", &[HOST], Refusal::MethodNotServed, 405),
];

#[test]
fn a_message_that_two_servers_could_read_differently_is_refused() {
    for (method, headers, refusal, status) in REFUSED {
        assert_eq!(
            check(HttpVersion::Http11, method, headers),
            Err(*refusal),
            "{method} {headers:?}"
        );
        assert_eq!(refusal.status(), *status);
    }
}

#[test]
fn a_second_host_is_refused_in_every_version() {
    for version in [HttpVersion::Http10, HttpVersion::Http11, HttpVersion::Http2] {
        assert_eq!(
            check(version, "GET", &[("host", "a"), ("host", "b")]),
            Err(Refusal::Host)
        );
    }
}

#[test]
fn what_frames_routes_or_authenticates_may_not_stand_behind_a_body() {
    for name in [
        "grpc-status",
        "grpc-message",
        "x-checksum",
        "server-timing",
        "digest",
        "etag",
        "signature",
    ] {
        assert!(may_be_trailer(name), "{name}");
    }
    for name in [
        "content-length",
        "Transfer-Encoding",
        "host",
        "authorization",
        "set-cookie",
        "www-authenticate",
        "content-type",
        "content-encoding",
        "cache-control",
        "if-match",
        "access-control-allow-origin",
        "connection",
        "te",
        "trailer",
        "x-forwarded-for",
        "x-real-ip",
        "a_b",
    ] {
        assert!(!may_be_trailer(name), "{name}");
    }
}
