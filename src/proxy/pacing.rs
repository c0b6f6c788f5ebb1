//! Clients that do not keep up, with a request's body or with its answer: they hold a place at an endpoint that others could have.

use std::time::Duration;

use bytes::Bytes;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::timeout;

use crate::gate::pace::Pace;
use crate::proxy::Gateway;
use crate::proxy::answer::Answer;
use crate::proxy::choice::shutting_down;
use crate::proxy::context::Exchange;
use crate::upstream::Flow;

impl Gateway {
    /// A pace of the listener.
    pub(super) fn pace(&self) -> Pace {
        let limits = &self.door.settings.limits;
        Pace::new(limits.min_rate, limits.grace)
    }

    /// Receives a body that is sent on once it is there, behind what `request` holds already.
    pub(super) async fn receive(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        request: &mut Vec<u8>,
    ) -> pingora::Result<()> {
        let mut pace = self.pace();
        let flow = exchange
            .course
            .as_ref()
            .map(|course| course.upstream.owner().flow.clone());
        loop {
            let since = self.clock.now();
            let reading = session.as_downstream_mut().read_request_body();
            let read = tokio::select! {
                biased;
                read = within(pace.left(), reading) => read,
                () = closed(flow.as_deref()) => return Err(shutting_down(exchange)),
            };
            let Some(read) = read else {
                return Err(self.too_slow(exchange));
            };
            let Some(part) = read.map_err(|e| e.into_down())? else {
                return Ok(());
            };
            exchange.received += part.len() as u64;
            request.extend_from_slice(&part);
            pace.step(part.len() as u64, self.clock.now() - since);
        }
    }

    /// Notes that more of a body has come which is sent on as it comes; `over` tells that it was the rest. How long the endpoint may now be waited
    /// for: while the body comes, no longer than the client itself.
    pub(super) fn received(
        &self,
        exchange: &mut Exchange,
        length: usize,
        over: bool,
        first_byte: Duration,
    ) -> pingora::Result<Duration> {
        let now = self.clock.now();
        let Some((since, mut pace)) = exchange.receiving.filter(|_| !over) else {
            exchange.receiving = None;
            return Ok(first_byte);
        };
        pace.step(length as u64, now - since);
        exchange.receiving = Some((now, pace));
        match pace.left() {
            None => Ok(first_byte),
            Some(Duration::ZERO) => Err(self.too_slow(exchange)),
            Some(left) => Ok(left.min(first_byte)),
        }
    }

    /// A client that sends too slowly is told so, if it listens.
    pub(super) fn too_slow(&self, exchange: &mut Exchange) -> Box<Error> {
        const LIMIT: &str = "body_rate";
        self.door.limit(LIMIT);
        let answer = Answer::too_slow();
        let status = answer.status;
        exchange.refuse(answer, LIMIT);
        Error::new_down(ErrorType::HTTPStatus(status))
    }

    /// Whether an attempt ended because the client kept the endpoint waiting, rather than the other way round.
    pub(super) fn waits_for_client(&self, exchange: &Exchange, e: &Error) -> bool {
        let overdue = exchange.is_overdue() || *e.etype() == ErrorType::ReadTimedout;
        let serves = |endpoint| self.still_serves(exchange, endpoint);
        let attempt = exchange.attempt().map(|(_, attempt)| attempt.endpoint.owner());
        overdue && exchange.receiving.is_some() && attempt.is_some_and(serves)
    }

    /// Gives a part of an answer to a client that takes it in time.
    pub(super) async fn give(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        part: Option<Bytes>,
        over: bool,
    ) -> pingora::Result<()> {
        let length = part.as_ref().map_or(0, Bytes::len) as u64;
        let since = self.clock.now();
        let writing = session.write_response_body(part, over);
        let Some(written) = within(exchange.taking.left(), writing).await else {
            return Err(self.takes_too_slowly(exchange));
        };
        exchange.taking.step(length, self.clock.now() - since);
        written.map_err(|e| e.into_down())
    }

    /// A client that takes its answer too slowly is given up.
    pub(super) fn takes_too_slowly(&self, exchange: &mut Exchange) -> Box<Error> {
        const LIMIT: &str = "read_rate";
        self.door.limit(LIMIT);
        exchange.refused = Some(LIMIT);
        Error::new_down(ErrorType::WriteTimedout)
    }
}

/// Ready once a request is not sent any more.
async fn closed(flow: Option<&Flow>) {
    match flow {
        Some(flow) => flow.closed().await,
        None => std::future::pending().await,
    }
}

async fn within<T>(left: Option<Duration>, what: impl Future<Output = T>) -> Option<T> {
    match left {
        Some(left) => timeout(left, what).await.ok(),
        None => Some(what.await),
    }
}
