//! The journal of a cluster: what became of each request that names itself by `X-Exchange`. A soak holds it against what its clients sent and got.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use hyper::HeaderMap;

use super::instance::locked;

/// The request header that names a request by a number. Its answer carries it as well.
pub const EXCHANGE: &str = "x-exchange";

/// What happened to a request at an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Its head arrived.
    Arrived,
    /// It took effect: a run began, or an upload was stored. The SHA-1 of the upload's body, or zeros.
    Executed([u8; 20]),
}

/// One line of the journal.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The number that the request bears.
    pub exchange: u64,
    /// The name of the instance.
    pub instance: String,
    /// When.
    pub at: Instant,
    /// What.
    pub deed: Deed,
}

/// All entries of a cluster, in the order in which they were made. Clones are the same journal. Requests without [`EXCHANGE`] have none.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<Entry>>>);

impl Journal {
    /// The entries so far.
    pub fn entries(&self) -> Vec<Entry> {
        locked(&self.0).clone()
    }

    pub(crate) fn note(&self, exchange: Option<u64>, instance: &str, deed: Deed) {
        let Some(exchange) = exchange else {
            return;
        };
        locked(&self.0).push(Entry {
            exchange,
            instance: instance.to_owned(),
            at: Instant::now(),
            deed,
        });
    }
}

/// The number that a request bears.
pub(crate) fn exchange_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(EXCHANGE)?.to_str().ok()?.parse().ok()
}

/// Fills `part`, which begins `from` bytes behind the start, with the content that belongs to an exchange: no two exchanges and no two places have the same, so that
/// a byte that is lost, doubled or of another answer shows.
pub fn content(exchange: u64, from: u64, part: &mut [u8]) {
    for (byte, at) in part.iter_mut().zip(from..) {
        // The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), for each group of eight bytes.
        let mut word = (at / 8 + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(exchange << 32);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        *byte = word.to_le_bytes()[(at % 8) as usize];
    }
}
