//! What a failed attempt came to on the framework's way, whether the request is sent again, and what its client is told where it is not.
//!
//! A client that is told that its request may have been processed cannot send it again; one that is told 503 can. So whether any of the request was
//! sent decides, and not how the attempt failed.

use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use crate::gate::retry::{AttemptFailure, RetryClass};
use crate::proxy::Gateway;
use crate::proxy::answer::Answer;
use crate::proxy::context::{Course, Exchange};
use crate::proxy::direct;

/// A request takes at most this many connections on which nothing of it could be sent. Each was closed while it was kept, so another one that was kept
/// may be closed as well, and a fresh one is not.
const MOST_UNSENT: u32 = 8;

/// What went wrong with an attempt on a connection. `wrote` tells that the request's head went out.
#[allow(clippy::wildcard_enum_match_arm)] // of the framework's many kinds of errors three say more
fn kind(etype: &ErrorType, is_overdue: bool, wrote: bool, reused: bool) -> AttemptFailure {
    match etype {
        ErrorType::ReadTimedout => AttemptFailure::Timeout,
        _ if is_overdue => AttemptFailure::Timeout,
        ErrorType::WriteError if !wrote && reused => AttemptFailure::Unsent,
        ErrorType::WriteError if !wrote => AttemptFailure::Connect,
        _ => AttemptFailure::Reset,
    }
}

/// What an endpoint says in HTTP/2 of a request that it has not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotLookedAt {
    /// It refuses the stream (RFC 9113 section 8.7), and would refuse the next one as well.
    Refused,
    /// It ends the connection before the stream (section 6.8); streams that it still serves do not end with that.
    GoneAway,
}

impl NotLookedAt {
    /// What an error says, where it says that.
    fn of(e: &Error) -> Option<Self> {
        let cause = e.root_cause().downcast_ref::<h2::Error>()?;
        let reason = cause.reason().filter(|_| cause.is_remote())?;
        if cause.is_reset() && reason == h2::Reason::REFUSED_STREAM {
            Some(Self::Refused)
        } else if cause.is_go_away() && reason == h2::Reason::NO_ERROR {
            Some(Self::GoneAway)
        } else {
            None
        }
    }
}

impl Gateway {
    /// No connection came about.
    pub(super) fn unconnected(&self, session: &Session, exchange: &mut Exchange, mut e: Box<Error>) -> Box<Error> {
        let cause = e
            .cause
            .as_ref()
            .and_then(|cause| cause.downcast_ref::<std::io::Error>());
        let failure = cause.map_or(AttemptFailure::Connect, direct::unconnected);
        let again = self.retry(session, exchange, failure);
        e.set_retry(again);
        e.as_up();
        e
    }

    /// An attempt failed on a connection.
    pub(super) fn failed(
        &self,
        session: &Session,
        exchange: &mut Exchange,
        mut e: Box<Error>,
        reused: bool,
    ) -> Box<Error> {
        let refused = matches!(e.etype(), ErrorType::HTTPStatus(503)) && e.retry();
        if refused {
            return e;
        }
        if let Some(why) = exchange.severed() {
            return self.cut(exchange, why);
        }
        let theirs = *e.esource() == ErrorSource::Upstream;
        let ours = theirs && !has_answered(session);
        if ours && self.waits_for_client(exchange, &e) {
            return self.too_slow(exchange);
        }
        if theirs && !ours {
            self.broke_off(exchange);
        }
        let said = NotLookedAt::of(&e);
        let failure = match said {
            Some(_) => AttemptFailure::Unsent,
            None => kind(e.etype(), exchange.is_overdue(), exchange.wrote, reused),
        };
        let may_reconnect = failure == AttemptFailure::Unsent && said != Some(NotLookedAt::Refused);
        let reconnects = ours && may_reconnect && self.reconnect(session, exchange);
        let again = reconnects || ours && self.retry(session, exchange, failure);
        e.set_retry(again);
        e
    }

    /// Whether a request of which nothing was sent is sent on another connection. That is no further attempt, and it may be to the same endpoint.
    fn reconnect(&self, session: &Session, exchange: &mut Exchange) -> bool {
        let is_replayable = !session.as_ref().retry_buffer_truncated() && !session.is_upgrade_req();
        let course = exchange.course.as_mut();
        let Some(course) = course.filter(|course| is_replayable && course.unsent < MOST_UNSENT) else {
            return false;
        };
        course.unsent += 1;
        course.made = course.made.saturating_sub(1);
        course.attempt = None;
        exchange.received = 0;
        true
    }
}

/// Whether the answer to the client has begun; interim ones are none.
pub(super) fn has_answered(session: &Session) -> bool {
    let written = session.response_written();
    written.is_some_and(|header| !header.status.is_informational() || session.was_upgraded())
}

/// What a client is told whose request no endpoint answered.
pub(super) fn answer(e: &Error, exchange: &Exchange) -> Answer {
    let course = exchange.course.as_ref();
    // What may be sent again loses nothing by a plain word.
    let repeatable = course.filter(|course| course.class == RetryClass::Idempotent);
    if let Some((course, outage)) = repeatable.and_then(|course| Some((course, course.outage()?))) {
        return Answer::dependency_failed(course.upstream.owner().settings.name.as_str(), &outage);
    }
    let timed_out = matches!(e.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    if let Some(course) = exchange.course.as_ref().filter(|_| !exchange.sent) {
        unreached(course)
    } else if exchange.is_overdue() || timed_out {
        Answer::upstream_timeout()
    } else {
        Answer::upstream_failed()
    }
}

/// What a client is told of whose request nothing was sent.
pub(super) fn unreached(course: &Course) -> Answer {
    Answer::unreachable(course.upstream.owner().settings.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_failed_before_its_head_went_out_is_unsent() {
        use AttemptFailure::{Connect, Reset, Timeout, Unsent};
        for (etype, is_overdue, wrote, reused, expected) in [
            (ErrorType::WriteError, false, false, true, Unsent),
            (ErrorType::WriteError, false, false, false, Connect),
            (ErrorType::WriteError, false, true, true, Reset),
            (ErrorType::WriteError, false, true, false, Reset),
            (ErrorType::ReadError, false, true, true, Reset),
            (ErrorType::ConnectionClosed, false, true, true, Reset),
            (ErrorType::ConnectionClosed, true, true, true, Timeout),
            (ErrorType::WriteError, true, false, true, Timeout),
            (ErrorType::ReadTimedout, false, true, true, Timeout),
            (ErrorType::H2Error, false, false, true, Reset),
        ] {
            let failure = kind(&etype, is_overdue, wrote, reused);
            assert_eq!(failure, expected, "{etype:?} {is_overdue} {wrote} {reused}");
        }
    }
}
