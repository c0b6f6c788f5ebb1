//! Headers of an answer on their way to the client: what ends at the gate is dropped, and what is left is a message that the client's version of HTTP
//! can carry.
//!
//! HTTP/1.1 clients forgive much that HTTP/2 clients do not (RFC 9113 section 8.1.1), and HTTP/1.0 clients know neither chunks nor interim answers.

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr};

use crate::gate::hygiene::may_be_trailer;
use crate::http1::{Fields, Head};
use crate::proxy::Gateway;
use crate::proxy::context::Exchange;
use crate::proxy::headers::{REQUEST_ID, RequestId, nominated};
use crate::proxy::no_chunks::refuse_chunks;

/// What can go to the client of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Whether the body goes in chunks where it has no length. Else it ends with the connection, or HTTP/2 frames it.
    pub(crate) chunks: bool,
    /// Whether trailers can come behind it.
    pub(crate) trailers: bool,
}

impl Form {
    /// What can go to a client of this version of HTTP.
    pub(crate) fn of(version: Version, has_body: bool, may_have_trailers: bool) -> Self {
        let knows_trailers = matches!(version, Version::HTTP_11 | Version::HTTP_2);
        Self {
            chunks: has_body && version == Version::HTTP_11,
            trailers: has_body && may_have_trailers && knows_trailers,
        }
    }
}

/// Whether an answer has a body, as far as its head tells.
pub(crate) fn has_body(request: &RequestHeader, status: StatusCode) -> bool {
    request.method != Method::HEAD && !is_unframed(status) && status != StatusCode::NOT_MODIFIED
}

/// Whether an answer has no body, and may not speak of one either (RFC 9110 section 8.6).
fn is_unframed(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

/// Hop-by-hop headers of an answer (RFC 9110 section 7.6.1), and `TE`, which only a request may have (section 10.1.4).
const HOP_BY_HOP: [&str; 4] = ["keep-alive", "proxy-authenticate", "proxy-connection", "te"];
/// So many headers are the gate's own.
const OWN: usize = 6;

/// Whether a header of an answer ends at the gate, besides those that `Connection` names. `Upgrade` is for the next hop alone (RFC 9110 section 7.8),
/// and the gate switches protocols for WebSockets only.
fn stays_here(name: &HeaderName, status: StatusCode, to: Form) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
        || *name == UPGRADE && status != StatusCode::SWITCHING_PROTOCOLS
        || *name == TRAILER && !to.trailers
        || *name == CONTENT_LENGTH && is_unframed(status)
}

/// Makes an answer fit to be sent on that the framework has read. An event stream is marked so that no proxy further out holds its events back.
pub(crate) fn answer(response: &mut ResponseHeader, to: Form, request_id: &RequestId) -> pingora::Result<()> {
    let status = response.status;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return mark(response, request_id);
    }
    let named = nominated(response.headers.get_all(CONNECTION).iter()).map(str::to_owned);
    let others = response.headers.keys().filter(|name| stays_here(name, status, to));
    let gone: Vec<String> = named.chain(others.map(ToString::to_string)).collect();
    for name in gone {
        response.remove_header(name.as_str());
    }
    if !to.chunks {
        response.remove_header(&TRANSFER_ENCODING);
    }
    one_length(response)?;
    if status.is_informational() {
        return Ok(());
    }
    mark(response, request_id)
}

/// Says the length once. The framework has refused lengths that differ.
fn one_length(response: &mut ResponseHeader) -> pingora::Result<()> {
    let mut lines = response.headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else {
        return Ok(());
    };
    let member = first.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
    if lines.next().is_none() && member.len() == first.len() {
        return Ok(());
    }
    let length = HeaderValue::from_bytes(member.trim_ascii());
    let length = length.or_err(ErrorType::InvalidHTTPHeader, "a length that is no value")?;
    response.insert_header(CONTENT_LENGTH, length)
}

/// Makes an answer fit to be sent on that the gate has read itself. Its framing is written anew.
pub(crate) fn relayed(head: Head, to: Form, request_id: &RequestId) -> pingora::Result<ResponseHeader> {
    let status = head.status;
    let mut response = ResponseHeader::build_no_case(status, Some(head.headers.len() + OWN))?;
    let connection: Vec<HeaderValue> = head.all(CONNECTION).cloned().collect();
    let nominated: Vec<&str> = nominated(connection.iter()).collect();
    let ends_here = |name: &HeaderName| {
        let is_framing = *name == CONNECTION || *name == TRANSFER_ENCODING;
        let is_nominated = nominated
            .iter()
            .any(|nominated| nominated.eq_ignore_ascii_case(name.as_str()));
        is_framing || is_nominated || stays_here(name, status, to)
    };
    let mut has_length = false;
    for (name, value) in head.headers {
        if !ends_here(&name) {
            has_length |= name == CONTENT_LENGTH;
            response.append_header(name, value)?;
        }
    }
    if to.chunks && !has_length {
        response.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        response.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
    }
    mark(&mut response, request_id)?;
    Ok(response)
}

impl Gateway {
    /// Makes the head of an answer that the framework relays fit for the client.
    pub(super) fn dress(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        let request = session.req_header();
        let (version, has_body) = (request.version, has_body(request, response.status));
        let form = Form::of(version, has_body, exchange.trails);
        answer(response, form, &exchange.request_id)?;
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        self.edit(session, response, exchange)?;
        exchange.trails = form.trailers && !response.headers.contains_key(CONTENT_LENGTH);
        if ends_with_connection(response, version, has_body) {
            refuse_chunks(session);
        }
        Ok(())
    }
}

/// Whether an answer without a length goes to a client that knows no chunks, so that its end is that of the connection (RFC 9112 section 6.3).
pub(crate) fn ends_with_connection(response: &ResponseHeader, version: Version, has_body: bool) -> bool {
    let mut framing = [CONTENT_LENGTH, TRANSFER_ENCODING].iter();
    let is_framed = framing.any(|name| response.headers.contains_key(name));
    version == Version::HTTP_10 && has_body && !is_framed
}

/// The trailers that go on, which may stand there.
pub(crate) fn trailers(fields: Fields) -> HeaderMap {
    let fields = fields.into_iter().filter(|(name, _)| may_be_trailer(name.as_str()));
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name, value);
    }
    map
}

/// Removes the trailers that may not stand there.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let gone: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| !may_be_trailer(name.as_str()))
        .cloned()
        .collect();
    for name in gone {
        trailers.remove(name);
    }
}

fn mark(response: &mut ResponseHeader, request_id: &RequestId) -> pingora::Result<()> {
    if is_event_stream(response) {
        if !response.headers.contains_key("x-accel-buffering") {
            response.insert_header("X-Accel-Buffering", "no")?;
        }
        if !response.headers.contains_key(CACHE_CONTROL) {
            response.insert_header(CACHE_CONTROL, "no-cache")?;
        }
    }
    response.insert_header(REQUEST_ID, request_id.value())
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

/// Whether the body of an answer can be read as it passes, and something be added to it.
pub(crate) fn is_open_text(response: &ResponseHeader) -> bool {
    let plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    let mut codings = response.headers.get_all(CONTENT_ENCODING).iter();
    codings.all(plain) && !response.headers.contains_key(CONTENT_LENGTH)
}
