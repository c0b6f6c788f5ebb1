//! A ring of endpoints: a key always meets the same one, and when that one is out, only its own keys go elsewhere (Karger et al., "Consistent
//! Hashing and Random Trees", STOC 1997). The hash is fixed, so that several gates agree.

/// Points of one endpoint of weight 1; a hundred keep the shares within about a tenth of each other.
const POINTS: u32 = 100;
/// An endpoint's weight counts up to this much.
const HEAVIEST: u32 = 100;

/// The places of a pool on the ring.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    points: Box<[(u64, u32)]>,
}

impl Ring {
    /// A ring of endpoints by name and weight; an endpoint's place is its position among them.
    pub fn new<'a>(endpoints: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut points = Vec::new();
        for (place, (name, weight)) in (0u32..).zip(endpoints) {
            let start = hash(name.as_bytes());
            for point in 0..POINTS * weight.clamp(1, HEAVIEST) {
                points.push((mix(start.wrapping_add(u64::from(point))), place));
            }
        }
        points.sort_unstable();
        Self { points: points.into() }
    }

    /// The places that a key meets, one after the other; a place may come again.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.points.partition_point(|(point, _)| *point < key);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|(_, place)| *place as usize)
    }
}

/// The most requests that one of `count` endpoints may have under way, where `in_flight` are under way in all and none may have more than so many
/// percent of the mean (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018).
pub fn bound(percent: u32, in_flight: u32, count: usize) -> u32 {
    let most = (u64::from(in_flight) + 1) * u64::from(percent);
    u32::try_from(most.div_ceil(100 * (count as u64).max(1))).unwrap_or(u32::MAX)
}

/// The key of a text: FNV-1a (Fowler, Noll and Vo), spread over all bits.
pub fn hash(text: &[u8]) -> u64 {
    let folded = text.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(folded)
}

/// Spreads a number over all bits (the finaliser of SplitMix64).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = [
        "10.0.0.1:80",
        "10.0.0.2:80",
        "10.0.0.3:80",
        "10.0.0.4:80",
        "10.0.0.5:80",
    ];

    fn ring() -> Ring {
        Ring::new(NAMES.into_iter().map(|name| (name, 1)))
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..10_000u32).map(|number| hash(&number.to_le_bytes()))
    }

    #[test]
    fn a_key_that_loses_its_endpoint_moves_and_no_other_does() {
        let ring = ring();
        let first = |key, out: usize| ring.walk(key).find(|place| *place != out).unwrap();
        for key in keys() {
            let home = first(key, usize::MAX);
            if home != 2 {
                assert_eq!(first(key, 2), home);
            }
        }
    }

    #[test]
    fn shares_are_even_and_follow_the_weights() {
        let ring = Ring::new(NAMES.into_iter().zip([1, 1, 1, 1, 2]));
        let mut counts = [0usize; 5];
        for key in keys() {
            counts[ring.walk(key).next().unwrap()] += 1;
        }
        assert!(counts[..4].iter().all(|n| (1_250..2_150).contains(n)), "{counts:?}");
        assert!((2_700..4_000).contains(&counts[4]), "{counts:?}");
    }

    #[test]
    fn gates_agree_for_ever() {
        assert_eq!(hash(b"app-1"), hash(b"app-1"));
        let met: Vec<usize> = [b"app-1", b"app-2", b"app-3"]
            .map(|key| ring().walk(hash(key)).next().unwrap())
            .into();
        assert_eq!(met, ring_of_version_1());
    }

    /// What the first release answered; another answer would scatter every session on an update.
    fn ring_of_version_1() -> Vec<usize> {
        vec![2, 4, 4]
    }

    #[test]
    fn the_bound_is_a_share_of_the_mean() {
        let bounds = [(0, 4), (3, 4), (99, 4), (7, 0)].map(|(in_flight, count)| bound(125, in_flight, count));
        assert_eq!(bounds, [1, 2, 32, 10]);
        assert_eq!(bound(200, 99, 4), 50);
    }

    #[test]
    fn an_empty_ring_meets_nobody() {
        assert_eq!(Ring::default().walk(7).next(), None);
    }
}
