//! Operators' overrides outlive the process: each change is written to `state_dir`, and the next process begins with what stands there.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::handover::happened;
use super::{Parts, StartError};
use crate::clock::Clock;
use crate::config::StateDir;
use crate::driver::{Driver, Overrides};
use crate::gate::overrides::{Override, Wish};
use crate::metrics::Metrics;
use crate::proxy::SplitKey;
use crate::store::Store;
use crate::upgrade::{Predecessor, Who};

/// The document.
const NAME: &str = "overrides.json";

/// What could not be written is tried again after this time.
const AGAIN: Duration = Duration::from_secs(10);

/// An override as it is kept, by the time of day.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    #[serde(flatten)]
    who: Who,
    state: String,
    reason: String,
    since: String,
    until: Option<String>,
}

/// Where overrides are kept, if anywhere. A folder that the configuration names must be usable; without the one that it does not name the gate does.
pub(super) fn store(settings: Option<&StateDir>) -> Result<Option<Store>, StartError> {
    let Some(StateDir { path, wanted }) = settings else {
        return Ok(None);
    };
    let opened = Store::open(path);
    let opened = opened.and_then(|store| if *wanted { store.prepared() } else { Ok(store) });
    match opened {
        Ok(store) => Ok(Some(store)),
        Err(e) if *wanted => Err(StartError::State(e)),
        Err(e) => {
            warn!(error = %e, "overrides will not outlive this process; set `server.state_dir` to a folder, or to off");
            Ok(None)
        }
    }
}

/// The key that cookies are signed with: a browser stays in its pool when the gate is started again, or upgraded. Without a folder, and where it
/// cannot be kept, it is of this process alone.
pub(super) fn split_key(store: Option<&Store>) -> std::io::Result<SplitKey> {
    const NAME: &str = "cookie.key";
    let Some(store) = store else {
        return SplitKey::random();
    };
    let kept = store.text(NAME).ok().flatten();
    if let Some(bytes) = kept.and_then(|kept| kept.try_into().ok()) {
        return Ok(SplitKey::from_bytes(bytes));
    }
    let key = SplitKey::random()?;
    if let Err(e) = store.keep(NAME, key.bytes()) {
        warn!(error = %e, "the key of cookies cannot be kept: browsers will be drawn anew after a restart");
    }
    Ok(key)
}

/// Lets what was before this process count: the process that it takes over from knows all of it, else what operators said was kept.
pub(super) fn begin(driver: &mut Driver, predecessor: Option<&mut Predecessor>, store: Option<&Store>, clock: &Clock) {
    match (predecessor, store) {
        (Some(predecessor), _) => driver.resume(predecessor.memories(clock.now())),
        (None, Some(store)) => driver.repeat(recall(store, clock)),
        (None, None) => {}
    }
}

/// What operators said before. What cannot be read is set aside: a gate that does not start helps nobody.
fn recall(store: &Store, clock: &Clock) -> Overrides {
    let kept: Vec<Kept> = match store.read(NAME) {
        Ok(kept) => kept.unwrap_or_default(),
        Err(e) => {
            let aside = store.set_aside(NAME).unwrap_or_else(|_| Path::new(NAME).to_owned());
            error!(error = %e, kept = %aside.display(), "the overrides of the last process cannot be read; say them again");
            return Overrides::new();
        }
    };
    let now = clock.now();
    let mut words = Overrides::new();
    for kept in kept {
        let word = Wish::for_state(&kept.state).map(|wish| Override {
            wish,
            since: clock.hear(&kept.since).unwrap_or(now),
            until: kept.until.as_deref().map(|until| clock.hear(until).unwrap_or(now)),
            reason: kept.reason,
        });
        match (kept.who.id(), word) {
            (Some(id), Some(word)) if !word.is_over(now) => {
                info!(endpoint = %id, state = %word.wish, reason = word.reason, "an override of the last process stands");
                words.push((id, word));
            }
            (Some(_), Some(_)) => {}
            _ => error!(state = kept.state, "an override of the last process means nothing here"),
        }
    }
    words
}

/// Writes overrides whenever they change, until another process does.
pub(super) fn remember(
    store: Store,
    parts: &Parts,
    handed_over: watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<> {
    let (overrides, clock) = (parts.handle.overrides.clone(), parts.clock);
    keep(store, overrides, handed_over, clock, parts.metrics.clone())
}

async fn keep(
    store: Store,
    mut overrides: watch::Receiver<Overrides>,
    handed_over: watch::Receiver<bool>,
    clock: Clock,
    metrics: Metrics,
) {
    loop {
        tokio::select! {
            changed = overrides.changed() => if changed.is_err() { return },
            () = happened(handed_over.clone()) => return,
        }
        loop {
            let wanted = overrides.borrow_and_update().clone();
            let Err(e) = write(&store, &wanted, &clock).await else {
                break;
            };
            metrics.state_write_failures.inc();
            error!(error = %e, folder = %store.path().display(), "overrides cannot be kept; they would not outlive this process");
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = happened(handed_over.clone()) => return,
            }
        }
    }
}

async fn write(store: &Store, overrides: &Overrides, clock: &Clock) -> std::io::Result<()> {
    let kept = overrides.iter().map(|(id, word)| Kept {
        who: Who::of(id),
        state: word.wish.to_string(),
        reason: word.reason.clone(),
        since: clock.tell(word.since),
        until: word.until.map(|until| clock.tell(until)),
    });
    let (store, kept) = (store.clone(), kept.collect::<Vec<_>>());
    tokio::task::spawn_blocking(move || store.write(NAME, &kept)).await?
}
