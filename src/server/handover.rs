//! Taking over from the process before this one, and handing over to the one after it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::{Parts, ordering};
use crate::clock::Clock;
use crate::cutover::Standings;
use crate::driver::Handle;
use crate::gate::keeper::Memory;
use crate::gate::names::EndpointId;
use crate::metrics::Metrics;
use crate::upgrade::{Hearer, Orders, Predecessor, Sockets, Successor, Teller, UpgradeError, UpgradeSocket};
use crate::upstream::{Endpoint, Held};

/// How often the next process is told what is left here.
const TELLS: Duration = Duration::from_millis(250);

/// Both ends of an upgrade, as one process meets them.
pub(super) struct Handover {
    path: Option<PathBuf>,
    /// Where the next process asks, once that is bound.
    socket: Option<UpgradeSocket>,
    sockets: Sockets,
    handle: Handle,
    clock: Clock,
    metrics: Metrics,
    /// Whether a process is about to take over, so that operators are to wait.
    under_way: Arc<AtomicBool>,
    shutting: watch::Receiver<bool>,
    done: watch::Sender<bool>,
    /// Told once it is known what the process before this one still serves.
    heard: watch::Sender<bool>,
    /// What operators have ordered, here or in the process after this one.
    orders: watch::Sender<Option<Orders>>,
}

/// What tells of an upgrade.
pub(super) struct Signs {
    /// Another process has taken over.
    pub(super) handed_over: watch::Receiver<bool>,
    /// This process serves, and knows what the one before it still serves, if there is one.
    pub(super) settled: watch::Receiver<bool>,
}

impl Handover {
    /// The handover of a gate that listens at these sockets, and what tells of it.
    pub(super) fn new(
        (path, socket, sockets): (Option<PathBuf>, Option<UpgradeSocket>, Sockets),
        parts: &Parts,
        shutting: watch::Receiver<bool>,
    ) -> (Self, Signs) {
        let (done, handed_over) = watch::channel(false);
        let (heard, settled) = watch::channel(false);
        let handover = Self {
            path,
            socket,
            sockets,
            handle: parts.handle.clone(),
            clock: parts.clock,
            metrics: parts.metrics.clone(),
            under_way: parts.handing_over.clone(),
            shutting,
            done,
            heard,
            orders: watch::Sender::new(None),
        };
        (handover, Signs { handed_over, settled })
    }

    /// Gathers what operators order here, for the process before this one.
    pub(super) fn gather(&self, standings: watch::Receiver<Standings>) -> impl Future<Output = ()> + use<> {
        let overrides = self.handle.overrides.clone();
        ordering::gather(standings, overrides, self.orders.clone(), self.done.subscribe())
    }

    /// Relieves the process before this one, and waits for the one after it.
    pub(super) async fn run(mut self, predecessor: Option<Predecessor>, opened: watch::Receiver<bool>) {
        happened(opened).await;
        if let Some(mut predecessor) = predecessor {
            match predecessor.relieve().await {
                Ok(()) => {
                    info!(pid = predecessor.pid(), version = predecessor.version(), "took over");
                    let tools = (self.handle.clone(), self.metrics.clone(), self.clock);
                    let (heard, orders) = (self.heard.clone(), self.orders.subscribe());
                    tokio::spawn(follow(predecessor, tools, heard, orders));
                }
                Err(e) => {
                    warn!(error = %e, "the process before this one has gone");
                    self.heard.send_replace(true);
                }
            }
        } else {
            self.heard.send_replace(true);
        }
        let Some(path) = &self.path else { return };
        let socket = match self.socket.take() {
            Some(socket) => Ok(socket),
            None => UpgradeSocket::succeed(path),
        };
        match socket {
            Ok(socket) => self.listen(socket).await,
            Err(e) => error!(error = %e, "no other process can take over"),
        }
    }

    async fn listen(mut self, socket: UpgradeSocket) {
        let mut shutting = self.shutting.clone();
        loop {
            let asked = tokio::select! {
                asked = socket.accept() => asked,
                _ = shutting.wait_for(|shutting| *shutting) => return,
            };
            let handed_over = match asked {
                Ok(successor) => self.hand_over(successor).await,
                Err(e) => Err(e),
            };
            match handed_over {
                Ok(successor) => {
                    drop(socket);
                    self.sockets = Sockets::default();
                    self.done.send_replace(true);
                    let (teller, hearer) = successor.split();
                    let orders = self.orders.clone();
                    tokio::spawn(ordering::obey(hearer, self.handle.clone(), orders, self.clock));
                    return self.tell(teller).await;
                }
                Err(e) => warn!(error = %e, "another process wanted to take over and did not; this one goes on"),
            }
        }
    }

    async fn hand_over(&self, mut successor: Successor) -> Result<Successor, UpgradeError> {
        self.under_way.store(true, Ordering::Relaxed);
        let known = self.handle.mailbox.known().await.ok_or(UpgradeError::Gone)?;
        let memories: Vec<Memory> = known.iter().map(|one| one.known.memory()).collect();
        drop(known);
        let handed = successor.hand_over(&self.sockets, &memories, self.clock.now()).await;
        // Whoever speaks from now on speaks to the other process.
        self.under_way.store(handed.is_ok(), Ordering::Relaxed);
        handed.map(|()| successor)
    }

    /// Tells the next process what is left here, until this one ends.
    async fn tell(self, mut successor: Teller) {
        let mut ticks = interval(TELLS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            ticks.tick().await;
            let endpoints = self.handle.roster.borrow().endpoints.clone();
            let left = endpoints
                .iter()
                .map(|endpoint| (endpoint.id.clone(), endpoint.in_flight.get()));
            let left: Vec<(EndpointId, u32)> = left.filter(|(_, in_flight)| *in_flight > 0).collect();
            if told.as_ref() == Some(&left) {
                continue;
            }
            if successor.left(&left).await.is_err() {
                // It has gone, or another one has taken over from it; what is left here comes to its end all the same.
                return;
            }
            told = Some(left);
        }
    }
}

/// Follows the process before this one until it has ended, and tells it what is ordered here.
async fn follow(
    predecessor: Predecessor,
    (handle, metrics, clock): (Handle, Metrics, Clock),
    heard: watch::Sender<bool>,
    orders: watch::Receiver<Option<Orders>>,
) {
    let (pid, hears) = (predecessor.pid(), predecessor.hears_orders());
    let (teller, hearer) = predecessor.split();
    if hears {
        tokio::spawn(ordering::pass_on(teller, orders, clock));
    } else {
        warn!(
            pid,
            "the process before this one is of an earlier version: it hears no orders, and goes on as it was until it ends"
        );
    }
    count(hearer, &handle, &metrics, &heard).await;
    heard.send_replace(true);
    metrics.predecessor_in_flight.set(0);
    info!(pid, "the process before this one has ended");
}

/// Counts what the process before this one still serves, for as long as it does: an endpoint is as busy as both make it.
async fn count(mut predecessor: Hearer, handle: &Handle, metrics: &Metrics, heard: &watch::Sender<bool>) {
    let mut held: BTreeMap<EndpointId, Vec<Held<Endpoint>>> = BTreeMap::new();
    while let Some(left) = predecessor.left().await {
        let total: i64 = left.iter().map(|(_, count)| i64::from(*count)).sum();
        metrics.predecessor_in_flight.set(total);
        let mut before = std::mem::take(&mut held);
        for (id, count) in left {
            let mut holds = before.remove(&id).unwrap_or_default();
            let endpoints = handle.roster.borrow().endpoints.clone();
            let endpoint = endpoints.iter().find(|endpoint| endpoint.id == id);
            if let Some(endpoint) = endpoint {
                holds.resize_with(count as usize, || Held::new(endpoint.clone()));
                held.insert(id, holds);
            }
        }
        heard.send_replace(true);
    }
}

/// Ready once something has happened, and never if it cannot any more.
pub(super) async fn happened(mut what: watch::Receiver<bool>) {
    if what.wait_for(|happened| *happened).await.is_err() {
        std::future::pending().await
    }
}
