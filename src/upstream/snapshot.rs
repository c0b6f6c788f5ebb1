//! An upstream as one request sees it: its pools and who may serve in each, at one moment. The driver publishes, requests read, nobody changes.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::gate::direction::{Direction, Traffic};
use crate::gate::names::PoolName;
use crate::gate::ring::{self, Ring};
use crate::gate::selection::{self, Balance, Load};
use crate::gate::state::Tier;
use crate::upstream::{Endpoint, OnTrial, Upstream};

/// An endpoint that may serve, and where it was last found fit.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Its position in its pool, which is its place on the pool's ring.
    pub place: usize,
    /// Its share relative to its neighbours.
    pub weight: u32,
    /// The socket address that passed its last probe.
    pub socket: SocketAddr,
    /// How good a choice it is.
    pub tier: Tier,
    /// Its share of its weight in percent, less than 100 in its slow start.
    pub share: u32,
    /// Requests under way that it takes at the most, streams included.
    pub cap: u32,
    /// The same by its share, while another endpoint has room.
    pub share_cap: u32,
    /// Whether it was held back and is to be tried with one request.
    pub on_trial: bool,
}

impl Candidate {
    fn is_full(&self) -> bool {
        self.endpoint.in_flight.get() >= self.cap
    }
}

/// An upstream at one moment: its pools, and which of them its requests go to.
#[derive(Clone, Debug)]
pub struct World {
    /// Where requests are to go.
    pub direction: Arc<Direction>,
    /// The pool that serves, which is the active one unless another stands in for it.
    pub main: Side,
    /// Its other pools.
    pub others: Box<[Side]>,
}

/// One pool of an upstream.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its name.
    pub pool: PoolName,
    /// Who may serve in it.
    pub routable: Routable,
}

impl World {
    /// An upstream of which nobody may serve yet.
    pub fn empty(active: PoolName) -> Self {
        Self {
            main: Side {
                pool: active.clone(),
                routable: Routable::default(),
            },
            direction: Arc::new(Direction::to(active)),
            others: Box::default(),
        }
    }

    /// The pool of this name; the one that serves where none is named, or there is none of the name any more.
    pub fn side(&self, pool: Option<&PoolName>) -> &Side {
        let other = pool.and_then(|pool| self.others.iter().find(|side| side.pool == *pool));
        other.unwrap_or(&self.main)
    }

    /// Its pools, the one that serves first.
    pub fn sides(&self) -> impl Iterator<Item = &Side> {
        std::iter::once(&self.main).chain(&self.others)
    }

    /// Whether somebody may serve in a pool other than the one that serves.
    pub fn lives(&self, pool: &PoolName) -> bool {
        let others = self.others.iter().find(|side| side.pool == *pool);
        others.is_some_and(|side| side.routable.all().next().is_some())
    }

    /// Whether requests are sent on.
    pub fn traffic(&self) -> &Traffic {
        &self.direction.traffic
    }
}

/// The endpoints of one pool that may serve.
#[derive(Clone, Debug, Default)]
pub struct Routable {
    /// The best there are, all of them equally fit, in the order of their places.
    pub candidates: Box<[Candidate]>,
    /// Those that are worse and better than nobody: a request that has failed on the best goes there.
    pub reserve: Box<[Candidate]>,
    /// The pool's ring, where keys decide.
    pub ring: Option<Arc<Ring>>,
    /// One line of what is wrong where nobody may serve.
    pub failing: Arc<str>,
    /// The dependencies that all of them lack, so that few requests are sent there.
    pub outage: Option<Arc<str>>,
}

/// What a choice is made by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw {
    /// A random number.
    pub random: u64,
    /// The request's key, where keys decide and it has one.
    pub key: Option<u64>,
    /// The time of the gate's clock in milliseconds.
    pub now: u64,
}

/// What a choice comes to.
#[derive(Clone, Copy, Debug)]
pub enum Picked<'a> {
    /// This one.
    Candidate(&'a Candidate),
    /// There are some, and none has room.
    Full,
    /// There is none.
    Nobody,
}

impl Routable {
    /// An endpoint that is to be tried, if nobody is at it.
    pub fn trial(&self) -> Option<(&Candidate, OnTrial)> {
        let mut trials = self.reserve.iter().filter(|candidate| candidate.on_trial);
        trials.find_map(|candidate| Some((candidate, OnTrial::claim(&candidate.endpoint)?)))
    }

    /// Every endpoint that may serve at all, the best first.
    pub fn all(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().chain(&self.reserve)
    }

    /// Chooses one that is not among those `tried` and has room.
    pub fn pick(&self, upstream: &Upstream, draw: Draw, tried: &[Arc<Endpoint>]) -> Picked<'_> {
        let was_tried = |candidate: &Candidate| {
            !tried.is_empty() && tried.iter().any(|tried| Arc::ptr_eq(tried, &candidate.endpoint))
        };
        let out = |candidate: &Candidate| candidate.is_full() || was_tried(candidate);
        // Where load decides, a share is a part of the weight. Turns and keys do not look at load, so there a share is the chance to be a choice.
        // A key that went home and elsewhere by turns while its home comes back would lose its session again and again.
        let spin = draw.key.unwrap_or(draw.random);
        let (ticket, by_load) = match upstream.settings.balance {
            Balance::RoundRobin => (upstream.flow.next_turn(), false),
            Balance::LeastRequest | Balance::Ewma => (draw.random, true),
            Balance::Hash { .. } => (draw.random, draw.key.is_none()),
        };
        let passed_by = |candidate: &Candidate| {
            let chance = ((spin.rotate_left(candidate.place as u32 * 7) >> 32) * 100) >> 32;
            !by_load && candidate.share < 100 && u64::from(candidate.share) <= chance
        };
        let beyond_share = |candidate: &Candidate| candidate.endpoint.in_flight.get() >= candidate.share_cap;
        let mut chosen = self.choose(upstream, draw, ticket, &|candidate| {
            out(candidate) || beyond_share(candidate) || passed_by(candidate)
        });
        // A share takes nothing from who is the only one with room.
        for is_full in [&beyond_share as &dyn Fn(&Candidate) -> bool, &|_| false] {
            if chosen.is_none() {
                chosen = self.choose(upstream, draw, ticket, &|candidate| {
                    out(candidate) || is_full(candidate)
                });
            }
        }
        // The overflow goes to those whose hands are full or who lack something; to those whose traffic fails goes only what has failed already.
        let takes = |candidate: &Candidate| candidate.tier != Tier::Accused || !tried.is_empty();
        let chosen = chosen.or_else(|| self.reserve.iter().find(|other| takes(other) && !out(other)));
        match chosen {
            Some(candidate) => Picked::Candidate(candidate),
            None if self.candidates.iter().any(|candidate| !was_tried(candidate)) => Picked::Full,
            None => Picked::Nobody,
        }
    }

    fn choose(
        &self,
        upstream: &Upstream,
        draw: Draw,
        ticket: u64,
        out: &dyn Fn(&Candidate) -> bool,
    ) -> Option<&Candidate> {
        let balance = &upstream.settings.balance;
        let at = |index: usize| self.candidates.get(index);
        let is_out = |index| at(index).is_none_or(out);
        if let (Some(ring), Some(key)) = (&self.ring, draw.key) {
            let in_flight = upstream.flow.in_flight.get();
            let bound = balance.bound().map_or(u32::MAX, |percent| {
                ring::bound(percent, in_flight, self.candidates.len())
            });
            let mut met = ring.walk(key).filter_map(|place| self.at_place(place));
            let home = met.find(|candidate| candidate.endpoint.in_flight.get() < bound && !out(candidate));
            if home.is_some() {
                return home;
            }
        }
        let by_time = *balance == Balance::Ewma;
        let by_turns = *balance == Balance::RoundRobin;
        let load = |index| {
            let Some(Candidate {
                endpoint,
                weight,
                share,
                ..
            }) = at(index)
            else {
                return Load {
                    in_flight: u32::MAX,
                    weight: 1,
                    cost: 1.0,
                };
            };
            let in_flight = endpoint.in_flight.get();
            let hush = if in_flight > 0 {
                endpoint.pulse.hush(draw.now)
            } else {
                0
            };
            Load {
                in_flight: in_flight + endpoint.pulse.penalty() + hush,
                weight: if by_turns {
                    *weight
                } else {
                    weight.saturating_mul(*share)
                },
                cost: if by_time { endpoint.pulse.first_byte_ms() } else { 1.0 },
            }
        };
        selection::pick(balance, self.candidates.len(), ticket, load, is_out).and_then(at)
    }

    fn at_place(&self, place: usize) -> Option<&Candidate> {
        let found = self
            .candidates
            .binary_search_by_key(&place, |candidate| candidate.place);
        self.candidates.get(found.ok()?)
    }
}
