//! How many clients the process can hold at all. Each takes a descriptor, and another one on its way to an endpoint; when there is none left for
//! a probe, the gate goes blind. So the last ones are kept for probes, the admin API and files, and clients beyond are turned away.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gate::client::subscriber;

/// Kept for the admin API, logs, and connections that rest between two requests.
const RESERVE: u64 = 64;
/// Kept for each endpoint: two probes that overlap, and two connections that rest.
const PER_ENDPOINT: u64 = 4;
/// What a client takes: its own connection, and one to an endpoint.
const PER_CLIENT: u64 = 2;
/// Fewer clients than this are never wished for, whatever the limit.
const LEAST: u64 = 8;

/// While less than one part in so many of the room is left, nobody may hold more than one part in [`SHARE`] of it.
const SCARCE: usize = 4;
const SHARE: usize = 8;

/// The clients of all listeners.
#[derive(Clone, Debug)]
pub(crate) struct Crowd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    room: Arc<Semaphore>,
    size: usize,
    /// How many connections each subscriber has.
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// Why a client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no room at all.
    Room,
    /// It has as many connections as one may have.
    Client,
}

impl Refusal {
    /// The stable word for metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Client => "client_connections",
        }
    }
}

/// A client's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Crowd,
    subscriber: Option<IpAddr>,
    _room: OwnedSemaphorePermit,
}

impl Crowd {
    /// As many clients as the limit on descriptors allows before `endpoints`, once it is raised as far as the process may.
    pub(crate) fn before(endpoints: usize) -> Self {
        let descriptors = descriptors();
        let clients = clients(descriptors, endpoints as u64);
        tracing::info!(descriptors, clients, "room for connections");
        Self::of(
            usize::try_from(clients)
                .unwrap_or(usize::MAX)
                .min(Semaphore::MAX_PERMITS),
        )
    }

    fn of(size: usize) -> Self {
        Self(Arc::new(Inner {
            room: Arc::new(Semaphore::new(size)),
            size,
            held: Mutex::default(),
        }))
    }

    /// A place for one more client, whoever it is.
    pub(crate) fn join(&self) -> Result<Place, Refusal> {
        let room = self.0.room.clone().try_acquire_owned().map_err(|_| Refusal::Room)?;
        Ok(Place {
            crowd: self.clone(),
            subscriber: None,
            _room: room,
        })
    }

    /// How many connections one may have while so little room is left.
    fn share(&self) -> usize {
        let Inner { room, size, .. } = &*self.0;
        if room.available_permits() < size / SCARCE {
            (size / SHARE).max(1)
        } else {
            usize::MAX
        }
    }
}

impl Place {
    /// Counts it for `address`, of whom at most `most` connections are taken; 0 is no limit, but where room is scarce.
    pub(crate) fn count(&mut self, address: IpAddr, most: usize) -> Result<(), Refusal> {
        let subscriber = subscriber(address);
        let most = if most == 0 { usize::MAX } else { most }.min(self.crowd.share());
        let mut held = self.crowd.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(subscriber).or_default();
        if *count >= most {
            return Err(Refusal::Client);
        }
        *count += 1;
        self.subscriber = Some(subscriber);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(subscriber) = self.subscriber else { return };
        let mut held = self.crowd.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = held.entry(subscriber) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

fn clients(descriptors: u64, endpoints: u64) -> u64 {
    let reserve = RESERVE + PER_ENDPOINT.saturating_mul(endpoints);
    (descriptors.saturating_sub(reserve) / PER_CLIENT).max(LEAST)
}

/// The limit on descriptors, raised from the soft one to the hard one, as Go's runtime does for every program.
fn descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    limit.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nobody_takes_the_room_of_all_others() {
        let crowd = Crowd::of(80);
        let enter = |text: &str, most: usize| {
            let mut place = crowd.join().ok()?;
            place.count(address(text), most).ok()?;
            Some(place)
        };
        let mut greedy: Vec<_> = std::iter::from_fn(|| enter("192.0.2.1", 0)).collect();
        assert_eq!(greedy.len(), 60, "until room is scarce");
        let others: Vec<_> = (0..20).filter_map(|n| enter(&format!("198.51.100.{n}"), 0)).collect();
        assert_eq!(others.len(), 20, "then others are let in");
        assert!(enter("203.0.113.1", 0).is_none(), "until it is full");
        greedy.truncate(9);
        assert!(enter("192.0.2.1", 0).is_some(), "there is room again");
        drop((greedy, others));
        assert!(crowd.0.held.lock().unwrap().is_empty());
    }

    #[test]
    fn a_subscriber_has_many_addresses_of_ipv6_and_one_limit() {
        let crowd = Crowd::of(1_000);
        let mut places = Vec::new();
        for (text, taken) in [
            ("2001:db8:0:1::1", true),
            ("2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::3", false),
            ("2001:db8:0:2::1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.1", true),
            ("192.0.2.1", false),
        ] {
            let mut place = crowd.join().unwrap();
            assert_eq!(place.count(address(text), 2).is_ok(), taken, "{text}");
            places.push(place);
        }
    }

    #[test]
    fn clients_get_what_probes_do_not_need() {
        assert_eq!(clients(1_024, 3), 474);
        assert_eq!(clients(1_048_576, 10_000), 504_256);
        assert_eq!(clients(64, 100), LEAST);
    }
}
