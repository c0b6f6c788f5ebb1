//! The way of an answer to the client, part by part as it comes, and its end where the gate itself ends it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::http1::{Connection, WireError};
use crate::proxy::Gateway;
use crate::proxy::answer::Answer;
use crate::proxy::context::Exchange;
use crate::proxy::direct::{Answered, gone, upstream_error};
use crate::proxy::events::LastEvent;
use crate::proxy::request::conn;
use crate::proxy::response::{self, Form};
use crate::proxy::stream::Streaming;
use crate::upstream::Endpoint;
use crate::upstream::streams::{PATIENCE, Stream, Why};

/// What tells a request under way that the gate ends it.
pub(super) enum Teller<'e> {
    /// A stream, which may be told alone.
    Stream(Arc<Stream>),
    /// Anything else, with what tells it that all is to end.
    Endpoint(&'e Endpoint, u64),
}

impl<'e> Teller<'e> {
    /// What tells the request that `endpoint` answers.
    fn of(exchange: &Exchange, endpoint: &'e Endpoint) -> Self {
        match &exchange.stream {
            Some(stream) => Self::Stream(stream.listed.clone()),
            None => {
                let attempt = exchange.attempt().map(|(_, attempt)| attempt.cuts);
                Self::Endpoint(endpoint, attempt.unwrap_or_default())
            }
        }
    }

    /// Why it is to end, if it is.
    fn says(&self) -> Option<Why> {
        match self {
            Self::Stream(stream) => stream.ends(),
            Self::Endpoint(endpoint, cuts) => endpoint.recall.severed_since(*cuts),
        }
    }

    /// Ready once it is to end.
    async fn told(&self) -> Why {
        loop {
            if let Some(why) = self.says() {
                return why;
            }
            match self {
                Self::Stream(stream) => stream.told().await,
                Self::Endpoint(endpoint, _) => {
                    let mut called = pin!(endpoint.recall.called());
                    called.as_mut().enable();
                    if self.says().is_none() {
                        called.await;
                    }
                }
            }
        }
    }
}

impl Gateway {
    /// Relays an answer as it comes.
    pub(super) async fn relay(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        answered: Answered,
    ) -> pingora::Result<()> {
        let Answered {
            endpoint,
            mut connection,
            head,
            timeouts,
        } = answered;
        let has_body = !connection.is_over();
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let version = session.req_header().version;
        let form = Form::of(version, has_body && !switches, connection.is_chunked());
        self.announce_end(session);
        let mut response = response::relayed(head, form, &exchange.request_id)?;
        self.edit(session, &mut response, exchange)?;
        if response::ends_with_connection(&response, version, has_body) {
            session.set_keepalive(None);
        }
        let streaming = Streaming::of(&response).filter(|_| switches || has_body);
        self.begun(session, exchange, streaming);
        if switches {
            session.write_response_header(Box::new(response), false).await?;
            if let Some(conn) = conn(session) {
                conn.switch();
            }
            return self
                .carry(session, exchange, connection.into_tunnel(), timeouts.idle)
                .await;
        }
        if !has_body {
            // In HTTP/2 the head says so itself: a length without a body is an error to some clients where the end comes in a frame of its own.
            let head = HttpTask::Header(Box::new(response), true);
            session.write_response_tasks(vec![head]).await?;
        } else {
            session.write_response_header(Box::new(response), false).await?;
            let ended = self
                .relay_body(session, exchange, &endpoint, &mut connection, timeouts.idle)
                .await?;
            if ended == Ended::Cut {
                return Ok(());
            }
        }
        // An answer may end before its request, and then the connection serves no other one.
        if exchange.upload.as_ref().is_none_or(|upload| upload.is_sent()) {
            endpoint.idle.keep(connection, timeouts.pool_idle);
        }
        Ok(())
    }

    async fn relay_body(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        endpoint: &Endpoint,
        connection: &mut Connection,
        idle: Duration,
    ) -> pingora::Result<Ended> {
        let teller = Teller::of(exchange, endpoint);
        let mut over = false;
        while !over {
            if let Some(why) = teller.says() {
                return self.cut_body(session, exchange, connection, &teller, why).await;
            }
            let part = match exchange.upload.take().filter(|upload| !upload.is_sent()) {
                None => tokio::select! {
                    biased;
                    part = self.part(exchange, connection, idle) => part,
                    _ = teller.told() => continue,
                    gone = gone(session) => return Err(gone),
                },
                Some(mut upload) => {
                    let sending = self.part_while_sending(session, connection, &mut upload);
                    let part = tokio::select! {
                        biased;
                        part = timeout(idle, sending) => Some(part),
                        _ = teller.told() => None,
                    };
                    exchange.upload = Some(upload);
                    let Some(part) = part else { continue };
                    part
                }
            };
            exchange.overdue = part.is_err();
            match part.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) {
                Ok(mut part) => {
                    endpoint.pulse.deliver();
                    let is_all = read(exchange, &mut part, teller.says().is_some());
                    over = connection.is_over() && is_all;
                    let trailers = response::trailers(connection.take_trailers());
                    if over && !trailers.is_empty() {
                        self.give_with(session, exchange, part, trailers, &teller).await?;
                    } else {
                        self.give_unless(session, exchange, part, over, &teller).await?;
                    }
                }
                Err(e) => {
                    // What did come is the client's. A read sends on what was gathered, and nothing is to be read here.
                    let _ = timeout(Duration::ZERO, gone(session)).await;
                    self.broke_off(exchange);
                    return Err(upstream_error(e));
                }
            }
        }
        Ok(Ended::Whole)
    }

    /// Ends an answer that has begun: an event stream with a last event once it stands between two of them, anything else by breaking it off.
    async fn cut_body(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        connection: &mut Connection,
        teller: &Teller<'_>,
        why: Why,
    ) -> pingora::Result<Ended> {
        let until = Instant::from_std(self.clock.now()) + PATIENCE;
        while let Some(stream) = exchange.stream.as_mut().filter(|stream| stream.reader.is_some()) {
            if stream.may_end() {
                let last = match stream.last_event(why) {
                    LastEvent::Is(last) => Some(last),
                    LastEvent::HasCome => None,
                    LastEvent::Unknown => break,
                };
                self.give_unless(session, exchange, last, true, teller).await?;
                exchange.cut = Some(why);
                return Ok(Ended::Cut);
            }
            let part = tokio::select! {
                part = timeout_at(until, connection.part()) => part,
                gone = gone(session) => return Err(gone),
            };
            let Ok(Ok(mut part)) = part else {
                break;
            };
            // What comes without a pause would never be late otherwise.
            if self.clock.now() >= until.into_std() {
                break;
            }
            // What its endpoint ends itself by now needs no other end.
            let over = read(exchange, &mut part, true) && connection.is_over();
            self.give_unless(session, exchange, part, over, teller).await?;
            if over {
                return Ok(Ended::Whole);
            }
        }
        Err(self.cut(exchange, why))
    }

    /// Gives the last part to the client, and trailers behind it where its version of HTTP has them.
    async fn give_with(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        part: Option<Bytes>,
        trailers: HeaderMap,
        teller: &Teller<'_>,
    ) -> pingora::Result<()> {
        if session.req_header().version == Version::HTTP_2 {
            self.give_unless(session, exchange, part, false, teller).await?;
            let ended = session.as_downstream_mut().write_response_trailers(trailers).await;
            return ended.map_err(|e| e.into_down());
        }
        let conn = conn(session).filter(|_| session.req_header().version == Version::HTTP_11);
        if let Some(conn) = conn {
            conn.set_trailers(&trailers);
        }
        self.give_unless(session, exchange, part, true, teller).await
    }

    /// Gives a part to the client. Once the request is to end, the client has so long to take it and no longer.
    pub(super) async fn give_unless(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        part: Option<Bytes>,
        over: bool,
        teller: &Teller<'_>,
    ) -> pingora::Result<()> {
        let late = async {
            let why = teller.told().await;
            sleep(PATIENCE).await;
            why
        };
        let why = tokio::select! {
            biased;
            given = self.give(session, exchange, part, over) => return given,
            why = late => why,
        };
        Err(self.cut(exchange, why))
    }

    /// Ends a request by an answer of the gate's own, or by breaking its answer off where that has begun.
    pub(super) fn cut(&self, exchange: &mut Exchange, why: Why) -> Box<Error> {
        let answer = Answer::drained(why);
        let status = ErrorType::HTTPStatus(answer.status);
        (exchange.cut, exchange.answer) = (Some(why), Some(answer));
        Error::new_in(status)
    }

    /// The next part of an answer. A stream that is silent for long may yet go on: a run of Dify's is silent until a Celery worker takes it. Meanwhile
    /// its endpoint is probed.
    async fn part(
        &self,
        exchange: &mut Exchange,
        connection: &mut Connection,
        idle: Duration,
    ) -> Result<Result<Option<Bytes>, WireError>, Elapsed> {
        let Some(silence) = exchange.silence().filter(|silence| *silence < idle) else {
            return timeout(idle, connection.part()).await;
        };
        if let Ok(part) = timeout(silence, connection.part()).await {
            return Ok(part);
        }
        self.silent(exchange);
        timeout(idle - silence, connection.part()).await
    }

    /// Has the endpoint of a silent stream probed, and adds the stream to what the endpoint's traffic came to, once.
    pub(super) fn silent(&self, exchange: &mut Exchange) {
        if let Some((_, attempt)) = exchange.attempt() {
            self.mailbox.silent(attempt.endpoint.owner().slot, self.clock.now());
        }
        let first = exchange
            .stream
            .as_mut()
            .is_some_and(|stream| !std::mem::replace(&mut stream.was_silent, true));
        if let Some((_, attempt)) = exchange.attempt().filter(|_| first) {
            attempt.endpoint.owner().sums.silent();
        }
    }
}

/// Reads a part of a stream as it passes, and where the stream is to end, leaves of it what comes before the end of an event. Tells whether that is
/// all of it.
fn read(exchange: &mut Exchange, part: &mut Option<Bytes>, ends: bool) -> bool {
    let (Some(stream), Some(part)) = (&mut exchange.stream, part) else {
        return true;
    };
    let come = part.len();
    if ends {
        stream.read_to_boundary(part);
    } else {
        stream.read(part);
    }
    come == part.len()
}

/// How an answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// With its end, and the connection serves the next request.
    Whole,
    /// Before its end.
    Cut,
}
