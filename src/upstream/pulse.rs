//! The pulse of an endpoint: whether it answers, and whether its streams go on. Requests bump it, the driver feels it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Coarse;

/// Counts that only grow, and the time of the last byte.
#[derive(Debug, Default)]
pub struct Pulse {
    asked: AtomicU64,
    answered: AtomicU64,
    /// Of the coarse clock.
    delivered: AtomicU64,
}

/// A request that waits for its first byte; it waits no longer when this is dropped.
#[derive(Debug)]
pub struct Wait<'a>(&'a Pulse);

/// What was felt at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Requests that have been answered, or have failed.
    pub answered: u64,
    /// Requests that wait for their first byte.
    pub waiting: u64,
}

impl Pulse {
    /// A request was sent.
    pub fn ask(&self) -> Wait<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Wait(self)
    }

    /// A part of a body came.
    pub fn deliver(&self) {
        self.delivered.store(Coarse::get().millis(), Ordering::Relaxed);
    }

    /// What is to be felt.
    pub fn feel(&self) -> Beat {
        // In this order, so that none is felt as waiting that was never asked.
        let answered = self.answered.load(Ordering::Acquire);
        let asked = self.asked.load(Ordering::Relaxed);
        Beat {
            answered,
            waiting: asked.saturating_sub(answered),
        }
    }

    /// Whether a part of a body came within so many milliseconds.
    pub fn delivered_within(&self, millis: u64) -> bool {
        let delivered = self.delivered.load(Ordering::Relaxed);
        delivered > 0 && Coarse::get().millis().saturating_sub(delivered) <= millis
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Release);
    }
}
