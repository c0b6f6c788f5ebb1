//! Taking back what waits on an endpoint: the moment it is known to be down, requests that may go elsewhere do; and when its pool has drained for
//! long enough, all that it still serves is to end.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::upstream::streams::Why;

/// The requests that wait on one endpoint.
#[derive(Debug, Default)]
pub struct Recall {
    waiting: AtomicUsize,
    called: Notify,
    calls: AtomicU64,
    severed: AtomicU64,
    /// The number of why that was done last.
    why: AtomicU8,
}

/// One of those that may go elsewhere.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Recall);

impl Recall {
    /// One more request waits.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// Ready once those who wait are woken, from the time on that this is enabled or polled; what for, the numbers tell.
    pub fn called(&self) -> Notified<'_> {
        self.called.notified()
    }

    /// How often all was ended that the endpoint served. A request that finds it changed since its beginning is to end.
    pub fn cuts(&self) -> u64 {
        self.severed.load(Ordering::SeqCst)
    }

    /// Why a request that began after so many cuts is to end, if it is.
    pub fn severed_since(&self, cuts: u64) -> Option<Why> {
        let severed = self.cuts() != cuts;
        severed.then(|| Why::numbered(self.why.load(Ordering::SeqCst)))?
    }

    /// Ends all that the endpoint serves.
    pub fn sever(&self, why: Why) {
        self.why.store(why.number(), Ordering::SeqCst);
        self.severed.fetch_add(1, Ordering::SeqCst);
        self.called.notify_waiters();
    }

    /// How often those were taken back that may go elsewhere.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Takes back all that may go elsewhere. Returns how many there were.
    pub fn call(&self) -> usize {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.called.notify_waiters();
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
