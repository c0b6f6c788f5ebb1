//! Endpoints that are found rather than written down: by DNS, or in a file. A finder for each pool that says so looks again and again and
//! tells whom it has found; who decides what that means is elsewhere.
//!
//! **Invariant.** What cannot be looked up changes nothing: the last list that was found stays, or the part of it that cannot be looked up. A name
//! service that is down is no reason to take anybody out of rotation.

mod dns;
mod file;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::gate::names::{Address, PoolName, UpstreamName};
use crate::metrics::Metrics;
use crate::upstream::Roster;
use crate::upstream::settings::{Discovery, EndpointSettings, UpstreamSettings};

/// A pool, by its upstream's name and its own.
pub type PoolId = (UpstreamName, PoolName);

/// Who was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Where it listens.
    pub address: Address,
    /// Its share relative to its neighbours; at least 1.
    pub weight: u32,
}

/// What one look came to: who is there, and how long that may be believed.
struct Look {
    found: Vec<Found>,
    lasts: Duration,
    /// Why a part of what was found is what an earlier look found.
    stale: Option<String>,
}

/// It is never looked more often than this, whatever a name's time to live says or how many connections are refused.
const LEAST: Duration = Duration::from_secs(1);
/// Of failures in a row one of so many is logged: one a minute, where a name service is asked each second.
const LOGGED: u32 = 60;

/// The finders of all pools that have one, and what they have found.
#[derive(Debug)]
pub struct Finders {
    tasks: HashMap<PoolId, (Discovery, JoinHandle<()>)>,
    found: HashMap<PoolId, Vec<Found>>,
    /// Whether there was a first answer, or a failure, from every finder.
    heard: watch::Sender<bool>,
    sender: mpsc::UnboundedSender<(PoolId, Option<Vec<Found>>)>,
    receiver: mpsc::UnboundedReceiver<(PoolId, Option<Vec<Found>>)>,
    unheard: Vec<PoolId>,
    roster: watch::Receiver<Roster>,
    metrics: Metrics,
}

impl Finders {
    /// No finder yet, and what tells when each has been heard.
    pub fn new(roster: watch::Receiver<Roster>, metrics: Metrics) -> (Self, watch::Receiver<bool>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (heard, hearing) = watch::channel(false);
        let finders = Self {
            tasks: HashMap::new(),
            found: HashMap::new(),
            heard,
            sender,
            receiver,
            unheard: Vec::new(),
            roster,
            metrics,
        };
        (finders, hearing)
    }

    /// Looks for whom these upstreams want found. Who is looked for already goes on being looked for.
    pub fn look_for(&mut self, upstreams: &[UpstreamSettings]) {
        let mut before = std::mem::take(&mut self.tasks);
        for upstream in upstreams {
            for pool in &upstream.pools {
                let Some(discovery) = &pool.discovery else { continue };
                let id = (upstream.name.clone(), pool.name.clone());
                let same = before.remove(&id).filter(|(old, task)| {
                    let same = old == discovery;
                    if !same {
                        task.abort();
                    }
                    same
                });
                let task = same.unwrap_or_else(|| {
                    self.unheard.push(id.clone());
                    (discovery.clone(), self.start(id.clone(), discovery.clone()))
                });
                self.tasks.insert(id, task);
            }
        }
        before.values().for_each(|(_, task)| task.abort());
        self.found.retain(|id, _| self.tasks.contains_key(id));
        self.unheard.retain(|id| self.tasks.contains_key(id));
        self.tell_heard();
    }

    fn start(&self, id: PoolId, discovery: Discovery) -> JoinHandle<()> {
        let finder = Finder {
            id,
            sender: self.sender.clone(),
            roster: self.roster.clone(),
            metrics: self.metrics.clone(),
            failed: 0,
        };
        tokio::spawn(finder.run(discovery))
    }

    /// Ready when a finder was heard; tells whether the list of its pool has changed.
    pub async fn changed(&mut self) -> bool {
        let Some((id, found)) = self.receiver.recv().await else {
            return std::future::pending().await;
        };
        self.unheard.retain(|other| *other != id);
        match found {
            Some(found) if self.tasks.contains_key(&id) && self.found.get(&id) != Some(&found) => {
                info!(upstream = %id.0, pool = %id.1, endpoints = found.len(), "other endpoints were found");
                self.found.insert(id, found);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ready once every finder was heard.
    pub async fn all_heard(&mut self) {
        while !self.unheard.is_empty() {
            self.changed().await;
        }
    }

    /// Tells whether each finder was heard, once what it found is in force.
    pub fn tell_heard(&self) {
        self.heard.send_replace(self.unheard.is_empty());
    }

    /// `upstreams` with whom was found in their pools.
    pub fn fill(&self, upstreams: &[UpstreamSettings]) -> Vec<UpstreamSettings> {
        let mut filled = upstreams.to_vec();
        for upstream in &mut filled {
            for pool in &mut upstream.pools {
                let found = self.found.get(&(upstream.name.clone(), pool.name.clone()));
                for Found { address, weight } in found.into_iter().flatten() {
                    // Who is written down as well is as the file says.
                    if pool.endpoints.iter().all(|written| !written.address.matches(address)) {
                        pool.endpoints.push(EndpointSettings {
                            address: address.clone(),
                            weight: *weight,
                            probes: pool.probes.clone(),
                        });
                    }
                }
            }
        }
        filled
    }
}

/// Looks for the endpoints of one pool.
struct Finder {
    id: PoolId,
    sender: mpsc::UnboundedSender<(PoolId, Option<Vec<Found>>)>,
    roster: watch::Receiver<Roster>,
    metrics: Metrics,
    /// Lookups in a row that failed.
    failed: u32,
}

impl Finder {
    async fn run(mut self, discovery: Discovery) {
        match discovery {
            Discovery::Dns(settings) => {
                let mut resolver = dns::Resolving::new(settings);
                loop {
                    let lasts = self.heard(resolver.look().await);
                    self.until_worth_a_look(lasts).await;
                }
            }
            Discovery::File(path) => {
                let mut file = file::Watched::new(path);
                loop {
                    if let Some(looked) = file.look() {
                        self.heard(looked);
                    }
                    tokio::time::sleep(LEAST).await;
                }
            }
        }
    }

    /// Passes on what a look came to, and tells how long it lasts.
    fn heard(&mut self, looked: Result<Look, String>) -> Duration {
        let labels = [self.id.0.as_str(), self.id.1.as_str()];
        let (found, lasts, stale) = match looked {
            Ok(Look { found, lasts, stale }) => {
                let found = distinct(found);
                let count = i64::try_from(found.len()).unwrap_or(i64::MAX);
                self.metrics.discovery_endpoints.with_label_values(&labels).set(count);
                (Some(found), lasts, stale)
            }
            Err(why) => (None, LEAST, Some(why)),
        };
        self.metrics
            .discovery_stale
            .with_label_values(&labels)
            .set(stale.is_some().into());
        if let Some(why) = stale {
            self.metrics.discovery_failures.with_label_values(&labels).inc();
            let kept = if found.is_some() {
                "a part of the last list"
            } else {
                "the last list"
            };
            if self.failed.is_multiple_of(LOGGED) {
                warn!(upstream = %self.id.0, pool = %self.id.1, why, "endpoints cannot be looked up: {kept} stays");
            }
            self.failed = self.failed.wrapping_add(1);
        } else if std::mem::take(&mut self.failed) > 0 {
            info!(upstream = %self.id.0, pool = %self.id.1, "endpoints can be looked up again");
        }
        // Whoever listens has gone with the gate.
        let _ = self.sender.send((self.id.clone(), found));
        lasts
    }

    /// Waits until what was found has lasted, or an endpoint of the pool goes down: it may have moved.
    async fn until_worth_a_look(&self, lasts: Duration) {
        tokio::time::sleep(LEAST).await;
        let upstreams = self.roster.borrow().upstreams.clone();
        let own = upstreams.iter().find(|upstream| upstream.settings.name == self.id.0);
        let down = async {
            match own {
                Some(upstream) => upstream.flow.distress.signalled(&self.id.1).await,
                None => std::future::pending().await,
            }
        };
        // Either way it is looked again.
        let _ = tokio::time::timeout(lasts.saturating_sub(LEAST), down).await;
    }
}

/// `found` in order, each place once.
fn distinct(mut found: Vec<Found>) -> Vec<Found> {
    found.sort();
    let mut places = HashSet::new();
    found.retain(|one| places.insert(one.address.without_dot().into_owned()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_found_once_however_it_is_spelled() {
        let found = [
            "LOCALHOST:80",
            "localhost:080",
            "localhost.:80",
            "[::1]:80",
            "[0:0::1]:80",
        ];
        let found = found.map(|text| Found {
            address: Address::parse(text).unwrap(),
            weight: 1,
        });
        let distinct = distinct(found.to_vec());
        let texts: Vec<&str> = distinct.iter().map(|one| one.address.as_str()).collect();
        assert_eq!(texts, ["[::1]:80", "localhost.:80"]);
    }
}
