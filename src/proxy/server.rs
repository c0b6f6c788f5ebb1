//! The requests of a client's connection, one after the other.
//!
//! Requests of HTTP/1 are read and answered here. The framework's own loop keeps room for everything that it can do with a request, 45 KiB, and moves
//! it twice a request; what is kept here is what the gate needs. The framework serves clients of HTTP/2, and requests that go on to an endpoint
//! of HTTP/2.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use http::header::EXPECT;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::protocols::{ALPN, Stream};
use pingora::proxy::{HttpProxy, ProxyHttp, Session};
use pingora::server::ShutdownWatch;
use pingora::{Error, ErrorType};

use crate::proxy::context::Exchange;
use crate::proxy::request::{self, Admitted, conn};
use crate::proxy::{Gateway, answer, direct, forget_expectation, headers, name_host, upload};

/// Seconds that the framework waits for a request, before the connection's own clock ends the wait.
const KEEPALIVE: u64 = 60;

/// Serves the connections of one listener.
pub(crate) struct Server {
    gateway: Gateway,
    framework: Arc<HttpProxy<Gateway>>,
}

impl Server {
    pub(crate) fn new(gateway: Gateway, framework: HttpProxy<Gateway>) -> Self {
        Self {
            gateway,
            framework: Arc::new(framework),
        }
    }

    /// Serves a connection of HTTP/1 until its end.
    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let mut stopping = shutdown.clone();
        let mut next = Some(ReusedHttpStream::new(stream, None));
        while let Some((stream, settings)) = next.map(ReusedHttpStream::consume) {
            let mut session = Session::new_h1_with_modules(stream, &self.framework.downstream_modules);
            match settings {
                Some(settings) => settings.apply_to_session(&mut session),
                None => session.set_keepalive(Some(KEEPALIVE)),
            }
            if !has_come(&mut session, &mut stopping).await {
                return;
            }
            if *shutdown.borrow() {
                session.set_keepalive(None);
            }
            // A connection that rests keeps no room for a request.
            next = Box::pin(self.answer(session, shutdown)).await;
        }
    }

    /// Answers a request. What is returned is the connection, where it may serve another one.
    async fn answer(&self, mut session: Session, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        let mut exchange = self.gateway.new_ctx();
        let answered = match self.gateway.begin(&mut session, &mut exchange) {
            Ok(()) => self.gateway.answer(&mut session, &mut exchange).await,
            Err(e) => Err(e),
        };
        match answered {
            Ok(true) => {
                self.gateway.end(&mut session, None, &mut exchange);
                let settings = HttpPersistentSettings::for_session(&session);
                let stream = session.downstream_session.finish().await.ok().flatten()?;
                Some(ReusedHttpStream::from_reusable_stream(stream, settings))
            }
            Ok(false) => self.hand_over(session, exchange, shutdown).await,
            Err(e) => {
                self.gateway.fail_to_proxy(&mut session, &e, &mut exchange).await;
                self.gateway.end(&mut session, Some(&e), &mut exchange);
                session.downstream_session.on_proxy_failure(e);
                None
            }
        }
    }

    /// Has the framework send a request on that was admitted. It reads the head once more.
    async fn hand_over(
        &self,
        session: Session,
        exchange: Exchange,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let head = BytesMut::from(session.to_h1_raw().as_ref());
        let mut session = *session.downstream_session;
        session.set_pipelined_prefix(head);
        session.set_connection_user_context(Some(Box::new(exchange)));
        self.framework.process_new_http(session, shutdown).await
    }
}

#[async_trait]
impl ServerApp for Server {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return self.framework.process_new(stream, shutdown).await;
        }
        self.serve(stream, shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.framework.cleanup().await;
    }
}

/// Waits for a request. None comes where the client ends the connection, where it sends what is no request, or once `shutdown` says so.
async fn has_come(session: &mut Session, shutdown: &mut ShutdownWatch) -> bool {
    let read = tokio::select! {
        biased;
        // First, so that a request which is there is answered.
        read = session.as_downstream_mut().read_request() => read,
        _ = shutdown.wait_for(|stopping| *stopping) => return false,
    };
    match read {
        Ok(has_come) => has_come,
        Err(e) => {
            if matches!(e.etype(), ErrorType::InvalidHTTPHeader) {
                // The client may have gone, and then nobody misses the answer.
                let _ = session.respond_error(400).await;
            }
            session.as_downstream_mut().shutdown().await;
            false
        }
    }
}

impl Gateway {
    /// Readies a request that has come for those who read it.
    pub(super) fn begin(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<()> {
        exchange.start = self.clock.now();
        exchange.taking = self.pace();
        session.set_write_timeout(Some(self.door.settings.idle_timeout));
        if let Some(conn) = conn(session) {
            conn.headers_done();
        }
        if let Some(target) = conn(session).and_then(|conn| conn.target().map(<[u8]>::to_vec)) {
            headers::set_target(session.req_header_mut(), &target);
        }
        request::restore_refused(session)?;
        name_host(session.req_header_mut(), &self.door.name)?;
        forget_expectation(session);
        headers::join_cookies(session.req_header_mut())?;
        if headers::asks_to_close(session.req_header()) {
            session.set_keepalive(None);
        }
        self.announce_end(session);
        // HTTP/1.0 has no interim answers (RFC 9110 section 15.2).
        let knows_interim_answers = session.req_header().version != http::Version::HTTP_10;
        session.set_ignore_info_resp(!knows_interim_answers);
        Ok(())
    }

    /// Answers a request, unless the framework is to send it on.
    pub(super) async fn answer(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<bool> {
        // One that was handed over is admitted.
        let admitted = match exchange.course {
            Some(_) => Admitted::Forward,
            None => self.admit(session, exchange),
        };
        match admitted {
            Admitted::Forward if direct::is_for(session, exchange) => {
                self.exchange(session, exchange).await?;
                return Ok(true);
            }
            Admitted::Forward => return Ok(false),
            Admitted::Answer(answer) => {
                let cors = exchange.route().and_then(|route| route.cors.as_ref());
                answer.send(session, &exchange.request_id, cors).await?;
            }
            Admitted::Fixed(fixed) => fixed.send(session, &exchange.request_id).await?,
            Admitted::Health => {
                let (status, body) = exchange.site.summary();
                answer::respond(session, status, body, &exchange.request_id).await?;
            }
        }
        Ok(true)
    }

    /// Readies a request that the framework sends on.
    pub(super) async fn release(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<()> {
        self.hold(session, exchange).await?;
        if !session.is_body_empty() {
            // The framework passes no interim answer on before the body has come.
            upload::go_ahead(session).await?;
            session.req_header_mut().remove_header(&EXPECT);
            exchange.receiving = Some((self.clock.now(), self.pace()));
        }
        Ok(())
    }

    /// Tells of a request that is over. Its client may send another one.
    pub(super) fn end(&self, session: &mut Session, e: Option<&Error>, exchange: &mut Exchange) {
        let is_whole = self.tell(session, e, exchange);
        if let Some(conn) = conn(session) {
            conn.rest(is_whole);
        }
    }

    /// Takes on what a request brings that was admitted before the framework got it.
    pub(super) fn take_over(exchange: &mut Exchange, admitted: Box<dyn Any + Send + Sync>) {
        if let Ok(admitted) = admitted.downcast::<Exchange>() {
            *exchange = *admitted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a future takes up, in bytes.
    fn size<F>(_: impl FnOnce(&'static Server, Session, &'static ShutdownWatch) -> F) -> usize {
        size_of::<F>()
    }

    /// A request under way keeps it as long as its answer, which may be a stream of hours. The framework's takes 45 KiB.
    #[test]
    fn a_request_takes_up_little_memory() {
        let size = size(Server::answer);
        assert!(size <= 6 * 1024, "{size} bytes");
    }
}
