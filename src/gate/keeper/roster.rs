//! Who is watched: the endpoints of each pool, as the configuration and discovery name them.
//!
//! **Invariant.** An endpoint that stays keeps all that is known of it, its verdict above all: a new list moves no traffic by itself.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use slotmap::SlotMap;

use super::{
    BTreeMap, BTreeSet, Capacity, Cause, Dependencies, EndpointPlan, Flapping, Health, Keeper, Known, Passive, Pool,
    Slot, Slowness, State, Timer, Track, Window,
};
use crate::gate::names::EndpointId;
use crate::gate::schedule;
use crate::gate::state::Tier;

impl Keeper {
    /// Takes a new list of endpoints for the old one, and returns the slots of its endpoints in its order. Who is not in it any more is
    /// forgotten.
    pub fn reconcile(&mut self, plans: Vec<EndpointPlan>, now: Instant) -> Vec<Slot> {
        let ids = self.known.iter().map(|(slot, known)| (known.id.clone(), slot));
        let mut gone: HashMap<EndpointId, Slot> = ids.collect();
        let before = std::mem::take(&mut self.pools);
        let (mut list, mut joined, mut amended) = (Vec::with_capacity(plans.len()), 0, Vec::new());
        for plan in plans {
            let pool = self.pool_named(&plan.id, &before);
            let slot = match gone.remove(&plan.id) {
                Some(slot) => {
                    self.amend(slot, plan, now);
                    amended.push(slot);
                    slot
                }
                None => {
                    let wave = schedule::WAVE * u32::try_from(joined / schedule::AT_ONCE).unwrap_or(u32::MAX);
                    joined += 1;
                    // In a pool that serves already it is a newcomer, which starts slowly.
                    let newcomer = self.pools.get(pool).is_some_and(|pool| pool.routable > 0);
                    self.admit(plan, newcomer, now, now + wave)
                }
            };
            self.seats.insert(slot, pool);
            if let Some(pool) = self.pools.get_mut(pool) {
                pool.members.push(slot);
            }
            list.push(slot);
        }
        gone.into_values().for_each(|slot| self.forget(slot));
        self.pools.iter_mut().for_each(|pool| pool.count(&self.known));
        for slot in amended {
            if self.known.get(slot).is_some_and(|known| known.verdict() != known.state) {
                self.settle(slot, Cause::Reloaded, now);
            }
        }
        // Those who served may be among those who have gone.
        self.call_reserve(&list, now);
        list
    }

    /// The position of an endpoint's pool, which starts as it was `before` if it was there.
    fn pool_named(&mut self, id: &EndpointId, before: &[Pool]) -> usize {
        let is_named = |pool: &Pool| pool.name.0 == id.upstream && pool.name.1 == id.pool;
        // Endpoints come pool by pool, so it is the last one or a new one.
        if let Some(at) = self.pools.iter().rposition(is_named) {
            return at;
        }
        let old = before.iter().find(|pool| is_named(pool));
        self.pools.push(Pool {
            name: (id.upstream.clone(), id.pool.clone()),
            members: Vec::new(),
            routable: old.map_or(0, |old| old.routable),
            accused: 0,
            turn: old.and_then(|old| old.turn),
        });
        self.pools.len() - 1
    }

    /// Takes in an endpoint, which is asked for the first time at `first`.
    fn admit(&mut self, plan: EndpointPlan, newcomer: bool, now: Instant, first: Instant) -> Slot {
        let clocks = plan.probes.iter().map(|terms| first + terms.initial_delay);
        let clocks: Vec<Instant> = clocks.collect();
        let slot = self.known.insert(Known {
            socket: plan.id.address.literal(),
            id: plan.id,
            state: State::Unknown,
            since: now,
            cause: Cause::NotProbed,
            components: BTreeMap::new(),
            version: None,
            history: VecDeque::new(),
            verdicts: plan.probes.into_iter().map(|terms| (terms, Health::START)).collect(),
            terms: plan.terms,
            shared: BTreeSet::new(),
            dependencies: Dependencies::default(),
            degraded: false,
            passive: Passive::default(),
            busy: false,
            late: None,
            capacity: Capacity::default(),
            ramp: None,
            sheds: None,
            slowness: Slowness::default(),
            overridden: None,
            newcomer,
            window: Window::new(now),
            flapping: Flapping::default(),
            turn: None,
            reserve: false,
        });
        self.tracks.insert(slot, vec![Track::default(); clocks.len()]);
        self.unanswered += clocks.len();
        for (probe, at) in clocks.into_iter().enumerate() {
            self.timers.wind(at, Timer::Due { slot, probe, cycle: 0 });
        }
        slot
    }

    /// Gives an endpoint a new plan. A probe of the same name keeps its verdict; a new one has the verdict of the endpoint until it is answered,
    /// so that adding a probe takes nobody out.
    fn amend(&mut self, slot: Slot, plan: EndpointPlan, now: Instant) {
        let (Some(known), Some(tracks)) = (self.known.get_mut(slot), self.tracks.get_mut(slot)) else {
            return;
        };
        if known.terms != plan.terms {
            if !plan.terms.outlier.eject {
                known.passive.clear(now);
            }
            known.terms = plan.terms;
        }
        if known.verdicts.iter().map(|(old, _)| old).eq(&plan.probes) {
            return;
        }
        let health = if known.state.tier().is_some() {
            Health::Up { fails: 0 }
        } else {
            Health::START
        };
        let old = std::mem::take(&mut known.verdicts);
        let kept = |name: &str| {
            old.iter()
                .find(|(old, _)| &*old.name == name)
                .map(|(_, health)| *health)
        };
        known.verdicts = plan
            .probes
            .into_iter()
            .map(|terms| (terms.clone(), kept(&terms.name).unwrap_or(health)))
            .collect();
        known.dependencies.forget();
        known.late = None;
        // What was wound and asked for the old probes is void.
        let newest = |count: fn(&Track) -> u64| tracks.iter().map(count).max().unwrap_or(0);
        let asked = newest(|track| track.asked);
        let last = Track {
            asked,
            answered: asked,
            cycle: newest(|track| track.cycle) + 1,
            heard: true,
            ..Track::default()
        };
        self.unanswered -= tracks.iter().filter(|track| !track.heard).count();
        *tracks = vec![last; known.verdicts.len()];
        let clocks: Vec<(usize, Instant)> = known
            .verdicts
            .iter()
            .enumerate()
            .map(|(probe, (terms, _))| {
                let within = schedule::phase(&(&known.id, probe), self.seed, terms.interval);
                (probe, now + within - terms.interval / 2)
            })
            .collect();
        for (probe, at) in clocks {
            self.timers.wind(
                at,
                Timer::Due {
                    slot,
                    probe,
                    cycle: last.cycle,
                },
            );
        }
    }

    /// Forgets an endpoint; what is still said of it is said of nobody.
    fn forget(&mut self, slot: Slot) {
        let unheard = self
            .tracks
            .remove(slot)
            .into_iter()
            .flatten()
            .filter(|track| !track.heard)
            .count();
        self.unanswered -= unheard;
        self.seats.remove(slot);
        self.known.remove(slot);
    }
}

impl Pool {
    /// Counts its members anew.
    fn count(&mut self, known: &SlotMap<Slot, Known>) {
        let states = || self.members.iter().filter_map(|slot| Some(known.get(*slot)?.state));
        let (routable, accused) = (
            states().filter(|state| state.is_routable()).count(),
            states().filter(is_accused).count(),
        );
        (self.routable, self.accused) = (routable, accused);
    }
}

fn is_accused(state: &State) -> bool {
    state.tier() == Some(Tier::Accused)
}

/// An endpoint among the others of its pool.
impl Keeper {
    fn pool(&self, slot: Slot) -> Option<&Pool> {
        self.pools.get(*self.seats.get(slot)?)
    }

    /// The endpoints of the pool that an endpoint is in, itself among them.
    pub(super) fn pool_of(&self, slot: Slot) -> &[Slot] {
        self.pool(slot).map_or(&[], |pool| &pool.members)
    }

    /// How many others of its pool are routable.
    pub(super) fn others_routable(&self, slot: Slot) -> usize {
        let own = self.known.get(slot).is_some_and(|known| known.state.is_routable());
        self.pool(slot).map_or(0, |pool| pool.routable - usize::from(own))
    }

    /// How many others of its pool are held back by their traffic.
    pub(super) fn others_accused(&self, slot: Slot) -> usize {
        let own = self.known.get(slot).is_some_and(|known| is_accused(&known.state));
        self.pool(slot).map_or(0, |pool| pool.accused - usize::from(own))
    }

    /// Whether half of the pool of an endpoint serves.
    pub(super) fn most_serve(&self, slot: Slot) -> bool {
        self.pool(slot)
            .is_some_and(|pool| pool.routable * 2 >= pool.members.len())
    }

    /// Keeps a pool's counts right when the state of one of its endpoints changes.
    pub(super) fn tally(&mut self, slot: Slot, from: State, to: State) {
        let pool = self.seats.get(slot).and_then(|pool| self.pools.get_mut(*pool));
        if let Some(pool) = pool {
            pool.routable = pool.routable + usize::from(to.is_routable()) - usize::from(from.is_routable());
            pool.accused = pool.accused + usize::from(is_accused(&to)) - usize::from(is_accused(&from));
        }
    }
}
