//! The queue of requests for which every endpoint is full: short, bounded in number and time, and one an upstream, so that whatever
//! becomes free first takes the next one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// How much an upstream's endpoints take on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests under way on one endpoint, streams included; `None` for no limit.
    pub in_flight: Option<u32>,
    /// Requests that may wait for an endpoint to have room.
    pub queue: u32,
    /// How long each may wait.
    pub queue_timeout: Duration,
}

impl Default for Limits {
    /// A second is what a person does not mind; who waits longer gives up or asks again, and then the queue serves nobody.
    fn default() -> Self {
        Self {
            in_flight: None,
            queue: 100,
            queue_timeout: Duration::from_secs(1),
        }
    }
}

/// See the module's own words.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: AtomicU32,
    room: Notify,
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct Place<'a>(&'a Queue);

impl Queue {
    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Joins the queue, unless `most` wait already.
    pub fn join(&self, most: u32) -> Option<Place<'_>> {
        let joined = self
            .waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |waiting| {
                (waiting < most).then_some(waiting + 1)
            });
        joined.ok().map(|_| Place(self))
    }

    /// An endpoint has room for one more.
    pub fn vacate(&self) {
        if self.waiting() > 0 {
            self.room.notify_one();
        }
    }

    /// Other endpoints than before may serve.
    pub fn look_again(&self) {
        if self.waiting() > 0 {
            self.room.notify_waiters();
        }
    }
}

impl<'a> Place<'a> {
    /// Ready when there may be room. Enabled before a look at the endpoints, it misses nothing that comes after.
    pub fn room(&self) -> Notified<'a> {
        self.0.room.notified()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
