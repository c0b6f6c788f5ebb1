//! Cutovers as the rest of the gate speaks of them: what the configuration says, and the way to the one who carries them out.

pub mod counted;
pub mod document;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tokio::sync::{mpsc, oneshot, watch};

use crate::gate::cutover::triggers::Limits;
use crate::gate::cutover::{Clocks, Plan, Record, Refusal, Seen, Start, Step, Verb};
use crate::gate::names::{PoolName, UpstreamName};
use crate::probe::spec::ProbeSpec;
use crate::restart::Webhook;

/// What a configuration says of cutovers.
#[derive(Clone, Debug)]
pub struct CutoverSettings {
    /// How one goes, where the command that starts it says nothing else.
    pub plan: Plan,
    /// Requests that the new pool must answer.
    pub smoke: Vec<SmokeSettings>,
    /// Who is asked or told.
    pub hooks: Vec<HookSettings>,
    /// What takes everything back.
    pub limits: Limits,
    /// What repairs the time in which both pools serve.
    pub overlap: Overlap,
}

/// A request that every endpoint of the new pool must answer as expected.
#[derive(Clone, Debug)]
pub struct SmokeSettings {
    /// The upstream that is asked; every one that moves where absent.
    pub upstream: Option<UpstreamName>,
    /// What is asked, and what is expected.
    pub spec: ProbeSpec,
    /// So often it is asked before it counts, once in a cutover.
    pub warm_up: u32,
}

/// Somebody who is asked or told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSettings {
    /// What they are for.
    pub ask: Ask,
    /// Where they are.
    pub webhook: Webhook,
    /// How long they may take.
    pub timeout: Duration,
}

/// What a hook is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// 2xx lets the cutover go on; anything else holds it.
    Confirm,
    /// 2xx takes everything back.
    Rollback,
    /// It is told of every step.
    Event,
}

/// What requests need to know while two pools live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The header by which internal clients choose a pool.
    pub preview_header: HeaderName,
    /// Hosts, in lower case, that stand for a pool to internal clients.
    pub preview_hosts: Vec<(String, PoolName)>,
    /// Paths of files that are named for their content.
    pub assets: Vec<String>,
    /// How long a request may wait while traffic is paused.
    pub longest_pause: Duration,
}

/// Upstreams that move together; of an upstream that is in no deployment, itself alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentSettings {
    /// What commands call it.
    pub name: String,
    /// What moves; never empty.
    pub upstreams: Vec<UpstreamName>,
}

/// What is in force of a configuration for whoever carries cutovers out.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How users are moved.
    pub settings: CutoverSettings,
    /// What moves.
    pub deployments: Vec<DeploymentSettings>,
}

/// What is wanted of one name.
#[derive(Clone, Debug)]
pub struct Order {
    /// The deployment, or the upstream that moves alone.
    pub name: String,
    /// What is wanted.
    pub wanted: Wanted,
    /// Who wants it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Only if the record is still of this epoch.
    pub if_epoch: Option<u64>,
    /// The same key again is answered and not carried out again.
    pub key: Option<String>,
    /// What was asked for in full, so that the same key for something else is noticed.
    pub asked: String,
    /// Whether it is only asked what would happen.
    pub dry_run: bool,
}

/// What can be wanted.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// A verb whose meaning is whole.
    Verb(Verb),
    /// A start, of which the configuration says what is left out.
    Start(Box<Wishes>),
    /// Somebody who watches has a reason to go back, or has none any more.
    Alert(Alert),
}

/// What somebody who watches says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Tells it from others; none for all that were said of the name.
    pub key: Option<String>,
    /// What it is called.
    pub name: String,
    /// Whether it fires; else it is resolved.
    pub firing: bool,
}

/// What a start says; the configuration says the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The pool to move to.
    pub to: String,
    /// The version that every endpoint must name.
    pub expect_version: Option<String>,
    /// Whether it goes on by itself once it is ready.
    pub auto: bool,
    /// Whether one that is under way is given up for it.
    pub supersede: bool,
    /// Whether the old version cannot live with what the new one wrote.
    pub barrier: Option<bool>,
    /// Shares on the way.
    pub steps: Option<Vec<Step>>,
    /// The length of the bake.
    pub bake: Option<Duration>,
    /// How long the old pool stays ready.
    pub hold: Option<Duration>,
    /// How long it drains.
    pub drain: Option<Duration>,
    /// Whether what is left then is cut.
    pub cut: Option<bool>,
    /// Fewer samples judge nobody.
    pub min_samples: Option<u64>,
}

impl Wishes {
    /// The start that is wanted, over what is usual.
    pub fn over(self, usual: &Plan) -> Start {
        let clocks = Clocks {
            bake: self.bake.unwrap_or(usual.clocks.bake),
            hold: self.hold.unwrap_or(usual.clocks.hold),
            drain: self.drain.unwrap_or(usual.clocks.drain),
            ..usual.clocks
        };
        Start {
            to: PoolName::new(&self.to),
            supersede: self.supersede,
            plan: Plan {
                expect_version: self.expect_version,
                auto: self.auto,
                barrier: self.barrier.unwrap_or(usual.barrier),
                steps: self.steps.unwrap_or_else(|| usual.steps.clone()),
                cut: self.cut.unwrap_or(usual.cut),
                min_samples: self.min_samples.unwrap_or(usual.min_samples),
                clocks,
                ..usual.clone()
            },
        }
    }
}

/// Where one name stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What moves.
    pub deployment: DeploymentSettings,
    /// What is kept of it.
    pub record: Arc<Record>,
    /// What was seen last.
    pub seen: Arc<Seen>,
    /// Requests that each pool serves, streams included.
    pub in_flight: BTreeMap<PoolName, u32>,
    /// Why steps cannot be taken, while they cannot.
    pub trouble: Option<String>,
}

/// Where every name stands.
pub type Standings = BTreeMap<String, Standing>;

/// What an order came to.
#[derive(Clone, Debug)]
pub struct Done {
    /// Where the name stands now, or would stand.
    pub standing: Standing,
    /// The epoch that it led to before, where it was carried out under the same key.
    pub repeated: Option<u64>,
    /// Whether there was anything to do.
    pub changed: bool,
}

/// Why an order was not carried out. Nothing has moved.
#[derive(Clone, Debug)]
pub enum Unmoved {
    /// There is no such name.
    Unknown(String),
    /// It makes no sense where the cutover stands.
    Refused(Refusal, Box<Standing>),
    /// The record is of another epoch than the one asked for.
    Stale(Box<Standing>),
    /// The key was used for something else.
    KeyReused,
    /// The step cannot be kept, so it is not taken.
    Unkept(String),
    /// Too much is said of this name at once.
    Busy,
    /// The gate is stopping, or another process takes over.
    Stopping,
}

/// One order, and where its answer goes.
pub type Question = (Order, oneshot::Sender<Result<Done, Unmoved>>);

/// The way to the one who carries cutovers out.
#[derive(Clone, Debug)]
pub struct Cutovers {
    orders: mpsc::Sender<Question>,
    standings: watch::Receiver<Standings>,
}

impl Cutovers {
    /// The way there, and the ends at which orders come out and standings go in.
    pub fn new() -> (Self, mpsc::Receiver<Question>, watch::Sender<Standings>) {
        let (orders, questions) = mpsc::channel(16);
        let (tell, standings) = watch::channel(Standings::new());
        (Self { orders, standings }, questions, tell)
    }

    /// Hands an order in, and waits for what it comes to.
    ///
    /// # Errors
    /// It was not carried out.
    pub async fn order(&self, order: Order) -> Result<Done, Unmoved> {
        let (reply, answer) = oneshot::channel();
        let asked = self.orders.send((order, reply)).await;
        asked.map_err(|_| Unmoved::Stopping)?;
        answer.await.unwrap_or(Err(Unmoved::Stopping))
    }

    /// Where every name stands, and will.
    pub fn standings(&self) -> watch::Receiver<Standings> {
        self.standings.clone()
    }
}
