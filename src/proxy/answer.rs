//! Answers that the gate gives itself: JSON in the shape that Dify's own errors have, so that its clients can read them.

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, VARY};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use crate::gate::cors::{self, Cors};
use crate::http1::members;
use crate::proxy::events::{DRAINED, EVENTS, Streamed};
use crate::proxy::headers::RequestId;
use crate::upstream::streams::Why;

/// One answer of the gate's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    message: String,
    retry_after: Option<u32>,
    /// Whether it is a page for people rather than data.
    as_page: bool,
}

/// After this many seconds whoever met a maintenance may look again.
const MAINTENANCE: u32 = 30;

/// No client is told to wait longer than so many seconds: OpenAI's SDK heeds two minutes, and does not try again at all where it is told to wait for
/// longer.
const LONGEST_WAIT: u32 = 120;

/// After this many seconds a client may ask again: a confirmed recovery takes an interval and a confirm, about that long.
const RETRY_AFTER: u32 = 2;

impl Answer {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after: None,
            as_page: false,
        }
    }

    /// The same for a path that no route serves and for one that the guard hides, so that nobody can tell them apart.
    pub(crate) fn not_found(status: u16) -> Self {
        match status {
            403 => Self::new(403, "forbidden", "You may not see this."),
            _ => Self::new(404, "not_found", "There is nothing at this address."),
        }
    }

    /// No endpoint may serve.
    pub(crate) fn no_endpoint(upstream: &str, failing: &str) -> Self {
        let why = if failing.is_empty() {
            String::new()
        } else {
            format!(" ({failing})")
        };
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(
                503,
                "no_endpoint",
                format!("No instance of {upstream} is fit to serve{why}. Try again shortly."),
            )
        }
    }

    /// Every endpoint lacks what it depends on.
    pub(crate) fn dependency_failed(upstream: &str, components: &str) -> Self {
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(
                503,
                "dependency_failed",
                format!(
                    "{upstream} cannot serve at the moment, for a service that all of its instances use fails: {components}. Try again shortly."
                ),
            )
        }
    }

    /// Every endpoint has its hands full.
    pub(crate) fn overloaded(upstream: &str) -> Self {
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(
                503,
                "overloaded",
                format!("Every instance of {upstream} has its hands full. Try again shortly."),
            )
        }
    }

    /// No endpoint took the request, so that it can be sent again whatever it asks for.
    pub(crate) fn unreachable(upstream: &str) -> Self {
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(
                503,
                "upstream_unreachable",
                format!("No instance of {upstream} could be reached. The request was not sent. Try again shortly."),
            )
        }
    }

    /// The endpoint that was asked failed.
    pub(crate) fn upstream_failed() -> Self {
        Self::new(
            502,
            "upstream_failed",
            "The instance that was asked did not answer. The request may have been processed.",
        )
    }

    /// The endpoint that was asked did not answer in time.
    pub(crate) fn upstream_timeout() -> Self {
        Self::new(
            504,
            "upstream_timeout",
            "The instance that was asked did not answer in time. The request may still be running.",
        )
    }

    /// Traffic was paused for longer than a request may wait.
    pub(crate) fn paused() -> Self {
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(
                503,
                "paused",
                "Requests are held back at the moment. Try again shortly.",
            )
        }
    }

    /// Traffic is stopped; the operator may have said why. As a page where a browser asks for one.
    pub(crate) fn maintenance(message: &str, as_page: bool) -> Self {
        let message = if message.is_empty() {
            "The service is in maintenance. Try again later."
        } else {
            message
        };
        Self {
            retry_after: Some(MAINTENANCE),
            as_page,
            ..Self::new(503, "maintenance", message)
        }
    }

    /// An operator asks for a pool that there is not.
    pub(crate) fn no_pool<'p>(upstream: &str, pools: impl Iterator<Item = &'p str>) -> Self {
        let pools = pools.collect::<Vec<_>>().join(", ");
        Self::new(
            404,
            "no_pool",
            format!("{upstream} has no pool of this name; it has: {pools}."),
        )
    }

    /// The request was sent, and is ended before its answer.
    pub(crate) fn drained(why: Why) -> Self {
        let message = match why {
            Why::Drained | Why::Operator => {
                "The instance that was asked is taken out of service, and did not answer in time. The request may still be running."
            }
            Why::Shutdown => {
                "The gateway is stopped or replaced, and the instance that was asked did not answer in time. The request may still be running."
            }
        };
        Self::new(504, DRAINED, message)
    }

    /// The gate ends before the request was sent anywhere.
    pub(crate) fn shutting_down() -> Self {
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(
                503,
                "shutting_down",
                "The gateway is stopped or replaced. The request was not sent. Try again shortly.",
            )
        }
    }

    /// The request breaks a rule.
    pub(crate) fn refused(status: u16, reason: &'static str) -> Self {
        Self::new(status, reason, "The request is malformed or cannot be served.")
    }

    /// The body is too large.
    pub(crate) fn too_large(limit: u64) -> Self {
        Self::new(
            413,
            "too_large",
            format!("The request body is larger than the {limit} bytes that are allowed here."),
        )
    }

    /// A client asks too often, and may ask again after so many seconds, where that is known.
    pub(crate) fn too_many(retry_after: Option<u32>) -> Self {
        Self {
            retry_after: retry_after.map(|wait| wait.min(LONGEST_WAIT)),
            ..Self::new(429, "too_many_requests", "Too many requests.")
        }
    }

    /// A client sends its request too slowly.
    pub(crate) fn too_slow() -> Self {
        Self::new(408, "request_timeout", "The request did not come in time.")
    }

    /// A page of another origin asks whether it may, and may not.
    pub(crate) fn foreign_origin() -> Self {
        Self::new(403, "cors", "Pages of this origin may not use this address.")
    }

    /// A fault of the gate.
    pub(crate) fn internal() -> Self {
        Self::new(500, "internal", "The gate failed.")
    }

    fn body(&self) -> String {
        if self.as_page {
            return page(&self.message);
        }
        serde_json::json!({"code": self.code, "message": self.message, "status": self.status}).to_string()
    }

    /// Sends it, and ends the connection where a request body may still be on its way.
    pub(crate) async fn send(
        &self,
        session: &mut Session,
        request_id: &RequestId,
        cors: Option<&Cors>,
    ) -> pingora::Result<()> {
        let streamed = Streamed::of(session.req_header(), self.status, self.code, &self.message);
        let (status, kind, body) = match streamed {
            Some(streamed) => (streamed.status, EVENTS, streamed.body),
            None => (self.status, if self.as_page { HTML } else { JSON }, self.body()),
        };
        let may_have_run = matches!(self.status, 502 | 504) && !session.req_header().method.is_safe();
        let told = Told {
            retry_after: self.retry_after.filter(|_| status == self.status),
            should_retry: !may_have_run,
        };
        send(session, status, (kind, body), told, request_id, cors).await
    }
}

/// An answer that a route says.
#[derive(Clone, Debug)]
pub(crate) struct Fixed {
    pub(crate) status: StatusCode,
    /// What kind of body it is, where to go, or what pages of other origins may do.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl Fixed {
    /// Sends it.
    pub(crate) async fn send(&self, session: &mut Session, request_id: &RequestId) -> pingora::Result<()> {
        if !session.is_body_empty() {
            session.set_keepalive(None);
        }
        let bodiless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut header = ResponseHeader::build(self.status, Some(4))?;
        for (name, value) in &self.headers {
            header.insert_header(name.clone(), value.clone())?;
        }
        if !bodiless {
            header.insert_header("Content-Length", self.body.len().to_string())?;
        }
        header.insert_header("X-Request-Id", request_id.value())?;
        let ends = bodiless || session.req_header().method == http::Method::HEAD || self.body.is_empty();
        session.write_response_header(Box::new(header), ends).await?;
        if ends {
            return Ok(());
        }
        session.write_response_body(Some(self.body.clone()), true).await
    }
}

/// Whether a page of another origin may read an answer of the gate's own. Dify answers such pages itself, and one that asks while no instance
/// serves would see a network error instead of what is wrong (Fetch standard, CORS protocol). What the guard refuses stays hidden.
fn tells_pages(status: u16) -> bool {
    status >= 500 || matches!(status, 408 | 413 | 414 | 429 | 431)
}

fn reflect(request: &RequestHeader, header: &mut ResponseHeader) -> pingora::Result<()> {
    let tells = tells_pages(header.status.as_u16());
    if let Some(origin) = request.headers.get(ORIGIN).filter(|_| tells) {
        header.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone())?;
        header.insert_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")?;
        header.insert_header(VARY, "Origin")?;
    }
    Ok(())
}

/// Lets the pages that a route names read an answer, and nobody else, whatever it said before.
pub(crate) fn share(request: &RequestHeader, header: &mut ResponseHeader, cors: &Cors) -> pingora::Result<()> {
    for name in cors::HEADERS {
        header.remove_header(name);
    }
    let kept_apart = members(header.headers.get_all(VARY).iter()).any(|name| name.eq_ignore_ascii_case("origin"));
    if !cors.is_open() && !kept_apart {
        header.append_header(VARY, "Origin")?;
    }
    let origin = request.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    for (name, value) in origin.map(|origin| cors.answer(origin)).unwrap_or_default() {
        header.insert_header(name, value)?;
    }
    Ok(())
}

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// A page that says one thing.
fn page(message: &str) -> String {
    let text = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<!doctype html>\n<html>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>Maintenance</title>\n<p>{text}\n</html>\n"
    )
}

/// Sends a JSON body.
pub(crate) async fn respond(
    session: &mut Session,
    status: u16,
    body: String,
    request_id: &RequestId,
) -> pingora::Result<()> {
    let told = Told {
        retry_after: None,
        should_retry: true,
    };
    send(session, status, (JSON, body), told, request_id, None).await
}

/// What a client is told about coming again.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// After so many seconds.
    retry_after: Option<u32>,
    /// Whether its SDK should by itself. OpenAI's and Anthropic's send a request again that any 5xx answered, and run a prompt twice, unless
    /// `X-Should-Retry` says otherwise.
    should_retry: bool,
}

/// Sends a body, which the pages that `cors` names may read, or those of every origin where it is an error.
async fn send(
    session: &mut Session,
    status: u16,
    (kind, body): (&'static str, String),
    told: Told,
    request_id: &RequestId,
    cors: Option<&Cors>,
) -> pingora::Result<()> {
    if !session.is_body_empty() {
        session.set_keepalive(None);
    }
    let mut header = ResponseHeader::build(status, Some(6))?;
    header.insert_header("Content-Type", kind)?;
    header.insert_header("Content-Length", body.len().to_string())?;
    header.insert_header("Cache-Control", "no-store")?;
    if !request_id.as_str().is_empty() {
        header.insert_header("X-Request-Id", request_id.value())?;
    }
    match cors {
        Some(cors) => share(session.req_header(), &mut header, cors)?,
        None => reflect(session.req_header(), &mut header)?,
    }
    if let Some(seconds) = told.retry_after {
        header.insert_header("Retry-After", seconds.to_string())?;
    }
    if !told.should_retry {
        header.insert_header("X-Should-Retry", "false")?;
    }
    let is_head = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(header), is_head).await?;
    if is_head {
        return Ok(());
    }
    session.write_response_body(Some(Bytes::from(body)), true).await
}
