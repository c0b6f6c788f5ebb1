//! What requests share about upstreams and endpoints: counts that every request bumps, and snapshots that none changes.

pub mod distress;
pub mod idle;
pub mod line;
pub mod pulse;
pub mod queue;
pub mod recall;
pub mod settings;
pub mod snapshot;
pub mod streams;
pub mod tally;
pub mod tries;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use pingora::connectors::l4::Connect;
use prometheus::{IntCounter, IntCounterVec};
use tokio::sync::{Notify, watch};

use crate::gate::keeper::Slot;
use crate::gate::names::{EndpointId, PoolName, UpstreamName};
use crate::metrics::{Metrics, RequestTimes, endpoint_labels};
use crate::upstream::distress::Distress;
use crate::upstream::idle::Idle;
use crate::upstream::line::Lines;
use crate::upstream::pulse::Pulse;
use crate::upstream::queue::Queue;
use crate::upstream::recall::Recall;
use crate::upstream::settings::UpstreamSettings;
use crate::upstream::snapshot::World;
use crate::upstream::streams::{Streams, Why};
use crate::upstream::tally::Sums;
use crate::upstream::tries::Attempts;

/// Who is watched, by the configuration that is in force.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// The upstreams, in its order.
    pub upstreams: Arc<[Arc<Upstream>]>,
    /// Every endpoint, in its order.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    former: Former,
}

/// What earlier configurations named, for as long as a request is under way there.
#[derive(Clone, Debug, Default)]
struct Former {
    flows: Arc<[Weak<Flow>]>,
    endpoints: Arc<[Weak<Endpoint>]>,
}

/// What was told to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Severed {
    /// Event streams and WebSockets.
    pub streams: usize,
    /// Other requests.
    pub requests: usize,
}

impl Roster {
    /// These upstreams and endpoints, in place of those `before`, which may still serve.
    pub fn after(before: &Self, upstreams: Arc<[Arc<Upstream>]>, endpoints: Arc<[Arc<Endpoint>]>) -> Self {
        let flows = before.flows().into_iter();
        let flows = flows.filter(|flow| !upstreams.iter().any(|kept| Arc::ptr_eq(&kept.flow, flow)));
        let parted = before.all_endpoints().into_iter();
        let parted = parted.filter(|old| !endpoints.iter().any(|kept| Arc::ptr_eq(kept, old)));
        let former = Former {
            flows: flows.map(|flow| Arc::downgrade(&flow)).collect(),
            endpoints: parted.map(|endpoint| Arc::downgrade(&endpoint)).collect(),
        };
        Self {
            upstreams,
            endpoints,
            former,
        }
    }

    /// Requests under way, whatever the configuration says by now.
    pub fn in_flight(&self) -> u32 {
        self.flows().iter().map(|flow| flow.in_flight.get()).sum()
    }

    /// Ends every request under way, and takes no more: streams where they can be ended, other requests at once.
    pub fn sever_all(&self, why: Why) -> Severed {
        let flows = self.flows();
        for flow in &flows {
            flow.closed.send_replace(true);
        }
        for endpoint in self.all_endpoints() {
            endpoint.sever(why);
        }
        let open: usize = flows.iter().map(|flow| flow.streams.list().len()).sum();
        let requests = (self.in_flight() as usize).saturating_sub(open);
        let streams = flows.iter().map(|flow| flow.streams.end_all(why)).sum();
        Severed { streams, requests }
    }

    fn flows(&self) -> Vec<Arc<Flow>> {
        let known = self.upstreams.iter().map(|upstream| upstream.flow.clone());
        known
            .chain(self.former.flows.iter().filter_map(Weak::upgrade))
            .collect()
    }

    fn all_endpoints(&self) -> Vec<Arc<Endpoint>> {
        let former = self.former.endpoints.iter().filter_map(Weak::upgrade);
        self.endpoints.iter().cloned().chain(former).collect()
    }

    /// The upstream of a name.
    pub fn upstream(&self, name: &UpstreamName) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|known| known.settings.name == *name)
    }

    /// Ends whatever a pool of an upstream serves at this moment: streams where they can be ended, other requests at once. What is sent there
    /// later is served.
    pub fn sever(&self, upstream: &UpstreamName, pool: &PoolName) -> Severed {
        let Some(flow) = self.upstream(upstream) else {
            return Severed::default();
        };
        let of_it = |endpoint: &&Arc<Endpoint>| endpoint.id.upstream == *upstream && endpoint.id.pool == *pool;
        let mut under_way = 0;
        for endpoint in self.endpoints.iter().filter(of_it) {
            under_way += endpoint.in_flight.get() as usize;
            endpoint.sever(Why::Drained);
        }
        let requests = under_way.saturating_sub(flow.flow.streams.count(pool));
        // After their endpoints, so that a request which becomes a stream meanwhile is told by the one or by the other.
        let streams = flow.flow.streams.sever(pool);
        Severed { streams, requests }
    }
}

/// One upstream by one configuration. A request keeps the one that it began with.
#[derive(Debug)]
pub struct Upstream {
    /// How requests to it are sent.
    pub settings: UpstreamSettings,
    /// Its times.
    pub times: RequestTimes,
    /// What goes through it, whatever the configuration says by now.
    pub flow: Arc<Flow>,
}

/// What goes through an upstream.
#[derive(Debug)]
pub struct Flow {
    /// Requests under way.
    pub in_flight: Gauge,
    /// Retries under way.
    pub retrying: Gauge,
    /// Requests that wait for an endpoint with room.
    pub queue: Arc<Queue>,
    /// Event streams and WebSockets under way.
    pub streams: Arc<Streams>,
    /// Its pools and who may serve. The driver alone writes it.
    pub world: ArcSwap<World>,
    /// Told when traffic is let go on, or is not to wait any more.
    pub resumed: Notify,
    /// Requests that try endpoints which all lack a dependency.
    pub attempts: Attempts,
    /// Endpoints that go down, by their pools.
    pub distress: Distress,
    /// Whether requests that wait, and new ones, are refused, since the gate is about to end.
    closed: watch::Sender<bool>,
    turn: AtomicU64,
}

impl Upstream {
    /// An upstream with nothing under way.
    pub fn new(settings: UpstreamSettings, metrics: &Metrics) -> Self {
        Self {
            times: RequestTimes::of(metrics, settings.name.as_str()),
            flow: Arc::new(Flow::of(settings.active.clone())),
            settings,
        }
    }

    /// The same upstream by other settings.
    pub fn renewed(&self, settings: UpstreamSettings) -> Self {
        Self {
            times: self.times.clone(),
            settings,
            flow: self.flow.clone(),
        }
    }

    /// Whether it has an endpoint that may serve.
    pub fn can_serve(&self) -> bool {
        !self.flow.world.load().main.routable.candidates.is_empty()
    }
}

impl Flow {
    /// Nothing goes through it yet.
    fn of(active: PoolName) -> Self {
        Self {
            in_flight: Gauge::default(),
            retrying: Gauge::default(),
            queue: Arc::default(),
            streams: Arc::default(),
            world: ArcSwap::from_pointee(World::empty(active)),
            resumed: Notify::new(),
            attempts: Attempts::default(),
            distress: Distress::default(),
            closed: watch::Sender::new(false),
            turn: AtomicU64::new(0),
        }
    }

    /// Whether no request is sent any more.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Ready once no request is sent any more.
    pub async fn closed(&self) {
        // It fails only without the sender, which is here.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// A running number for round-robin.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// One endpoint, alive.
#[derive(Debug)]
pub struct Endpoint {
    /// Which one.
    pub id: EndpointId,
    /// Its number with the keeper.
    pub slot: Slot,
    /// Requests under way.
    pub in_flight: Gauge,
    /// Its connections.
    pub lines: Lines,
    /// Opens another one.
    pub connector: Arc<dyn Connect + Send + Sync>,
    /// Connections that wait for the next request that is whole with its headers.
    pub idle: Idle,
    /// Requests that can be taken back from it.
    pub recall: Recall,
    /// Whether it answers.
    pub pulse: Pulse,
    /// What its traffic came to.
    pub sums: Sums,
    /// Who waits for it to have room.
    queue: Arc<Queue>,
    on_trial: AtomicBool,
    requests: IntCounterVec,
    common: [OnceLock<IntCounter>; COMMON.len()],
}

/// Statuses whose counters are found once; the others are looked up.
const COMMON: [u16; 10] = [200, 201, 204, 304, 400, 401, 404, 500, 502, 503];

impl Endpoint {
    /// An endpoint with nothing under way, which tells `queue` when it has room again.
    pub fn new(id: EndpointId, slot: Slot, queue: Arc<Queue>, metrics: &Metrics) -> Self {
        let lines = Lines::default();
        Self {
            id,
            slot,
            in_flight: Gauge::default(),
            connector: Arc::new(lines.clone()),
            lines,
            idle: Idle::default(),
            recall: Recall::default(),
            pulse: Pulse::default(),
            sums: Sums::default(),
            queue,
            on_trial: AtomicBool::new(false),
            requests: metrics.requests.clone(),
            common: Default::default(),
        }
    }

    /// Connections to it: requests under way, and those that wait for the next one. A server with a limit counts both.
    pub fn connections(&self) -> u32 {
        self.in_flight.get().saturating_add(self.idle.count())
    }

    /// Closes connections that wait, as far as there are more than `limit` with the requests under way.
    pub fn trim_idle(&self, limit: u32) {
        self.idle.trim(limit.saturating_sub(self.in_flight.get()));
    }

    /// Ends all that it serves at this moment.
    fn sever(&self, why: Why) {
        self.recall.sever(why);
        self.lines.sever();
    }

    /// Counts a request that ended with `status` here.
    pub fn count(&self, status: u16) {
        match COMMON.iter().zip(&self.common).find(|(common, _)| **common == status) {
            Some((_, cell)) => cell.get_or_init(|| self.counter(status)).inc(),
            None => self.counter(status).inc(),
        }
    }

    fn counter(&self, status: u16) -> IntCounter {
        let [upstream, pool, endpoint] = endpoint_labels(&self.id);
        let code = status.to_string();
        self.requests.with_label_values(&[upstream, pool, endpoint, &code])
    }
}

/// The one request that tries an ejected endpoint. Another may once it is dropped.
#[derive(Debug)]
pub struct OnTrial(Arc<Endpoint>);

impl OnTrial {
    /// Claims the trial of an endpoint, unless one is under way.
    pub fn claim(endpoint: &Arc<Endpoint>) -> Option<Self> {
        let taken = endpoint.on_trial.swap(true, Ordering::AcqRel);
        (!taken).then(|| Self(endpoint.clone()))
    }
}

impl Drop for OnTrial {
    fn drop(&mut self) {
        self.0.on_trial.store(false, Ordering::Release);
    }
}

/// A count of things under way. It never goes below zero, for what went up comes down by [`Held`]'s drop alone.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU32);

impl Gauge {
    /// How many there are.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whoever holds a gauge.
pub trait Counted: Send + Sync {
    /// The gauge.
    fn gauge(&self) -> &Gauge;
    /// There is one less.
    fn released(&self) {}
}

impl Counted for Endpoint {
    fn gauge(&self) -> &Gauge {
        &self.in_flight
    }

    fn released(&self) {
        self.queue.vacate();
    }
}

impl Counted for Upstream {
    fn gauge(&self) -> &Gauge {
        &self.flow.in_flight
    }
}

/// One thing under way. Dropping it is the only way down, so a request that panics or is cut off is counted out as well.
#[derive(Debug)]
pub struct Held<T: Counted>(Arc<T>);

impl<T: Counted> Held<T> {
    /// Counts one more.
    pub fn new(owner: Arc<T>) -> Self {
        owner.gauge().0.fetch_add(1, Ordering::Relaxed);
        Self(owner)
    }

    /// Counts one more, unless there are `cap` already.
    pub fn claim(owner: &Arc<T>, cap: u32) -> Option<Self> {
        if cap == u32::MAX {
            return Some(Self::new(owner.clone()));
        }
        let gauge = &owner.gauge().0;
        let claimed = gauge.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
            (count < cap).then_some(count + 1)
        });
        claimed.ok().map(|_| Self(owner.clone()))
    }

    /// Whose it is.
    pub fn owner(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T: Counted> Drop for Held<T> {
    fn drop(&mut self) {
        self.0.gauge().0.fetch_sub(1, Ordering::SeqCst);
        self.0.released();
    }
}

/// A retry under way.
#[derive(Debug)]
pub struct Retrying(Arc<Flow>);

impl Retrying {
    /// Counts one more.
    pub fn new(flow: Arc<Flow>) -> Self {
        flow.retrying.0.fetch_add(1, Ordering::Relaxed);
        Self(flow)
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retrying.0.fetch_sub(1, Ordering::Relaxed);
    }
}
