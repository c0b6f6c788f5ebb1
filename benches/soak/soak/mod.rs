//! The soak: clients of every kind before the gate and endpoints behind it, which keep ledgers of every body. What arrives as a whole must be what was
//! sent, and what does not must be seen not to.

mod bytes;
mod client;
mod ledger;
mod origin;
mod plan;
mod stage;
pub(crate) mod stuck;
pub(crate) mod uploads;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use ledger::{Figures, Ledger, Seen};
use origin::Origins;
use plan::{Fault, Plan, Speaks};
use stage::{Stage, connect};

/// An exchange takes longer than this only if it is stuck.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// So many clients have a connection each.
const CLIENTS: usize = 24;

/// The memory of the gate stays below so many bytes: 24 clients with up to 6 bodies each, of which no part is gathered that is larger than the buffers.
const MOST: u64 = 512 << 20;

/// What a soak came to.
pub(crate) struct Soaked {
    pub(crate) figures: Figures,
    pub(crate) took: Duration,
    /// The memory of the gate at its start, the most of it, and at the end, in bytes.
    pub(crate) memory: [u64; 3],
}

impl Soaked {
    /// Whether the memory of the gate stayed within a bound that does not depend on how much passed through it.
    pub(crate) fn is_bounded(&self) -> bool {
        self.memory[1] < MOST
    }
}

/// Soaks for so long.
pub(crate) async fn soak(lasts: Duration, seed: u64) -> Soaked {
    let ledger = Arc::new(Ledger::default());
    let origins = Origins::start(seed, ledger.clone()).await;
    let stage = Arc::new(Stage::set(&origins).await);
    let start = Instant::now();
    let (before, _) = stage.memory();
    let next = Arc::new(AtomicU64::new(1));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (stage, ledger, next) = (stage.clone(), ledger.clone(), next.clone());
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
        clients.spawn(async move {
            while start.elapsed() < lasts {
                one_connection(&stage, &ledger, &next, seed, &mut rng).await;
            }
        });
    }
    // A connection on which anything is stuck is given up by then.
    let ending = async {
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    };
    let ended = timeout(lasts + LONGEST * 2, ending).await.is_ok();
    // What its clients left is on its way to its end.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (after, most) = stage.memory();
    let mut figures = ledger.compare();
    if !ended {
        figures.unexplained.push("a connection never ended".to_owned());
    }
    Soaked {
        figures,
        took: start.elapsed(),
        memory: [before, most, after],
    }
}

/// The exchanges of one connection. What ends it comes last.
fn plans(next: &AtomicU64, seed: u64, pipelined: bool, most: usize, rng: &mut fastrand::Rng) -> Vec<Plan> {
    let mut plans = Vec::new();
    for _ in 0..rng.usize(1..=most) {
        let id = next.fetch_add(1, Ordering::Relaxed);
        let plan = if pipelined {
            Plan::pipelined(seed, id)
        } else {
            Plan::of(seed, id)
        };
        let ends = matches!(
            plan.fault,
            Fault::ClientResets(_) | Fault::ClientLeaves(_) | Fault::ClientHalfCloses
        );
        plans.push(plan);
        if ends {
            break;
        }
    }
    plans
}

async fn one_connection(stage: &Stage, ledger: &Arc<Ledger>, next: &AtomicU64, seed: u64, rng: &mut fastrand::Rng) {
    let speaks = [
        Speaks::Clear,
        Speaks::Clear,
        Speaks::Tls,
        Speaks::Tls,
        Speaks::Http2,
        Speaks::Http2,
        Speaks::Http2Clear,
    ][rng.usize(..7)];
    let http2 = matches!(speaks, Speaks::Http2 | Speaks::Http2Clear);
    let pipelined = !http2 && rng.u8(..4) == 0;
    let mut plans = plans(next, seed, pipelined, if http2 { 6 } else { 12 }, rng);
    if http2 {
        plans.retain(|plan| plan.fault != Fault::ClientHalfCloses);
    }
    ledger.begun(&plans);
    let room = (rng.u8(..3) == 0).then(|| rng.u32(4_096..200_000));
    let window = [16 << 10, 65_535, 1 << 20, 8 << 20][rng.usize(..4)];
    let failed = |e: std::io::Error, plans: Vec<Plan>| {
        for plan in plans {
            ledger.seen(plan, Seen::Broken(format!("no connection: {e}")));
        }
    };
    match speaks {
        Speaks::Clear | Speaks::Http2Clear => match within(connect(stage.clear, room)).await {
            Ok(stream) if http2 => client::at_once(stream, plans, window, ledger).await,
            Ok(stream) if pipelined => client::pipelined(stream, plans, ledger).await,
            Ok(stream) => client::one_by_one(stream, plans, ledger).await,
            Err(e) => failed(e, plans),
        },
        Speaks::Tls | Speaks::Http2 => match within(stage.secure(http2, room)).await {
            Ok(stream) if http2 => client::at_once(stream, plans, window, ledger).await,
            Ok(stream) if pipelined => client::pipelined(stream, plans, ledger).await,
            Ok(stream) => client::one_by_one(stream, plans, ledger).await,
            Err(e) => failed(e, plans),
        },
    }
}

/// A connection, if it comes about in time.
async fn within<S>(connecting: impl Future<Output = std::io::Result<S>>) -> std::io::Result<S> {
    let connected = timeout(LONGEST, connecting).await;
    connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}
