//! Messages to the driver, the one writer, and its replies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::gate::capacity::UnderWay;
use crate::gate::cutover::EndpointSeen;
use crate::gate::direction::Direction;
use crate::gate::keeper::{Known, ProbeReport, Slot, Ticket};
use crate::gate::names::{Address, EndpointId, PoolName, UpstreamName};
use crate::gate::overrides::{Picture, Wish};
use crate::gate::passive::{TrafficFailure, Trial};
use crate::upstream::Endpoint;
use crate::upstream::settings::UpstreamSettings;

/// What can be said to the driver.
#[derive(Debug)]
pub enum Message {
    /// A probe was answered.
    Probed {
        /// Which one.
        ticket: Ticket,
        /// With what.
        report: Arc<ProbeReport>,
        /// What was under way on the endpoint when the probe was sent.
        under_way: UnderWay,
        /// Requests that had been sent to it by then.
        asked: u64,
        /// When.
        at: Instant,
    },
    /// A request failed on an endpoint.
    Failed {
        /// Which one.
        slot: Slot,
        /// How.
        failure: TrafficFailure,
        /// The last of so many in a row.
        streak: u32,
        /// Connections to the endpoint then, the request's own included.
        connections: u32,
        /// When.
        at: Instant,
    },
    /// A stream of an endpoint is silent.
    Silent {
        /// Which endpoint.
        slot: Slot,
        /// When.
        at: Instant,
    },
    /// The request that tried an endpoint has ended.
    Tried {
        /// Which one.
        slot: Slot,
        /// How.
        trial: Trial,
        /// When.
        at: Instant,
    },
    /// Somebody wants to know everything.
    Ask(oneshot::Sender<Vec<Acquaintance>>),
    /// The operator speaks.
    Say(Word, oneshot::Sender<Pictures>),
    /// The configuration names other upstreams, pools or endpoints than before.
    Reconcile(Vec<UpstreamSettings>, oneshot::Sender<()>),
    /// Somebody wants to know of these pools, and what their probes have said since a time.
    Look(
        Vec<(UpstreamName, PoolName)>,
        Instant,
        oneshot::Sender<Vec<Vec<Looked>>>,
    ),
    /// Requests of these upstreams go elsewhere from now on.
    Direct(Vec<(UpstreamName, Direction)>, oneshot::Sender<()>),
}

/// An endpoint and all that is known of it.
#[derive(Clone, Debug)]
pub struct Acquaintance {
    /// What is known.
    pub known: Known,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
}

/// An endpoint as a cutover sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Where it listens.
    pub address: Address,
    /// What its probes say.
    pub seen: EndpointSeen,
    /// Requests under way.
    pub in_flight: u32,
}

/// The operator's word on the endpoints at an address.
#[derive(Clone, Debug)]
pub struct Word {
    /// The address, in any spelling.
    pub address: String,
    /// Only where it serves this upstream.
    pub upstream: Option<String>,
    /// Only where it is in a pool of this name.
    pub pool: Option<String>,
    /// What is wanted, why, and for how long; `None` takes an earlier word back.
    pub wish: Option<(Wish, String, Option<Duration>)>,
    /// Whether it is only asked what would happen.
    pub dry_run: bool,
}

/// What a word does, endpoint by endpoint; empty where none is meant.
pub type Pictures = Vec<(EndpointId, Picture)>;

/// The way to the driver.
#[derive(Clone, Debug)]
pub struct Mailbox(mpsc::UnboundedSender<Message>);

impl Mailbox {
    /// A mailbox and the end that the driver reads.
    ///
    /// It is unbounded, since what goes in is bounded by the probes and the requests under way.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Hands in an answer. It is lost if the driver has stopped, and then nobody needs it.
    pub fn probed(&self, ticket: Ticket, report: ProbeReport, (under_way, asked): (UnderWay, u64), at: Instant) {
        let _ = self.0.send(Message::Probed {
            ticket,
            report: Arc::new(report),
            under_way,
            asked,
            at,
        });
    }

    /// Tells of a request that failed on an endpoint, to which there were so many connections, its own included.
    pub fn failed(&self, slot: Slot, failure: TrafficFailure, streak: u32, connections: u32, at: Instant) {
        let _ = self.0.send(Message::Failed {
            slot,
            failure,
            streak,
            connections,
            at,
        });
    }

    /// Tells that a stream of an endpoint is silent.
    pub fn silent(&self, slot: Slot, at: Instant) {
        let _ = self.0.send(Message::Silent { slot, at });
    }

    /// Tells how the request ended that tried an endpoint.
    pub fn tried(&self, slot: Slot, trial: Trial, at: Instant) {
        let _ = self.0.send(Message::Tried { slot, trial, at });
    }

    /// All that is known, or `None` if the driver has stopped.
    pub async fn known(&self) -> Option<Vec<Acquaintance>> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Message::Ask(sender)).ok()?;
        receiver.await.ok()
    }

    /// Hands in the upstreams of another configuration. Once this is ready they are watched; `None` if the driver has stopped.
    pub async fn reconcile(&self, upstreams: Vec<UpstreamSettings>) -> Option<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Message::Reconcile(upstreams, sender)).ok()?;
        receiver.await.ok()
    }

    /// The endpoints of each of these pools, and what their probes have said since a time; `None` if the driver has stopped.
    pub async fn look(&self, pools: Vec<(UpstreamName, PoolName)>, since: Instant) -> Option<Vec<Vec<Looked>>> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Message::Look(pools, since, sender)).ok()?;
        receiver.await.ok()
    }

    /// Directs requests of upstreams elsewhere, of all of them at once. Once this is ready every new request goes there; `None` if the driver has
    /// stopped.
    pub async fn direct(&self, directions: Vec<(UpstreamName, Direction)>) -> Option<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Message::Direct(directions, sender)).ok()?;
        receiver.await.ok()
    }

    /// Hands in an operator's word; tells what it did, or `None` if the driver has stopped.
    pub async fn say(&self, word: Word) -> Option<Pictures> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Message::Say(word, sender)).ok()?;
        receiver.await.ok()
    }
}
