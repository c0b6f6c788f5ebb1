//! How a gate stops: nobody who comes meanwhile is refused, and what is under way comes to its end.

use std::time::Duration;

use pingora::apps::ServerApp;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::Gate;
use crate::admin::Phase;
use crate::edge::{Ending, RESTING};
use crate::upstream::Severed;
use crate::upstream::streams::{PATIENCE, Why};

/// How often it is looked whether something has come to its end.
const LOOK: Duration = Duration::from_millis(20);

/// So long the gate waits for what it has told to end: a little longer than each stream has for it, with the two seconds that a WebSocket stays open
/// after its close frame.
const ENDING: Duration = PATIENCE.saturating_add(Duration::from_secs(3));

/// So long it waits for connections that serve nothing any more: the last bytes of an answer may still be on their way to the socket.
const CLOSING: Duration = Duration::from_secs(2);

/// So long before the end of the drain, or half of a shorter one, HTTP/2 connections that are never without a request are told to take no more.
const LATE: Duration = Duration::from_secs(10);

/// What tells listeners and connections that the gate stops, step by step.
#[derive(Default)]
pub(super) struct Signals {
    pub(super) shut: watch::Sender<bool>,
    moved: watch::Sender<bool>,
    end: watch::Sender<bool>,
    close: watch::Sender<bool>,
    late: watch::Sender<bool>,
}

impl Signals {
    /// The other side of them.
    pub(super) fn ending(&self) -> Ending {
        Ending {
            shut: self.shut.subscribe(),
            moved: self.moved.subscribe(),
            end: self.end.subscribe(),
            close: self.close.subscribe(),
            late: self.late.subscribe(),
        }
    }
}

/// How a gate stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Everything under way came to its end.
    Drained,
    /// This many requests were ended by the gate when the drain timeout had passed.
    Cut(u32),
}

impl Gate {
    /// Says that it is not ready, goes on serving for the lame-duck time, then takes no more connections and waits for what is under way, but
    /// no longer than the drain timeout. What is left then it ends, as the end of a cutover's drain does. It comes back as soon as nothing is under
    /// way.
    pub async fn stop(&self) -> Stopped {
        let settings = self.applied.borrow().server.clone();
        self.leave();
        info!(lame_duck = ?settings.lame_duck, in_flight = self.in_flight(), "stopping: not ready any more");
        sleep(settings.lame_duck).await;
        self.signals.shut.send_replace(true);
        self.end_waiting().await;
        let patience = settings.drain_timeout;
        self.drain(patience, LATE.min(patience / 2)).await
    }

    /// Accepts nothing more, since another process does, and waits for what is under way. Answers ask their clients for another connection. A connection
    /// on which nothing is asked for `RESTING` is closed: that may lose a request that is on its way, which clients send again, as they do wherever
    /// a kept connection ends (nginx and HAProxy close them at once). Those of the admin API have their time as well.
    pub async fn make_way(&self) -> Stopped {
        let patience = self.applied.borrow().server.drain_timeout;
        self.leave();
        self.signals.shut.send_replace(true);
        self.signals.moved.send_replace(true);
        info!(in_flight = self.in_flight(), "another process has taken over");
        let began = self.parts.clock.now();
        let late = LATE.min(patience / 2);
        drop(timeout(patience - late, self.deserted()).await);
        self.end_waiting().await;
        let spent = self.parts.clock.now().saturating_duration_since(began);
        let left = patience.saturating_sub(spent);
        let (stopped, ()) = tokio::join!(self.drain(left, late.min(left)), self.asking.ended());
        stopped
    }

    /// Ready once nothing is under way, and connections are closed or have rested for their time.
    async fn deserted(&self) {
        // What was accepted at this moment is yet to be counted.
        sleep(5 * LOOK).await;
        loop {
            self.idle().await;
            let used = async {
                while self.connections() > 0 && self.in_flight() == 0 {
                    sleep(LOOK).await;
                }
            };
            let rested = timeout(RESTING, used).await.is_err();
            if rested || self.connections() == 0 {
                return;
            }
        }
    }

    fn leave(&self) {
        self.parts.lifecycle.enter(Phase::Leaving);
        self.doors.iter().for_each(|door| door.leave());
    }

    fn connections(&self) -> i64 {
        self.doors.iter().map(|door| door.connections.get()).sum()
    }

    async fn end_waiting(&self) {
        self.signals.end.send_replace(true);
        for proxy in &self.proxies {
            proxy.cleanup().await;
        }
    }

    /// Waits for what is under way for so long; HTTP/2 connections are told to take no more `late` before the end of it.
    async fn drain(&self, patience: Duration, late: Duration) -> Stopped {
        let mut drained = timeout(patience - late, self.drained()).await;
        if drained.is_err() {
            self.signals.late.send_replace(true);
            drained = timeout(late, self.drained()).await;
        }
        if drained.is_ok() || self.in_flight() == 0 {
            return Stopped::Drained;
        }
        let cut = self.in_flight();
        let roster = self.parts.handle.roster.borrow().clone();
        let Severed { streams, requests } = roster.sever_all(Why::Shutdown);
        warn!(
            streams,
            requests, "the drain timeout has passed: ending what is under way"
        );
        if timeout(ENDING, self.drained()).await.is_err() {
            warn!(
                requests = self.in_flight(),
                "these requests did not end in time: cutting them off"
            );
        }
        Stopped::Cut(cut)
    }

    /// Ready once no request is under way, and the connections are closed or have had their time to be.
    async fn drained(&self) {
        self.idle().await;
        self.signals.close.send_replace(true);
        self.close().await;
        // A request that was read before its connection was told.
        self.idle().await;
    }

    /// Ready once no request is under way.
    async fn idle(&self) {
        while self.in_flight() > 0 {
            sleep(LOOK).await;
        }
    }

    /// Waits a moment for the connections to close.
    async fn close(&self) {
        let closed = async {
            while self.connections() > 0 {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(CLOSING, closed).await;
    }
}
