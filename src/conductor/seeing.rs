//! What is seen of the pools that a cutover is about.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::mover::Mover;
use super::trials::Scene;
use crate::gate::cutover::triggers::{self, Tally};
use crate::gate::cutover::{Cutover, EndpointSeen, Gate, Phase, Seen, Verdict, bake, gates};
use crate::gate::names::{PoolName, UpstreamName};
use crate::mailbox::Looked;
use crate::upstream::{Roster, Severed, Upstream};

/// A stream that had a byte within this time delivers.
const ALIVE: Duration = Duration::from_secs(15);

/// The gate of a share that has been seen at work. A person who promotes it needs no such proof.
pub(super) const SAMPLES: &str = "samples";

/// A pool of each upstream that moves, in their order.
type Pool = Vec<Vec<Looked>>;

impl Mover {
    /// Looks at both pools. None if the driver has stopped.
    pub(super) async fn look(&mut self) -> Option<()> {
        self.note_in_flight();
        let Some(cutover) = self.record.cutover.clone() else {
            return Some(());
        };
        let (new, old) = self.pools(&cutover.from, &cutover.to, cutover.started).await?;
        self.ask(&cutover, &new);
        let endpoints: Vec<EndpointSeen> = new.iter().flatten().map(|looked| looked.seen.clone()).collect();
        let mut gates = vec![health(&new, cutover.plan.rise)];
        let version = cutover
            .plan
            .expect_version
            .as_ref()
            .map(|expected| gates::version(&endpoints, expected));
        gates.extend(version.clone());
        gates.extend(self.trials.gates(&self.settings, cutover.phase));
        gates.extend(self.share_gate(&cutover));
        let alarm = self.alerts.gate(self.tools.clock.now());
        gates.extend(alarm.clone());
        let triggers = if cutover.phase.is_watched() {
            self.triggers(&cutover, &new, version, alarm)
        } else {
            Vec::new()
        };
        self.seen = Seen {
            prepared: new.iter().all(|pool| !pool.is_empty()) && endpoints.iter().all(|one| one.fit && one.passes > 0),
            old_fit: old.iter().map(|pool| fit(pool)).min().unwrap_or_default(),
            old_in_flight: self.in_flight.get(&cutover.from).copied().unwrap_or_default(),
            old_alive: self.is_alive(&cutover.from),
            bake: bake::bake(
                self.samples.watch(&cutover),
                &cutover.baseline,
                &self.settings.limits,
                cutover.plan.min_samples,
                self.trials.smoke(),
            ),
            usual: self.samples.usual(&cutover.from),
            gates,
            triggers,
        };
        Some(())
    }

    /// A share must have been seen at work before it grows by itself: by users' requests, or by smoke requests.
    fn share_gate(&self, cutover: &Cutover) -> Option<Gate> {
        if cutover.phase != Phase::Shifting {
            return None;
        }
        let (had, wanted) = (self.samples.in_share(cutover), cutover.plan.min_samples);
        let shown = had >= wanted || self.trials.smoke() == Some(Verdict::Pass);
        let verdict = if shown { Verdict::Pass } else { Verdict::Inconclusive };
        Some(Gate::new(
            SAMPLES,
            verdict,
            format!("{had} of {wanted} requests in this share"),
        ))
    }

    /// Reasons to go back.
    fn triggers(&self, cutover: &Cutover, new: &Pool, version: Option<Gate>, alarm: Option<Gate>) -> Vec<Gate> {
        let limits = &self.settings.limits;
        let fewest = new.iter().min_by_key(|pool| fit(pool));
        let healthy = fewest.map(|pool| triggers::healthy(fit(pool), pool.len(), limits));
        // An endpoint that names no version for a moment is no reason.
        let version = version.filter(|version| version.verdict != Verdict::Inconclusive);
        let watch = self.samples.watch(cutover);
        let traffic = watch.judge(&cutover.baseline, limits, cutover.plan.min_samples);
        let all = healthy.into_iter().chain(version).chain(traffic);
        all.chain(self.trials.triggers()).chain(alarm).collect()
    }

    /// Has smoke requests and hooks asked, where that is of use. Nobody waits for the answers here: an order may come first.
    fn ask(&mut self, cutover: &Cutover, new: &Pool) {
        self.trials.enter(cutover.stage());
        let scene = self.scene_of(cutover, new);
        let (settings, tools) = (self.settings.clone(), self.tools.clone());
        let entered = cutover.entered;
        let is_wanted = !self.trials.gates(&settings, cutover.phase).is_empty();
        // The flip is decided by what is asked now, not by what was answered before.
        let flips = cutover.phase == Phase::Ready && cutover.plan.auto;
        self.asks = flips && is_wanted && self.trials.began().is_none_or(|began| began < entered);
        let verifies = cutover.phase == Phase::Verifying && health(new, cutover.plan.rise).verdict == Verdict::Pass;
        if self.asks {
            self.trials.afresh(entered, &scene, &settings, &tools);
        } else if verifies || cutover.phase.is_watched() {
            self.trials.poll(&scene, &settings, &tools);
        }
    }

    /// Whom smoke requests and hooks are about at present; none without a cutover.
    pub(super) async fn scene(&self) -> Option<Scene> {
        let cutover = self.record.cutover.as_ref()?;
        let (new, _) = self.pools(&cutover.from, &cutover.to, cutover.started).await?;
        Some(self.scene_of(cutover, &new))
    }

    fn scene_of(&self, cutover: &Cutover, new: &Pool) -> Scene {
        let pairs = self.deployment.upstreams.iter().zip(new);
        let endpoints = pairs.flat_map(|(upstream, pool)| {
            let addresses = pool.iter().map(|looked| looked.address.clone());
            addresses.map(|address| (upstream.clone(), address))
        });
        Scene {
            name: self.deployment.name.clone(),
            cutover: cutover.clone(),
            endpoints: endpoints.collect(),
            is_cold: self.trials.are_cold(),
        }
    }

    async fn pools(&self, from: &PoolName, to: &PoolName, since: Instant) -> Option<(Pool, Pool)> {
        let names = &self.deployment.upstreams;
        let of = |pool: &PoolName| {
            names
                .iter()
                .map(|upstream| (upstream.clone(), pool.clone()))
                .collect::<Vec<_>>()
        };
        let asked: Vec<(UpstreamName, PoolName)> = of(to).into_iter().chain(of(from)).collect();
        let mut looked = self.tools.mailbox.look(asked, since).await?;
        let old = looked.split_off(names.len().min(looked.len()));
        Some((looked, old))
    }

    /// Counts what each pool serves. Tells whether that has changed.
    pub(super) fn note_in_flight(&mut self) -> bool {
        let roster = self.tools.roster.borrow().clone();
        let pools = self.members(&roster).flat_map(|upstream| &upstream.settings.pools);
        let mut counts: BTreeMap<PoolName, u32> = pools.map(|pool| (pool.name.clone(), 0)).collect();
        for endpoint in roster.endpoints.iter() {
            if self.deployment.upstreams.contains(&endpoint.id.upstream) {
                *counts.entry(endpoint.id.pool.clone()).or_default() += endpoint.in_flight.get();
            }
        }
        // Streams of endpoints that have left their pool meanwhile are known as streams alone.
        for (pool, count) in &mut counts {
            let streams = self.members(&roster).map(|upstream| upstream.flow.streams.count(pool));
            *count = (*count).max(u32::try_from(streams.sum::<usize>()).unwrap_or(u32::MAX));
        }
        let changed = counts != self.in_flight;
        self.in_flight = counts;
        changed
    }

    /// Counts what each pool has done so far.
    pub(super) fn sample(&mut self) {
        let roster = self.tools.roster.borrow().clone();
        let mut sums: BTreeMap<PoolName, Tally> = BTreeMap::new();
        for endpoint in roster.endpoints.iter() {
            if self.deployment.upstreams.contains(&endpoint.id.upstream) {
                let sum = sums.entry(endpoint.id.pool.clone()).or_default();
                *sum = sum.and(&endpoint.sums.read());
            }
        }
        let (window, now) = (self.settings.limits.window, self.tools.clock.now());
        self.samples.note(&sums, &self.record, window, now);
    }

    /// Whether a stream of a pool had a byte a moment ago.
    fn is_alive(&self, pool: &PoolName) -> bool {
        let roster = self.tools.roster.borrow().clone();
        let mut members = self.members(&roster);
        members.any(|upstream| upstream.flow.streams.alive_within(pool, ALIVE))
    }

    /// Ends what the old pool still serves.
    pub(super) fn sever(&self) {
        let Some(cutover) = &self.record.cutover else { return };
        let roster = self.tools.roster.borrow().clone();
        let mut all = Severed::default();
        for upstream in &self.deployment.upstreams {
            let told = roster.sever(upstream, &cutover.from);
            all.streams += told.streams;
            all.requests += told.requests;
        }
        let (name, pool) = (self.deployment.name.as_str(), &cutover.from);
        warn!(name, %pool, streams = all.streams, requests = all.requests, "the drain is over: what is left is cut");
    }

    pub(super) fn members<'a>(&'a self, roster: &'a Roster) -> impl Iterator<Item = &'a Arc<Upstream>> {
        let names = &self.deployment.upstreams;
        roster
            .upstreams
            .iter()
            .filter(|upstream| names.contains(&upstream.settings.name))
    }
}

fn fit(pool: &[Looked]) -> usize {
    pool.iter().filter(|looked| looked.seen.fit).count()
}

/// Every endpoint of every upstream that moves; one without any fails.
fn health(new: &Pool, rise: u32) -> Gate {
    let each = new.iter().map(|pool| {
        let seen: Vec<EndpointSeen> = pool.iter().map(|looked| looked.seen.clone()).collect();
        gates::health(&seen, rise)
    });
    let worst = each.max_by_key(|gate| gate.verdict);
    worst.unwrap_or_else(|| gates::health(&[], rise))
}
