//! Two processes follow one state while both serve: what operators order in the new one is done in the old one as well, until that has ended.

use std::collections::BTreeSet;
use std::time::Instant;

use tokio::sync::watch;
use tracing::{info, warn};

use super::handover::happened;
use crate::clock::Clock;
use crate::cutover::{Standing, Standings};
use crate::driver::{Handle, Overrides};
use crate::gate::cutover::Phase;
use crate::gate::names::{PoolName, UpstreamName};
use crate::gate::overrides::Override;
use crate::mailbox::Word;
use crate::upgrade::{Cut, Hearer, Orders, Teller};

/// Gathers what operators order here, until another process takes over.
pub(super) async fn gather(
    mut standings: watch::Receiver<Standings>,
    mut overrides: watch::Receiver<Overrides>,
    orders: watch::Sender<Option<Orders>>,
    handed_over: watch::Receiver<bool>,
) {
    loop {
        let gathered = Orders {
            overrides: overrides.borrow_and_update().clone(),
            ..ordered(&standings.borrow_and_update())
        };
        orders.send_if_modified(|before| {
            let gathered = Some(gathered);
            let changed = *before != gathered;
            *before = gathered;
            changed
        });
        let changed = tokio::select! {
            changed = standings.changed() => changed,
            changed = overrides.changed() => changed,
            () = happened(handed_over.clone()) => return,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What was ordered of deployments. Of one that was never moved nothing is: both processes go by their configuration there.
fn ordered(standings: &Standings) -> Orders {
    let moved = || standings.values().filter(|standing| standing.record.epoch > 0);
    let directions = moved().flat_map(|standing| {
        let direction = standing.record.direction(&standing.deployment.name);
        let upstreams = standing.deployment.upstreams.iter();
        upstreams.map(move |upstream| (upstream.clone(), direction.clone()))
    });
    Orders {
        directions: directions.collect(),
        overrides: Vec::new(),
        cuts: moved().filter_map(cut).collect(),
    }
}

/// The pool that is to be cut, where a drain is over.
fn cut(standing: &Standing) -> Option<Cut> {
    let cutover = standing.record.cutover.as_ref()?;
    let is_over = cutover.phase == Phase::Committed && cutover.cut.is_some();
    is_over.then(|| Cut {
        deployment: standing.deployment.name.clone(),
        cutover: cutover.id,
        upstreams: standing.deployment.upstreams.iter().map(ToString::to_string).collect(),
        pool: cutover.from.to_string(),
    })
}

/// Tells the process before this one what is ordered here, until it has ended.
pub(super) async fn pass_on(mut teller: Teller, mut orders: watch::Receiver<Option<Orders>>, clock: Clock) {
    loop {
        let wanted = orders.borrow_and_update().clone();
        // Where nothing is gathered yet, what the other process goes by still counts.
        if let Some(wanted) = wanted
            && teller.orders(&wanted, clock.now()).await.is_err()
        {
            return;
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

/// Does what is ordered in the process after this one, until that has ended, and passes it on to one that this process has taken over from.
pub(super) async fn obey(mut hearer: Hearer, handle: Handle, orders: watch::Sender<Option<Orders>>, clock: Clock) {
    let (mut before, mut cuts) = (Orders::default(), BTreeSet::new());
    while let Some(wanted) = hearer.orders(|| clock.now()).await {
        if wanted.directions != before.directions {
            info!("the process that took over directs requests elsewhere");
            // A driver that has stopped directs nobody any more.
            let _ = handle.mailbox.direct(wanted.directions.clone()).await;
        }
        let overrides = handle.overrides.borrow().clone();
        for word in words(&overrides, &wanted.overrides, clock.now()) {
            let _ = handle.mailbox.say(word).await;
        }
        for cut in &wanted.cuts {
            if cuts.insert((cut.deployment.clone(), cut.cutover)) {
                sever(cut, &handle);
            }
        }
        orders.send_replace(Some(wanted.clone()));
        before = wanted;
    }
}

/// What is to be said to come from some overrides to others.
fn words(have: &Overrides, want: &Overrides, now: Instant) -> Vec<Word> {
    let same = |one: &Override, other: &Override| one.wish == other.wish && one.reason == other.reason;
    let find = |all: &Overrides, id| all.iter().find(|(other, _)| other == id).map(|(_, word)| word.clone());
    let gone = have.iter().filter(|(id, _)| find(want, id).is_none());
    let gone = gone.map(|(id, _)| (id, None));
    let new = want
        .iter()
        .filter(|(id, word)| find(have, id).is_none_or(|had| !same(&had, word)));
    let new = new.map(|(id, word)| {
        let left = word.until.map(|until| until.saturating_duration_since(now));
        (id, Some((word.wish, word.reason.clone(), left)))
    });
    let all = gone.chain(new).map(|(id, wish)| Word {
        address: id.address.to_string(),
        upstream: Some(id.upstream.to_string()),
        pool: Some(id.pool.to_string()),
        wish,
        dry_run: false,
    });
    all.collect()
}

fn sever(cut: &Cut, handle: &Handle) {
    let roster = handle.roster.borrow().clone();
    let (mut streams, mut requests) = (0, 0);
    for upstream in &cut.upstreams {
        let told = roster.sever(&UpstreamName::new(upstream), &PoolName::new(&cut.pool));
        streams += told.streams;
        requests += told.requests;
    }
    warn!(
        name = cut.deployment,
        pool = cut.pool,
        streams,
        requests,
        "the drain is over: what is left is cut"
    );
}
