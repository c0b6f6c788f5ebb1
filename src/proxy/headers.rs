//! Headers on their way through: what is dropped, what is set, and nothing else.

use std::net::IpAddr;

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::gate::client::Client;
use crate::gate::hygiene;

/// Who a request is from and where it came in.
pub(crate) struct Origin<'a> {
    pub(crate) client: &'a Client,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) port: HeaderValue,
    pub(crate) request_id: &'a RequestId,
}

/// Makes a request fit to be sent on: override headers go, a stranger's claims about identity go, and ours are set.
pub(crate) fn forward(request: &mut RequestHeader, origin: Origin<'_>) -> pingora::Result<()> {
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
    let client = origin.client.address.map(written);
    if let Some(peer) = origin.peer {
        let chain = match joined(request, "x-forwarded-for") {
            Some(chain) if trusted => HeaderValue::try_from(format!("{chain}, {peer}")).ok(),
            Some(_) | None if origin.client.address == Some(peer) => client.clone(),
            Some(_) | None => Some(written(peer)),
        };
        request.insert_header("X-Forwarded-For", chain.unwrap_or_else(|| written(peer)))?;
    }
    match client {
        Some(client) => request.insert_header("X-Real-IP", client)?,
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
        request.insert_header("X-Forwarded-Port", origin.port)?;
    }
    request.insert_header("X-Request-Id", origin.request_id.value())
}

/// An address as a header's value; every character of one may stand there.
fn written(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
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
pub(crate) fn answer(response: &mut ResponseHeader, request_id: &RequestId) -> pingora::Result<()> {
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
    response.insert_header("X-Request-Id", request_id.value())
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

/// The id under which a request is known, in every log that it passes.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// Before anything is known of the request.
    pub(crate) fn none() -> Self {
        Self(HeaderValue::from_static(""))
    }

    /// A trusted proxy's, if it is a plain word, else a fresh one of 128 random bits.
    pub(crate) fn of(request: &RequestHeader, client: &Client) -> Self {
        let given = request.headers.get("x-request-id").filter(|_| client.via_trusted);
        let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let plain = given.filter(|id| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(fits));
        let fresh = || HeaderValue::try_from(format!("{:032x}", fastrand::u128(..))).ok();
        plain.cloned().or_else(fresh).map_or_else(Self::none, Self)
    }

    /// As a text.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// As a header's value.
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}
