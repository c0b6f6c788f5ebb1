//! Cutovers: what was kept counts before anybody is let in, and one process carries them out at a time.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::handover::happened;
use super::{Parts, StartError};
use crate::audit::AuditLog;
use crate::clock::Clock;
use crate::conductor::{self, Archive, Conductor, Tools};
use crate::config::Config;
use crate::cutover::{Question, Rules, Standings};
use crate::driver::Driver;
use crate::gate::direction::Direction;
use crate::gate::names::{PoolName, UpstreamName};
use crate::probe::Prober;
use crate::store::Store;

/// How cutovers go by a configuration.
pub(super) fn rules(config: &Config) -> Rules {
    Rules {
        settings: config.cutover.clone(),
        deployments: config.deployments.clone(),
    }
}

/// Where records are kept, if anywhere.
pub(super) fn archive(store: Option<&Store>, clock: &Clock) -> Option<Archive> {
    let store = store?;
    let audit = AuditLog::within(store.path());
    Some(Archive::within(store.clone(), audit, *clock))
}

/// Sends requests where they went before this process.
pub(super) fn begin(driver: &mut Driver, archive: Option<&Archive>, config: &Config) -> Result<(), StartError> {
    let Some(archive) = archive else { return Ok(()) };
    let kept = conductor::kept(archive, &config.deployments);
    let kept = kept.map_err(|e| StartError::Cutover(e.to_string()))?;
    for (upstream, direction) in &kept {
        has_pool(config, upstream, direction).map_err(StartError::Cutover)?;
    }
    has_names(config, archive).map_err(StartError::Cutover)?;
    driver.direct(kept);
    Ok(())
}

/// Users are in a pool by a cutover: a configuration without it would leave them nowhere.
fn has_pool(config: &Config, upstream: &UpstreamName, direction: &Direction) -> Result<(), String> {
    let known = config.upstreams.iter().find(|known| known.name == *upstream);
    let Some(known) = known else { return Ok(()) };
    let pools: Vec<&PoolName> = known.pools.iter().map(|pool| &pool.name).collect();
    let share = direction.share.as_ref().map(|share| &share.pool);
    let missing = share
        .into_iter()
        .chain([&direction.active])
        .find(|pool| !pools.contains(pool));
    match missing {
        None => Ok(()),
        Some(pool) => Err(format!(
            "a cutover has moved {upstream} to pool `{pool}`, which the configuration does not name: name it, or move away from it first"
        )),
    }
}

/// What was moved under a name that is none any more would go where the configuration says, and nobody would have said so.
fn has_names(config: &Config, archive: &Archive) -> Result<(), String> {
    for (name, moved, active) in archive.others(&config.deployments) {
        let mut members = config.upstreams.iter();
        let member = members
            .find(|known| moved.iter().any(|moved| moved == known.name.as_str()) && known.active.as_str() != active);
        if let Some(member) = member {
            return Err(format!(
                "a cutover of `{name}` has moved {} to pool `{active}`, and by this configuration {} moves under another name: write `active: {active}` there and move cutover-{name}.json away",
                member.name, member.name
            ));
        }
    }
    Ok(())
}

/// A configuration must go on to name the pools that cutovers have sent requests to, and what they were said of.
pub(super) fn keep_pools(
    standings: &watch::Receiver<Standings>,
    archive: Option<&Archive>,
    config: &Config,
) -> Result<(), String> {
    archive.map_or(Ok(()), |archive| has_names(config, archive))?;
    let standings = standings.borrow();
    for standing in standings.values().filter(|standing| standing.record.epoch > 0) {
        let direction = standing.record.direction(&standing.deployment.name);
        for upstream in &standing.deployment.upstreams {
            has_pool(config, upstream, &direction)?;
        }
    }
    Ok(())
}

/// The conductor, which has not begun.
pub(super) fn conductor(
    parts: &Parts,
    archive: Option<Archive>,
    (orders, standings): (mpsc::Receiver<Question>, watch::Sender<Standings>),
) -> Conductor {
    let tools = Tools {
        mailbox: parts.handle.mailbox.clone(),
        roster: parts.handle.roster.clone(),
        archive,
        prober: Arc::new(Prober::new(parts.clock, parts.authorities.clone())),
        authorities: parts.authorities.clone(),
        metrics: parts.metrics.clone(),
        clock: parts.clock,
        handing_over: parts.handing_over.clone(),
        standings: Arc::new(standings),
    };
    Conductor::new(tools, parts.rules.subscribe(), orders)
}

/// Carries cutovers out from the time that this process serves and knows what one before it still does, for a pool that seems empty may be removed;
/// and until the next process does.
pub(super) async fn carry_out(
    conductor: Conductor,
    settled: watch::Receiver<bool>,
    handed_over: watch::Receiver<bool>,
) {
    happened(settled).await;
    tokio::select! {
        () = conductor.run() => {}
        () = happened(handed_over) => {}
    }
}
