//! What requests tell the driver of the endpoints that they were sent to.

use crate::gate::passive::{TrafficFailure, Trial};
use crate::gate::retry::AttemptFailure;
use crate::proxy::Gateway;
use crate::proxy::context::Exchange;

/// What a failed attempt says against its endpoint. A kept connection that was closed meanwhile says nothing, nor does one that the gate
/// ended itself.
pub(super) fn accusation(failure: AttemptFailure) -> Option<TrafficFailure> {
    match failure {
        AttemptFailure::Connect => Some(TrafficFailure::Connect),
        AttemptFailure::Reset => Some(TrafficFailure::Reset),
        AttemptFailure::Timeout => Some(TrafficFailure::Timeout),
        // What a status says is weighed with the answer.
        AttemptFailure::Refused | AttemptFailure::Unsent | AttemptFailure::Rescued => None,
    }
}

/// Adds a failed attempt to what its endpoint's traffic came to. A refusal was added when its status was heard.
pub(super) fn note(exchange: &Exchange, failure: AttemptFailure) {
    let Some((_, attempt)) = exchange.attempt() else {
        return;
    };
    let sums = &attempt.endpoint.owner().sums;
    match failure {
        AttemptFailure::Connect => sums.unconnected(),
        AttemptFailure::Reset | AttemptFailure::Timeout | AttemptFailure::Rescued => sums.unanswered(),
        AttemptFailure::Refused | AttemptFailure::Unsent => {}
    }
}

impl Gateway {
    /// An answer that had begun broke off by the fault of its endpoint. How an event stream ended is told with its end. Where no byte came until the gate
    /// gave up, that is silence, which accuses nobody.
    pub(super) fn broke_off(&self, exchange: &mut Exchange) {
        if let Some((_, attempt)) = exchange.attempt().filter(|_| exchange.stream.is_none()) {
            attempt.endpoint.owner().sums.broke_off();
        }
        if exchange.is_overdue() {
            if let Some((_, attempt)) = exchange.attempt() {
                self.mailbox.silent(attempt.endpoint.owner().slot, self.clock.now());
            }
        } else {
            self.blame(exchange, Some(TrafficFailure::Cut));
        }
    }

    /// Tells of a failure of the attempt under way.
    pub(super) fn blame(&self, exchange: &mut Exchange, failure: Option<TrafficFailure>) {
        let attempt = exchange.course.as_mut().and_then(|course| course.attempt.as_mut());
        let (Some(attempt), Some(failure)) = (attempt, failure) else {
            return;
        };
        if let Some(pass) = &mut attempt.pass {
            pass.failed(self.clock.now());
        }
        let streak = attempt.endpoint.owner().pulse.fail();
        let slot = attempt.endpoint.owner().slot;
        if attempt.trial.take().is_some() {
            self.mailbox.tried(slot, Trial::Failed(failure), self.clock.now());
        } else {
            let connections = attempt.endpoint.owner().connections();
            self.mailbox
                .failed(slot, failure, streak, connections, self.clock.now());
        }
    }

    /// Weighs the status of an answer, whether or not it goes to the client.
    pub(super) fn hear(&self, exchange: &mut Exchange, status: u16) {
        let attempt = exchange.course.as_mut().and_then(|course| course.attempt.as_mut());
        if let Some(attempt) = attempt {
            attempt.endpoint.owner().sums.answered(status);
            if let Some(pass) = &mut attempt.pass {
                pass.answered(status, self.clock.now());
            }
        }
        let course = exchange.course.as_ref();
        let failure = course.and_then(|course| course.upstream.owner().settings.terms.outlier.failure(status));
        if failure.is_some() {
            return self.blame(exchange, failure);
        }
        let attempt = exchange.course.as_mut().and_then(|course| course.attempt.as_mut());
        let Some(attempt) = attempt else {
            return;
        };
        attempt.endpoint.owner().pulse.succeed();
        if attempt.trial.take().is_some() {
            let slot = attempt.endpoint.owner().slot;
            self.mailbox.tried(slot, Trial::Passed, self.clock.now());
        }
    }
}
