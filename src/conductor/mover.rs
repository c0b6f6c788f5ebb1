//! One name and its task: orders come in, steps go out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::Tools;
use super::alerts::Alerts;
use super::samples::Samples;
use super::trials::Trials;
use crate::cutover::{CutoverSettings, DeploymentSettings, Done, Order, Standing, Unmoved};
use crate::gate::cutover::{Record, Seen};
use crate::gate::names::PoolName;

/// How often it looks while a cutover is under way.
const TICK: Duration = Duration::from_millis(250);

/// How often it looks while none is.
const SELDOM: Duration = Duration::from_secs(1);

/// What could not be kept is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// What a task is told.
#[derive(Debug)]
pub(super) enum News {
    Order(Box<Order>, Reply),
    Settings(Arc<CutoverSettings>),
}

/// Where the answer to an order goes.
pub(super) type Reply = oneshot::Sender<Result<Done, Unmoved>>;

/// An order that waits until the gates have been asked: the epoch for which they are, the order, and where its answer goes.
pub(super) type Parked = (u64, Box<Order>, Reply);

/// See the module's own words.
pub(super) struct Mover {
    inbox: mpsc::Receiver<News>,
    pub(super) deployment: DeploymentSettings,
    pub(super) record: Record,
    pub(super) seen: Seen,
    pub(super) in_flight: BTreeMap<PoolName, u32>,
    pub(super) samples: Samples,
    pub(super) trials: Trials,
    /// Whether the gates are being asked for the last time before the flip.
    pub(super) asks: bool,
    pub(super) parked: Vec<Parked>,
    /// What those who watch said.
    pub(super) alerts: Alerts,
    /// When what was measured was written last.
    pub(super) remembered: Option<Instant>,
    /// Whether that failed.
    pub(super) forgetful: bool,
    /// Why steps cannot be taken, while they cannot.
    pub(super) trouble: Option<String>,
    /// Gates whose gauges are set.
    pub(super) measured: BTreeSet<String>,
    /// When it is tried again.
    again: Option<Instant>,
    /// When it looked last.
    looked: Option<Instant>,
    /// When it last made sure that nobody else goes on with it.
    checked: Option<Instant>,
    pub(super) settings: Arc<CutoverSettings>,
    pub(super) tools: Tools,
}

/// Who makes a change, and how it is told.
pub(super) struct Change<'a> {
    pub(super) verb: &'a str,
    pub(super) by: &'a str,
    pub(super) reason: &'a str,
    pub(super) key: Option<String>,
}

impl Mover {
    pub(super) fn new(
        deployment: DeploymentSettings,
        record: Option<Record>,
        settings: Arc<CutoverSettings>,
        tools: Tools,
        inbox: mpsc::Receiver<News>,
    ) -> Self {
        let active = active(&deployment, &tools);
        Self {
            inbox,
            record: record.unwrap_or_else(|| Record::new(active)),
            deployment,
            seen: Seen::default(),
            in_flight: BTreeMap::new(),
            samples: Samples::default(),
            trials: Trials::default(),
            asks: false,
            parked: Vec::new(),
            alerts: Alerts::default(),
            remembered: None,
            forgetful: false,
            trouble: None,
            measured: BTreeSet::new(),
            again: None,
            looked: None,
            checked: None,
            settings,
            tools,
        }
    }

    /// Takes orders and steps until nobody can order anything any more. Orders come first: none waits for smoke requests or hooks that are asked
    /// meanwhile, nor for a step that could be taken at the same moment.
    pub(super) async fn run(mut self) {
        self.recall();
        if self.record.epoch > 0 {
            self.apply().await;
            self.cut_what_is_left();
        }
        self.count();
        self.tell_standing();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                news = self.inbox.recv() => match news {
                    None => return,
                    Some(News::Settings(settings)) => self.settings = settings,
                    Some(News::Order(order, reply)) => self.receive(order, reply).await,
                },
                () = self.trials.settle(&self.tools.clock) => {
                    self.resolve().await;
                    self.tick().await;
                }
                _ = ticks.tick() => self.tick().await,
            }
        }
    }

    async fn tick(&mut self) {
        let now = self.tools.clock.now();
        let over = self.record.phase().is_over();
        // Where nobody is moved, a look at every endpoint now and then is enough.
        if over && self.looked.is_some_and(|looked| now < looked + SELDOM) {
            return;
        }
        self.looked = Some(now);
        self.follow_the_file();
        self.sample();
        self.remember_samples().await;
        let waits = self.again.is_some_and(|again| now < again);
        if over {
            let changed = self.note_in_flight();
            self.measure();
            if changed {
                self.tell_standing();
            }
            return;
        }
        // A process that is about to go on in this one's place takes the next step.
        if waits || self.tools.handing_over.load(Ordering::Relaxed) {
            return;
        }
        self.again = None;
        if self.checked.is_none_or(|checked| now >= checked + SELDOM) {
            self.checked = Some(now);
            self.adopt().await;
        }
        self.advance().await;
        self.tell_standing();
    }

    /// Until the first cutover the configuration says which pool is active.
    pub(super) fn follow_the_file(&mut self) {
        if self.record.epoch == 0 {
            let active = active(&self.deployment, &self.tools);
            if self.record.active != active {
                self.record.active = active;
                self.tell_standing();
            }
        }
    }

    /// Takes every step that is due.
    pub(super) async fn advance(&mut self) {
        loop {
            // Each step is judged by what was counted since the one before.
            self.sample();
            if self.look().await.is_none() {
                return;
            }
            self.measure();
            // What an order says comes before a step, and a gate is asked before users are moved.
            if self.asks || !self.inbox.is_empty() {
                return;
            }
            let Some(next) = self.record.advance(&self.seen, self.tools.clock.now()) else {
                return;
            };
            let why = next.cutover.as_ref().and_then(|cutover| cutover.log.back());
            let why = why.map(|entry| entry.why.clone()).unwrap_or_default();
            let change = Change {
                verb: "advance",
                by: crate::gate::cutover::GATE,
                reason: &why,
                key: None,
            };
            if self.take(next, change).await.is_err() {
                return;
            }
        }
    }

    /// Keeps a record, and then does what it says.
    pub(super) async fn take(&mut self, next: Record, change: Change<'_>) -> Result<(), String> {
        let entry = self.entry(&next, &change);
        if let Err(why) = self.keep(next.clone(), entry).await {
            self.tools.metrics.state_write_failures.inc();
            tracing::error!(
                name = self.deployment.name,
                why,
                "a step of a cutover cannot be kept, so it is not taken"
            );
            self.again = Some(self.tools.clock.now() + AGAIN);
            self.trouble = Some(why.clone());
            self.adopt().await;
            return Err(why);
        }
        self.trouble = None;
        let before = std::mem::replace(&mut self.record, next);
        self.apply().await;
        self.tell(&before, &change);
        let id = |record: &Record| record.cutover.as_ref().map(|cutover| cutover.id);
        if id(&before) != id(&self.record) {
            self.trials.reset();
        }
        let cut = |record: &Record| record.cutover.as_ref().and_then(|cutover| cutover.cut);
        if cut(&self.record).is_some() && cut(&before) != cut(&self.record) {
            self.sever();
        }
        Ok(())
    }

    async fn keep(&mut self, next: Record, entry: crate::audit::AuditEntry) -> Result<(), String> {
        let Some(archive) = self.tools.archive.clone() else {
            return Err("`server.state_dir` is off or cannot be used: a crash would lose the cutover".to_owned());
        };
        if self.tools.handing_over.load(Ordering::Relaxed) {
            return Err("another process takes over".to_owned());
        }
        let (deployment, epoch) = (self.deployment.clone(), self.record.epoch);
        let kept = tokio::task::spawn_blocking(move || {
            // Another process may have gone on in the meantime.
            if archive.epoch(&deployment.name).is_some_and(|kept| kept > epoch) {
                return Err(std::io::Error::other("another process has gone on with it"));
            }
            archive.save(&deployment, &next, entry)
        });
        kept.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    /// Goes on with what was kept meanwhile by somebody else: another process, or a task of this one that was ended while it wrote.
    async fn adopt(&mut self) {
        let (Some(archive), name) = (self.tools.archive.clone(), self.deployment.name.clone()) else {
            return;
        };
        let epoch = self.record.epoch;
        let kept = tokio::task::spawn_blocking(move || match archive.epoch(&name) {
            Some(kept) if kept > epoch => archive.load(&name),
            Some(_) | None => Ok(None),
        });
        let kept = kept.await;
        if let Ok(Ok(Some(record))) = kept
            && record.epoch > self.record.epoch
        {
            self.record = record;
            (self.trouble, self.again) = (None, None);
            self.apply().await;
            self.cut_what_is_left();
            self.count();
        }
    }

    /// Cuts what was to be cut, where whoever kept that has not come to do it. To be told twice does nobody harm.
    fn cut_what_is_left(&self) {
        let cutover = self.record.cutover.as_ref();
        if cutover.is_some_and(|cutover| cutover.cut.is_some() && cutover.drained.is_none()) {
            self.sever();
        }
    }

    /// Directs requests as the record says.
    async fn apply(&mut self) {
        let direction = self.record.direction(&self.deployment.name);
        let all = self.deployment.upstreams.iter();
        let all = all.map(|upstream| (upstream.clone(), direction.clone()));
        // A driver that has stopped directs nobody any more.
        let _ = self.tools.mailbox.direct(all.collect()).await;
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            deployment: self.deployment.clone(),
            record: Arc::new(self.record.clone()),
            seen: Arc::new(self.seen.clone()),
            in_flight: self.in_flight.clone(),
            trouble: self.trouble.clone(),
        }
    }

    pub(super) fn tell_standing(&self) {
        let (name, standing) = (self.deployment.name.clone(), self.standing());
        self.tools.standings.send_modify(|standings| {
            standings.insert(name, standing);
        });
    }
}

/// The pool that the configuration calls active.
fn active(deployment: &DeploymentSettings, tools: &Tools) -> PoolName {
    let roster = tools.roster.borrow();
    let first = deployment.upstreams.first();
    let known = first.and_then(|name| roster.upstream(name));
    known.map_or_else(|| PoolName::new(""), |known| known.settings.active.clone())
}
