//! What is done at the side for as long as the gate runs, for whoever is watched by then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::acme::{Issuer, Wanted};

use crate::clock::{Clock, Coarse, TICK};
use crate::driver::Handle;
use crate::edge::Listener;
use crate::gate::keeper::Slot;
use crate::gate::names::UpstreamName;
use crate::upstream::Endpoint;
use crate::upstream::settings::LiveSettings;
use crate::warden::Warden;

use super::Parts;
use super::handover::happened;

/// Watches over the endpoints of upstreams that say how, whoever they are by now.
pub(super) fn wardens(parts: &Parts) -> impl Future<Output = ()> + use<> {
    let warden = Warden::new(
        parts.handle.mailbox.clone(),
        parts.authorities.clone(),
        parts.metrics.clone(),
        parts.clock,
    );
    watch(parts.handle.clone(), warden)
}

async fn watch(mut handle: Handle, one: Warden) {
    let mut upstreams: HashMap<UpstreamName, Warden> = HashMap::new();
    let mut watches: HashMap<Slot, (Arc<LiveSettings>, JoinHandle<()>)> = HashMap::new();
    loop {
        let roster = handle.roster.borrow_and_update().clone();
        let mut before = std::mem::take(&mut watches);
        for upstream in roster.upstreams.iter() {
            let settings = &upstream.settings;
            let Some(live) = &settings.live else { continue };
            let warden = upstreams.entry(settings.name.clone());
            let warden = warden.or_insert_with(|| one.another());
            for endpoint in roster
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.id.upstream == settings.name)
            {
                let old = before.remove(&endpoint.slot);
                let same = old.filter(|(settings, watch)| {
                    Arc::ptr_eq(settings, live) || {
                        watch.abort();
                        false
                    }
                });
                let start = || {
                    (
                        live.clone(),
                        tokio::spawn(warden.clone().watch(endpoint.clone(), live.clone())),
                    )
                };
                watches.insert(endpoint.slot, same.unwrap_or_else(start));
            }
        }
        before.into_values().for_each(|(_, watch)| watch.abort());
        if handle.roster.changed().await.is_err() {
            return;
        }
    }
}

/// Gets the certificates that listeners want, each once, until another process does.
pub(super) fn issuers(
    listeners: &[Listener],
    parts: &Parts,
    handed_over: watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<> {
    let issuer = Issuer {
        challenges: parts.challenges.clone(),
        authorities: parts.authorities.clone(),
        metrics: parts.metrics.clone(),
    };
    let settings = listeners.iter().map(|listener| &listener.door().settings);
    let wanted = settings.filter_map(|listener| listener.tls.as_ref()?.acme.clone());
    let mut all: Vec<Arc<Wanted>> = wanted.collect();
    all.sort_by_key(|wanted| wanted.file());
    all.dedup();
    async move {
        let mut issuers: JoinSet<()> = all.into_iter().map(|wanted| issuer.clone().keep(wanted)).collect();
        tokio::select! {
            // None ends by itself.
            Some(_) = issuers.join_next() => {}
            () = happened(handed_over) => {}
        }
    }
}

/// Moves the coarse clock, ends lines on which something is overdue, and closes connections that nobody has used for long. Endpoints that have
/// left the configuration count until their last stream has ended.
pub(super) async fn lines(mut handle: Handle, clock: Clock) {
    let mut ticks = tokio::time::interval(TICK);
    let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
    loop {
        ticks.tick().await;
        Coarse::get().tick(&clock);
        if endpoints.is_empty() || handle.roster.has_changed().unwrap_or(false) {
            let roster = handle.roster.borrow_and_update().clone();
            let slots: HashSet<Slot> = roster.endpoints.iter().map(|endpoint| endpoint.slot).collect();
            endpoints.retain(|endpoint| !slots.contains(&endpoint.slot) && endpoint.in_flight.get() > 0);
            endpoints.extend(roster.endpoints.iter().cloned());
        }
        let now = Coarse::get().millis();
        for endpoint in &endpoints {
            endpoint.lines.end_overdue(now);
            endpoint.idle.close_old();
        }
    }
}
