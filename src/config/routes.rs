//! What the file says about routes: which requests each is for, where they go, and what is changed on the way.

use http::{HeaderName, HeaderValue, StatusCode};

use super::listeners::rate;
use super::parse::{Findings, timeouts};
use super::probes::header_name;
use super::upstreams::named;
use super::{Rate, cors, raw};
use crate::gate::cors::Cors;
use crate::gate::names::UpstreamName;
use crate::gate::retry::RetryClass;
use crate::upstream::settings::{Timeouts, UpstreamSettings};

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// Hosts it is for, lower-case; `*.` at the beginning stands for one label or more. Empty is every host.
    pub hosts: Vec<String>,
    /// The byte prefix of the path.
    pub path: String,
    /// Whether the path must be this one.
    pub exact: bool,
    /// What becomes of its requests.
    pub target: Target,
    /// Whether the prefix is cut off before a request goes on.
    pub strip_prefix: bool,
    /// What is changed of the headers of requests.
    pub request: HeaderEdits,
    /// What is changed of the headers of answers.
    pub response: HeaderEdits,
    /// How careful its requests make us, whatever their method says.
    pub retry: Option<RetryClass>,
    /// The clocks of its requests, complete.
    pub timeouts: Timeouts,
    /// A body limit of its own, in bytes.
    pub body_limit: Option<u64>,
    /// How often each client may ask for it.
    pub client_rate: Option<Rate>,
    /// Which pages of other origins may read its answers; what the endpoint says of it where absent.
    pub cors: Option<Cors>,
}

/// What becomes of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// They go to an upstream that exists.
    Upstream(UpstreamName),
    /// They are sent elsewhere: a template of `{scheme}`, `{host}`, `{path}` and `{uri}`.
    Redirect(StatusCode, Template),
    /// They get this answer.
    Answer(StatusCode, HeaderValue, String),
}

/// Headers that are set, by templates, and such that are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Set, whatever was there.
    pub set: Vec<(HeaderName, Template)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Whether what came under this name does not go on.
    pub fn replaces(&self, name: &HeaderName) -> bool {
        self.set.iter().any(|(set, _)| set == name) || self.remove.contains(name)
    }
}

/// A text with places for what a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Place),
}

/// What a template can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `http` or `https`, as the client came.
    Scheme,
    /// The `Host` without its port.
    Host,
    /// The path as it was sent.
    Path,
    /// The path and the query as they were sent.
    Uri,
    /// The client's address.
    Client,
}

impl Template {
    const PLACES: [(&'static str, Place); 5] = [
        ("{scheme}", Place::Scheme),
        ("{host}", Place::Host),
        ("{path}", Place::Path),
        ("{uri}", Place::Uri),
        ("{client}", Place::Client),
    ];

    /// Reads a text. Any other brace is an error, so that a typing mistake is not sent to an upstream.
    fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, place) = rest.split_at(at);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let Some((name, place)) = Self::PLACES.iter().find(|(name, _)| place.starts_with(name)) else {
                let known: Vec<&str> = Self::PLACES.iter().map(|(name, _)| *name).collect();
                return Err(format!(
                    "has a brace that names nothing; known are {}",
                    known.join(", ")
                ));
            };
            pieces.push(Piece::Place(*place));
            rest = rest.get(at + name.len()..).unwrap_or_default();
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// The text with its places filled by `what`.
    pub fn fill<'a>(&'a self, what: impl Fn(Place) -> std::borrow::Cow<'a, str>) -> String {
        let parts = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str().into(),
            Piece::Place(place) => what(*place),
        });
        parts.collect()
    }

    /// Whether it begins with a place of its own rather than with what a client sends: `//evil.example` is a path, and a URL.
    fn leads_somewhere(&self) -> bool {
        match self.0.first() {
            Some(Piece::Text(text)) => {
                let is_url = text.starts_with("http://") || text.starts_with("https://");
                is_url || (text.len() > 1 && text.starts_with('/') && !text.starts_with("//"))
            }
            Some(Piece::Place(place)) => *place == Place::Scheme,
            None => false,
        }
    }

    /// Whether what stands here can be a header's value.
    fn is_value(&self) -> bool {
        self.0.iter().all(|piece| match piece {
            Piece::Text(text) => HeaderValue::from_str(text).is_ok(),
            Piece::Place(_) => true,
        })
    }
}

/// Headers that frame a message or end at the next hop; they are the gate's own.
const OWN: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

pub(super) fn routes(
    raw: Option<Vec<raw::Route>>,
    upstreams: &[UpstreamSettings],
    findings: &mut Findings<'_>,
) -> Vec<RouteSettings> {
    let Some(raw) = raw else {
        return catch_all(upstreams, findings);
    };
    if raw.is_empty() {
        findings.error(
            "routes",
            "is empty; leave it out to send everything to the only upstream",
        );
    }
    let mut routes: Vec<RouteSettings> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("routes[{index}]");
        let route = route(&key, raw, upstreams, findings);
        let same_host = |other: &RouteSettings| {
            other.hosts == route.hosts || other.hosts.iter().any(|host| route.hosts.contains(host))
        };
        let same_path = |other: &RouteSettings| (other.exact, &other.path) == (route.exact, &route.path);
        if routes.iter().any(|other| same_path(other) && same_host(other)) {
            let message = format!("`{}` has a route already, for the same host", route.path);
            findings.error(&format!("{key}.path"), message);
        }
        routes.push(route);
    }
    routes
}

fn route(key: &str, raw: raw::Route, upstreams: &[UpstreamSettings], findings: &mut Findings<'_>) -> RouteSettings {
    let client_rate = raw
        .client_rate
        .and_then(|raw| rate(&format!("{key}.client_rate"), raw, findings));
    let (target, below) = target(key, &raw, upstreams, findings);
    let headers = raw.headers.unwrap_or_default();
    let hosts = raw
        .hosts
        .unwrap_or_default()
        .into_iter()
        .map(|host| host.to_ascii_lowercase());
    let route = RouteSettings {
        hosts: hosts.collect(),
        path: raw.path.map_or_else(|| "/".to_owned(), |path| path.0),
        exact: raw.exact.unwrap_or(false),
        target,
        strip_prefix: raw.strip_prefix.unwrap_or(false),
        request: edits(&format!("{key}.headers.request"), headers.request, findings),
        response: edits(&format!("{key}.headers.response"), headers.response, findings),
        retry: raw.retry.map(|class| match class {
            raw::RouteRetry::Idempotent => RetryClass::Idempotent,
            raw::RouteRetry::Effects => RetryClass::Effects,
            raw::RouteRetry::Unsafe => RetryClass::Unsafe,
        }),
        timeouts: timeouts(
            &format!("{key}.timeouts"),
            raw.timeouts.unwrap_or_default(),
            below,
            findings,
        ),
        body_limit: raw.body_limit.map(|size| size.0),
        client_rate,
        cors: raw.cors.map(|raw| cors::cors(&format!("{key}.cors"), raw, findings)),
    };
    for host in &route.hosts {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if name.is_empty() || name.contains(['*', '/', ':']) {
            let message = format!(
                "`{host}` is no host name; a wildcard stands at the beginning, as in *.example.com, and ports do not matter"
            );
            findings.error(&format!("{key}.hosts"), message);
        }
    }
    if route.strip_prefix && (route.exact || route.path == "/") {
        findings.error(
            &format!("{key}.strip_prefix"),
            "needs a prefix to cut off, and something behind it",
        );
    }
    route
}

/// What becomes of a route's requests, and the clocks that it stands over.
fn target(
    key: &str,
    raw: &raw::Route,
    upstreams: &[UpstreamSettings],
    findings: &mut Findings<'_>,
) -> (Target, Timeouts) {
    let nowhere = || (Target::Upstream(UpstreamName::new("")), Timeouts::default());
    match (&raw.upstream, &raw.redirect, &raw.answer) {
        (Some(name), None, None) => {
            let upstream = named(&format!("{key}.upstream"), name, upstreams, findings);
            let below = upstream.map_or_else(Timeouts::default, |upstream| upstream.timeouts);
            (Target::Upstream(UpstreamName::new(name)), below)
        }
        (None, Some(redirect), None) => {
            let status = StatusCode::from_u16(redirect.status.unwrap_or(308)).unwrap_or_default();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                findings.error(
                    &format!("{key}.redirect.status"),
                    "is one of 301, 302, 303, 307 and 308",
                );
            }
            match Template::parse(&redirect.to) {
                Ok(to) if !to.leads_somewhere() => {
                    let message = "begins with http://, https://, {scheme}:// or a path; what a client sends must not decide where others are sent";
                    findings.error(&format!("{key}.redirect.to"), message);
                    nowhere()
                }
                Ok(to) if to.is_value() => (Target::Redirect(status, to), Timeouts::default()),
                Ok(_) => {
                    findings.error(&format!("{key}.redirect.to"), "holds characters that no URL may hold");
                    nowhere()
                }
                Err(message) => {
                    findings.error(&format!("{key}.redirect.to"), message);
                    nowhere()
                }
            }
        }
        (None, None, Some(answer)) => (fixed(key, answer, findings), Timeouts::default()),
        _ => {
            findings.error(key, "says one thing: `upstream`, `redirect` or `answer`");
            nowhere()
        }
    }
}

fn fixed(key: &str, answer: &raw::FixedAnswer, findings: &mut Findings<'_>) -> Target {
    let status = answer.status.unwrap_or(200);
    if !(200..=599).contains(&status) {
        findings.error(&format!("{key}.answer.status"), "is a status from 200 to 599");
    }
    let kind = answer.content_type.as_deref().unwrap_or("text/plain; charset=utf-8");
    let kind = HeaderValue::from_str(kind).unwrap_or_else(|_| {
        let message = "holds characters that no header may hold";
        findings.error(&format!("{key}.answer.content_type"), message);
        HeaderValue::from_static("text/plain")
    });
    let status = StatusCode::from_u16(status).unwrap_or_default();
    Target::Answer(status, kind, answer.body.clone().unwrap_or_default())
}

fn edits(key: &str, raw: Option<raw::HeaderEdits>, findings: &mut Findings<'_>) -> HeaderEdits {
    let raw = raw.unwrap_or_default();
    let mut edits = HeaderEdits::default();
    for (name, value) in raw.set.unwrap_or_default() {
        let key = format!("{key}.set.{name}");
        let template = Template::parse(&value);
        match (header(&key, &name, false, findings), template) {
            (Some(name), Ok(template)) if template.is_value() => edits.set.push((name, template)),
            (Some(_), Ok(_)) => findings.error(&key, "its value holds characters that no header may hold"),
            (Some(_), Err(message)) => findings.error(&key, message),
            (None, _) => {}
        }
    }
    for name in raw.remove.unwrap_or_default() {
        edits
            .remove
            .extend(header(&format!("{key}.remove"), &name, true, findings));
    }
    edits
}

/// A header that may be edited.
fn header(key: &str, name: &str, removes: bool, findings: &mut Findings<'_>) -> Option<HeaderName> {
    let parsed = header_name(key, name, findings)?;
    if OWN.contains(&parsed.as_str()) || (removes && parsed == http::header::HOST) {
        findings.error(
            key,
            format!("`{name}` frames the message or is the gate's own, and cannot be changed here"),
        );
        return None;
    }
    Some(parsed)
}

fn catch_all(upstreams: &[UpstreamSettings], findings: &mut Findings<'_>) -> Vec<RouteSettings> {
    if upstreams.len() > 1 {
        findings.error(
            "routes",
            "is missing; with several upstreams the gate must be told what goes where",
        );
    }
    let route = |upstream: &UpstreamSettings| RouteSettings {
        hosts: Vec::new(),
        path: "/".to_owned(),
        exact: false,
        target: Target::Upstream(upstream.name.clone()),
        strip_prefix: false,
        request: HeaderEdits::default(),
        response: HeaderEdits::default(),
        retry: None,
        timeouts: upstream.timeouts,
        body_limit: None,
        client_rate: None,
        cors: None,
    };
    upstreams.first().map(route).into_iter().collect()
}
