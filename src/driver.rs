//! The one writer. It owns the keeper: answers come in, probes go out, and every change is told and published.

use std::sync::Arc;
use std::time::Instant;

use slotmap::SecondaryMap;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::gate::health::{FailureClass, Outcome};
use crate::gate::keeper::{Effect, Keeper, Known, ProbeReport, Slot, Ticket};
use crate::gate::lapse::Lapses;
use crate::gate::overrides::Override;
use crate::gate::rhythm::{BEAT, Rhythm, Silence};
use crate::gate::state::{Cause, State};
use crate::mailbox::{Acquaintance, Mailbox, Message, Pictures, Word};
use crate::metrics::{Metrics, ProbeCounts};
use crate::probe::spec::ProbeSpec;
use crate::probe::{Kept, Prober};
use crate::tls::Authorities;
use crate::upstream::settings::UpstreamSettings;
use crate::upstream::{Endpoint, Roster};

mod fullness;
mod looking;
mod outage;
mod past;
mod roster;
mod slow;
mod telling;
mod world;

use fullness::{Left, REFUSAL};
pub use past::Overrides;
use past::Past;
use world::{Due, Serving};

/// How far the first round of probes has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether every endpoint was asked and has answered, or failed to.
    pub asked_everyone: bool,
    /// Whether every upstream has an endpoint that may serve.
    pub can_serve: bool,
}

/// Messages that are handled before the outcome is published once.
const BATCH: usize = 256;

/// See the module's own words.
pub struct Driver {
    keeper: Keeper,
    prober: Arc<Prober>,
    clock: Clock,
    lapses: Lapses,
    metrics: Metrics,
    endpoints: SecondaryMap<Slot, Watched>,
    /// In the order of the configuration.
    serving: Vec<Serving>,
    /// Beats until times are compared.
    beats: u32,
    roster: watch::Sender<Roster>,
    progress: watch::Sender<Progress>,
    overrides: watch::Sender<Overrides>,
    past: Past,
    mailbox: Mailbox,
    inbox: mpsc::UnboundedReceiver<Message>,
}

/// One endpoint, what it is asked, and which upstream it serves.
struct Watched {
    endpoint: Arc<Endpoint>,
    probes: Arc<[ProbeSpec]>,
    /// The connections that its probes keep, in their order.
    kept: Arc<[Kept]>,
    /// Its share relative to its neighbours.
    weight: u32,
    /// The position of its upstream.
    upstream: usize,
    /// Its position in its pool.
    place: usize,
    /// Requests that it had answered at the last beat.
    answered: u64,
    counts: ProbeCounts,
    rhythm: Rhythm,
    left: Left,
    /// Connections at the last beat and at the one before.
    beats: [u32; 2],
}

/// What others hold of the driver.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Where it reads.
    pub mailbox: Mailbox,
    /// Whom it watches.
    pub roster: watch::Receiver<Roster>,
    /// How far the first round has come.
    pub progress: watch::Receiver<Progress>,
    /// What operators want.
    pub overrides: watch::Receiver<Overrides>,
}

impl Driver {
    /// A driver for all endpoints of `upstreams`, and what others hold of it. Nothing is asked before [`Driver::run`].
    pub fn new(
        upstreams: Vec<UpstreamSettings>,
        authorities: Arc<Authorities>,
        metrics: Metrics,
        clock: Clock,
        seed: u64,
    ) -> (Self, Handle) {
        let (mailbox, inbox) = Mailbox::new();
        let (progress, watching) = watch::channel(Progress::default());
        let (roster, watched) = watch::channel(Roster::default());
        let (overrides, wanted) = watch::channel(Overrides::default());
        let mut driver = Self {
            keeper: Keeper::new(seed),
            prober: Arc::new(Prober::new(clock, authorities)),
            clock,
            lapses: Lapses::since(clock.now()),
            metrics,
            endpoints: SecondaryMap::new(),
            serving: Vec::new(),
            beats: slow::BEATS,
            roster,
            progress,
            overrides,
            past: Past::default(),
            mailbox,
            inbox,
        };
        driver.reconcile(upstreams);
        let handle = Handle {
            mailbox: driver.mailbox.clone(),
            roster: watched,
            progress: watching,
            overrides: wanted,
        };
        (driver, handle)
    }

    /// Probes for ever.
    pub async fn run(mut self) {
        let mut messages = Vec::with_capacity(BATCH);
        self.lapses = Lapses::since(self.clock.now());
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.carry_out();
            let wake = self
                .keeper
                .poll_timeout()
                .into_iter()
                .chain(self.next_publication())
                .min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.inbox.recv_many(&mut messages, BATCH) => {
                    self.awake();
                    messages.drain(..).for_each(|message| self.handle(message));
                }
                () = sleep => {
                    self.awake();
                    self.keeper.handle_timeout(self.clock.now());
                }
                _ = ticks.tick() => {
                    self.awake();
                    self.feel();
                    self.beats -= 1;
                    if self.beats == 0 {
                        self.beats = slow::BEATS;
                        self.compare_times();
                    }
                }
            }
        }
    }

    /// Notes that the gate runs, and tells when it did not.
    fn awake(&mut self) {
        if let Some(gap) = self.lapses.beat(self.clock.now()) {
            self.metrics.lapses.inc();
            let ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
            warn!(
                ms,
                "the gate itself did not run; deadlines that passed meanwhile are no evidence"
            );
        }
    }

    /// What an answer is worth that had to wait for the gate itself: silence is none.
    fn excused(&self, mut report: Arc<ProbeReport>, at: Instant) -> Arc<ProbeReport> {
        let since = at.checked_sub(report.phases.total).unwrap_or(at);
        let lapse = self.lapses.within(since, at);
        if let Some(lapse) = lapse.filter(|_| report.outcome.class() == Some(FailureClass::Timeout)) {
            Arc::make_mut(&mut report).outcome = Outcome::Unknown {
                detail: format!("the gate itself did not run for {:.1} s meanwhile", lapse.as_secs_f64()),
            };
        }
        report
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Probed {
                ticket,
                report,
                under_way,
                asked,
                at,
            } => {
                let report = self.excused(report, at);
                let report = self.keeper.interpret(ticket, report, at);
                self.tell_absent(ticket, &report);
                self.count(ticket, &report);
                let under_way = self.under_way_by_now(ticket, &report, under_way, asked);
                self.keeper.handle_probe(ticket, report, under_way, at);
            }
            Message::Failed {
                slot,
                failure,
                streak,
                connections,
                at,
            } => {
                if failure != REFUSAL || !self.is_refusal(slot, connections, at) {
                    self.keeper.handle_failure(slot, failure, streak, at);
                }
            }
            Message::Silent { slot, at } => self.keeper.handle_silence(slot, at),
            Message::Tried { slot, trial, at } => self.keeper.handle_trial(slot, trial, at),
            // Whoever asked may have gone; then nobody misses the answer.
            Message::Ask(reply) => drop(reply.send(self.everyone())),
            // What was said is in force by the time that it is answered.
            Message::Say(word, reply) => {
                let pictures = self.heed(&word);
                self.note_overrides();
                self.carry_out();
                let _ = reply.send(pictures);
            }
            Message::Reconcile(upstreams, reply) => {
                self.reconcile(upstreams);
                self.carry_out();
                let _ = reply.send(());
            }
            Message::Look(pools, since, reply) => {
                let looked = pools.iter().map(|(upstream, pool)| self.look(upstream, pool, since));
                let _ = reply.send(looked.collect());
            }
            Message::Direct(directions, reply) => {
                self.direct(directions);
                let _ = reply.send(());
            }
        }
    }

    fn everyone(&self) -> Vec<Acquaintance> {
        let all = self.keeper.all().filter_map(|(slot, known)| {
            Some(Acquaintance {
                known: known.clone(),
                endpoint: self.endpoints.get(slot)?.endpoint.clone(),
            })
        });
        all.collect()
    }

    /// Does what the operator says, or tells what it would do.
    fn heed(&mut self, word: &Word) -> Pictures {
        let now = self.clock.now();
        let mut pictures = Vec::new();
        for slot in self.keeper.at(&word.address) {
            let Some(id) = self.keeper.get(slot).map(|known| known.id.clone()) else {
                continue;
            };
            let is_meant = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
            if !is_meant(&word.upstream, id.upstream.as_str()) || !is_meant(&word.pool, id.pool.as_str()) {
                continue;
            }
            let wish = word.wish.as_ref().map(|(wish, ..)| *wish);
            pictures.extend(self.keeper.picture(slot, wish).map(|picture| (id, picture)));
            match &word.wish {
                _ if word.dry_run => {}
                Some((wish, reason, lasts)) => {
                    let word = Override {
                        wish: *wish,
                        reason: reason.clone(),
                        since: now,
                        until: lasts.map(|lasts| now + lasts),
                    };
                    self.keeper.handle_override(slot, word, now);
                }
                None => self.keeper.handle_enable(slot, now),
            }
        }
        pictures
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.keeper.poll_effect() {
            match effect {
                Effect::Probe(ticket) => {
                    if let Some(under_way) = self.endpoints.get(ticket.slot).map(Watched::under_way) {
                        self.keeper.handle_sent(ticket, under_way);
                    }
                    self.send(ticket);
                }
                Effect::Announce(slot, event) => {
                    self.mark(slot, Due::Now);
                    // Where traffic alone accuses, or a full server refuses more, what waits may yet be answered; where the operator speaks, it is let go on.
                    let refuses_more = self.keeper.get(slot).is_some_and(Known::refuses_more);
                    if matches!(event.to, State::Down | State::Busy | State::Degraded) && !refuses_more {
                        self.lose(slot);
                    }
                    self.announce(&event);
                    if event.cause == Cause::OverrideExpired {
                        self.note_overrides();
                    }
                }
                Effect::Publish(slot) => {
                    self.mark(slot, Due::Now);
                    self.tell_waiting(slot);
                }
                Effect::Grow(slot) => self.mark(slot, Due::Soon),
                Effect::Shared { at, component, failing } => {
                    self.share(&at, &component, failing);
                    self.begin_outage(&at, failing);
                }
                Effect::Spare(id, failure, why) => self.spare(&id, failure, why),
                Effect::Slow(id, Some((ms, median))) => {
                    warn!(endpoint = %id, ms, median, "endpoint answers much later than the others")
                }
                Effect::Slow(id, None) => info!(endpoint = %id, "endpoint answers as the others do"),
                Effect::Flaps(id) => {
                    warn!(endpoint = %id, "endpoint comes and goes too often, and is held down for a while")
                }
            }
        }
        self.publish(Due::Now);
    }

    /// Feels every pulse, and asks whoever fell silent.
    fn feel(&mut self) {
        let now = self.clock.now();
        self.publish(Due::Soon);
        for (slot, watched) in &mut self.endpoints {
            let beat = watched.endpoint.pulse.feel();
            let answered = beat.answered.saturating_sub(watched.answered);
            if answered > 0 {
                watched.answered = beat.answered;
                let answered = u32::try_from(answered).unwrap_or(u32::MAX);
                self.keeper.handle_answers(slot, answered, now);
            }
            watched.left.note(watched.endpoint.pulse.take_left());
            let settled = watched.settle();
            if watched.endpoint.pulse.take_answered_well() {
                self.keeper.handle_answered_with(slot, settled, now);
            }
            if let Some(known) = self.keeper.get(slot) {
                watched.endpoint.idle.crowd(known.keeps_waiting());
                if let Some(limit) = known.capacity.limit() {
                    watched.endpoint.trim_idle(limit);
                }
            }
            match watched.rhythm.feel(beat.answered, beat.waiting) {
                Silence::None => {}
                Silence::Overdue => self.keeper.handle_overdue(slot, now),
                Silence::Missed => self.keeper.handle_silence(slot, now),
            }
        }
    }

    fn send(&self, ticket: Ticket) {
        let Some(watched) = self.endpoints.get(ticket.slot) else {
            return;
        };
        let (endpoint, probes, kept) = (watched.endpoint.clone(), watched.probes.clone(), watched.kept.clone());
        let (prober, mailbox, clock) = (self.prober.clone(), self.mailbox.clone(), self.clock);
        let under_way = (watched.under_way(), endpoint.pulse.asked());
        tokio::spawn(async move {
            if let (Some(spec), Some(kept)) = (probes.get(ticket.probe), kept.get(ticket.probe)) {
                let report = prober.probe(&endpoint.id.address, spec, kept).await;
                mailbox.probed(ticket, report, under_way, clock.now());
            }
        });
    }

    /// What waits on the endpoint for its first byte, and may go elsewhere, goes elsewhere at once.
    fn rescue(&self, slot: Slot) {
        let Some(watched) = self.endpoints.get(slot) else {
            return;
        };
        let id = &watched.endpoint.id;
        let now = self.clock.millis(self.clock.now());
        let mut others = self.routable(watched.upstream, &id.pool);
        // Where those who are left keep their own requests waiting, nothing is won, and their queues would overflow.
        let elsewhere = others.any(|(other, _)| other.endpoint.slot != slot && other.endpoint.pulse.hush(now) == 0);
        // During an outage they are told so, except for those that may try.
        let in_vain = self
            .keeper
            .get(slot)
            .is_some_and(|known| known.lacks_shared(self.clock.now()));
        let rescued = if elsewhere || in_vain {
            watched.endpoint.recall.call()
        } else {
            0
        };
        if rescued > 0 {
            info!(endpoint = %id, requests = rescued, "waiting requests are sent elsewhere");
        }
    }
}
