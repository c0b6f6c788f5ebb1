//! Where an upstream's requests go: to its active pool, or a share of them to another one while users are moved.
//!
//! **Invariant.** A request is served by one pool from its beginning to its end; what decides which is drawn once.

use super::names::PoolName;

/// Where requests go from now on. Those under way stay where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direction {
    /// The pool that takes what no share takes.
    pub active: PoolName,
    /// A pool that takes a share of the requests, while one does.
    pub share: Option<Share>,
    /// The pool that stands by while another one is watched: it takes what that one has failed and may be sent again.
    pub spare: Option<PoolName>,
    /// Whether requests are sent on at all.
    pub traffic: Traffic,
}

/// The share of another pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The pool.
    pub pool: PoolName,
    /// Its requests of a hundred, 0 to 100.
    pub percent: u32,
    /// What decides whether a request is one of them.
    pub split: Split,
    /// What moves: the deployment, or the upstream that moves alone. Each has a cookie of its own.
    pub deployment: String,
    /// Names the cutover, so that a cookie of an earlier one decides nothing.
    pub cutover: u64,
}

/// What a request's share is decided by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// Each request on its own, by chance.
    Request,
    /// By a cookie that the gate gives, so that a browser stays where its first request went.
    Cookie,
    /// By the value of a header; requests without it stay with the active pool.
    Header(String),
}

/// Whether requests are sent on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Traffic {
    /// They are.
    #[default]
    Run,
    /// They wait.
    Pause,
    /// They are answered that the service is in maintenance.
    Stop {
        /// What users read; empty for the gate's own words.
        message: String,
    },
}

impl Traffic {
    /// The stable word for logs, metrics and the API.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Stop { .. } => "stop",
        }
    }
}

impl Direction {
    /// Everything goes to one pool.
    pub fn to(active: PoolName) -> Self {
        Self {
            active,
            share: None,
            spare: None,
            traffic: Traffic::Run,
        }
    }

    /// The pool that stands by for a request to `pool`, or to the active one where none is named.
    pub fn stands_by(&self, pool: Option<&PoolName>) -> Option<&PoolName> {
        let own = pool.unwrap_or(&self.active);
        self.spare.as_ref().filter(|spare| *spare != own)
    }

    /// The percentage of new requests that a pool takes.
    pub fn weight(&self, pool: &PoolName) -> u32 {
        let shared = self.share.as_ref().map_or(0, |share| share.percent.min(100));
        match &self.share {
            Some(share) if share.pool == *pool => shared,
            _ if self.active == *pool => 100 - shared,
            _ => 0,
        }
    }
}

impl Share {
    /// Whether a request with this number takes the share. The number is uniform over all of `u64`, and the same for the same key.
    pub fn takes(&self, number: u64) -> bool {
        // The upper half, scaled to a hundred without a division.
        ((number >> 32) * 100) >> 32 < u64::from(self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(percent: u32) -> Share {
        Share {
            pool: PoolName::new("green"),
            percent,
            split: Split::Request,
            deployment: "dify".to_owned(),
            cutover: 1,
        }
    }

    #[test]
    fn a_share_takes_its_percentage_and_nobody_at_zero() {
        let numbers = || (0..10_000_u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for percent in [0, 1, 10, 50, 99, 100] {
            let taken = numbers().filter(|number| share(percent).takes(*number)).count();
            let expected = percent as usize * 100;
            assert!(taken.abs_diff(expected) <= 100, "{taken} for {percent} %");
        }
        assert!(!share(0).takes(0) && share(100).takes(u64::MAX));
    }

    #[test]
    fn who_was_taken_stays_taken_while_the_share_grows() {
        for number in (0..1_000_u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
            let first = (0..=100).find(|percent| share(*percent).takes(number)).unwrap();
            assert!((first..=100).all(|percent| share(percent).takes(number)));
        }
    }

    #[test]
    fn a_pool_stands_by_for_the_others_and_not_for_itself() {
        let (blue, green) = (PoolName::new("blue"), PoolName::new("green"));
        let direction = Direction {
            spare: Some(blue.clone()),
            ..Direction::to(green)
        };
        assert_eq!(direction.stands_by(None), Some(&blue));
        assert_eq!(direction.stands_by(Some(&blue)), None);
        assert_eq!(Direction::to(blue).stands_by(None), None);
    }

    #[test]
    fn weights_add_up_to_a_hundred() {
        let direction = Direction {
            share: Some(share(25)),
            ..Direction::to(PoolName::new("blue"))
        };
        let weights = ["blue", "green", "other"].map(|pool| direction.weight(&PoolName::new(pool)));
        assert_eq!(weights, [75, 25, 0]);
    }
}
