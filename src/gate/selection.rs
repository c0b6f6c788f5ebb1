//! Which endpoint takes the next request. Reads numbers, draws nothing itself, allocates nothing.

/// How an endpoint is chosen among those that may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The one with the fewest requests in flight for its weight: of all when there are at most eight, else of two drawn
    /// at random (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
    #[default]
    LeastRequest,
    /// One after the other, each as often as its weight says.
    RoundRobin,
    /// The one whose requests under way, times its usual time to the first byte, are the least; drawn as in
    /// [`Balance::LeastRequest`] (Finagle's Peak EWMA).
    Ewma,
    /// The same one for the same key, while it is fit; see [`super::ring`]. A request without the key is balanced by
    /// [`Balance::LeastRequest`].
    Hash {
        /// What of a request is its key.
        key: HashKey,
        /// The most that one endpoint takes, in percent of the mean, before keys go elsewhere; none keeps every key where it is.
        bound: Option<u32>,
    },
}

impl Balance {
    /// The most that one endpoint takes of what keys decide, in percent of the mean, where there is a bound.
    pub fn bound(&self) -> Option<u32> {
        match self {
            Self::Hash { bound, .. } => *bound,
            Self::LeastRequest | Self::RoundRobin | Self::Ewma => None,
        }
    }
}

/// What of a request is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    Client,
    /// A header's value.
    Header(String),
    /// A cookie's value.
    Cookie(String),
}

/// What a choice looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Requests that it is serving, streams included; recent failures and unusual silence count as some more, for who fails fast looks idle.
    pub in_flight: u32,
    /// Its share relative to its neighbours, less while it is in its slow start; at least 1.
    pub weight: u32,
    /// What one request there costs: its usual time to the first byte for [`Balance::Ewma`], else 1.
    pub cost: f32,
}

impl Load {
    /// Whether one more request would weigh less here than on `other`.
    fn is_lighter_than(self, other: Self) -> bool {
        let cost = |load: Self, other: Self| {
            (f64::from(load.in_flight) + 1.0) * f64::from(load.cost) * f64::from(other.weight)
        };
        cost(self, other) < cost(other, self)
    }

    /// What a choice among unequal weights compares: requests under way for the weight, with an exponentially distributed `random` part in place of the
    /// request to come. Of idle endpoints each is chosen as often as its weight says, for of exponential variables with rates w1 and w2 the first is the
    /// smaller one with the probability w1 / (w1 + w2).
    fn drawn(self, random: f64) -> f64 {
        (f64::from(self.in_flight) + random) * f64::from(self.cost) / f64::from(self.weight.max(1))
    }
}

/// The part of `ticket` that belongs to the endpoint at `index`, exponentially distributed with mean 1.
fn exponential(ticket: u64, index: usize) -> f64 {
    // SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
    let mut mixed = ticket.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let uniform = ((mixed >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    -uniform.ln()
}

/// Up to this many endpoints are all compared; a bounded search over a small pool could miss the only good one.
const COMPARE_ALL: usize = 8;

/// Chooses one of `count` endpoints, or none when all were `tried`.
///
/// `ticket` is a running number for [`Balance::RoundRobin`], and for the others a random one, which also breaks ties.
pub fn pick(
    balance: &Balance,
    count: usize,
    ticket: u64,
    load: impl Fn(usize) -> Load,
    tried: impl Fn(usize) -> bool,
) -> Option<usize> {
    if count == 0 {
        return None;
    }
    match balance {
        Balance::LeastRequest | Balance::Ewma | Balance::Hash { .. } if count <= COMPARE_ALL => {
            lightest(count, ticket, load, tried)
        }
        Balance::LeastRequest | Balance::Ewma | Balance::Hash { .. } => {
            lighter_of_two(count, ticket, load, &tried).or_else(|| first_untried(count, reduce(ticket, count), tried))
        }
        Balance::RoundRobin => {
            let turn = turn_of(count, ticket, load);
            first_untried(count, turn, tried)
        }
    }
}

fn lightest(count: usize, ticket: u64, load: impl Fn(usize) -> Load, tried: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<(usize, Load)> = None;
    let mut index = reduce(ticket, count);
    for _ in 0..count {
        if !tried(index) {
            let here = load(index);
            if best.is_some_and(|(_, other)| other.weight != here.weight) {
                return drawn_of(count, ticket, load, tried);
            }
            if best.is_none_or(|(_, lightest)| here.is_lighter_than(lightest)) {
                best = Some((index, here));
            }
        }
        index = if index + 1 == count { 0 } else { index + 1 };
    }
    best.map(|(index, _)| index)
}

/// Chooses where weights differ.
fn drawn_of(count: usize, ticket: u64, load: impl Fn(usize) -> Load, tried: impl Fn(usize) -> bool) -> Option<usize> {
    let untried = (0..count).filter(|index| !tried(*index));
    let drawn = untried.map(|index| (index, load(index).drawn(exponential(ticket, index))));
    drawn
        .min_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(index, _)| index)
}

fn lighter_of_two(
    count: usize,
    ticket: u64,
    load: impl Fn(usize) -> Load,
    tried: &impl Fn(usize) -> bool,
) -> Option<usize> {
    let first = reduce(ticket, count);
    let second = (first + 1 + reduce(ticket << 32, count - 1)) % count;
    let second_is_lighter = || {
        let (one, other) = (load(first), load(second));
        if one.weight == other.weight {
            return other.is_lighter_than(one);
        }
        other.drawn(exponential(ticket, second)) < one.drawn(exponential(ticket, first))
    };
    match (tried(first), tried(second)) {
        (false, false) if second_is_lighter() => Some(second),
        (false, _) => Some(first),
        (true, false) => Some(second),
        (true, true) => None,
    }
}

fn first_untried(count: usize, start: usize, tried: impl Fn(usize) -> bool) -> Option<usize> {
    (start..count).chain(0..start).find(|&index| !tried(index))
}

/// Whose turn it is: endpoints stand in a ring, each as long as its weight.
fn turn_of(count: usize, ticket: u64, load: impl Fn(usize) -> Load) -> usize {
    let total: u64 = (0..count).map(|index| u64::from(load(index).weight)).sum();
    let mut place = ticket % total.max(1);
    for index in 0..count {
        let weight = u64::from(load(index).weight);
        if place < weight {
            return index;
        }
        place -= weight;
    }
    0
}

/// Maps the upper half of a random number onto `0..count` without a division (Lemire, "Fast Random Integer Generation in
/// an Interval", 2019).
fn reduce(random: u64, count: usize) -> usize {
    (((random >> 32) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(in_flight: &[u32]) -> impl Fn(usize) -> Load {
        move |index| Load {
            in_flight: in_flight[index],
            weight: 1,
            cost: 1.0,
        }
    }

    /// A full-period generator, so that tests draw the same numbers every time.
    fn tickets() -> impl Iterator<Item = u64> {
        std::iter::successors(Some(7u64), |x| {
            Some(
                x.wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407),
            )
        })
        .take(10_000)
    }

    #[test]
    fn a_small_pool_always_gives_its_idlest_endpoint() {
        for ticket in tickets() {
            let chosen = pick(&Balance::LeastRequest, 3, ticket, loads(&[4, 1, 9]), |_| false);
            assert_eq!(chosen, Some(1));
        }
    }

    #[test]
    fn ties_are_spread_evenly() {
        let mut counts = [0u32; 3];
        for ticket in tickets() {
            counts[pick(&Balance::LeastRequest, 3, ticket, loads(&[0, 0, 0]), |_| false).unwrap()] += 1;
        }
        assert!(counts.iter().all(|&n| (3_000..3_700).contains(&n)), "{counts:?}");
    }

    /// The share in percent of the first endpoint where `under_way` requests are kept under way for long, by weights.
    fn share_of_first(weights: &[u32], under_way: usize) -> u32 {
        let (mut running, mut taken) = (Vec::new(), vec![0u32; weights.len()]);
        for (turn, ticket) in tickets().enumerate() {
            if running.len() == under_way {
                // One of them ends; which one is no matter of theirs.
                running.remove(turn % under_way);
            }
            let load = |index: usize| Load {
                in_flight: running.iter().filter(|one| **one == index).count() as u32,
                weight: weights[index],
                cost: 1.0,
            };
            let chosen = pick(&Balance::LeastRequest, weights.len(), ticket, load, |_| false).unwrap();
            running.push(chosen);
            taken[chosen] += 1;
        }
        taken[0] * 100 / taken.iter().sum::<u32>()
    }

    #[test]
    fn shares_follow_the_weights_with_one_request_at_a_time_and_with_many() {
        for (under_way, about) in [(1, 74..=76), (2, 66..=78), (4, 68..=78), (40, 72..=77)] {
            let share = share_of_first(&[300, 100], under_way);
            assert!(about.contains(&share), "{share} % with {under_way} under way");
        }
        assert!(
            (8..=10).contains(&share_of_first(&[10, 100], 1)),
            "a tenth in its slow start"
        );
    }

    #[test]
    fn a_full_endpoint_grows_no_more_while_one_in_its_slow_start_has_nothing() {
        let load = |index: usize| Load {
            in_flight: [102, 0][index],
            weight: [100, 10][index],
            cost: 1.0,
        };
        let full = tickets()
            .filter(|ticket| pick(&Balance::LeastRequest, 2, *ticket, load, |_| false) == Some(0))
            .count();
        assert!(full < 10, "{full} of 10,000");
    }

    #[test]
    fn an_endpoint_of_twice_the_weight_carries_twice_the_requests() {
        let load = |index: usize| Load {
            in_flight: [30, 50][index],
            weight: [1, 2][index],
            cost: 1.0,
        };
        let second = tickets().filter(|ticket| pick(&Balance::LeastRequest, 2, *ticket, load, |_| false) == Some(1));
        assert!(second.count() > 9_900);
    }

    #[test]
    fn the_only_untried_endpoint_of_a_large_pool_is_found() {
        for ticket in tickets().take(200) {
            for balance in [Balance::LeastRequest, Balance::RoundRobin, Balance::Ewma] {
                let chosen = pick(&balance, 100, ticket, loads(&[0; 100]), |index| index != 73);
                assert_eq!(chosen, Some(73));
            }
        }
    }

    #[test]
    fn a_large_pool_prefers_the_idler_of_two() {
        let mut busy = vec![0; 20];
        busy[5] = 1_000;
        let chosen = tickets()
            .filter(|&t| pick(&Balance::LeastRequest, 20, t, loads(&busy), |_| false) == Some(5))
            .count();
        assert_eq!(
            chosen, 0,
            "two different endpoints are drawn, and the busy one never wins"
        );
    }

    #[test]
    fn who_answers_twice_as_fast_takes_twice_as_many() {
        let load = |index: usize| Load {
            in_flight: [4, 9][index],
            weight: 1,
            cost: [20.0, 9.0][index],
        };
        assert_eq!(pick(&Balance::Ewma, 2, 0, load, |_| false), Some(1));
    }

    #[test]
    fn round_robin_follows_the_weights() {
        let load = |index: usize| Load {
            in_flight: 0,
            weight: [1, 3][index],
            cost: 1.0,
        };
        let turns: Vec<_> = (0..8)
            .filter_map(|t| pick(&Balance::RoundRobin, 2, t, load, |_| false))
            .collect();
        assert_eq!(turns, [0, 1, 1, 1, 0, 1, 1, 1]);
    }

    #[test]
    fn nothing_is_chosen_from_nothing() {
        assert_eq!(pick(&Balance::LeastRequest, 0, 1, loads(&[]), |_| false), None);
        assert_eq!(pick(&Balance::LeastRequest, 3, 1, loads(&[0; 3]), |_| true), None);
    }
}
