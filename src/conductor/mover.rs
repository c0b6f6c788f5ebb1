//! One name and its task: orders come in, steps go out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::Tools;
use super::samples::Samples;
use super::seeing::SAMPLES;
use super::trials::Trials;
use crate::cutover::{CutoverSettings, DeploymentSettings, Done, Order, Standing, Unmoved, Wanted, Wishes};
use crate::gate::cutover::{Gate, Phase, Record, Refusal, RefusalKind, Seen, Verb, Verdict};
use crate::gate::names::PoolName;

/// How often it looks while a cutover is under way.
const TICK: Duration = Duration::from_millis(250);

/// How often it looks while none is.
const SELDOM: Duration = Duration::from_secs(1);

/// What could not be kept is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// A dry run looks so far back.
const FORESEEN: Duration = Duration::from_secs(60);

/// What a task is told.
#[derive(Debug)]
pub(super) enum News {
    Order(Box<Order>, oneshot::Sender<Result<Done, Unmoved>>),
    Settings(Arc<CutoverSettings>),
}

/// See the module's own words.
pub(super) struct Mover {
    pub(super) deployment: DeploymentSettings,
    pub(super) record: Record,
    pub(super) seen: Seen,
    pub(super) in_flight: BTreeMap<PoolName, u32>,
    pub(super) samples: Samples,
    pub(super) trials: Trials,
    /// What somebody who watches said.
    pub(super) alarm: Option<Gate>,
    /// Why steps cannot be taken, while they cannot.
    pub(super) trouble: Option<String>,
    /// When it is tried again.
    again: Option<Instant>,
    /// When it looked last.
    looked: Option<Instant>,
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
    ) -> Self {
        let active = active(&deployment, &tools);
        Self {
            record: record.unwrap_or_else(|| Record::new(active)),
            deployment,
            seen: Seen::default(),
            in_flight: BTreeMap::new(),
            samples: Samples::default(),
            trials: Trials::default(),
            alarm: None,
            trouble: None,
            again: None,
            looked: None,
            settings,
            tools,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<News>) {
        if self.record.epoch > 0 {
            self.apply().await;
        }
        self.count();
        self.tell_standing();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = inbox.recv() => match news {
                    None => return,
                    Some(News::Settings(settings)) => self.settings = settings,
                    Some(News::Order(order, reply)) => {
                        let done = self.order(*order).await;
                        self.tell_standing();
                        // Whoever asked may have gone; what was done stays done.
                        let _ = reply.send(done);
                    }
                },
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
        let waits = self.again.is_some_and(|again| now < again);
        if over {
            if self.note_in_flight() {
                self.tell_standing();
            }
            return;
        }
        // A process that is about to go on in this one's place takes the next step.
        if waits || self.tools.handing_over.load(Ordering::Relaxed) {
            return;
        }
        self.again = None;
        self.advance().await;
        self.tell_standing();
    }

    /// Until the first cutover the configuration says which pool is active.
    fn follow_the_file(&mut self) {
        if self.record.epoch == 0 {
            let active = active(&self.deployment, &self.tools);
            if self.record.active != active {
                self.record.active = active;
                self.tell_standing();
            }
        }
    }

    /// Takes every step that is due.
    async fn advance(&mut self) {
        loop {
            if self.look().await.is_none() {
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

    /// Carries an order out, or says why not.
    async fn order(&mut self, order: Order) -> Result<Done, Unmoved> {
        if self.tools.handing_over.load(Ordering::Relaxed) {
            return Err(Unmoved::Stopping);
        }
        self.follow_the_file();
        if let Some(repeated) = self.repeated(&order)? {
            return Ok(repeated);
        }
        if order.if_epoch.is_some_and(|epoch| epoch != self.record.epoch) {
            return Err(Unmoved::Stale(Box::new(self.standing())));
        }
        let verb = match order.wanted.clone() {
            Wanted::Alarm(detail) => return self.raise(detail, &order),
            Wanted::Verb(verb) => verb,
            Wanted::Start(wishes) => self.start(*wishes)?,
        };
        self.prepare(&verb).await;
        let now = self.tools.clock.now();
        let next = self
            .record
            .command(&verb, &order.by, &order.reason, &self.seen, now)
            .map_err(|refusal| self.refused(refusal))?;
        let changed = next.epoch != self.record.epoch;
        if order.dry_run || !changed {
            let mut standing = self.standing();
            if matches!(verb, Verb::Start(_)) {
                standing.seen = Arc::new(self.foresee(&next).await);
            }
            standing.record = Arc::new(next);
            return Ok(Done {
                standing,
                repeated: false,
                changed,
            });
        }
        let next = match &order.key {
            Some(key) => next.remembering(key, &order.asked),
            None => next,
        };
        let change = Change {
            verb: verb.as_str(),
            by: &order.by,
            reason: &order.reason,
            key: order.key.clone(),
        };
        self.take(next, change).await.map_err(Unmoved::Unkept)?;
        if self.record.phase() == Phase::RollingBack {
            // Requests have been directed back by now, so whoever said it may go on.
            self.advance().await;
        }
        Ok(Done {
            standing: self.standing(),
            repeated: false,
            changed: true,
        })
    }

    fn repeated(&self, order: &Order) -> Result<Option<Done>, Unmoved> {
        let Some(key) = order.key.as_ref().filter(|_| !order.dry_run) else {
            return Ok(None);
        };
        // Of what was said twice the last one counts.
        let done = self.record.done.iter().rev().find(|done| done.key == *key);
        // A start that came to nothing before anything moved may be tried again: it moves nobody twice.
        let is_void = |epoch: u64| {
            let started = self.record.cutover.as_ref().filter(|cutover| cutover.id == epoch);
            started.is_some_and(|cutover| cutover.phase == Phase::Failed)
        };
        match done {
            None => Ok(None),
            Some(done) if done.asked != order.asked => Err(Unmoved::KeyReused),
            Some(done) if is_void(done.epoch) => Ok(None),
            Some(_) => Ok(Some(Done {
                standing: self.standing(),
                repeated: true,
                changed: false,
            })),
        }
    }

    /// What a start means, if its pool can be moved to at all.
    fn start(&self, wishes: Wishes) -> Result<Verb, Unmoved> {
        let roster = self.tools.roster.borrow().clone();
        for upstream in &self.deployment.upstreams {
            let known = roster.upstreams.iter().find(|known| known.settings.name == *upstream);
            let pools = known.map(|known| &known.settings.pools);
            let names: Vec<&str> = pools.into_iter().flatten().map(|pool| pool.name.as_str()).collect();
            if !names.contains(&wishes.to.as_str()) {
                let message = format!("{upstream} has no pool `{}`; it has: {}", wishes.to, names.join(", "));
                return Err(self.invalid(message));
            }
            let members = roster.endpoints.iter();
            let mut members = members.filter(|one| one.id.upstream == *upstream && one.id.pool.as_str() == wishes.to);
            if members.next().is_none() {
                let message = format!(
                    "pool `{}` of {upstream} has no endpoint: nobody could be moved there",
                    wishes.to
                );
                return Err(self.invalid(message));
            }
        }
        Ok(Verb::Start(Box::new(wishes.over(&self.settings.plan))))
    }

    fn raise(&mut self, detail: String, order: &Order) -> Result<Done, Unmoved> {
        let watched = self.record.phase().is_watched();
        if !watched {
            let message = format!(
                "nothing is watched here ({}), so nothing is taken back",
                self.record.phase()
            );
            return Err(self.refused(Refusal {
                kind: RefusalKind::Conflict,
                message,
                evidence: Vec::new(),
            }));
        }
        if !order.dry_run {
            self.alarm = Some(Gate::new("alarm", Verdict::Fail, format!("{}: {detail}", order.by)));
        }
        Ok(Done {
            standing: self.standing(),
            repeated: false,
            changed: true,
        })
    }

    /// Sees what a verb is judged by. Gates are asked anew where it could move users.
    async fn prepare(&mut self, verb: &Verb) {
        self.sample();
        let promotes = matches!(verb, Verb::Promote);
        let moves = matches!(self.record.phase(), Phase::Ready | Phase::Shifting | Phase::Frozen);
        let asks = !self.trials.gates(&self.settings).is_empty();
        if promotes
            && moves
            && asks
            && let Some(scene) = self.scene().await
        {
            let (settings, tools) = (self.settings.clone(), self.tools.clone());
            self.trials.afresh(&scene, &settings, &tools).await;
        }
        let _ = self.look().await;
        if promotes {
            self.seen.gates.retain(|gate| gate.name != SAMPLES);
        }
    }

    /// What the gates of a cutover that is not begun would say, by the probes of a moment ago.
    async fn foresee(&mut self, next: &Record) -> Seen {
        let mut hypothetical = next.clone();
        if let Some(cutover) = &mut hypothetical.cutover {
            cutover.started = cutover.started.checked_sub(FORESEEN).unwrap_or(cutover.started);
        }
        let (record, seen) = (std::mem::replace(&mut self.record, hypothetical), self.seen.clone());
        let _ = self.look().await;
        self.record = record;
        std::mem::replace(&mut self.seen, seen)
    }

    fn invalid(&self, message: String) -> Unmoved {
        self.refused(Refusal {
            kind: RefusalKind::Invalid,
            message,
            evidence: Vec::new(),
        })
    }

    fn refused(&self, refusal: Refusal) -> Unmoved {
        Unmoved::Refused(refusal, Box::new(self.standing()))
    }

    /// Keeps a record, and then does what it says.
    async fn take(&mut self, next: Record, change: Change<'_>) -> Result<(), String> {
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
        if !self.record.phase().is_watched() {
            self.alarm = None;
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

    /// Directs requests as the record says.
    async fn apply(&mut self) {
        let direction = self.record.direction();
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
    let known = first.and_then(|name| roster.upstreams.iter().find(|known| known.settings.name == *name));
    known.map_or_else(|| PoolName::new(""), |known| known.settings.active.clone())
}
