//! Taking back what waits on an endpoint: the moment it is known to be down, requests that may go elsewhere do.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The requests that wait on one endpoint for their first byte and may go elsewhere.
#[derive(Debug, Default)]
pub struct Recall {
    waiting: AtomicUsize,
    called: Notify,
}

/// One of them.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Recall);

impl Recall {
    /// One more request waits.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// Takes back all of them. Returns how many there were.
    pub fn call(&self) -> usize {
        self.called.notify_waiters();
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Waiting<'_> {
    /// Ready once it is called back. Calls count from the time that this is enabled or polled.
    pub fn called(&self) -> Notified<'_> {
        self.0.called.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
