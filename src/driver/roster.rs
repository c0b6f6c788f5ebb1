//! Whom the driver watches. A new list keeps what lives of the old one: endpoints with their streams and counters, upstreams with their queues.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::info;

use super::fullness::Left;
use super::world::{Due, Serving};
use super::{Driver, Watched};
use crate::gate::keeper::{EndpointPlan, Slot};
use crate::gate::names::{Address, EndpointId, PoolName, UpstreamName};
use crate::gate::rhythm::Rhythm;
use crate::gate::state::State;
use crate::metrics::ProbeCounts;
use crate::probe::Kept;
use crate::upstream::settings::UpstreamSettings;
use crate::upstream::{Endpoint, Roster, Upstream};

impl Driver {
    /// Takes a new list of upstreams for the old one.
    pub(super) fn reconcile(&mut self, settings: Vec<UpstreamSettings>) {
        let now = self.clock.now();
        let old = std::mem::take(&mut self.serving).into_iter();
        let mut old: HashMap<UpstreamName, Serving> = old
            .map(|serving| (serving.upstream.settings.name.clone(), serving))
            .collect();
        for settings in settings {
            let before = old.remove(&settings.name);
            let upstream = match &before {
                Some(before) => before.upstream.renewed(settings),
                None => Upstream::new(settings, &self.metrics),
            };
            self.serving.push(Serving::of(Arc::new(upstream), before, now));
        }
        let plans = self.serving.iter().flat_map(|serving| plans(&serving.upstream));
        let list = self.keeper.reconcile(plans.collect(), now);
        self.seat(list.into_iter());
        self.recollect();
        self.publish(Due::Unchanged);
        let endpoints = self.keeper.all().filter_map(|(slot, _)| self.endpoints.get(slot));
        let endpoints = endpoints.map(|watched| watched.endpoint.clone()).collect();
        let upstreams = self.serving.iter().map(|serving| serving.upstream.clone()).collect();
        let roster = Roster::after(&self.roster.borrow(), upstreams, endpoints);
        self.roster.send_replace(roster);
    }

    /// Gives every slot its endpoint, and parts with those that have none any more.
    fn seat(&mut self, mut slots: impl Iterator<Item = Slot>) {
        let mut before = std::mem::take(&mut self.endpoints);
        let mut serving = std::mem::take(&mut self.serving);
        for (index, serving) in serving.iter_mut().enumerate() {
            let upstream = serving.upstream.clone();
            for pool in &upstream.settings.pools {
                let members: Vec<Slot> = slots.by_ref().take(pool.endpoints.len()).collect();
                for (place, (slot, settings)) in members.iter().zip(&pool.endpoints).enumerate() {
                    let watched = match before.remove(*slot) {
                        Some(old) => old,
                        None => self.meet(*slot, &upstream, &pool.name, &settings.address),
                    };
                    let watched = Watched {
                        upstream: index,
                        place,
                        weight: settings.weight,
                        probes: settings.probes.clone(),
                        kept: settings.probes.iter().map(|_| Kept::default()).collect(),
                        ..watched
                    };
                    self.endpoints.insert(*slot, watched);
                }
                serving.seat(pool, members);
            }
        }
        self.serving = serving;
        let gone: Vec<EndpointId> = before.iter().map(|(_, gone)| gone.endpoint.id.clone()).collect();
        for id in &gone {
            info!(endpoint = %id, "endpoint is not watched any more");
        }
        self.metrics.forget(&gone);
    }

    /// An endpoint that is new.
    fn meet(&self, slot: Slot, upstream: &Upstream, pool: &PoolName, address: &Address) -> Watched {
        let id = EndpointId {
            upstream: upstream.settings.name.clone(),
            pool: pool.clone(),
            address: address.clone(),
        };
        self.set_gauges(&id, State::Unknown);
        Watched {
            counts: ProbeCounts::of(&self.metrics, &id),
            endpoint: Arc::new(Endpoint::new(id, slot, upstream.flow.queue.clone(), &self.metrics)),
            probes: Arc::default(),
            kept: Arc::default(),
            weight: 1,
            upstream: 0,
            place: 0,
            answered: 0,
            rhythm: Rhythm::default(),
            left: Left::default(),
            beats: [0; 2],
        }
    }
}

/// What the keeper is to know of an upstream's endpoints, pool by pool.
fn plans(upstream: &Upstream) -> impl Iterator<Item = EndpointPlan> {
    let settings = &upstream.settings;
    settings.pools.iter().flat_map(move |pool| {
        pool.endpoints.iter().map(move |endpoint| EndpointPlan {
            id: EndpointId {
                upstream: settings.name.clone(),
                pool: pool.name.clone(),
                address: endpoint.address.clone(),
            },
            probes: endpoint.probes.iter().map(|spec| spec.plan.clone()).collect(),
            terms: settings.terms.clone(),
        })
    })
}
