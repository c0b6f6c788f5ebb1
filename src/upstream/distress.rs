//! Endpoints that go down, told to whoever finds the endpoints of their pool: they may have moved. Each pool has its own signal, for one that all pools
//! share wakes the finder of any of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::gate::names::PoolName;

/// The signals of an upstream's pools.
#[derive(Debug, Default)]
pub struct Distress(Mutex<BTreeMap<PoolName, Arc<Notify>>>);

impl Distress {
    /// Signals that an endpoint of a pool went down. A signal that nobody waits for is kept for the next who does.
    pub fn signal(&self, pool: &PoolName) {
        self.of(pool).notify_one();
    }

    /// Waits until an endpoint of a pool goes down.
    pub async fn signalled(&self, pool: &PoolName) {
        self.of(pool).notified().await;
    }

    fn of(&self, pool: &PoolName) -> Arc<Notify> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.entry(pool.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_signal_wakes_the_finder_of_its_own_pool() {
        let distress = Distress::default();
        let (blue, green) = (PoolName::new("blue"), PoolName::new("green"));
        let (mut of_blue, mut of_green) = (pin!(distress.signalled(&blue)), pin!(distress.signalled(&green)));
        tokio::select! {
            biased;
            () = &mut of_blue => panic!("nothing was signalled"),
            () = &mut of_green => panic!("nothing was signalled"),
            () = ready(()) => {}
        }
        distress.signal(&green);
        tokio::select! {
            biased;
            () = &mut of_blue => panic!("the other pool was meant"),
            () = &mut of_green => {}
        }
        distress.signal(&green);
        distress.signalled(&green).await;
    }
}
