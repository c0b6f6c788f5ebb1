//! The tries of an upstream whose endpoints all lack a dependency, as requests hold them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::gate::outage::{Lane, Tried, Tries};
use crate::upstream::Flow;

/// See the module's own words.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<Attempted>);

#[derive(Debug, Default)]
struct Attempted {
    tries: Tries,
    /// Counts outages, so that what began in an earlier one says nothing of this one.
    outage: u64,
}

/// One request that tries. Where it is dropped without a word it proves nothing.
#[derive(Debug)]
pub struct Pass {
    flow: Arc<Flow>,
    lane: Lane,
    since: Instant,
    outage: u64,
    tried: Tried,
    is_over: bool,
}

impl Attempts {
    fn open(&self) -> MutexGuard<'_, Attempted> {
        // Nothing that can panic runs while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another outage begins, or none is left.
    pub fn begin(&self) {
        let mut attempted = self.open();
        attempted.outage += 1;
        attempted.tries = Tries::default();
    }
}

impl Pass {
    /// Lets a request try at `now`, if it may.
    pub fn claim(flow: &Arc<Flow>, lane: Lane, now: Instant) -> Option<Self> {
        let mut attempted = flow.attempts.open();
        let outage = attempted.outage;
        attempted.tries.claim(lane, now).then(|| Self {
            flow: flow.clone(),
            lane,
            since: now,
            outage,
            tried: Tried::Void,
            is_over: false,
        })
    }

    /// Whether the request may be sent again.
    pub fn is_repeatable(&self) -> bool {
        self.lane == Lane::Repeatable
    }

    /// The head of the answer is there. What starts something is over only at its end.
    pub fn answered(&mut self, status: u16, now: Instant) {
        self.tried = self.lane.weigh(status, now.saturating_duration_since(self.since));
        if self.is_repeatable() || self.tried == Tried::Bad {
            self.end(now);
        }
    }

    /// No answer came, or it broke off.
    pub fn failed(&mut self, now: Instant) {
        self.tried = Tried::Bad;
        self.end(now);
    }

    /// The request is over.
    pub fn end(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        let mut attempted = self.flow.attempts.open();
        if attempted.outage == self.outage {
            if self.tried == Tried::Good {
                self.tried = self.lane.weigh(200, now.saturating_duration_since(self.since));
            }
            attempted.tries.end(self.lane, self.tried, now);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.is_over {
            let mut attempted = self.flow.attempts.open();
            if attempted.outage == self.outage {
                attempted.tries.end(self.lane, Tried::Void, self.since);
            }
        }
    }
}
