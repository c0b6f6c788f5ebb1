//! The world as one request sees it: who may serve, at one moment. The driver publishes, requests read, nobody changes.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::gate::selection::{self, Load};
use crate::upstream::{Endpoint, Upstream};

/// An endpoint that may serve, and where it was last found fit.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The socket address that passed its last probe.
    pub socket: SocketAddr,
}

/// The endpoints of one upstream's active pool that may serve.
#[derive(Clone, Debug, Default)]
pub struct Routable(pub Box<[Candidate]>);

impl Routable {
    /// Chooses one that is not among those `tried`.
    pub fn pick(&self, upstream: &Upstream, random: u64, tried: &[Arc<Endpoint>]) -> Option<&Candidate> {
        let ticket = match upstream.settings.balance {
            selection::Balance::LeastRequest => random,
            selection::Balance::RoundRobin => upstream.next_turn(),
        };
        let at = |index: usize| self.0.get(index);
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
        let was_tried = |index| {
            !tried.is_empty()
                && at(index).is_none_or(|candidate| tried.iter().any(|t| Arc::ptr_eq(t, &candidate.endpoint)))
        };
        at(selection::pick(
            upstream.settings.balance,
            self.0.len(),
            ticket,
            load,
            was_tried,
        )?)
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
