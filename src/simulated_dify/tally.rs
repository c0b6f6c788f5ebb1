//! What arrived: the witness that lets a test say "none of these requests got through" or "this ran once".

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// A path's count is kept for this many different paths; the rest count in the totals alone.
const MAX_PATHS: usize = 10_000;

/// The counts of one instance. They survive a restart of it.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests that reached the app, probes included.
    pub total: u64,
    /// Those of them for `/healthz` or `/health`.
    pub probes: u64,
    /// Runs that were started here, and so would have cost money.
    pub executed: u64,
    /// Connections ended because what they sent is not HTTP.
    pub malformed: u64,
    /// Bytes of upload bodies received, whatever became of them.
    pub uploaded_bytes: u64,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections open at this moment.
    pub connections: u64,
    /// Event streams open at this moment.
    pub streams: u64,
    paths: BTreeMap<String, u64>,
}

impl Counts {
    /// Requests for this path, byte for byte as it was received, without its query.
    pub fn requests(&self, path: &str) -> u64 {
        self.paths.get(path).copied().unwrap_or(0)
    }

    /// Requests that were not probes.
    pub fn traffic(&self) -> u64 {
        self.total - self.probes
    }

    /// Every path that was asked for, as received, with its count.
    pub fn paths(&self) -> impl Iterator<Item = (&str, u64)> {
        self.paths.iter().map(|(path, count)| (path.as_str(), *count))
    }
}

/// The counts as they grow, shared by all connections of an instance.
#[derive(Clone, Debug)]
pub struct Tally(Arc<watch::Sender<Counts>>);

impl Tally {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Counts::default())))
    }

    /// The counts at this moment.
    pub fn counts(&self) -> Counts {
        self.0.borrow().clone()
    }

    /// Requests for this path, as [`Counts::requests`] counts them.
    pub fn requests(&self, path: &str) -> u64 {
        self.0.borrow().requests(path)
    }

    /// Requests that reached the app, probes included.
    pub fn total(&self) -> u64 {
        self.0.borrow().total
    }

    /// Requests for `/healthz` or `/health`.
    pub fn probes(&self) -> u64 {
        self.0.borrow().probes
    }

    /// Requests that were not probes.
    pub fn traffic(&self) -> u64 {
        self.0.borrow().traffic()
    }

    /// Runs that were started here.
    pub fn executed(&self) -> u64 {
        self.0.borrow().executed
    }

    /// Event streams open at this moment.
    pub fn streams(&self) -> u64 {
        self.0.borrow().streams
    }

    /// Waits until the counts satisfy `wanted`, and returns them: how a test waits for an event.
    pub async fn until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        match self.0.subscribe().wait_for(wanted).await {
            Ok(counts) => counts.clone(),
            Err(_) => self.counts(),
        }
    }

    pub(crate) fn add(&self, change: impl FnOnce(&mut Counts)) {
        self.0.send_modify(change);
    }

    pub(crate) fn arrival(&self, path: &str, is_probe: bool) {
        self.add(|counts| {
            counts.total += 1;
            counts.probes += u64::from(is_probe);
            if let Some(count) = counts.paths.get_mut(path) {
                *count += 1;
            } else if counts.paths.len() < MAX_PATHS {
                counts.paths.insert(path.to_owned(), 1);
            }
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Counts> {
        self.0.subscribe()
    }

    /// Counts something as open for as long as the guard lives.
    pub(crate) fn open(&self, what: fn(&mut Counts) -> &mut u64) -> Open {
        self.add(|counts| *what(counts) += 1);
        Open {
            tally: self.clone(),
            what,
        }
    }
}

/// Something open, such as a connection or a stream; dropping it closes it in the counts.
pub(crate) struct Open {
    tally: Tally,
    what: fn(&mut Counts) -> &mut u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tally.add(|counts| *(self.what)(counts) -= 1);
    }
}
