//! How often each client may ask: the generic cell rate algorithm by `governor`, a cell for each subscriber, forgotten once it is full again.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::config::Rate;
use crate::gate::client::subscriber;

/// After so many requests those who have not asked for long are forgotten, so that the memory is bounded by what comes in a moment.
const TIDY: u32 = 1 << 16;

/// One limit, and where each client stands.
#[derive(Debug)]
pub(crate) struct Rates {
    rate: Rate,
    limiter: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    asked: AtomicU32,
}

impl Rates {
    /// Nobody has asked yet.
    pub(crate) fn new(rate: Rate) -> Self {
        // No time between two requests is no limit, and the configuration refuses it.
        let quota = Quota::with_period(rate.every).unwrap_or(Quota::per_second(rate.burst));
        Self {
            rate,
            limiter: RateLimiter::hashmap(quota.allow_burst(rate.burst)),
            asked: AtomicU32::new(0),
        }
    }

    /// Whether it is this limit.
    pub(crate) fn is(&self, rate: Rate) -> bool {
        self.rate == rate
    }

    /// Counts a request. Clients that cannot be told apart share a cell.
    ///
    /// # Errors
    /// It came too soon; in so many seconds the next one may.
    pub(crate) fn ask(&self, client: Option<IpAddr>) -> Result<(), u32> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked % TIDY == TIDY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        let client = subscriber(client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        self.limiter.check_key(&client).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            u32::try_from(wait.as_millis().div_ceil(1_000))
                .unwrap_or(u32::MAX)
                .max(1)
        })
    }
}
