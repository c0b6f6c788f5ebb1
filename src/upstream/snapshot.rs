//! The world as one request sees it: who may serve, at one moment. The driver publishes, requests read, nobody changes.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::gate::selection::{self, Load};
use crate::upstream::{Endpoint, OnTrial, Upstream};

/// An endpoint that may serve, and where it was last found fit.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The socket address that passed its last probe.
    pub socket: SocketAddr,
    /// Of so many requests in a hundred it is a choice; the others pass it by while it is in its slow start.
    pub share: u32,
    /// Whether it was held back and is to be tried with one request.
    pub on_trial: bool,
}

/// The endpoints of one upstream's active pool that may serve.
#[derive(Clone, Debug, Default)]
pub struct Routable {
    /// The best there are, all of them equally fit.
    pub candidates: Box<[Candidate]>,
    /// Those that are worse and better than nobody: a request that has failed on the best goes there.
    pub reserve: Box<[Candidate]>,
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

    /// Chooses one that is not among those `tried`.
    pub fn pick(&self, upstream: &Upstream, random: u64, tried: &[Arc<Endpoint>]) -> Option<&Candidate> {
        let ticket = match upstream.settings.balance {
            selection::Balance::LeastRequest => random,
            selection::Balance::RoundRobin => upstream.next_turn(),
        };
        let at = |index: usize| self.candidates.get(index);
        let load = |index| {
            at(index).map_or(
                Load {
                    in_flight: u32::MAX,
                    weight: 1,
                },
                |candidate| Load {
                    in_flight: candidate.endpoint.in_flight.get(),
                    weight: candidate.endpoint.weight,
                },
            )
        };
        let is_tried = |candidate: &Candidate| tried.iter().any(|tried| Arc::ptr_eq(tried, &candidate.endpoint));
        let was_tried = |index| !tried.is_empty() && at(index).is_none_or(is_tried);
        // A share works on the choice rather than on the weight, since among idle endpoints the least weight would never be chosen.
        let passed_by = |index: usize| {
            at(index).is_some_and(|candidate| {
                let chance = ((random.rotate_left(index as u32 * 7) >> 32) * 100) >> 32;
                candidate.share < 100 && u64::from(candidate.share) <= chance
            })
        };
        let choose = |out: &dyn Fn(usize) -> bool| {
            selection::pick(upstream.settings.balance, self.candidates.len(), ticket, load, out)
        };
        let chosen = choose(&|index| was_tried(index) || passed_by(index)).or_else(|| choose(&was_tried));
        chosen.map_or_else(|| self.reserve.iter().find(|candidate| !is_tried(candidate)), at)
    }
}

/// Who may serve, by the position of the upstream in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// One entry an upstream.
    pub routable: Vec<Routable>,
    /// For each upstream, one line of what is wrong when nothing may serve.
    pub failing: Vec<Arc<str>>,
}

/// Where the current snapshot stands.
pub type Published = Arc<ArcSwap<Snapshot>>;
