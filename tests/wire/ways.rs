//! The ways that each case is sent: what the client speaks, and how the request is carried on.

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// HTTP/1.1 in the clear.
    Clear,
    /// HTTP/1.1 within TLS.
    Tls,
    /// HTTP/2 within TLS.
    Http2,
}

/// How a request is carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Carried {
    /// By what the gate sends itself. What has no body or a small one of known length is whole before it is sent.
    Direct,
    /// The same as it comes, which an expectation makes of every body.
    Streamed,
    /// By the proxy framework, to an endpoint in HTTP/2.
    ToHttp2,
}

/// A column of the table.
pub(crate) type Way = (Client, Carried);

pub(crate) const WAYS: [Way; 9] = [
    (Client::Clear, Carried::Direct),
    (Client::Clear, Carried::Streamed),
    (Client::Clear, Carried::ToHttp2),
    (Client::Tls, Carried::Direct),
    (Client::Tls, Carried::Streamed),
    (Client::Tls, Carried::ToHttp2),
    (Client::Http2, Carried::Direct),
    (Client::Http2, Carried::Streamed),
    (Client::Http2, Carried::ToHttp2),
];

/// A column as it is printed.
pub(crate) fn name((client, carried): Way) -> String {
    let client = match client {
        Client::Clear => "HTTP/1.1",
        Client::Tls => "TLS",
        Client::Http2 => "HTTP/2",
    };
    let carried = match carried {
        Carried::Direct => "direct",
        Carried::Streamed => "streamed",
        Carried::ToHttp2 => "framework",
    };
    format!("{client} {carried}")
}
