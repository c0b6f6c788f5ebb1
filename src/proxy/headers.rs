//! Headers on their way through: what is dropped, what is set, and nothing else.

use std::borrow::Cow;
use std::net::IpAddr;

use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::config::{Place, RouteSettings};
use crate::gate::client::Client;
use crate::gate::hygiene;
use crate::gate::path::{Form, OriginForm};
use crate::gate::route::without_port;
use crate::http1::{Head, members};
use crate::proxy::split;
use crate::proxy::tunnel;

/// Who a request is from and where it came in.
pub(crate) struct Origin<'a> {
    pub(crate) client: &'a Client,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) port: HeaderValue,
    /// Whether it came within TLS.
    pub(crate) secure: bool,
    pub(crate) request_id: &'a RequestId,
    /// By what internal clients choose a pool, which is nobody else's business.
    pub(crate) preview_header: &'a HeaderName,
    /// What the route changes.
    pub(crate) route: Option<&'a RouteSettings>,
}

/// Makes a request fit to be sent on by the framework, which has dropped the hop-by-hop headers.
pub(crate) fn forward(request: &mut RequestHeader, origin: &Origin<'_>) -> pingora::Result<()> {
    let mut fit = RequestHeader::build_no_case(
        request.method.clone(),
        request.raw_path(),
        Some(request.headers.len() + OWN),
    )?;
    fit.set_version(request.version);
    let mut outcome = Ok(());
    onward(
        request,
        origin,
        |_| false,
        |name, _, value| {
            if let Err(e) = fit.append_header(name.clone(), value.clone()) {
                outcome = Err(e);
            }
        },
    );
    *request = fit;
    outcome
}

/// Writes the head of a request as the gate sends it itself; `is_chunked` tells that its body is sent in chunks.
pub(crate) fn write_head(request: &RequestHeader, path: &str, origin: &Origin<'_>, is_chunked: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    for part in [request.method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    let nominated: Vec<&str> = nominated(request.headers.get_all(CONNECTION).iter()).collect();
    let stays_here = |name: &str| {
        // Without its `Host` a request is none.
        let is_nominated = name != "host" && nominated.iter().any(|nominated| nominated.eq_ignore_ascii_case(name));
        HOP_BY_HOP_REQUEST.contains(&name) || is_nominated
    };
    onward(request, origin, stays_here, |_, spelled, value| {
        for part in [spelled, b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    });
    if tunnel::is_asked_for(request) {
        head.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    if is_chunked {
        head.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// So many headers are the gate's own.
const OWN: usize = 6;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Shows `send` each header line that goes on: override headers do not, nor a stranger's claims about identity, nor what `stays_here`;
/// then ours follow. A line is its name, the name as it is to be spelled, and its value.
fn onward(
    request: &RequestHeader,
    origin: &Origin<'_>,
    stays_here: impl Fn(&str) -> bool,
    mut send: impl FnMut(&HeaderName, &[u8], &HeaderValue),
) {
    let trusted = origin.client.via_trusted;
    let edits = origin.route.map(|route| &route.request);
    let (mut has_host, mut has_proto, mut has_port) = (false, false, false);
    let mut spelled = request.case_header_iter();
    for (name, value) in &request.headers {
        let spelled = spelled
            .next()
            .map_or(name.as_str().as_bytes(), |(spelled, _)| spelled.as_slice());
        let text = name.as_str();
        let is_ours = *name == FORWARDED_FOR || *name == REAL_IP || *name == REQUEST_ID || *name == FORWARDED_PREFIX;
        if is_ours
            || edits.is_some_and(|edits| edits.replaces(name))
            || hygiene::is_dropped(text)
            || (!trusted && hygiene::is_claim(text))
            || *name == *origin.preview_header
            || stays_here(text)
        {
            continue;
        }
        if *name == COOKIE
            && let Some(rest) = split::without_own(value)
        {
            rest.into_iter().for_each(|rest| send(name, spelled, &rest));
            continue;
        }
        has_host |= *name == FORWARDED_HOST;
        has_proto |= *name == FORWARDED_PROTO;
        has_port |= *name == FORWARDED_PORT;
        send(name, spelled, value);
    }
    let mut own = |name: &HeaderName, spelled: &str, value: &HeaderValue| {
        if edits.is_none_or(|edits| !edits.replaces(name)) {
            send(name, spelled.as_bytes(), value);
        }
    };
    let client = origin.client.address.map(written);
    if let Some(peer) = origin.peer {
        own(&FORWARDED_FOR, "X-Forwarded-For", &chain(request, origin, peer));
    }
    if let Some(client) = &client {
        own(&REAL_IP, "X-Real-IP", client);
    }
    if let Some(host) = request.headers.get(http::header::HOST).filter(|_| !has_host) {
        own(&FORWARDED_HOST, "X-Forwarded-Host", host);
    }
    if !has_proto {
        let scheme = HeaderValue::from_static(scheme(origin.secure));
        own(&FORWARDED_PROTO, "X-Forwarded-Proto", &scheme);
    }
    if !has_port {
        own(&FORWARDED_PORT, "X-Forwarded-Port", &origin.port);
    }
    own(&REQUEST_ID, "X-Request-Id", &origin.request_id.0);
    if let Some(prefix) = origin.route.and_then(cut_off) {
        own(&FORWARDED_PREFIX, "X-Forwarded-Prefix", &prefix);
    }
    set(request, origin, send);
}

/// Shows `send` what the route sets.
fn set(request: &RequestHeader, origin: &Origin<'_>, mut send: impl FnMut(&HeaderName, &[u8], &HeaderValue)) {
    let edits = origin.route.map(|route| &route.request);
    for (name, template) in edits.into_iter().flat_map(|edits| &edits.set) {
        // A value that the client has made impossible is not sent, and neither is what came under its name.
        if let Ok(value) =
            HeaderValue::try_from(template.fill(|place| told(place, request, origin.client, origin.secure)))
        {
            send(name, name.as_str().as_bytes(), &value);
        }
    }
}

fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

/// The addresses that a request has come through, the last one the peer of the socket.
fn chain(request: &RequestHeader, origin: &Origin<'_>, peer: IpAddr) -> HeaderValue {
    let before = origin
        .client
        .via_trusted
        .then(|| joined(request, FORWARDED_FOR.as_str()))
        .flatten();
    let chain = before.and_then(|before| HeaderValue::try_from(format!("{before}, {peer}")).ok());
    chain.unwrap_or_else(|| written(peer))
}

/// The prefix that a route cuts off, if it does.
fn cut_off(route: &RouteSettings) -> Option<HeaderValue> {
    HeaderValue::from_str(&route.path).ok().filter(|_| route.strip_prefix)
}

/// What a request says, where a template asks for it.
pub(crate) fn told<'r>(place: Place, request: &'r RequestHeader, client: &Client, secure: bool) -> Cow<'r, str> {
    let header = |name: HeaderName| request.headers.get(name).and_then(|value| value.to_str().ok());
    let form = || match OriginForm::parse(request.raw_path(), false) {
        Ok(Form::Origin(form)) => Some(form),
        Ok(Form::Asterisk) | Err(_) => None,
    };
    match place {
        Place::Scheme => match header(FORWARDED_PROTO).filter(|_| client.via_trusted) {
            Some(told) => scheme(told == "https").into(),
            None => scheme(secure).into(),
        },
        Place::Host => without_port(header(http::header::HOST).unwrap_or_default()).into(),
        Place::Path => form().map_or("/".into(), |form| form.path().to_owned().into()),
        Place::Uri => form().map_or("/".into(), OriginForm::into_target),
        Place::Client => client.address.map_or("".into(), |address| address.to_string().into()),
    }
}

/// Hop-by-hop headers of a request (RFC 9110 section 7.6.1).
const HOP_BY_HOP_REQUEST: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

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
    if response.status != StatusCode::SWITCHING_PROTOCOLS {
        let lines = response.headers.get_all(CONNECTION).iter();
        let nominated: Vec<String> = nominated(lines).map(str::to_owned).collect();
        for name in HOP_BY_HOP.into_iter().chain(nominated.iter().map(String::as_str)) {
            response.remove_header(name);
        }
    }
    mark(response, request_id)
}

/// The same for an answer that was read by the gate itself. Its framing is written anew: where it has no length, in chunks if those
/// may be sent, else it ends with the connection.
pub(crate) fn relayed(head: Head, chunks: bool, request_id: &RequestId) -> pingora::Result<ResponseHeader> {
    let mut response = ResponseHeader::build_no_case(head.status, Some(head.headers.len() + OWN))?;
    let connection: Vec<HeaderValue> = head.all(CONNECTION).cloned().collect();
    let nominated: Vec<&str> = nominated(connection.iter()).collect();
    let stays_here = |name: &HeaderName| {
        let is_framing = *name == CONNECTION || *name == TRANSFER_ENCODING;
        let is_nominated = nominated
            .iter()
            .any(|nominated| nominated.eq_ignore_ascii_case(name.as_str()));
        is_framing || is_nominated || HOP_BY_HOP.contains(&name.as_str())
    };
    let mut has_length = false;
    for (name, value) in head.headers {
        if !stays_here(&name) {
            has_length |= name == CONTENT_LENGTH;
            response.append_header(name, value)?;
        }
    }
    if chunks && !has_length {
        response.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        response.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
    }
    mark(&mut response, request_id)?;
    Ok(response)
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

/// The headers that `Connection` names as meant for the next hop alone; what frames a message is nobody's option.
fn nominated<'a>(connection: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a str> {
    const KEPT: [&str; 5] = ["close", "keep-alive", "upgrade", "transfer-encoding", "content-length"];
    members(connection).filter(|word| !word.is_empty() && !KEPT.iter().any(|kept| kept.eq_ignore_ascii_case(word)))
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
