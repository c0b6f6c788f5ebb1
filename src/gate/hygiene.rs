//! What a request must look like, and which headers a client may not send.
//!
//! Two servers in a row are safe only if they read a message alike. Where pingora is lenient and the server behind it may be
//! lenient in another way, the gate is strict.

use std::fmt;

use crate::gate::path::is_authority;
use crate::gate::scheme::is_scheme_header;

/// Headers that make some server take another path or skip its own checks.
const OVERRIDES: [&str; 18] = [
    "x-accel-redirect",
    "x-envoy-original-path",
    "x-forwarded-path",
    "x-forwarded-prefix",
    "x-forwarded-script-name",
    "x-forwarded-uri",
    "x-http-dest-url",
    "x-invoke-path",
    "x-matched-path",
    "x-middleware-rewrite",
    "x-middleware-subrequest",
    "x-middleware-subrequest-id",
    "x-original-path",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-rewrite-url",
    "x-script-name",
];

/// Whether a header of a client is never passed on, whoever the client is.
///
/// Every name with a `_` is: in CGI and WSGI it cannot be told from one with `-` (RFC 3875 section 4.1.18), so `SCRIPT_NAME`
/// would move the path that gunicorn sees. `Proxy` is, since CGI programs take it for their own proxy setting.
pub fn is_dropped(name: &str) -> bool {
    let name = name.as_bytes();
    let listed = match name.first() {
        Some(b'x' | b'X') => is_one_of(name, &OVERRIDES),
        Some(b'p' | b'P') => name.eq_ignore_ascii_case(b"proxy"),
        Some(_) | None => false,
    };
    listed || name.contains(&b'_')
}

const X_CLAIMS: [&str; 6] = [
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-original-host",
    "x-real-ip",
];

/// Whether a header says who the client is or how it reached us, which only a trusted proxy may say. From any other peer it is
/// dropped, since Dify believes it.
pub fn is_claim(name: &str) -> bool {
    if is_scheme_header(name) {
        return true;
    }
    let name = name.as_bytes();
    match name.first() {
        Some(b'x' | b'X') => starts_with(name, b"x-forwarded") || is_one_of(name, &X_CLAIMS),
        Some(b'f' | b'F') => is_one_of(name, &["forwarded", "fastly-client-ip"]),
        Some(b't' | b'T') => name.eq_ignore_ascii_case(b"true-client-ip"),
        Some(b'c' | b'C') => is_one_of(name, &["cf-connecting-ip", "cf-connecting-ipv6"]),
        Some(b'd' | b'D') => name.eq_ignore_ascii_case(b"dify-hook-url"),
        Some(_) | None => false,
    }
}

/// Fields that may not stand behind a body (RFC 9110 section 6.5.1): they frame or route the message, authenticate, control caches and clients, or say
/// how the content is to be read, and a recipient that merged them into the head would be misled.
const NOT_BEHIND: [&str; 32] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "warning",
    "www-authenticate",
];

/// Whether a field may stand behind a body, as a trailer.
pub fn may_be_trailer(name: &str) -> bool {
    let is_condition = starts_with(name.as_bytes(), b"if-");
    let is_cors = starts_with(name.as_bytes(), b"access-control-");
    !(is_condition || is_cors || is_one_of(name.as_bytes(), &NOT_BEHIND) || is_dropped(name) || is_claim(name))
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|listed| name.eq_ignore_ascii_case(listed.as_bytes()))
}

fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The version of HTTP that a request came in. HTTP/0.9 has no headers and is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HttpVersion {
    /// HTTP/1.0, where `Host` may be absent.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2, where `:authority` stands for `Host`.
    Http2,
}

/// How large a request may be before its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The target, in bytes.
    pub uri: usize,
    /// All headers together, in bytes, with four for each line's `: ` and end.
    pub headers: usize,
    /// The lines of all headers.
    pub fields: usize,
}

/// Checks that a request is not too large to be looked at.
///
/// # Errors
/// The first bound that it breaks.
pub fn check_size<'h>(
    bounds: &Bounds,
    target: usize,
    headers: impl Iterator<Item = (&'h str, &'h [u8])>,
) -> Result<(), Refusal> {
    require(target <= bounds.uri, Refusal::UriTooLong)?;
    let mut sizes = headers.map(|(name, value)| name.len() + value.len() + 4);
    let (mut fields, mut bytes) = (0, 0);
    let fits = sizes.all(|size| {
        fields += 1;
        bytes += size;
        fields <= bounds.fields && bytes <= bounds.headers
    });
    require(fits, Refusal::HeadersTooLarge)
}

/// Checks what every request must keep to, over all its headers.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_request<'h>(
    version: HttpVersion,
    method: &str,
    headers: impl Iterator<Item = (&'h str, &'h [u8])>,
) -> Result<(), Refusal> {
    check_method(method)?;
    let (mut hosts, mut lengths, mut codings) = (0, 0, 0);
    for (name, value) in headers {
        let name = name.as_bytes();
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
            require(hosts == 1 && is_authority(value), Refusal::Host)?;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            require(lengths == 1 && is_number(value), Refusal::ContentLength)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings += 1;
            require(
                codings == 1 && value.eq_ignore_ascii_case(b"chunked"),
                Refusal::TransferEncoding,
            )?;
        } else if name.eq_ignore_ascii_case(b"expect") {
            require(value.eq_ignore_ascii_case(b"100-continue"), Refusal::Expect)?;
        }
    }
    require(hosts == 1 || version != HttpVersion::Http11, Refusal::Host)
}

fn require(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

fn check_method(method: &str) -> Result<(), Refusal> {
    let is_name = (1..=20).contains(&method.len()) && method.bytes().all(|byte| byte.is_ascii_uppercase());
    require(is_name, Refusal::Method)?;
    require(!matches!(method, "TRACE" | "CONNECT"), Refusal::MethodNotServed)
}

fn is_number(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(u8::is_ascii_digit)
}

/// The rule that a request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// HTTP/1.1 without a `Host`, more than one, or one that cannot be a host (RFC 9112 section 3.2).
    Host,
    /// More than one length, or none that is a plain number (RFC 9112 section 6.3).
    ContentLength,
    /// Anything but `chunked`, once (RFC 9112 section 6.1).
    TransferEncoding,
    /// An expectation that nobody can meet (RFC 9110 section 10.1.1).
    Expect,
    /// A method that is not a word of 1 to 20 capital letters.
    Method,
    /// `TRACE`, which tells a stranger the headers that proxies add, or `CONNECT`, which would make the gate a tunnel.
    MethodNotServed,
    /// The target is longer than is looked at (RFC 9110 section 15.5.15).
    UriTooLong,
    /// The headers are more, or longer, than are looked at (RFC 6585 section 5).
    HeadersTooLarge,
    /// What came is not the head of an HTTP/1 request (RFC 9112 section 2.2).
    Head,
}

impl Refusal {
    /// The HTTP status that says so.
    pub fn status(self) -> u16 {
        match self {
            Self::Host | Self::ContentLength | Self::TransferEncoding | Self::Method | Self::Head => 400,
            Self::MethodNotServed => 405,
            Self::UriTooLong => 414,
            Self::HeadersTooLarge => 431,
            Self::Expect => 417,
        }
    }

    /// The stable word for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::Expect => "expect",
            Self::Method => "method",
            Self::MethodNotServed => "method_not_served",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::Head => "malformed",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "the request needs exactly one Host header that names a host",
            Self::ContentLength => "the request may have one Content-Length, a plain number",
            Self::TransferEncoding => "the only Transfer-Encoding taken is chunked, once",
            Self::Expect => "the only expectation that can be met is 100-continue",
            Self::Method => "the method must be a word of 1 to 20 capital letters",
            Self::MethodNotServed => "TRACE and CONNECT are not served",
            Self::UriTooLong => "the target is too long",
            Self::HeadersTooLarge => "there are too many headers, or too long ones",
            Self::Head => "what came is not the head of an HTTP/1 request",
        })
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests;
