//! Headers on their way through: what is dropped, what is set, and nothing else.

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::gate::client::Client;
use crate::gate::hygiene;

/// Who a request is from and where it came in.
pub(crate) struct Origin<'a> {
    pub(crate) client: &'a Client,
    pub(crate) peer: Option<std::net::IpAddr>,
    pub(crate) port: u16,
    pub(crate) request_id: &'a str,
}

/// Makes a request fit to be sent on: override headers go, a stranger's claims about identity go, and ours are set.
pub(crate) fn forward(request: &mut RequestHeader, origin: &Origin<'_>) -> pingora::Result<()> {
    let trusted = origin.client.via_trusted;
    let unwanted: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(|name| hygiene::is_dropped(name.as_str()) || (!trusted && hygiene::is_claim(name.as_str())))
        .cloned()
        .collect();
    for name in &unwanted {
        request.remove_header(name);
    }
    if let Some(peer) = origin.peer {
        let chain = match joined(request, "x-forwarded-for") {
            Some(chain) if trusted => format!("{chain}, {peer}"),
            Some(_) | None => peer.to_string(),
        };
        request.insert_header("X-Forwarded-For", chain)?;
    }
    match origin.client.address {
        Some(client) => request.insert_header("X-Real-IP", client.to_string())?,
        None => drop(request.remove_header("X-Real-IP")),
    }
    if !request.headers.contains_key("x-forwarded-host")
        && let Some(host) = request.headers.get(http::header::HOST).cloned()
    {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    if !request.headers.contains_key("x-forwarded-proto") {
        request.insert_header("X-Forwarded-Proto", HeaderValue::from_static("http"))?;
    }
    if !request.headers.contains_key("x-forwarded-port") {
        request.insert_header("X-Forwarded-Port", origin.port.to_string())?;
    }
    request.insert_header("X-Request-Id", origin.request_id)
}

/// All lines of a header as one list (RFC 9110 section 5.3).
fn joined(request: &RequestHeader, name: &str) -> Option<String> {
    let lines: Vec<&str> = request
        .headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// Hop-by-hop headers of an answer (RFC 9110 section 7.6.1); framing and upgrades are the framework's.
const HOP_BY_HOP: [&str; 3] = ["keep-alive", "proxy-authenticate", "proxy-connection"];

/// Makes an answer fit to be sent on. An event stream is marked so that no proxy further out holds its events back.
pub(crate) fn answer(response: &mut ResponseHeader, request_id: &str) -> pingora::Result<()> {
    if response.status != http::StatusCode::SWITCHING_PROTOCOLS {
        for name in nominated(response) {
            response.remove_header(&name);
        }
        for name in HOP_BY_HOP {
            response.remove_header(name);
        }
    }
    if is_event_stream(response) {
        if !response.headers.contains_key("x-accel-buffering") {
            response.insert_header("X-Accel-Buffering", "no")?;
        }
        if !response.headers.contains_key(CACHE_CONTROL) {
            response.insert_header(CACHE_CONTROL, "no-cache")?;
        }
    }
    response.insert_header("X-Request-Id", request_id)
}

fn nominated(response: &ResponseHeader) -> Vec<HeaderName> {
    let lines = response
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).map(str::trim);
    names
        .filter(|name| {
            !["close", "keep-alive", "upgrade", "transfer-encoding", "content-length"]
                .contains(&name.to_ascii_lowercase().as_str())
        })
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// Whether an answer streams events.
pub(crate) fn is_event_stream(response: &ResponseHeader) -> bool {
    let kind = response
        .headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    kind.get(..17)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
}

/// The id under which a request is known: a trusted proxy's, if it is a plain word, else a fresh one of 128 random bits.
pub(crate) fn request_id(request: &RequestHeader, client: &Client) -> String {
    let given = request.headers.get("x-request-id").filter(|_| client.via_trusted);
    let plain = |id: &&str| {
        (1..=128).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    match given.and_then(|id| id.to_str().ok()).filter(plain) {
        Some(id) => id.to_owned(),
        None => format!("{:032x}", fastrand::u128(..)),
    }
}
