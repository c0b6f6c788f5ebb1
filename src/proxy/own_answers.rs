//! What the gate answers itself because its configuration says so: fixed answers and redirects of routes, the way to https, a browser's question
//! before a page's request, and an authority's question whether a host is the gate's.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, LOCATION, ORIGIN, VARY,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora::http::RequestHeader;

use crate::acme;
use crate::config::{Place, RouteSettings, Target};
use crate::gate::client::Client;
use crate::gate::cors::Cors;
use crate::proxy::Gateway;
use crate::proxy::answer::{Answer, Fixed};

impl Gateway {
    /// The proof that an authority asks for (RFC 8555 section 8.3).
    pub(super) fn proof(&self, path: &str) -> Option<Fixed> {
        let proof = self.challenges.proof(path)?;
        Some(Fixed {
            status: StatusCode::OK,
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))],
            body: proof.into(),
        })
    }

    /// What a route answers itself.
    pub(super) fn fixed(&self, route: &RouteSettings, request: &RequestHeader, client: &Client) -> Option<Fixed> {
        match &route.target {
            Target::Upstream(_) => None,
            Target::Redirect(status, to) => {
                let to = to.fill(|place| self.told(place, request, client));
                Some(redirect(*status, to))
            }
            Target::Answer(status, kind, body) => Some(Fixed {
                status: *status,
                headers: vec![(CONTENT_TYPE, kind.clone())],
                body: Bytes::copy_from_slice(body.as_bytes()),
            }),
        }
    }

    /// Where a cleartext listener sends its clients. Who proves by a file that a host is theirs comes in the clear (RFC 8555 section 8.3), and
    /// who came to a trusted proxy within TLS is there already.
    pub(super) fn to_https(&self, request: &RequestHeader, client: Option<&Client>, path: &str) -> Option<Fixed> {
        if !self.door.settings.redirect_to_https || path.starts_with(acme::PREFIX) {
            return None;
        }
        let told = |place| self.told(place, request, client.unwrap_or(&Client::UNKNOWN));
        let elsewhere = told(Place::Scheme) == "http";
        elsewhere.then(|| {
            redirect(
                StatusCode::PERMANENT_REDIRECT,
                format!("https://{}{}", told(Place::Host), told(Place::Uri)),
            )
        })
    }
}

fn redirect(status: StatusCode, to: String) -> Fixed {
    Fixed {
        status,
        // A `Host` that no URL can hold leads nowhere.
        headers: vec![(
            LOCATION,
            HeaderValue::try_from(to).unwrap_or(HeaderValue::from_static("/")),
        )],
        body: Bytes::new(),
    }
}

/// The answer to a browser that asks before a page's request (Fetch standard section 3.2.2), or why the page may not ask.
pub(super) fn preflight(cors: &Cors, request: &RequestHeader) -> Option<Result<Fixed, Answer>> {
    let said = |name: HeaderName| request.headers.get(name).and_then(|value| value.to_str().ok());
    let origin = said(ORIGIN).filter(|_| request.method == Method::OPTIONS)?;
    said(ACCESS_CONTROL_REQUEST_METHOD)?;
    let lines = cors.preflight(origin, said(ACCESS_CONTROL_REQUEST_HEADERS));
    if lines.is_empty() {
        return Some(Err(Answer::foreign_origin()));
    }
    let lines = lines.into_iter();
    let headers = lines.filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::try_from(value).ok()?)));
    let told = (VARY, HeaderValue::from_static("Origin, Access-Control-Request-Headers"));
    Some(Ok(Fixed {
        status: StatusCode::NO_CONTENT,
        headers: headers.chain([told]).collect(),
        body: Bytes::new(),
    }))
}
