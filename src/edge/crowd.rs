//! How many clients the process can hold at all. Each takes a descriptor, and another one on its way to an endpoint; when there is none left for
//! a probe, the gate goes blind. So the last ones are kept for probes, the admin API and files, and clients beyond are turned away.

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Kept for the admin API, logs, and connections that rest between two requests.
const RESERVE: u64 = 64;
/// Kept for each endpoint: two probes that overlap, and two connections that rest.
const PER_ENDPOINT: u64 = 4;
/// What a client takes: its own connection, and one to an endpoint.
const PER_CLIENT: u64 = 2;
/// Fewer clients than this are never wished for, whatever the limit.
const LEAST: u64 = 8;

/// The clients of all listeners.
#[derive(Clone, Debug)]
pub(crate) struct Crowd(Arc<Semaphore>);

impl Crowd {
    /// As many clients as the limit on descriptors allows before `endpoints`, once it is raised as far as the process may.
    pub(crate) fn before(endpoints: usize) -> Self {
        let descriptors = descriptors();
        let clients = clients(descriptors, endpoints as u64);
        tracing::info!(descriptors, clients, "room for connections");
        let clients = usize::try_from(clients).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(clients.min(Semaphore::MAX_PERMITS))))
    }

    /// A place for one more client, if there is one.
    pub(crate) fn join(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}

fn clients(descriptors: u64, endpoints: u64) -> u64 {
    let reserve = RESERVE + PER_ENDPOINT.saturating_mul(endpoints);
    (descriptors.saturating_sub(reserve) / PER_CLIENT).max(LEAST)
}

/// The limit on descriptors, raised from the soft one to the hard one, as Go's runtime does for every program.
fn descriptors() -> u64 {
    // Where even the limit cannot be read, the one that every system grants is a fair guess.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_probes_do_not_need() {
        assert_eq!(clients(1_024, 3), 474);
        assert_eq!(clients(1_048_576, 10_000), 504_256);
        assert_eq!(clients(64, 100), LEAST);
    }
}
