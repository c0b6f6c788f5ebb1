//! When a kept connection ends after another process has taken over. Its last answer may have said that it is kept, so its client has a time to use it
//! once more and be asked for another connection by that answer; only one that stays unused is closed without a word.

use std::fmt;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use pingora::server::ShutdownWatch;

/// So long a connection that rests is kept, from its last answer or from when the other process took over, whichever was later. Clients that come
/// again do so within it, mostly; and the process is soon gone.
pub(crate) const RESTING: Duration = Duration::from_secs(3);

/// Whether another process has taken over, and since when.
pub(super) struct Moved {
    told: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// In milliseconds after the connection's start.
    at: Option<u64>,
}

impl fmt::Debug for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Moved").field(&self.at).finish()
    }
}

impl Moved {
    /// Told by `watch`.
    pub(super) fn by(mut watch: ShutdownWatch) -> Self {
        let told = async move {
            if watch.wait_for(|moved| *moved).await.is_err() {
                std::future::pending().await
            }
        };
        Self {
            told: Some(Box::pin(told)),
            at: None,
        }
    }

    /// Notes it when it happens; whoever waits is woken then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: impl Fn() -> u64) {
        if self.told.as_mut().is_some_and(|told| told.as_mut().poll(cx).is_ready()) {
            (self.told, self.at) = (None, Some(now()));
        }
    }

    /// When a connection ends that has rested since `rested` and would end at `end`.
    pub(super) fn end(&self, rested: u64, end: u64) -> u64 {
        let resting = u64::try_from(RESTING.as_millis()).unwrap_or(u64::MAX);
        self.at
            .map_or(end, |at| end.min(rested.max(at).saturating_add(resting)))
    }
}
