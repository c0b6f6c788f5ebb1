//! Carries cutovers out, one task a name: looks at the pools, lets the machine of [`crate::gate::cutover`] decide, keeps what it decides, and only then
//! has the driver direct requests.
//!
//! **Invariant.** No step is taken before its record is kept. What cannot be kept is not done, and traffic stays where it is.

mod alerts;
#[cfg(test)]
mod histories;
mod keeping;
mod mover;
mod orders;
mod remembering;
mod samples;
mod seeing;
mod telling;
mod trials;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::error;

pub use keeping::{Archive, Unreadable};
use mover::{Mover, News};

use crate::clock::Clock;
use crate::cutover::{CutoverSettings, DeploymentSettings, Done, Order, Question, Rules, Standings, Unmoved};
use crate::gate::direction::Direction;
use crate::gate::names::UpstreamName;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::probe::Prober;
use crate::tls::Authorities;
use crate::upstream::Roster;

/// What all of them work with.
#[derive(Clone)]
pub struct Tools {
    /// The way to the driver.
    pub mailbox: Mailbox,
    /// Who is watched.
    pub roster: watch::Receiver<Roster>,
    /// Where records are kept, if anywhere.
    pub archive: Option<Archive>,
    /// Asks smoke requests.
    pub prober: Arc<Prober>,
    /// Whom hooks must be vouched for by.
    pub authorities: Arc<Authorities>,
    /// Where steps are counted.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
    /// Whether another process is about to take over.
    pub handing_over: Arc<AtomicBool>,
    /// Where standings are told.
    pub standings: Arc<watch::Sender<Standings>>,
}

/// Where requests go by what was kept, before anything is asked or answered.
///
/// # Errors
/// Something was kept that cannot be read.
pub fn kept(
    archive: &Archive,
    deployments: &[DeploymentSettings],
) -> Result<Vec<(UpstreamName, Direction)>, Unreadable> {
    let mut directions = Vec::new();
    for deployment in deployments {
        if let Some(record) = archive.load(&deployment.name)? {
            let direction = record.direction(&deployment.name);
            let moves = deployment.upstreams.iter();
            directions.extend(moves.map(|upstream| (upstream.clone(), direction.clone())));
        }
    }
    Ok(directions)
}

/// See the module's own words.
pub struct Conductor {
    tools: Tools,
    rules: watch::Receiver<Rules>,
    questions: mpsc::Receiver<Question>,
    movers: BTreeMap<String, Seat>,
    tasks: JoinSet<()>,
}

/// A name's own task.
struct Seat {
    news: mpsc::Sender<News>,
    deployment: DeploymentSettings,
    task: AbortHandle,
}

impl Conductor {
    /// A conductor that has not begun.
    pub fn new(tools: Tools, rules: watch::Receiver<Rules>, questions: mpsc::Receiver<Question>) -> Self {
        Self {
            tools,
            rules,
            questions,
            movers: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Carries cutovers out until this is dropped or nobody can ask any more.
    pub async fn run(mut self) {
        self.follow();
        loop {
            tokio::select! {
                question = self.questions.recv() => {
                    let Some((order, reply)) = question else { return };
                    self.forward(order, reply);
                }
                changed = self.rules.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow();
                }
                Some(ended) = self.tasks.join_next() => {
                    if let Err(e) = ended && e.is_panic() {
                        error!(error = %e, "a task that carries cutovers out has failed; another one goes on by what is kept");
                        self.follow();
                    }
                }
            }
        }
    }

    fn forward(&self, order: Order, reply: oneshot::Sender<Result<Done, Unmoved>>) {
        match self.movers.get(&order.name) {
            Some(seat) => {
                // Who has ended drops the reply, and then the gate is stopping.
                let sent = seat.news.try_send(News::Order(Box::new(order), reply));
                if let Err(mpsc::error::TrySendError::Full(News::Order(_, reply))) = sent {
                    let _ = reply.send(Err(Unmoved::Busy));
                }
            }
            None => {
                let names: Vec<&str> = self.movers.keys().map(String::as_str).collect();
                let member = self.movers.iter().find(|(_, seat)| {
                    seat.deployment
                        .upstreams
                        .iter()
                        .any(|upstream| upstream.as_str() == order.name)
                });
                let message = match member {
                    Some((name, _)) => format!("`{}` moves with deployment `{name}`; say {name} instead", order.name),
                    None => format!(
                        "nothing is called `{}` here; there are: {}",
                        order.name,
                        names.join(", ")
                    ),
                };
                let _ = reply.send(Err(Unmoved::Unknown(message)));
            }
        }
    }

    /// Gives every name of the configuration its task, and ends those that have left.
    fn follow(&mut self) {
        let rules = self.rules.borrow_and_update().clone();
        let settings = Arc::new(rules.settings);
        let mut before = std::mem::take(&mut self.movers);
        for deployment in rules.deployments {
            let old = before.remove(&deployment.name).filter(|seat| {
                seat.deployment == deployment && !seat.task.is_finished() || {
                    seat.task.abort();
                    false
                }
            });
            let seat = match old {
                Some(seat) => {
                    // It may be behind by some orders.
                    let (news, settings) = (seat.news.clone(), settings.clone());
                    tokio::spawn(async move { news.send(News::Settings(settings)).await });
                    Some(seat)
                }
                None => self.seat(&deployment, settings.clone()),
            };
            if let Some(seat) = seat {
                self.movers.insert(deployment.name, seat);
            }
        }
        for (name, gone) in before {
            gone.task.abort();
            self.tools.standings.send_modify(|standings| {
                standings.remove(&name);
            });
        }
    }

    fn seat(&mut self, deployment: &DeploymentSettings, settings: Arc<CutoverSettings>) -> Option<Seat> {
        let kept = self
            .tools
            .archive
            .as_ref()
            .map(|archive| archive.load(&deployment.name));
        let record = match kept.transpose() {
            Ok(record) => record.flatten(),
            Err(e) => {
                error!(error = %e, name = deployment.name, "nothing is moved here until this is mended");
                return None;
            }
        };
        let (news, inbox) = mpsc::channel(16);
        let mover = Mover::new(deployment.clone(), record, settings, self.tools.clone(), inbox);
        let task = self.tasks.spawn(mover.run());
        Some(Seat {
            news,
            deployment: deployment.clone(),
            task,
        })
    }
}
