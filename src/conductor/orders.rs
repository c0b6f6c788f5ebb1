//! What is ordered of a name: each order is carried out and kept before it is answered, or refused with the reason.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::mover::{Change, Mover, Reply};
use super::seeing::SAMPLES;
use crate::cutover::{Alert, Done, Order, Unmoved, Wanted, Wishes};
use crate::gate::cutover::{Phase, Record, Refusal, RefusalKind, Seen, Verb};

/// A dry run looks so far back.
const FORESEEN: Duration = Duration::from_secs(60);

impl Mover {
    /// Carries an order out and answers it; at once, unless gates are to be asked anew for it.
    pub(super) async fn receive(&mut self, order: Box<Order>, reply: Reply) {
        if self.must_ask(&order)
            && let Some(scene) = self.scene().await
        {
            let (now, settings, tools) = (self.tools.clock.now(), self.settings.clone(), self.tools.clone());
            // Orders that wait already are answered by the round that they wait for, for which this one is not too late.
            let since = if self.parked.is_empty() {
                now
            } else {
                scene.cutover.entered
            };
            self.trials.afresh(since, &scene, &settings, &tools);
            self.parked.push((self.record.epoch, order, reply));
            return;
        }
        self.answer(*order, reply).await;
        self.resolve().await;
    }

    /// Carries out what waits for gates, once they have been asked. Where something else was ordered meanwhile, they are asked anew.
    pub(super) async fn resolve(&mut self) {
        for (epoch, order, reply) in std::mem::take(&mut self.parked) {
            if epoch != self.record.epoch {
                Box::pin(self.receive(order, reply)).await;
            } else if self.trials.are_running() {
                self.parked.push((epoch, order, reply));
            } else {
                self.answer(*order, reply).await;
            }
        }
    }

    async fn answer(&mut self, order: Order, reply: Reply) {
        let done = self.order(order).await;
        self.tell_standing();
        // Whoever asked may have gone; what was done stays done.
        let _ = reply.send(done);
    }

    /// Whether an order could move users, so that smoke requests and hooks are asked anew for it.
    fn must_ask(&self, order: &Order) -> bool {
        let promotes = matches!(order.wanted, Wanted::Verb(Verb::Promote)) && !order.dry_run;
        let moves = matches!(self.record.phase(), Phase::Ready | Phase::Shifting | Phase::Frozen);
        let is_late = order.if_epoch.is_some_and(|epoch| epoch != self.record.epoch);
        let asked = !self.trials.gates(&self.settings, self.record.phase()).is_empty();
        let leaves = self.tools.handing_over.load(Ordering::Relaxed);
        promotes && moves && asked && !is_late && !leaves && matches!(self.repeated(order), Ok(None))
    }

    /// Carries an order out, or says why not.
    pub(super) async fn order(&mut self, order: Order) -> Result<Done, Unmoved> {
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
            Wanted::Alert(alert) => return Ok(self.hear(alert).await),
            Wanted::Verb(verb) => verb,
            Wanted::Start(wishes) => self.start(*wishes)?,
        };
        self.can_go_back(&verb)?;
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
                repeated: None,
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
            repeated: None,
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
            Some(done) => Ok(Some(Done {
                standing: self.standing(),
                repeated: Some(done.epoch),
                changed: false,
            })),
        }
    }

    /// What a start means, if its pool can be moved to at all.
    fn start(&self, wishes: Wishes) -> Result<Verb, Unmoved> {
        let roster = self.tools.roster.borrow().clone();
        for upstream in &self.deployment.upstreams {
            let known = roster.upstream(upstream);
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

    /// Users can only go back to a pool that there still is.
    fn can_go_back(&self, verb: &Verb) -> Result<(), Unmoved> {
        let moved = self.record.cutover.as_ref().filter(|cutover| cutover.percent > 0);
        let goes = matches!(verb, Verb::Rollback { .. } | Verb::Abort);
        let Some(cutover) = moved.filter(|_| goes) else {
            return Ok(());
        };
        let roster = self.tools.roster.borrow().clone();
        let mut members = roster.upstreams.iter();
        let lacking = members.find(|known| {
            let settings = &known.settings;
            let has = settings.pools.iter().any(|pool| pool.name == cutover.from);
            self.deployment.upstreams.contains(&settings.name) && !has
        });
        lacking.map_or(Ok(()), |known| {
            let message = format!(
                "{} has no pool `{}` any more: nobody can go back there",
                known.settings.name, cutover.from
            );
            Err(self.invalid(message))
        })
    }

    /// Remembers an alert, which counts from the next look on.
    async fn hear(&mut self, alert: Alert) -> Done {
        self.alerts.hear(alert, self.tools.clock.now());
        self.remember().await;
        Done {
            standing: self.standing(),
            repeated: None,
            changed: true,
        }
    }

    /// Sees what a verb is judged by.
    async fn prepare(&mut self, verb: &Verb) {
        self.sample();
        let _ = self.look().await;
        if matches!(verb, Verb::Promote) {
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
        // What another cutover was answered says nothing of this one.
        let trials = std::mem::take(&mut self.trials);
        let _ = self.look().await;
        (self.record, self.trials) = (record, trials);
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
}
