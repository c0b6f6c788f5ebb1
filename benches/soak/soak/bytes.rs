//! The bodies of the soak: the bytes of each follow from its number, so that a part, a gap and another body show.

use std::sync::LazyLock;

use ring::digest::{Context, SHA256};

/// A prime, so that no number of chunks or buffers is a whole round.
const LENGTH: usize = 1_048_573;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut block = vec![0; LENGTH];
    fastrand::Rng::with_seed(20).fill(&mut block);
    block
});

/// Which body of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Up,
    Down,
}

/// A body, from its first byte to its last.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    start: usize,
    at: usize,
    length: usize,
}

impl Body {
    pub(crate) fn of(id: u64, which: Which, length: usize) -> Self {
        let start = id.wrapping_mul(2_654_435_761).wrapping_add(which as u64 * 500_009) as usize % LENGTH;
        Self { start, at: 0, length }
    }

    pub(crate) fn left(&self) -> usize {
        self.length - self.at
    }

    /// So many of the next bytes at the most.
    pub(crate) fn next(&mut self, most: usize) -> &'static [u8] {
        let from = (self.start + self.at) % LENGTH;
        let part = most.min(self.left()).min(LENGTH - from);
        self.at += part;
        &BLOCK[from..from + part]
    }

    /// The hash of all of it.
    pub(crate) fn hash(mut self) -> Hash {
        let mut hash = Hashing::default();
        while self.left() > 0 {
            hash.add(self.next(LENGTH));
        }
        hash.end()
    }
}

/// A hash and the length of what was hashed.
pub(crate) type Hash = (usize, [u8; 32]);

/// A hash that grows.
pub(crate) struct Hashing(Context, usize);

impl Default for Hashing {
    fn default() -> Self {
        Self(Context::new(&SHA256), 0)
    }
}

impl Hashing {
    pub(crate) fn add(&mut self, part: &[u8]) {
        self.0.update(part);
        self.1 += part.len();
    }

    pub(crate) fn end(self) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        (self.1, hash)
    }
}
