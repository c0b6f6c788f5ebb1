//! The one writer. It owns the keeper: answers come in, probes go out, and every change is told and published.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::gate::keeper::{Effect, EndpointPlan, Keeper, ProbeReport, Slot, Terms, Ticket};
use crate::gate::names::EndpointId;
use crate::gate::overrides::Override;
use crate::gate::passive::TrafficFailure;
use crate::gate::rhythm::{BEAT, Rhythm};
use crate::gate::state::{Event, State, Tier};
use crate::mailbox::{Mailbox, Message, Pictures, Word};
use crate::metrics::{Metrics, endpoint_labels};
use crate::probe::Prober;
use crate::probe::spec::ProbeSpec;
use crate::upstream::snapshot::{Published, Snapshot};
use crate::upstream::{Endpoint, Upstream};

mod world;

use world::Serving;

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
    metrics: Metrics,
    upstreams: Vec<Arc<Upstream>>,
    /// By the keeper's slot.
    endpoints: Vec<Watched>,
    /// By the upstream's position.
    serving: Vec<Serving>,
    published: Published,
    /// Whether a share has grown since it was published.
    stale: bool,
    progress: watch::Sender<Progress>,
    mailbox: Mailbox,
    inbox: mpsc::UnboundedReceiver<Message>,
}

/// One endpoint, what it is asked, and which upstream it serves.
struct Watched {
    endpoint: Arc<Endpoint>,
    probes: Arc<[ProbeSpec]>,
    upstream: usize,
    /// Its position in its pool.
    place: usize,
    /// How many requests filled it, while it is busy.
    full: Option<u32>,
    terms: Arc<Terms>,
    rhythm: Rhythm,
}

/// What others hold of the driver.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Where it reads.
    pub mailbox: Mailbox,
    /// What it publishes.
    pub published: Published,
    /// How far the first round has come.
    pub progress: watch::Receiver<Progress>,
    /// Every endpoint, in the keeper's order.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

impl Driver {
    /// A driver for all endpoints of `upstreams`, and what others hold of it. Nothing is asked before [`Driver::run`].
    pub fn new(upstreams: Vec<Arc<Upstream>>, metrics: Metrics, clock: Clock, seed: u64) -> (Self, Handle) {
        let endpoints = watched(&upstreams, &metrics);
        let plans = endpoints.iter().map(|watched| EndpointPlan {
            id: watched.endpoint.id.clone(),
            probes: watched.probes.iter().map(|spec| spec.plan.clone()).collect(),
            terms: watched.terms.clone(),
        });
        let keeper = Keeper::new(plans.collect(), seed, clock.now());
        let (mailbox, inbox) = Mailbox::new();
        let (progress, watching) = watch::channel(Progress::default());
        let serving = upstreams.iter().map(|upstream| Serving::of(upstream)).collect();
        let mut driver = Self {
            serving,
            stale: false,
            keeper,
            prober: Arc::new(Prober::new(clock)),
            clock,
            metrics,
            upstreams,
            endpoints,
            published: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            progress,
            mailbox,
            inbox,
        };
        driver.publish();
        for watched in &driver.endpoints {
            driver.set_gauges(&watched.endpoint.id, State::Unknown);
        }
        let handle = Handle {
            mailbox: driver.mailbox.clone(),
            published: driver.published.clone(),
            progress: watching,
            endpoints: driver
                .endpoints
                .iter()
                .map(|watched| watched.endpoint.clone())
                .collect(),
        };
        (driver, handle)
    }

    /// Probes for ever.
    pub async fn run(mut self) {
        let mut messages = Vec::with_capacity(BATCH);
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.carry_out();
            let wake = self.keeper.poll_timeout();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.inbox.recv_many(&mut messages, BATCH) => {
                    messages.drain(..).for_each(|message| self.handle(message));
                }
                () = sleep => self.keeper.handle_timeout(self.clock.now()),
                _ = ticks.tick() => self.feel(),
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Probed { ticket, report, at } => {
                self.count(ticket, &report);
                let delivering = self.is_delivering(ticket, &report);
                self.keeper.handle_probe(ticket, *report, delivering, at);
            }
            Message::Failed { slot, failure, at } => self.keeper.handle_failure(slot, failure, at),
            Message::Tried { slot, trial, at } => self.keeper.handle_trial(slot, trial, at),
            // Whoever asked may have gone; then nobody misses the answer.
            Message::Ask(reply) => drop(reply.send(self.keeper.known().to_vec())),
            Message::Say(word, reply) => drop(reply.send(self.heed(&word))),
        }
    }

    /// Does what the operator says, or tells what it would do.
    fn heed(&mut self, word: &Word) -> Pictures {
        let now = self.clock.now();
        let mut pictures = Vec::new();
        for slot in self.keeper.at(&word.address) {
            let Some(id) = self.keeper.known().get(slot.index()).map(|known| known.id.clone()) else {
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
        let (mut events, mut urgent) = (Vec::new(), false);
        while let Some(effect) = self.keeper.poll_effect() {
            match effect {
                Effect::Probe(ticket) => self.send(ticket),
                Effect::Announce(event) => events.push(event),
                Effect::Publish => urgent = true,
                Effect::Grow => self.stale = true,
                Effect::Shared { at, component, failing } => self.share(&at, &component, failing),
                Effect::Spare(id, failure) => self.spare(&id, failure),
            }
        }
        events.iter().for_each(|event| self.fill(event));
        if urgent || !events.is_empty() || self.progress.borrow().asked_everyone != self.keeper.has_asked_everyone() {
            self.publish();
        }
        // Told after it is published, so that nothing is sent to an endpoint whose waiting requests were just taken back.
        events.iter().for_each(|event| self.announce(event));
    }

    /// Notes how much fills an endpoint that has become busy: what it answers by then. What still waits for its first byte is too much.
    fn fill(&mut self, event: &Event) {
        let watched = self
            .endpoints
            .iter_mut()
            .find(|watched| watched.endpoint.id == event.endpoint);
        if let Some(watched) = watched {
            let waiting = u32::try_from(watched.endpoint.pulse.feel().waiting).unwrap_or(u32::MAX);
            let answered = watched.endpoint.in_flight.get().saturating_sub(waiting);
            watched.full = (event.to == State::Busy).then_some(answered.max(1));
        }
    }

    /// Whether an endpoint's streams went on during the second half of a probe; what came before may be older than the silence.
    fn is_delivering(&self, ticket: Ticket, report: &ProbeReport) -> bool {
        let within = u64::try_from(report.phases.total.as_millis() / 2).unwrap_or(u64::MAX);
        let watched = self.endpoints.get(ticket.slot.index());
        watched.is_some_and(|watched| watched.endpoint.pulse.delivered_within(within))
    }

    fn share(&self, at: &EndpointId, component: &str, failing: bool) {
        let (upstream, pool) = (at.upstream.as_str(), at.pool.as_str());
        if failing {
            warn!(
                upstream,
                pool, component, "a dependency that instances share fails: nobody is ejected for it"
            );
        } else {
            info!(
                upstream,
                pool, component, "a dependency that instances share is well again"
            );
        }
        let gauge = self.metrics.shared_failure.with_label_values(&[upstream, component]);
        gauge.set(i64::from(failing));
    }

    fn spare(&self, id: &EndpointId, failure: TrafficFailure) {
        warn!(endpoint = %id, failure = %failure, "requests fail, and too few would be left without it");
        self.metrics
            .ejections_refused
            .with_label_values(&endpoint_labels(id))
            .inc();
    }

    /// Feels every pulse, and asks whoever fell silent.
    fn feel(&mut self) {
        let now = self.clock.now();
        if self.stale || self.serving.iter().any(|serving| serving.is_due(now)) {
            self.publish();
        }
        for (index, watched) in self.endpoints.iter_mut().enumerate() {
            let beat = watched.endpoint.pulse.feel();
            if watched.rhythm.feel(beat.answered, beat.waiting) {
                self.keeper.handle_stall(Slot::at(index), now);
            }
        }
    }

    fn send(&self, ticket: Ticket) {
        let Some(watched) = self.endpoints.get(ticket.slot.index()) else {
            return;
        };
        let (endpoint, probes) = (watched.endpoint.clone(), watched.probes.clone());
        let (prober, mailbox, clock) = (self.prober.clone(), self.mailbox.clone(), self.clock);
        tokio::spawn(async move {
            if let Some(spec) = probes.get(ticket.probe) {
                let report = prober.probe(&endpoint.id.address, spec).await;
                mailbox.probed(ticket, report, clock.now());
            }
        });
    }

    fn count(&self, ticket: Ticket, report: &ProbeReport) {
        let Some(watched) = self.endpoints.get(ticket.slot.index()) else {
            return;
        };
        let [upstream, pool, endpoint] = endpoint_labels(&watched.endpoint.id);
        let outcome = report.outcome.as_str();
        let class = report.outcome.class().map_or("", |class| class.as_str());
        let labels = [upstream, pool, endpoint, outcome, class];
        self.metrics.probes.with_label_values(&labels).inc();
        let took = report.phases.total.as_secs_f64();
        self.metrics
            .probe_duration
            .with_label_values(&labels[..3])
            .observe(took);
        for (component, up) in &report.components {
            let labels = [upstream, pool, endpoint, component];
            self.metrics.component_up.with_label_values(&labels).set(i64::from(*up));
        }
    }

    fn announce(&self, event: &Event) {
        let id = &event.endpoint;
        let cause = event.cause.to_string();
        match event.to.tier() {
            Some(Tier::Fit) => {
                info!(endpoint = %id, from = %event.from, to = %event.to, cause, "endpoint takes traffic")
            }
            Some(Tier::Spare) => warn!(endpoint = %id, from = %event.from, to = %event.to, cause, "endpoint is spared"),
            Some(Tier::Accused) | None => {
                warn!(endpoint = %id, from = %event.from, to = %event.to, cause, "endpoint takes no traffic");
            }
        }
        let [upstream, pool, endpoint] = endpoint_labels(id);
        let labels = [upstream, pool, endpoint, event.to.as_str(), event.cause.label()];
        self.metrics.state_changes.with_label_values(&labels).inc();
        self.set_gauges(id, event.to);
        // Where traffic alone accuses, what waits may yet be answered; where the operator speaks, it is let go on.
        if matches!(event.to, State::Down | State::Busy | State::Degraded) {
            self.rescue(id);
        }
    }

    /// What waits on the endpoint for its first byte, and may go elsewhere, goes elsewhere at once.
    fn rescue(&self, id: &EndpointId) {
        let Some(watched) = self.endpoints.iter().find(|watched| watched.endpoint.id == *id) else {
            return;
        };
        let elsewhere = self
            .routable(watched.upstream)
            .any(|(other, _)| other.endpoint.id != *id);
        let rescued = if elsewhere { watched.endpoint.recall.call() } else { 0 };
        if rescued > 0 {
            info!(endpoint = %id, requests = rescued, "waiting requests are sent elsewhere");
        }
    }

    fn set_gauges(&self, id: &EndpointId, now: State) {
        let [upstream, pool, endpoint] = endpoint_labels(id);
        let routable = self
            .metrics
            .endpoint_routable
            .with_label_values(&[upstream, pool, endpoint]);
        routable.set(i64::from(now.is_routable()));
        for state in State::ALL {
            let labels = [upstream, pool, endpoint, state.as_str()];
            self.metrics
                .endpoint_state
                .with_label_values(&labels)
                .set(i64::from(now == state));
        }
    }
}

fn watched(upstreams: &[Arc<Upstream>], metrics: &Metrics) -> Vec<Watched> {
    let mut endpoints = Vec::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        let settings = &upstream.settings;
        for pool in &settings.pools {
            for (place, endpoint) in pool.endpoints.iter().enumerate() {
                let id = EndpointId {
                    upstream: settings.name.clone(),
                    pool: pool.name.clone(),
                    address: endpoint.address.clone(),
                };
                endpoints.push(Watched {
                    endpoint: Arc::new(Endpoint::new(
                        id,
                        Slot::at(endpoints.len()),
                        endpoint.weight,
                        upstream.queue.clone(),
                        metrics,
                    )),
                    terms: settings.terms.clone(),
                    rhythm: Rhythm::default(),
                    probes: endpoint.probes.clone(),
                    upstream: index,
                    place,
                    full: None,
                });
            }
        }
    }
    endpoints
}
