//! Where a request goes, and where it goes next when that fails.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::COOKIE;
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::{Instant, timeout_at};

use crate::gate::client::Client;
use crate::gate::outage::Lane;
use crate::gate::retry::{self, AttemptFailure, RetryClass};
use crate::gate::ring;
use crate::gate::selection::{Balance, HashKey};
use crate::proxy::Gateway;
use crate::proxy::answer::Answer;
use crate::proxy::context::{Attempt, Course, Exchange};
use crate::proxy::direct::while_there;
use crate::proxy::failure;
use crate::proxy::stream::Streaming;
use crate::proxy::tunnel;
use crate::proxy::witness;
use crate::upstream::snapshot::{Draw, Picked};
use crate::upstream::tries::Pass;
use crate::upstream::{Held, Retrying};

/// The key of a request where keys decide who serves it; `None` where it has none.
pub(super) fn key(balance: &Balance, request: &RequestHeader, client: &Client) -> Option<u64> {
    let Balance::Hash { key, .. } = balance else {
        return None;
    };
    match key {
        HashKey::Client => client.address.map(|address| ring::hash(address.to_string().as_bytes())),
        HashKey::Header(name) => {
            let value = request.headers.get(name.as_str())?;
            Some(ring::hash(value.as_bytes()))
        }
        HashKey::Cookie(name) => {
            let cookies = request.headers.get_all(COOKIE).into_iter();
            let mut pairs = cookies.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
            pairs.find_map(|pair| {
                let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some(ring::hash(value))
            })
        }
    }
}

/// Whether a request can be sent from its beginning once more.
fn is_replayable(session: &Session, exchange: &Exchange) -> bool {
    let has_body = match &exchange.upload {
        Some(upload) => upload.is_replayable(),
        None => !session.as_ref().retry_buffer_truncated(),
    };
    // A handshake of a WebSocket has no body, and nothing of what follows is read before its answer.
    has_body && (!session.is_upgrade_req() || tunnel::is_asked_for(session.req_header()))
}

/// Among which requests it tries endpoints that lack a dependency.
fn lane(class: RetryClass) -> Lane {
    match class {
        RetryClass::Idempotent => Lane::Repeatable,
        RetryClass::Effects | RetryClass::Unsafe => Lane::Once,
    }
}

/// A request that was sent nowhere when the gate ends.
pub(super) fn shutting_down(exchange: &mut Exchange) -> Box<Error> {
    let answer = Answer::shutting_down();
    let status = ErrorType::HTTPStatus(answer.status);
    exchange.refuse(answer, "shutdown");
    Error::new_in(status)
}

/// What one look at the endpoints comes to.
enum Choice {
    Made(SocketAddr),
    Full,
    /// Every endpoint lacks a dependency, and enough requests try already.
    Outage(Arc<str>),
    Nobody,
}

impl Gateway {
    /// Chooses the endpoint of the next attempt, and counts it there. Where every one is full it waits a moment for room.
    pub(super) async fn choose(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<SocketAddr> {
        match self.look(exchange)? {
            Choice::Made(socket) => Ok(socket),
            Choice::Nobody if exchange.course.as_mut().is_some_and(Course::stand_by) => match self.look(exchange)? {
                Choice::Made(socket) => Ok(socket),
                Choice::Outage(components) => Err(self.dependency_failed(exchange, &components)),
                Choice::Nobody | Choice::Full => Err(self.nobody(exchange)),
            },
            Choice::Outage(components) => Err(self.dependency_failed(exchange, &components)),
            Choice::Nobody => Err(self.nobody(exchange)),
            Choice::Full => while_there(session, self.queue(exchange)).await?,
        }
    }

    async fn queue(&self, exchange: &mut Exchange) -> pingora::Result<SocketAddr> {
        let Some(course) = &exchange.course else {
            return Error::e_explain(ErrorType::InternalError, "a request without a route");
        };
        let upstream = course.upstream.owner().clone();
        let limits = upstream.settings.limits;
        let Some(place) = upstream.flow.queue.join(limits.queue) else {
            return Err(self.overflow(exchange, "queue_full"));
        };
        let until = Instant::from_std(self.clock.now()) + limits.queue_timeout;
        loop {
            let mut room = std::pin::pin!(place.room());
            room.as_mut().enable();
            if let Some(course) = &mut exchange.course {
                course.look_again();
            }
            match self.look(exchange)? {
                Choice::Made(socket) => return Ok(socket),
                Choice::Nobody => return Err(self.nobody(exchange)),
                Choice::Outage(components) => return Err(self.dependency_failed(exchange, &components)),
                Choice::Full => {}
            }
            let room = tokio::select! {
                room = timeout_at(until, room) => room,
                () = upstream.flow.closed() => return Err(shutting_down(exchange)),
            };
            if room.is_err() {
                return Err(self.overflow(exchange, "queue_timeout"));
            }
        }
    }

    /// Takes an endpoint, if one may serve and has room.
    fn look(&self, exchange: &mut Exchange) -> pingora::Result<Choice> {
        let Some(course) = &mut exchange.course else {
            return Error::e_explain(ErrorType::InternalError, "a request without a route");
        };
        // A retry must see who may serve by then; the verdict that caused it is younger than the request.
        if course.made > 0 {
            course.look_again();
            // What a pool that is watched has failed is not tried on its neighbours: they may all be of the same release.
            course.stand_by();
        }
        let upstream = course.upstream.owner();
        let now = if course.made == 0 {
            exchange.start + exchange.held
        } else {
            self.clock.now()
        };
        let routable = course.routable();
        // A trial is for a request that can be sent again, so that nobody pays for it.
        let may_try = course.made == 0 && course.class == RetryClass::Idempotent;
        let trial = may_try.then(|| routable.trial()).flatten();
        let (candidate, trial, cap) = match trial {
            Some((candidate, trial)) => (candidate, Some(trial), u32::MAX),
            None => {
                let draw = Draw {
                    random: fastrand::u64(..),
                    key: course.key,
                    now: self.clock.millis(now),
                };
                match routable.pick(upstream, draw, &course.tried) {
                    Picked::Candidate(candidate) => (candidate, None, candidate.cap),
                    Picked::Full => return Ok(Choice::Full),
                    Picked::Nobody => return Ok(Choice::Nobody),
                }
            }
        };
        // Another request may have taken the last room meanwhile.
        let Some(endpoint) = Held::claim(&candidate.endpoint, cap) else {
            return Ok(Choice::Full);
        };
        let socket = candidate.socket;
        let pass = match &routable.outage {
            None => None,
            Some(components) => match Pass::claim(&upstream.flow, lane(course.class), self.clock.now()) {
                None => return Ok(Choice::Outage(components.clone())),
                pass => pass,
            },
        };
        course.made += 1;
        course.attempt = Some(Attempt {
            cuts: endpoint.owner().recall.cuts(),
            endpoint,
            line: None,
            trial,
            pass,
        });
        // After the claim, so that a request is either refused here or among those that are ended.
        if course.upstream.owner().flow.is_closed() {
            course.attempt = None;
            return Err(shutting_down(exchange));
        }
        Ok(Choice::Made(socket))
    }

    fn nobody(&self, exchange: &mut Exchange) -> Box<Error> {
        exchange.answer = Some(match &exchange.course {
            Some(course) if course.made == 0 => {
                let name = course.upstream.owner().settings.name.as_str();
                Answer::no_endpoint(name, &course.routable().failing)
            }
            Some(course) if !exchange.sent => failure::unreached(course),
            Some(_) | None => Answer::upstream_failed(),
        });
        Error::new_up(ErrorType::HTTPStatus(503))
    }

    /// What all endpoints depend on fails. Where some of the request was sent, its client is told that it may have been processed.
    pub(super) fn dependency_failed(&self, exchange: &mut Exchange, components: &str) -> Box<Error> {
        let Some(course) = &exchange.course else {
            return self.nobody(exchange);
        };
        if exchange.sent && course.class != RetryClass::Idempotent {
            return self.nobody(exchange);
        }
        let name = course.upstream.owner().settings.name.as_str();
        self.metrics
            .overflows
            .with_label_values(&[name, "dependency_failed"])
            .inc();
        exchange.answer = Some(Answer::dependency_failed(name, components));
        Error::new_up(ErrorType::HTTPStatus(503))
    }

    fn overflow(&self, exchange: &mut Exchange, reason: &'static str) -> Box<Error> {
        let name = exchange
            .course
            .as_ref()
            .map(|course| course.upstream.owner().settings.name.as_str());
        let name = name.unwrap_or_default();
        self.metrics.overflows.with_label_values(&[name, reason]).inc();
        exchange.answer = Some(Answer::overloaded(name));
        Error::new_up(ErrorType::HTTPStatus(503))
    }

    /// The first byte of an answer that goes to the client is there.
    pub(super) fn begun(&self, session: &Session, exchange: &mut Exchange, streams: Option<Streaming>) {
        let after = self.clock.now() - exchange.start;
        exchange.first_byte.get_or_insert(after);
        // An endpoint is not slow because the gate held the request back.
        let after = after.saturating_sub(exchange.held);
        let group = exchange.to.as_ref().map(|to| to.position);
        if let Some(course) = &mut exchange.course {
            course.retrying = None;
            // Of a request that was tried elsewhere before, nobody knows what this endpoint took.
            if let Some(attempt) = course.attempt.as_ref().filter(|_| course.made == 1) {
                attempt.endpoint.owner().sums.first_byte(after);
                let pulse = &attempt.endpoint.owner().pulse;
                pulse.feel_first_byte(after, self.clock.millis(exchange.start + exchange.held + after));
                let compares = course.upstream.owner().settings.terms.outlier.latency.is_some();
                if let Some(group) = group.filter(|_| compares) {
                    pulse.feel_group(group, after);
                }
            }
        }
        if let Some(streaming) = streams {
            exchange.stream = self.open(session, exchange, streaming).map(Box::new);
        }
    }

    /// Whether the attempt under way may be made again elsewhere; if so it is given up.
    pub(super) fn retry(&self, session: &Session, exchange: &mut Exchange, failure: AttemptFailure) -> bool {
        exchange.sent |= failure.was_sent();
        self.blame(exchange, witness::accusation(failure));
        witness::note(exchange, failure);
        let Some(course) = &exchange.course else {
            return false;
        };
        let upstream = course.upstream.owner();
        let allowed = upstream.settings.retry.allow(retry::Attempt {
            class: course.class,
            failure,
            made: course.made,
            replayable: is_replayable(session, exchange),
            in_flight: upstream.flow.in_flight.get(),
            retrying: upstream.flow.retrying.get(),
        });
        if !(allowed && self.is_elsewhere(exchange)) {
            return false;
        }
        let Some(course) = &mut exchange.course else {
            return false;
        };
        let upstream = course.upstream.owner();
        let labels = [upstream.settings.name.as_str(), failure.as_str()];
        self.metrics.retries.with_label_values(&labels).inc();
        course.retrying = Some(Retrying::new(upstream.flow.clone()));
        if let Some(attempt) = course.attempt.take() {
            course.tried.push(attempt.endpoint.owner().clone());
        }
        if exchange.upload.is_none() {
            exchange.received = 0;
        }
        true
    }

    /// Whether there is another endpoint than that of the attempt under way.
    pub(super) fn is_elsewhere(&self, exchange: &Exchange) -> bool {
        exchange.attempt().is_some_and(|(course, attempt)| {
            let world = course.upstream.owner().flow.world.load();
            let pool = course.pool.as_ref();
            let own = world.side(pool).routable.all();
            // Where its pool has nobody else, the one that serves does, or the one that stands by.
            let main = world.main.routable.all();
            let spare = world.direction.stands_by(pool).into_iter();
            let spare = spare.flat_map(|spare| world.side(Some(spare)).routable.all());
            let others = main.chain(spare).filter(|_| !course.is_bound);
            own.chain(others)
                .any(|other| !Arc::ptr_eq(&other.endpoint, attempt.endpoint.owner()))
        })
    }
}
