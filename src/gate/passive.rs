//! The passive witness: what live traffic says against an endpoint, and how the endpoint clears itself.
//!
//! One failure is enough to accuse, for the next request would be wasted as well. What the accusation is worth is found out at once: a probe
//! is sent, and if it fails too, two witnesses of different kinds agree and the endpoint is down. If it passes, probe and traffic
//! contradict each other, which is how a grey failure looks (Huang et al., "Gray Failure: The Achilles' Heel of Cloud-Scale Systems",
//! HotOS 2017). Then the traffic is believed: the endpoint is held back, and comes back only when a real request succeeds.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::health::FailureClass;
use super::latency::LatencyRules;

/// What live traffic may do to an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    /// Whether it may do anything.
    pub eject: bool,
    /// The first hold.
    pub hold: Duration,
    /// The longest hold; each one is twice as long as the last.
    pub longest_hold: Duration,
    /// No more than this share of a pool is held back, in percent; one may always be, and never the last one.
    pub at_most: u32,
    /// Statuses that count as failures.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// An event stream that is silent for so long has its endpoint probed, and is listed as silent; zero for never.
    pub stream_silence: Duration,
    /// Whether who answers much later than the others is one; not unless asked for.
    pub latency: Option<LatencyRules>,
}

impl Default for Outlier {
    /// The first hold is as long as nginx holds a server that failed (`fail_timeout`), so that a grey failure wastes no more requests here.
    /// Of three to five endpoints one may be held back, of six two. Dify pings a stream every ten seconds, so 35 are three pings missed. A run that waits
    /// for a Celery worker is silent for up to 300 s, so silence has an endpoint probed and accuses it of nothing.
    fn default() -> Self {
        Self {
            eject: true,
            hold: Duration::from_secs(10),
            longest_hold: Duration::from_secs(60),
            at_most: 34,
            statuses: vec![502..=504],
            stream_silence: Duration::from_secs(35),
            latency: None,
        }
    }
}

impl Outlier {
    /// What a status says against an endpoint.
    pub fn failure(&self, status: u16) -> Option<TrafficFailure> {
        let counts = self.statuses.iter().any(|range| range.contains(&status));
        counts.then_some(TrafficFailure::Status(status))
    }

    /// How many of so many endpoints may be held back.
    pub fn most_of(&self, all: usize) -> usize {
        (all * self.at_most as usize / 100).max(1)
    }
}

/// A hold is longer by up to this share, so that endpoints which failed together do not return together.
const JITTER_PERCENT: u32 = 20;
/// So long without an accusation takes one doubling of the hold back.
const FORGIVES: Duration = Duration::from_secs(60);
/// A failure in traffic and one of a probe within this time agree.
const AGREE_WITHIN: Duration = Duration::from_secs(2);
/// An endpoint whose probes pass returns after this time even if no request came that could try it, and one that is suspect is held back after
/// this time even if no probe decided.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a request failed through no fault of the client's. A 500 is not one: it is often the application's own, and the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrafficFailure {
    /// No connection came about.
    Connect,
    /// The connection broke, or what came was no answer, before the first byte.
    Reset,
    /// No first byte came in time.
    Timeout,
    /// A status that counts as a failure.
    Status(u16),
    /// The answer broke off.
    Cut,
}

impl fmt::Display for TrafficFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::Reset => f.write_str("the connection broke before an answer"),
            Self::Timeout => f.write_str("no first byte in time"),
            Self::Status(status) => write!(f, "answered {status}"),
            Self::Cut => f.write_str("the answer broke off"),
        }
    }
}

/// How the one real request ended that an ejected endpoint was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It was answered.
    Passed,
    /// It failed as well.
    Failed(TrafficFailure),
}

/// Where an endpoint stands with its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is held against it.
    #[default]
    Clear,
    /// Accused; the probe with this number and later ones decide.
    Suspect {
        /// The number.
        question: u64,
        /// Since then.
        since: Instant,
    },
    /// Held back.
    Ejected {
        /// Until then.
        until: Instant,
    },
    /// The hold is over: the next request that may be sent twice tries it.
    OnTrial {
        /// Since then.
        since: Instant,
    },
}

/// What is held against one endpoint, and how often it was.
#[derive(Clone, Debug, Default)]
pub struct Passive {
    standing: Standing,
    /// How often the hold has doubled.
    doublings: u32,
    /// When it last cleared itself.
    cleared: Option<Instant>,
    /// When a request last failed on it, accused or not.
    witnessed: Option<Instant>,
    /// When its requests or streams were last noticed to be silent.
    silent: Option<Instant>,
    /// When it was last probed for that.
    probed: Option<Instant>,
    /// The failure that it is accused of.
    failure: Option<TrafficFailure>,
}

impl Passive {
    /// Where it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// What is left of it for somebody else who goes on: where it stands, the failure that it is accused of, and how often the hold has
    /// doubled.
    pub fn told(&self) -> (Standing, Option<TrafficFailure>, u32) {
        (self.standing, self.failure, self.doublings)
    }

    /// What [`Passive::told`] tells.
    pub fn of((standing, failure, doublings): (Standing, Option<TrafficFailure>, u32)) -> Self {
        Self {
            standing,
            doublings,
            failure,
            ..Self::default()
        }
    }

    /// The probe that was to decide is lost: any one that comes decides.
    pub(super) fn ask_again(&mut self, now: Instant) {
        if let Standing::Suspect { .. } = self.standing {
            self.standing = Standing::Suspect {
                question: 0,
                since: now,
            };
        }
    }

    /// What it is accused of.
    pub fn failure(&self) -> Option<TrafficFailure> {
        self.failure
    }

    /// Notes a failed request at `now`. Returns whether it is the first within `AGREE_WITHIN`.
    pub fn witness(&mut self, now: Instant) -> bool {
        let before = self.witnessed.replace(now);
        before.is_none_or(|before| now.saturating_duration_since(before) > AGREE_WITHIN)
    }

    /// Notes that its requests or streams are silent at `now`. Returns whether it is to be probed for that, once within `AGREE_WITHIN`.
    pub fn note_silence(&mut self, now: Instant) -> bool {
        self.silent = Some(now);
        let recent = |at: Instant| now.saturating_duration_since(at) <= AGREE_WITHIN;
        let asks = !self.probed.is_some_and(recent);
        if asks {
            self.probed = Some(now);
        }
        asks
    }

    /// Whether its requests or streams were noticed to be silent within `AGREE_WITHIN` of `now`.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.silent
            .is_some_and(|at| now.saturating_duration_since(at) <= AGREE_WITHIN)
    }

    /// Whether a probe that fails at `now` in the way of `class` agrees with the traffic. Silence agrees only with a probe that got no HTTP answer: an
    /// answer, whatever it says, shows that the process lives.
    pub fn agrees(&self, class: FailureClass, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) <= AGREE_WITHIN;
        matches!(self.standing, Standing::Suspect { .. })
            || self.witnessed.is_some_and(recent)
            || !class.is_answer() && self.is_silent(now)
    }

    /// It is accused; the probe `question` is to decide.
    pub fn accuse(&mut self, failure: TrafficFailure, question: u64, now: Instant) {
        if let Some(cleared) = self.cleared {
            let forgiven = now.saturating_duration_since(cleared).as_secs() / FORGIVES.as_secs();
            self.doublings = self
                .doublings
                .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        }
        self.failure = Some(failure);
        self.standing = Standing::Suspect { question, since: now };
    }

    /// It is held back from `now` on; returns until when. `random` spreads the ends.
    pub fn eject(&mut self, now: Instant, random: u64, terms: &Outlier) -> Instant {
        let hold = terms.hold.saturating_mul(2u32.saturating_pow(self.doublings.min(8)));
        let hold = hold.min(terms.longest_hold);
        let jitter = hold * JITTER_PERCENT / 100;
        let until = now + hold + jitter.mul_f64(random as f64 / u64::MAX as f64);
        self.doublings += 1;
        self.standing = Standing::Ejected { until };
        until
    }

    /// The hold is over.
    pub fn try_again(&mut self, now: Instant) {
        self.standing = Standing::OnTrial { since: now };
    }

    /// Nothing is held against it any more.
    pub fn clear(&mut self, now: Instant) {
        if self.standing != Standing::Clear {
            self.cleared = Some(now);
        }
        self.standing = Standing::Clear;
        self.failure = None;
        self.witnessed = None;
        self.silent = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(passive: &mut Passive, at: Instant) -> u64 {
        passive.accuse(TrafficFailure::Status(503), 1, at);
        passive
            .eject(at, 0, &Outlier::default())
            .saturating_duration_since(at)
            .as_secs()
    }

    #[test]
    fn holds_double_and_are_forgiven_by_the_minute() {
        let (mut passive, start) = (Passive::default(), Instant::now());
        assert_eq!([(); 5].map(|()| hold(&mut passive, start)), [10, 20, 40, 60, 60]);
        passive.clear(start);
        assert_eq!(hold(&mut passive, start + 2 * FORGIVES), 60, "five doublings less two");
        passive.clear(start);
        assert_eq!(hold(&mut passive, start + 60 * FORGIVES), 10);
    }

    #[test]
    fn a_hold_is_longer_by_a_fifth_at_most() {
        let (mut passive, start) = (Passive::default(), Instant::now());
        let terms = Outlier::default();
        let until = passive.eject(start, u64::MAX, &terms);
        assert_eq!(until - start, terms.hold + terms.hold / 5);
    }

    #[test]
    fn words_agree_within_two_seconds() {
        let (mut passive, start) = (Passive::default(), Instant::now());
        let agrees = |passive: &Passive, at| passive.agrees(FailureClass::Status, at);
        assert!(!agrees(&passive, start));
        assert!(passive.witness(start));
        assert!(!passive.witness(start + AGREE_WITHIN), "the same trouble");
        assert!(agrees(&passive, start + 2 * AGREE_WITHIN));
        assert!(!agrees(&passive, start + 3 * AGREE_WITHIN));
        assert!(passive.witness(start + 4 * AGREE_WITHIN));
    }

    #[test]
    fn silence_agrees_with_a_probe_that_gets_no_answer_and_with_no_other() {
        let (mut passive, start) = (Passive::default(), Instant::now());
        assert!(passive.note_silence(start) && !passive.note_silence(start));
        let agreeing: Vec<FailureClass> = FailureClass::ALL
            .into_iter()
            .filter(|class| passive.agrees(*class, start))
            .collect();
        use FailureClass::{Connect, Protocol, Timeout, Tls};
        assert_eq!(agreeing, [Timeout, Connect, Tls, Protocol]);
        assert!(!passive.agrees(Timeout, start + 2 * AGREE_WITHIN));
    }

    #[test]
    fn a_500_is_the_applications_own() {
        let terms = Outlier::default();
        let statuses: Vec<u16> = (100..600).filter(|status| terms.failure(*status).is_some()).collect();
        assert_eq!(statuses, [502, 503, 504]);
    }

    #[test]
    fn a_third_of_a_pool_may_be_held_back_and_one_always() {
        let terms = Outlier::default();
        assert_eq!(
            [1, 2, 3, 5, 6, 9, 30].map(|all| terms.most_of(all)),
            [1, 1, 1, 1, 2, 3, 10]
        );
    }
}
