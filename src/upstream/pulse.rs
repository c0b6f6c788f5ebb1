//! The pulse of an endpoint: whether it answers, and whether its streams go on. Requests bump it, the driver feels it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Coarse;
use crate::gate::latency::FirstBytes;

/// Counts that only grow, and the time of the last byte.
#[derive(Debug, Default)]
pub struct Pulse {
    asked: AtomicU64,
    answered: AtomicU64,
    /// When those that wait last had a reason to hope: the first of them was sent, or another was answered.
    hoped: AtomicU64,
    /// Of the coarse clock.
    delivered: AtomicU64,
    /// The usual time to the first byte in milliseconds, as the bits of an `f32`, and when it was last felt by the coarse clock.
    first_byte: AtomicU32,
    felt: AtomicU64,
    /// What answers took, by groups of routes.
    groups: [Group; GROUPS],
    /// When a request last failed, by the coarse clock, and how many have in a row.
    failed: AtomicU64,
    streak: AtomicU32,
    /// Whether a request was answered well since that was last asked.
    answered_well: AtomicBool,
    /// Requests that were given up.
    left: AtomicU32,
}

/// Routes are told apart in so many groups.
pub const GROUPS: usize = 8;

/// What the answers of one group of routes took: the usual time as the bits of an `f32`, and how many there were.
#[derive(Debug, Default)]
struct Group {
    usual_ms: AtomicU32,
    answers: AtomicU32,
}

/// A failure counts as so many requests under way at first, and as nothing after [`FORGETS`]: who fails fast looks idle, and would
/// draw all traffic on itself.
const PENALTY: u64 = 16;
/// Nobody is expected to answer within fewer milliseconds than this.
const BRISK: u64 = 10;
/// Silence counts as so many requests under way at the most: a workflow may be silent for minutes.
const MOST_HUSH: u32 = 4;
/// After so many milliseconds a failure is forgotten, and two thirds of what was felt of the first byte.
const FORGETS: u64 = 10_000;

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
    /// A request was sent, at this time of the gate's clock in milliseconds.
    pub fn ask(&self, now: u64) -> Wait<'_> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked == self.answered.load(Ordering::Relaxed) {
            self.hoped.store(now, Ordering::Relaxed);
        }
        Wait(self)
    }

    /// As how many requests under way it counts that requests wait there for longer than usual: one for each four times the usual, so that of two
    /// endpoints with as many requests the one that answers is chosen long before a probe can tell.
    pub fn hush(&self, now: u64) -> u32 {
        let Beat { waiting, .. } = self.feel();
        if waiting == 0 {
            return 0;
        }
        let silent = now.saturating_sub(self.hoped.load(Ordering::Relaxed));
        let usual = f32::from_bits(self.first_byte.load(Ordering::Relaxed));
        let patience = BRISK + 4 * usual as u64;
        u32::try_from(silent / patience).unwrap_or(MOST_HUSH).min(MOST_HUSH)
    }

    /// A part of a body came.
    pub fn deliver(&self) {
        self.delivered.store(Coarse::get().millis(), Ordering::Relaxed);
    }

    /// A first byte came after this time. `at` is the time of the gate's clock in milliseconds. A slow one counts at once, a fast one bit by bit (Finagle's Peak EWMA).
    pub fn feel_first_byte(&self, after: Duration, at: u64) {
        let (fresh, now) = (after.as_secs_f32() * 1e3, Coarse::get().millis());
        let usual = self.first_byte_ms();
        let smoothed = if fresh > usual {
            fresh
        } else {
            usual + (fresh - usual) * 0.1
        };
        self.first_byte.store(smoothed.to_bits(), Ordering::Relaxed);
        self.felt.store(now, Ordering::Relaxed);
        self.hoped.store(at, Ordering::Relaxed);
    }

    /// The same for the group of a route, where latency counts.
    pub fn feel_group(&self, route: usize, after: Duration) {
        let Some(group) = self.groups.get(route % GROUPS) else {
            return;
        };
        let fresh = after.as_secs_f32() * 1e3;
        let before = group.answers.fetch_add(1, Ordering::Relaxed);
        let usual = f32::from_bits(group.usual_ms.load(Ordering::Relaxed));
        let smoothed = if before == 0 {
            fresh
        } else {
            usual + (fresh - usual) * 0.1
        };
        group.usual_ms.store(smoothed.to_bits(), Ordering::Relaxed);
    }

    /// What the answers of each group took since this was last asked.
    pub fn take_groups(&self) -> [FirstBytes; GROUPS] {
        std::array::from_fn(|index| {
            let group = self.groups.get(index);
            group.map_or(FirstBytes::default(), |group| FirstBytes {
                usual_ms: f32::from_bits(group.usual_ms.load(Ordering::Relaxed)),
                answers: group.answers.swap(0, Ordering::Relaxed),
            })
        })
    }

    /// The usual time to the first byte in milliseconds, never quite zero. It fades while nothing comes, so that a slow endpoint is tried
    /// again.
    pub fn first_byte_ms(&self) -> f32 {
        let usual = f32::from_bits(self.first_byte.load(Ordering::Relaxed));
        let age = Coarse::get().millis().saturating_sub(self.felt.load(Ordering::Relaxed));
        (usual * (-(age as f32) / FORGETS as f32).exp()).max(0.01)
    }

    /// A request failed; tells how many have in a row.
    pub fn fail(&self) -> u32 {
        self.failed.store(Coarse::get().millis(), Ordering::Relaxed);
        self.streak.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// A request was answered well.
    pub fn succeed(&self) {
        if !self.has_answered_well() {
            self.answered_well.store(true, Ordering::Relaxed);
        }
        if self.streak.load(Ordering::Relaxed) > 0 {
            self.streak.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a request was answered well since that was last taken.
    pub fn has_answered_well(&self) -> bool {
        self.answered_well.load(Ordering::Relaxed)
    }

    /// Takes whether a request was answered well since this was last taken.
    pub fn take_answered_well(&self) -> bool {
        self.answered_well.swap(false, Ordering::Relaxed)
    }

    /// A request was given up: its client has gone, or the gate ended it.
    pub fn leave(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that were given up since these were last taken.
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::Relaxed)
    }

    /// The same, and none any more.
    pub fn take_left(&self) -> u32 {
        self.left.swap(0, Ordering::Relaxed)
    }

    /// As how many requests under way its failures count.
    pub fn penalty(&self) -> u32 {
        let failed = self.failed.load(Ordering::Relaxed);
        if failed == 0 {
            return 0;
        }
        let age = Coarse::get().millis().saturating_sub(failed).min(FORGETS);
        u32::try_from(PENALTY * (FORGETS - age) / FORGETS).unwrap_or(0)
    }

    /// Requests that have been sent so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
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
