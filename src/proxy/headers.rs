//! Headers of a request on their way through: what is dropped, what is set, and nothing else.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use pingora::{ErrorType, OrErr};

use crate::config::{Place, RouteSettings};
use crate::gate::client::Client;
use crate::gate::hygiene;
use crate::gate::path::{Form, OriginForm, as_url};
use crate::gate::route::without_port;
use crate::gate::scheme::{self, Scheme, is_scheme_header};
use crate::http1::members;
use crate::proxy::split;
use crate::proxy::tunnel;

/// Who a request is from and where it came in.
pub(crate) struct Origin<'a> {
    pub(crate) client: &'a Client,
    pub(crate) peer: Option<IpAddr>,
    /// The scheme that the client used.
    pub(crate) scheme: Scheme,
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
pub(crate) fn write_head(request: &RequestHeader, target: &[u8], origin: &Origin<'_>, is_chunked: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    for part in [request.method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\n"] {
        head.extend_from_slice(part);
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
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
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
    let mut has_host = false;
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
            || is_scheme_header(text)
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
        if *name == FORWARDED {
            let rest = scheme::without_proto(value.as_bytes());
            let rest = rest.and_then(|rest| HeaderValue::from_bytes(&rest).ok());
            rest.into_iter().for_each(|rest| send(name, spelled, &rest));
            continue;
        }
        has_host |= *name == FORWARDED_HOST;
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
    let scheme = HeaderValue::from_static(origin.scheme.as_str());
    own(&FORWARDED_PROTO, "X-Forwarded-Proto", &scheme);
    own(&FORWARDED_PORT, "X-Forwarded-Port", &port(request, origin));
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
            HeaderValue::try_from(template.fill(|place| told(place, request, origin.client, origin.scheme)))
        {
            send(name, name.as_str().as_bytes(), &value);
        }
    }
}

/// The scheme that a client used: what a trusted proxy says, else that of the connection.
pub(crate) fn scheme_of(request: &RequestHeader, client: &Client, is_secure: bool) -> Scheme {
    let said = client.via_trusted.then(|| scheme::scheme(lines(request)));
    said.flatten().unwrap_or(Scheme::of_connection(is_secure))
}

/// The port that a client used.
fn port(request: &RequestHeader, origin: &Origin<'_>) -> HeaderValue {
    let said = lines(request).filter(|_| origin.client.via_trusted);
    match scheme::port(said, host(request).as_bytes(), origin.scheme) {
        80 => HeaderValue::from_static("80"),
        443 => HeaderValue::from_static("443"),
        port => port.into(),
    }
}

/// A target as it came, for which the framework was given another one.
#[derive(Clone)]
struct Target(Bytes);

/// Notes the target of a request as it came.
pub(crate) fn set_target(request: &mut RequestHeader, target: &[u8]) {
    request.extensions_mut().insert(Target(Bytes::copy_from_slice(target)));
}

/// The target of a request as it came.
pub(crate) fn target(request: &RequestHeader) -> &[u8] {
    match request.extensions.get::<Target>() {
        Some(Target(target)) => target,
        None => request.raw_path(),
    }
}

/// The header lines of a request.
pub(crate) fn lines(request: &RequestHeader) -> impl Iterator<Item = (&str, &[u8])> {
    request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// The `Host`, or nothing where HTTP/1.0 sent none.
pub(crate) fn host(request: &RequestHeader) -> &str {
    let host = request.headers.get(http::header::HOST);
    host.and_then(|host| host.to_str().ok()).unwrap_or_default()
}

/// Whether a request asks for the connection to end with its answer, on whichever line of `Connection` (RFC 9112 section 9.6). The framework looks at
/// the first line.
pub(crate) fn asks_to_close(request: &RequestHeader) -> bool {
    let mut options = members(request.headers.get_all(CONNECTION).iter());
    options.any(|option| option.eq_ignore_ascii_case("close"))
}

/// Joins the lines of `Cookie` into one. HTTP/2 clients split it, and whoever reads the request as HTTP/1 takes several lines for a list with commas
/// (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(request: &mut RequestHeader) -> pingora::Result<()> {
    let mut lines = request.headers.get_all(COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return Ok(());
    }
    let lines: Vec<&[u8]> = request
        .headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let joined = HeaderValue::from_maybe_shared(Bytes::from(lines.join(&b"; "[..])));
    let joined = joined.or_err(ErrorType::InvalidHTTPHeader, "joining cookies")?;
    request.insert_header("Cookie", joined)
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
pub(crate) fn told<'r>(place: Place, request: &'r RequestHeader, client: &Client, scheme: Scheme) -> Cow<'r, str> {
    let form = || match OriginForm::parse(target(request), false) {
        Ok(Form::Origin(form)) => Some(form),
        Ok(Form::Asterisk) | Err(_) => None,
    };
    match place {
        Place::Scheme => scheme.as_str().into(),
        Place::Host => without_port(host(request)).into(),
        Place::Path => form().map_or("/".into(), |form| form.path().to_owned().into()),
        Place::Uri => form().map_or("/".into(), |form| as_url(form.target()).into_owned().into()),
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

/// The headers that `Connection` names as meant for the next hop alone; what frames a message is nobody's option.
pub(crate) fn nominated<'a>(connection: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a str> {
    const KEPT: [&str; 5] = ["close", "keep-alive", "upgrade", "transfer-encoding", "content-length"];
    members(connection).filter(|word| !word.is_empty() && !KEPT.iter().any(|kept| kept.eq_ignore_ascii_case(word)))
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
