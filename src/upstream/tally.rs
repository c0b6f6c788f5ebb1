//! What the traffic of an endpoint came to since the gate began: sums that requests bump, by which a cutover is judged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::gate::cutover::triggers::{BUCKETS, Tally, bucket};

/// Sums that only grow. They are read one after the other, so a reader may see a request in one that is not yet in another.
#[derive(Debug, Default)]
pub struct Sums {
    requests: AtomicU64,
    errors: AtomicU64,
    connects: AtomicU64,
    streams: AtomicU64,
    aborts: AtomicU64,
    silent: AtomicU64,
    first_byte: [AtomicU64; BUCKETS],
}

/// How an event stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// With its last event, or because the client or the gate ended it.
    Orderly,
    /// The endpoint ended it, or broke it off, before its last event.
    Aborted,
}

impl Sums {
    /// A request was answered with `status`.
    pub fn answered(&self, status: u16) {
        add(&self.requests);
        if status >= 500 {
            add(&self.errors);
        }
    }

    /// A request got no answer, by the endpoint's fault.
    pub fn unanswered(&self) {
        add(&self.requests);
        add(&self.errors);
    }

    /// An answer that had begun well broke off.
    pub fn broke_off(&self) {
        add(&self.errors);
    }

    /// A connection did not come about.
    pub fn unconnected(&self) {
        add(&self.connects);
    }

    /// The first byte of an answer took so long.
    pub fn first_byte(&self, after: Duration) {
        if let Some(count) = self.first_byte.get(bucket(after)) {
            add(count);
        }
    }

    /// An event stream ended.
    pub fn ended(&self, how: StreamEnd) {
        add(&self.streams);
        if how == StreamEnd::Aborted {
            add(&self.aborts);
        }
    }

    /// An event stream was silent for long.
    pub fn silent(&self) {
        add(&self.silent);
    }

    /// All of them at this moment.
    pub fn read(&self) -> Tally {
        let get = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        Tally {
            requests: get(&self.requests),
            errors: get(&self.errors),
            connects: get(&self.connects),
            streams: get(&self.streams),
            aborts: get(&self.aborts),
            silent: get(&self.silent),
            first_byte: self.first_byte.each_ref().map(get),
        }
    }
}

fn add(sum: &AtomicU64) {
    sum.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_read() {
        let sums = Sums::default();
        assert_eq!(sums.read(), Tally::default());
        [200, 404, 500, 503]
            .into_iter()
            .for_each(|status| sums.answered(status));
        sums.unanswered();
        sums.broke_off();
        sums.unconnected();
        sums.first_byte(Duration::from_millis(3));
        sums.first_byte(Duration::MAX);
        sums.ended(StreamEnd::Orderly);
        sums.ended(StreamEnd::Aborted);
        sums.silent();
        let tally = sums.read();
        assert_eq!((tally.requests, tally.errors, tally.connects), (5, 4, 1));
        assert_eq!((tally.streams, tally.aborts, tally.silent), (2, 1, 1));
        assert_eq!((tally.first_byte[2], tally.first_byte[BUCKETS - 1]), (1, 1));
        assert_eq!(tally.first_byte.iter().sum::<u64>(), 2);
    }
}
