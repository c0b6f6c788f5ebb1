//! The path of a request: guarded first, then routed, sent to an endpoint that may serve, and told of at the end.
//!
//! **Invariant.** A request reads one snapshot and bumps counters; it decides nothing about endpoints. Body filters never wait:
//! a tunnel's first bytes may be read before they run.

mod answer;
mod choice;
mod context;
mod direct;
mod events;
mod failure;
mod headers;
mod no_chunks;
mod overlap;
mod own_answers;
mod pacing;
mod rate;
mod reach;
mod record;
mod relay;
mod request;
mod response;
mod server;
mod side;
mod site;
mod split;
mod stream;
mod tunnel;
mod upload;
mod witness;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{EXPECT, HOST};
use http::{HeaderMap, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use crate::access_log::AccessLog;
use crate::acme::Challenges;
use crate::clock::Clock;
use crate::edge::Door;
use crate::gate::path::authority_of;
use crate::gate::retry::AttemptFailure;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::proxy::answer::Answer;
use crate::proxy::context::Exchange;
pub(crate) use crate::proxy::rate::Rates;
use crate::proxy::request::conn;
pub(crate) use crate::proxy::server::Server;
pub(crate) use crate::proxy::site::Site;
pub(crate) use crate::proxy::split::SplitKey;
use crate::proxy::stream::Streaming;
use crate::tls::Authorities;

/// The proxy of all listeners.
#[derive(Clone)]
pub(crate) struct Gateway {
    /// The listener that its requests came through.
    pub(crate) door: Arc<Door>,
    /// How often each client may ask there.
    pub(crate) rates: Option<Arc<Rates>>,
    /// What the configuration says of requests.
    pub(crate) site: Arc<ArcSwap<Site>>,
    /// Where failures are told of.
    pub(crate) mailbox: Mailbox,
    /// Where requests are told of.
    pub(crate) access: AccessLog,
    /// What authorities ask for.
    pub(crate) challenges: Challenges,
    /// What the cookies are signed with that keep browsers in their pool.
    pub(crate) split_key: Arc<SplitKey>,
    /// Whom endpoints must be vouched for by.
    pub(crate) authorities: Arc<Authorities>,
    /// Where they are counted.
    pub(crate) metrics: Metrics,
    /// The time.
    pub(crate) clock: Clock,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new(self.clock.now(), self.site.load_full())
    }

    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {}

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        exchange: &mut Exchange,
        admitted: Box<dyn std::any::Any + Send + Sync>,
    ) {
        Self::take_over(exchange, admitted);
    }

    async fn early_request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<()> {
        self.begin(session, exchange)
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<bool> {
        let is_answered = self.answer(session, exchange).await?;
        if !is_answered {
            self.release(session, exchange).await?;
        }
        Ok(is_answered)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        // The framework takes no part for the end of the body. An empty part before that is none.
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        let length = body.as_ref().map_or(0, Bytes::len);
        exchange.received += length as u64;
        exchange.wrote = true;
        let Some(course) = &exchange.course else {
            return Ok(());
        };
        if exchange.received > course.body_limit && !session.was_upgraded() {
            self.door.limit("too_large");
            let answer = Answer::too_large(course.body_limit);
            exchange.refuse(answer, "too_large");
            return Err(Error::new_down(ErrorType::HTTPStatus(413)));
        }
        let within = if exchange.stream.is_some() {
            course.timeouts.idle
        } else {
            let first_byte = course.patience();
            self.received(exchange, length, end_of_stream, first_byte)?
        };
        if let Some(line) = exchange.line().filter(|_| length > 0 || end_of_stream) {
            line.expect_byte(within);
        }
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<Box<HttpPeer>> {
        let socket = self.choose(session, exchange).await?;
        let Some((course, attempt)) = exchange.attempt() else {
            return Error::e_explain(ErrorType::InternalError, "a request without an attempt");
        };
        let endpoint = attempt.endpoint.owner();
        let settings = &course.upstream.owner().settings;
        let host = endpoint.id.address.host();
        let mut peer = reach::peer(socket, host, settings, &course.timeouts, &self.authorities)?;
        peer.options.custom_l4 = Some(endpoint.connector.clone());
        Ok(Box::new(peer))
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        fd: RawFd,
        _digest: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        let Some(course) = &mut exchange.course else {
            return Ok(());
        };
        // Requests that share a connection cannot end each other's wait: HTTP/2 has the framework's clocks.
        let alone = !course.upstream.owner().settings.http2;
        let patience = course.patience();
        if let Some(attempt) = course.attempt.as_mut().filter(|_| alone) {
            attempt.line = attempt.endpoint.owner().lines.find(fd);
            if let Some(line) = &attempt.line {
                let body = exchange.receiving.and_then(|(_, pace)| pace.left());
                let first_byte = course.timeouts.first_byte.min(patience);
                line.expect_byte(body.map_or(first_byte, |left| left.min(first_byte)));
            }
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        exchange.wrote = false;
        self.prepare(session, request, exchange)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        e: Box<Error>,
    ) -> Box<Error> {
        self.unconnected(session, exchange, e)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        exchange: &mut Exchange,
        reused: bool,
    ) -> Box<Error> {
        self.failed(session, exchange, e, reused)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        let status = response.status;
        if status == StatusCode::SWITCHING_PROTOCOLS && !tunnel::is_asked_for(session.req_header()) {
            return Err(Error::new_up(ErrorType::InvalidHTTPHeader));
        }
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        // Of trailers in HTTP/1.1 the framework tells nothing.
        exchange.trails = response.version == Version::HTTP_2;
        self.hear(exchange, status.as_u16());
        if status == http::StatusCode::SERVICE_UNAVAILABLE && self.retry(session, exchange, AttemptFailure::Refused) {
            let mut e = Error::new_up(ErrorType::HTTPStatus(503));
            e.set_retry(true);
            return Err(e);
        }
        let has_body = session.req_header().method != http::Method::HEAD;
        self.begun(session, exchange, Streaming::of(response).filter(|_| has_body));
        if let (Some(line), Some(course)) = (exchange.line(), &exchange.course) {
            line.expect_byte(course.timeouts.idle);
            if exchange.stream.is_some() {
                line.stream();
            }
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> pingora::Result<Option<Duration>> {
        if self.pass(body, end_of_stream, exchange)? {
            return Ok(None);
        }
        if body.as_ref().is_some_and(|body| !body.is_empty())
            && let Some((course, attempt)) = exchange.attempt()
        {
            attempt.endpoint.owner().pulse.deliver();
            if let Some(line) = &attempt.line {
                line.expect_byte(course.timeouts.idle);
            }
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        self.announce_end(session);
        self.dress(session, response, exchange)
    }

    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut HeaderMap,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        response::clean_trailers(trailers);
        if let Some(conn) = conn(session).filter(|_| exchange.trails) {
            conn.set_trailers(trailers);
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, exchange: &mut Exchange) -> FailToProxy {
        let gone = matches!(
            e.etype(),
            ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed
        );
        let is_malformed = conn(session).is_some_and(|conn| conn.malformed().is_some());
        let answer = match (exchange.answer.take(), e.esource()) {
            (Some(answer), _) => Some(answer),
            (None, ErrorSource::Upstream) => Some(failure::answer(e, exchange)),
            (None, ErrorSource::Downstream) if is_malformed => {
                Some(exchange.refuse(Answer::refused(400, "chunks"), "chunks"))
            }
            (None, ErrorSource::Downstream) if gone => None,
            (None, ErrorSource::Downstream) => Some(Answer::refused(400, "malformed")),
            (None, ErrorSource::Internal | ErrorSource::Unset) => Some(Answer::internal()),
        };
        self.conclude(session, exchange).await;
        let error_code = answer.as_ref().map_or(0, |answer| answer.status);
        if let Some(answer) = answer.filter(|_| !failure::has_answered(session)) {
            session.set_keepalive(None);
            // The client may have gone meanwhile, and then nobody misses the answer.
            let cors = exchange.route().and_then(|route| route.cors.as_ref());
            exchange.answer_sent = answer.send(session, &exchange.request_id, cors).await.is_ok();
            // An `EventSource` is told 200, and the access line tells why.
            if session
                .response_written()
                .is_some_and(|written| written.status.is_success())
            {
                exchange.refused.get_or_insert(answer.code);
            }
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, exchange: &mut Exchange) {
        self.end(session, e, exchange);
    }

    /// The access line tells of every failure; the framework's own line would repeat it with the query, which may hold a signature.
    fn suppress_error_log(&self, _session: &Session, _exchange: &Exchange, _e: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _exchange: &Exchange,
        _e: &Error,
        _at: pingora::proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, exchange: &Exchange) -> String {
        exchange.request_id.as_str().to_owned()
    }
}

/// Removes an expectation that nobody is to meet: one of HTTP/1.0 or of a request without a body means nothing (RFC 9110 section 10.1.1), and a client
/// of HTTP/2 was told to go on by the listener.
fn forget_expectation(session: &mut Session) {
    let means_nothing = session.is_body_empty();
    let request = session.req_header_mut();
    let expects = request
        .headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects && (means_nothing || request.version != Version::HTTP_11) {
        request.remove_header(&EXPECT);
    }
}

impl Gateway {
    /// Has the answer that is about to begin ask its client for another connection, where this one will not serve the next request: it would be lost.
    fn announce_end(&self, session: &mut Session) {
        if self.door.is_leaving() {
            session.set_keepalive(None);
        }
    }
}

/// Gives a request the `Host` that everything here reads: HTTP/2 names it in `:authority` (RFC 9113 section 8.3.1), and HTTP/1.0 need not name one
/// (RFC 9112 section 3.2), but it is sent on as HTTP/1.1, which must: then it is the host of an absolute target, or the address of the listener.
fn name_host(request: &mut RequestHeader, listener: &str) -> pingora::Result<()> {
    if request.headers.contains_key(HOST) {
        return Ok(());
    }
    let host = match request.version {
        Version::HTTP_2 => request.uri.authority().map(|authority| authority.as_str()),
        Version::HTTP_10 => Some(authority_of(headers::target(request)).unwrap_or(listener)),
        _ => None,
    };
    match host.map(str::to_owned) {
        Some(host) => request.insert_header(HOST, host),
        None => Ok(()),
    }
}
