//! What is published: for each upstream, who may serve, how much each takes on, and what is wrong where nobody may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::{Driver, Progress, Watched};
use crate::gate::components::Openness;
use crate::gate::keeper::Known;
use crate::gate::names::PoolName;
use crate::gate::ring::Ring;
use crate::gate::selection::Balance;
use crate::gate::state::{State, Tier};
use crate::upstream::Upstream;
use crate::upstream::snapshot::{Candidate, Routable, Snapshot};

/// How an upstream is served at present.
#[derive(Debug)]
pub(super) struct Serving {
    /// The pool that serves.
    pool: PoolName,
    /// Whether requests go to endpoints of which none is fit.
    openness: Openness,
    /// The rings of its pools, where keys decide.
    rings: BTreeMap<PoolName, Arc<Ring>>,
}

impl Serving {
    /// Whether it is to be decided anew how to serve where nobody is fit.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.openness.is_due(now)
    }

    pub(super) fn of(upstream: &Upstream) -> Self {
        let settings = &upstream.settings;
        let by_key = matches!(settings.balance, Balance::Hash(_));
        let rings = settings.pools.iter().filter(|_| by_key).map(|pool| {
            let endpoints = pool.endpoints.iter();
            let ring = Ring::new(endpoints.map(|endpoint| (endpoint.address.as_str(), endpoint.weight)));
            (pool.name.clone(), Arc::new(ring))
        });
        Self {
            pool: settings.active.clone(),
            openness: Openness::default(),
            rings: rings.collect(),
        }
    }
}

impl Driver {
    /// Publishes who may serve from now on.
    pub(super) fn publish(&mut self) {
        let now = self.clock.now();
        let routable: Vec<Routable> = (0..self.upstreams.len())
            .map(|upstream| self.fit(upstream, now))
            .collect();
        let progress = Progress {
            asked_everyone: self.keeper.has_asked_everyone(),
            can_serve: routable.iter().all(|routable| !routable.candidates.is_empty()),
        };
        let failing = (0..self.upstreams.len())
            .map(|upstream| self.failing(upstream).into())
            .collect();
        self.published.store(Arc::new(Snapshot { routable, failing }));
        self.stale = false;
        self.progress.send_replace(progress);
        self.upstreams.iter().for_each(|upstream| upstream.queue.look_again());
    }

    /// The endpoints of a pool of an upstream.
    fn pool<'a>(&'a self, upstream: usize, pool: &'a PoolName) -> impl Iterator<Item = (&'a Watched, &'a Known)> {
        let all = self.endpoints.iter().zip(self.keeper.known());
        all.filter(move |(watched, known)| watched.upstream == upstream && known.id.pool == *pool)
    }

    /// The endpoints of the pool that serves an upstream.
    fn serving(&self, upstream: usize) -> impl Iterator<Item = (&Watched, &Known)> {
        let pool = self.serving.get(upstream).map(|serving| &serving.pool);
        pool.into_iter().flat_map(move |pool| self.pool(upstream, pool))
    }

    /// Those of them that are fit.
    pub(super) fn routable(&self, upstream: usize) -> impl Iterator<Item = (&Watched, &Known)> {
        self.serving(upstream).filter(|(_, known)| known.state.is_routable())
    }

    /// Who serves an upstream: the best of its active pool and the others in reserve, or of the first pool of its fallbacks that has any.
    fn fit(&mut self, upstream: usize, now: Instant) -> Routable {
        self.settle_pool(upstream);
        let best = self.serving(upstream).filter_map(|(_, known)| known.state.tier()).min();
        let ring = self
            .serving
            .get(upstream)
            .and_then(|serving| serving.rings.get(&serving.pool).cloned());
        let Some(best) = best else {
            let candidates = if self.is_open(upstream, now) {
                let asked = self.serving(upstream).filter(|(_, known)| known.state == State::Down);
                asked
                    .filter_map(|(watched, known)| self.candidate(watched, known, true, now))
                    .collect()
            } else {
                Box::default()
            };
            return Routable {
                candidates,
                reserve: Box::default(),
                ring,
            };
        };
        if let Some(serving) = self.serving.get_mut(upstream) {
            serving.openness = Openness::default();
        }
        let all = self
            .serving(upstream)
            .filter_map(|(watched, known)| self.candidate(watched, known, false, now));
        let (candidates, mut reserve): (Vec<_>, Vec<_>) = all.partition(|candidate| candidate.tier == best);
        reserve.sort_by_key(|candidate| candidate.tier);
        Routable {
            candidates: candidates.into(),
            reserve: reserve.into(),
            ring,
        }
    }

    /// An endpoint as requests see it, if it may serve at all, or nobody may and it is `open`.
    fn candidate(&self, watched: &Watched, known: &Known, open: bool, now: Instant) -> Option<Candidate> {
        let tier = known.state.tier().or(open.then_some(Tier::Accused))?;
        let share = known.share(now);
        let most = self.upstreams.get(watched.upstream)?.settings.limits.in_flight;
        let percent = if open { 50 } else { u64::from(share) };
        let scaled = most.map(|most| u32::try_from(u64::from(most) * percent / 100).map_or(most, |cap| cap.max(1)));
        let cap = scaled.into_iter().chain(watched.full).min();
        Some(Candidate {
            endpoint: watched.endpoint.clone(),
            place: watched.place,
            socket: known.socket?,
            tier,
            share,
            cap: cap.unwrap_or(u32::MAX),
            on_trial: known.wants_trial(),
        })
    }

    /// Finds the pool that serves: the active one, or the first fallback with an endpoint that may while the active one has none.
    fn settle_pool(&mut self, upstream: usize) {
        let Some(settings) = self.upstreams.get(upstream).map(|upstream| &upstream.settings) else {
            return;
        };
        let may_serve = |pool: &&PoolName| self.pool(upstream, pool).any(|(_, known)| known.state.tier().is_some());
        let pools = std::iter::once(&settings.active).chain(&settings.fallback);
        let pool = pools.into_iter().find(may_serve).unwrap_or(&settings.active).clone();
        let before = self.serving.get(upstream).map(|serving| &serving.pool);
        if before == Some(&pool) {
            return;
        }
        let (name, active) = (settings.name.as_str(), &settings.active);
        if pool == *active {
            info!(upstream = name, pool = pool.as_str(), "the active pool serves again");
        } else {
            warn!(
                upstream = name,
                pool = pool.as_str(),
                "this pool stands in, for the active one has nobody who may serve"
            );
        }
        for other in &settings.fallback {
            let gauge = self.metrics.fallback_active.with_label_values(&[name, other.as_str()]);
            gauge.set(i64::from(*other == pool));
        }
        if let Some(serving) = self.serving.get_mut(upstream) {
            serving.pool = pool;
        }
    }

    /// Whether requests go to endpoints of which none is fit.
    fn is_open(&mut self, upstream: usize, now: Instant) -> bool {
        let heard = || self.serving(upstream).filter(|(_, known)| known.overridden.is_none());
        if !heard().any(|(_, known)| known.state == State::Down) {
            return false;
        }
        let refuses = heard().any(|(_, known)| known.refuses());
        let Some(rule) = self.upstreams.get(upstream).map(|upstream| upstream.settings.all_down) else {
            return false;
        };
        let serving = self.serving.get_mut(upstream);
        serving.is_some_and(|serving| serving.openness.decide(rule, refuses, now))
    }

    /// What is wrong with the endpoints of an upstream, in one line.
    fn failing(&self, upstream: usize) -> String {
        let mut by_state = BTreeMap::new();
        for (_, known) in self.serving(upstream).filter(|(_, known)| !known.state.is_routable()) {
            *by_state.entry(known.state).or_insert(0) += 1;
        }
        let parts: Vec<String> = by_state
            .iter()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        parts.join(", ")
    }
}
