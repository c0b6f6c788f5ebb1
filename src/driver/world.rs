//! What is published: for each upstream, who may serve, how much each takes on, and what is wrong where nobody may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Driver, Progress, Slot, Watched};
use crate::gate::components::Openness;
use crate::gate::direction::Direction;
use crate::gate::keeper::Known;
use crate::gate::names::{PoolName, UpstreamName};
use crate::gate::ring::Ring;
use crate::gate::selection::Balance;
use crate::gate::state::{State, Tier};
use crate::upstream::Upstream;
use crate::upstream::settings::PoolSettings;
use crate::upstream::snapshot::{Candidate, Routable, Side, World};

/// How an upstream is served at present.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) upstream: Arc<Upstream>,
    /// Its pools, in the order of the configuration.
    pools: Vec<Members>,
    /// Where its requests go.
    direction: Arc<Direction>,
    /// Whether somebody moved it there, so that the configuration's word counts no more.
    moved: bool,
    /// The pool that serves.
    pool: PoolName,
    /// Whether requests go to endpoints of which none is fit.
    openness: Openness,
    /// Whether what is published of it is out of date.
    pub(super) due: Due,
    /// Until when those who served before another configuration go on while nobody that it names may.
    handover: Option<Instant>,
    /// When it may be published next. Of thousands of endpoints that change within a moment not each one is worth the time for all.
    next: Instant,
    /// Endpoints that are to be rescued from once it is published that they are out.
    pub(super) lost: Vec<Slot>,
}

/// So long, at the most.
const HANDOVER: Duration = Duration::from_secs(5);

/// Publishing takes at most one part in so many of the driver's time.
const PARTS: u32 = 5;

/// The endpoints of a pool, and their ring where keys decide.
#[derive(Debug)]
pub(super) struct Members {
    pool: PoolName,
    pub(super) slots: Vec<Slot>,
    ring: Option<Arc<Ring>>,
}

/// How soon an upstream is to be published anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Nothing has changed.
    Unchanged,
    /// At the next beat: a share has grown.
    Soon,
    /// At once.
    Now,
}

impl Serving {
    /// An upstream without its endpoints yet, which goes on as it was served `before`.
    pub(super) fn of(upstream: Arc<Upstream>, mut before: Option<Self>, now: Instant) -> Self {
        let lost = before
            .as_mut()
            .map(|before| std::mem::take(&mut before.lost))
            .unwrap_or_default();
        let served = before.as_ref().filter(|before| before.upstream.can_serve());
        let handover = served.map(|_| now + HANDOVER);
        let settings = &upstream.settings;
        let has = |pool: &PoolName| settings.pools.iter().any(|known| known.name == *pool);
        let directed = before
            .as_ref()
            .filter(|before| before.moved && has(&before.direction.active));
        let moved = directed.is_some();
        let direction = match directed {
            Some(before) => before.direction.clone(),
            None => Arc::new(Direction::to(settings.active.clone())),
        };
        let before = before.filter(|before| before.direction.active == direction.active);
        let (pool, openness) = match before {
            Some(before) => (before.pool, before.openness),
            None => (direction.active.clone(), Openness::default()),
        };
        Self {
            upstream,
            direction,
            moved,
            pools: Vec::new(),
            pool,
            openness,
            due: Due::Now,
            handover,
            next: now,
            lost,
        }
    }

    /// Gives it the endpoints of a pool.
    pub(super) fn seat(&mut self, pool: &PoolSettings, slots: Vec<Slot>) {
        let by_key = matches!(self.upstream.settings.balance, Balance::Hash { .. });
        let ring = by_key.then(|| {
            let endpoints = pool.endpoints.iter();
            Arc::new(Ring::new(
                endpoints.map(|endpoint| (endpoint.address.as_str(), endpoint.weight)),
            ))
        });
        self.pools.push(Members {
            pool: pool.name.clone(),
            slots,
            ring,
        });
    }

    pub(super) fn members(&self, name: &PoolName) -> Option<&Members> {
        self.pools.iter().find(|members| members.pool == *name)
    }
}

impl Driver {
    /// Notes that what is published of an endpoint's upstream is out of date.
    pub(super) fn mark(&mut self, slot: Slot, due: Due) {
        if let Some(serving) = self.serving_of(slot) {
            serving.due = serving.due.max(due);
        }
    }

    /// How the upstream of an endpoint is served.
    pub(super) fn serving_of(&mut self, slot: Slot) -> Option<&mut Serving> {
        self.serving.get_mut(self.endpoints.get(slot)?.upstream)
    }

    /// Publishes who may serve from now on, for every upstream of which that is at least so due.
    pub(super) fn publish(&mut self, least: Due) {
        let now = self.clock.now();
        for upstream in 0..self.serving.len() {
            let Some(serving) = self.serving.get_mut(upstream) else {
                continue;
            };
            let again = least <= Due::Soon && serving.openness.is_due(now);
            if least != Due::Unchanged && (serving.next > now || serving.due < least && !again) {
                continue;
            }
            serving.due = Due::Unchanged;
            let flow = serving.upstream.flow.clone();
            let world = self.world(upstream, now);
            if !self.is_handed_over(upstream, &world.main.routable, now) {
                continue;
            }
            flow.world.store(Arc::new(world));
            flow.queue.look_again();
            let lost = self
                .serving
                .get_mut(upstream)
                .map(|serving| std::mem::take(&mut serving.lost));
            lost.into_iter().flatten().for_each(|slot| self.rescue(slot));
            let done = self.clock.now();
            if let Some(serving) = self.serving.get_mut(upstream) {
                serving.next = done + (done - now) * (PARTS - 1);
            }
        }
        let progress = Progress {
            asked_everyone: self.keeper.has_asked_everyone(),
            can_serve: self.serving.iter().all(|serving| serving.upstream.can_serve()),
        };
        self.progress
            .send_if_modified(|before| std::mem::replace(before, progress) != progress);
    }

    /// Sends requests of these upstreams elsewhere, of all of them before the next one is handled.
    pub fn direct(&mut self, directions: Vec<(UpstreamName, Direction)>) {
        let now = self.clock.now();
        for (name, direction) in directions {
            let found = self
                .serving
                .iter_mut()
                .enumerate()
                .find(|(_, serving)| serving.upstream.settings.name == name);
            let Some((upstream, serving)) = found else {
                continue;
            };
            if serving.members(&direction.active).is_none() {
                warn!(upstream = %name, pool = %direction.active, "there is no such pool, so nothing is sent there");
                continue;
            }
            let flow = serving.upstream.flow.clone();
            serving.pool = direction.active.clone();
            (serving.direction, serving.moved) = (Arc::new(direction), true);
            serving.handover = None;
            let world = self.world(upstream, now);
            flow.world.store(Arc::new(world));
            flow.queue.look_again();
            flow.resumed.notify_waiters();
        }
    }

    /// When what is due is to be published, if anything is.
    pub(super) fn next_publication(&self) -> Option<Instant> {
        let due = self.serving.iter().filter(|serving| serving.due == Due::Now);
        due.map(|serving| serving.next).min()
    }

    /// Whether what is to be published may take the place of what served before another configuration: not at once while nobody in it may serve.
    fn is_handed_over(&mut self, upstream: usize, fit: &Routable, now: Instant) -> bool {
        let Some(serving) = self.serving.get_mut(upstream) else {
            return true;
        };
        let waits = serving.handover.is_some_and(|until| now < until) && fit.candidates.is_empty();
        if waits {
            serving.due = Due::Soon;
        } else {
            serving.handover = None;
        }
        !waits
    }

    /// What waits on an endpoint is to go elsewhere as soon as it is published that the endpoint is out, so that nothing is sent there again.
    pub(super) fn lose(&mut self, slot: Slot) {
        let pool = self.endpoints.get(slot).map(|watched| watched.endpoint.id.pool.clone());
        if let (Some(serving), Some(pool)) = (self.serving_of(slot), pool) {
            serving.lost.push(slot);
            serving.upstream.flow.distress.signal(&pool);
        }
    }

    /// The endpoints of a pool of an upstream.
    pub(super) fn pool<'a>(
        &'a self,
        upstream: usize,
        pool: &PoolName,
    ) -> impl Iterator<Item = (&'a Watched, &'a Known)> {
        let members = self.serving.get(upstream).and_then(|serving| serving.members(pool));
        let slots = members.into_iter().flat_map(|members| &members.slots);
        slots.filter_map(|slot| Some((self.endpoints.get(*slot)?, self.keeper.get(*slot)?)))
    }

    /// The endpoints of the pool that serves an upstream.
    pub(super) fn serving(&self, upstream: usize) -> impl Iterator<Item = (&Watched, &Known)> {
        let pool = self.serving.get(upstream).map(|serving| &serving.pool);
        pool.into_iter().flat_map(move |pool| self.pool(upstream, pool))
    }

    /// The endpoints of a pool that are fit.
    pub(super) fn routable<'a>(
        &'a self,
        upstream: usize,
        pool: &PoolName,
    ) -> impl Iterator<Item = (&'a Watched, &'a Known)> {
        self.pool(upstream, pool).filter(|(_, known)| known.state.is_routable())
    }

    /// An upstream as requests are to see it.
    fn world(&mut self, upstream: usize, now: Instant) -> World {
        self.settle_pool(upstream, now);
        let names = self.serving.get(upstream).map(|serving| {
            let pools = serving.pools.iter().map(|members| members.pool.clone());
            (
                serving.direction.clone(),
                serving.pool.clone(),
                pools.collect::<Vec<_>>(),
            )
        });
        let (direction, main, pools) = names.unwrap_or_else(|| {
            let nobody = PoolName::new("");
            (Arc::new(Direction::to(nobody.clone())), nobody, Vec::new())
        });
        let mut sides = pools.into_iter().filter(|pool| *pool != main).map(|pool| Side {
            routable: self.fit(upstream, &pool, false, now),
            pool,
        });
        World {
            direction,
            others: sides.by_ref().collect(),
            main: Side {
                routable: self.fit(upstream, &main, true, now),
                pool: main,
            },
        }
    }

    /// Who serves in a pool: the best of it and the others in reserve. Where none is fit and it is the pool that `serves`, it may be open.
    fn fit(&mut self, upstream: usize, pool: &PoolName, serves: bool, now: Instant) -> Routable {
        let (all, outage) = self.able(upstream, pool, now);
        let best = all.iter().map(|candidate| candidate.tier).min();
        let serving = self.serving.get(upstream);
        let ring = serving.and_then(|serving| serving.members(pool)?.ring.clone());
        let Some(best) = best else {
            let is_open = serves && self.is_open(upstream, now);
            let candidates = if is_open {
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
                failing: self.failing(upstream, pool, now).into(),
                outage: self.outage(upstream, pool, now).filter(|_| is_open),
            };
        };
        if let Some(serving) = self.serving.get_mut(upstream).filter(|_| serves) {
            serving.openness = Openness::default();
        }
        let (candidates, mut reserve): (Vec<_>, Vec<_>) = all.into_iter().partition(|candidate| candidate.tier == best);
        reserve.sort_by_key(|candidate| candidate.tier);
        Routable {
            candidates: candidates.into(),
            reserve: reserve.into(),
            ring,
            failing: Arc::default(),
            outage,
        }
    }

    /// An endpoint as requests see it, if it may serve at all, or nobody may and it is `open`.
    pub(super) fn candidate(&self, watched: &Watched, known: &Known, open: bool, now: Instant) -> Option<Candidate> {
        let tier = known.tier().or(open.then_some(Tier::Accused))?;
        let share = known.share(now);
        let most = self.serving.get(watched.upstream)?.upstream.settings.limits.in_flight;
        let part = |percent: u32| {
            let scaled = |most: u32| u64::from(most) * u64::from(percent) / 100;
            let most = most.map(|most| u32::try_from(scaled(most)).map_or(most, |cap| cap.max(1)));
            most.into_iter().chain(known.capacity.limit()).min().unwrap_or(u32::MAX)
        };
        Some(Candidate {
            endpoint: watched.endpoint.clone(),
            place: watched.place,
            weight: watched.weight,
            socket: known.socket?,
            tier,
            share,
            cap: part(if open { 50 } else { 100 }),
            share_cap: part(if open { 50 } else { share }),
            on_trial: known.wants_trial(),
        })
    }

    /// Finds the pool that serves: the active one, or the first fallback with an endpoint that may while the active one has none. An endpoint that lacks
    /// a dependency which its pool shares comes last.
    fn settle_pool(&mut self, upstream: usize, now: Instant) {
        let Some(serving) = self.serving.get(upstream) else {
            return;
        };
        let (settings, active) = (&serving.upstream.settings, &serving.direction.active);
        let may_serve = |pool: &&PoolName| self.pool(upstream, pool).any(|(_, known)| known.tier().is_some());
        let lacks = |(_, known): (_, &Known)| known.tier().is_none() || known.lacks_shared(now);
        let is_able = |pool: &&PoolName| !self.pool(upstream, pool).all(lacks);
        let pools = || std::iter::once(active).chain(&settings.fallback);
        let pool = pools().find(is_able).or_else(|| pools().find(may_serve));
        let pool = pool.unwrap_or(active).clone();
        if serving.pool == pool {
            return;
        }
        let name = settings.name.as_str();
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
        let serving = self.serving.get_mut(upstream);
        serving.is_some_and(|serving| {
            let rule = serving.upstream.settings.all_down;
            serving.openness.decide(rule, refuses, now)
        })
    }

    /// What is wrong with the endpoints of a pool, in one line.
    fn failing(&self, upstream: usize, pool: &PoolName, now: Instant) -> String {
        let mut by_state = BTreeMap::new();
        for (_, known) in self
            .pool(upstream, pool)
            .filter(|(_, known)| !known.state.is_routable())
        {
            *by_state.entry(known.state).or_insert(0) += 1;
        }
        let parts = by_state.iter().map(|(state, count)| format!("{count} {state}"));
        let lacked = self.lacked(upstream, pool, now);
        let lacked = (!lacked.is_empty()).then(|| format!("failed: {lacked}"));
        parts.chain(lacked).collect::<Vec<_>>().join(", ")
    }
}
