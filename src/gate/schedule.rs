//! When the next probe is sent: a phase of its own for every endpoint, a little jitter, and haste while a verdict is unsure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::health::{Health, ProbePlan};

/// How soon an unsure verdict is asked again.
///
/// Two failures 250 ms apart are two witnesses of one outage; asking sooner would count one blip twice, and later would
/// leave a refusing endpoint in rotation.
pub const CONFIRM: Duration = Duration::from_millis(250);

/// Of very many endpoints so many are asked at the same moment for the first time ...
pub const AT_ONCE: usize = 256;
/// ... and as many again after this, so that the questions do not wait for each other in the kernel's queues.
pub const WAVE: Duration = Duration::from_millis(25);

/// The share by which an interval may be longer or shorter, so that many gates do not fall into step.
const JITTER_PERCENT: u64 = 10;

/// The time from the first probe of an endpoint to its second: between half an interval and one and a half, fixed by the
/// endpoint's identity and the gate's seed, so that thousands of endpoints spread over the interval by themselves.
pub fn phase(identity: &impl Hash, seed: u64, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    identity.hash(&mut hasher);
    interval / 2 + fraction(interval, hasher.finish())
}

/// The time to the next probe, from the start of the last one.
pub fn next(plan: &ProbePlan, health: Health, random: u64) -> Duration {
    if health.is_unsure() {
        return CONFIRM.min(plan.interval);
    }
    let swing = plan.interval * (2 * JITTER_PERCENT as u32) / 100;
    plan.interval - swing / 2 + fraction(swing, random)
}

/// The time to the next probe of an endpoint that is down, from its last answer: at first soon, for most are back in a moment, then at the
/// interval, by decorrelated jitter (Brooker, "Exponential Backoff And Jitter", 2015). `last` is the wait before, zero at first.
pub fn again(last: Duration, interval: Duration, random: u64) -> Duration {
    let least = CONFIRM.min(interval);
    let most = (last.max(least) * 3).min(interval.max(least) * 3);
    (least + fraction(most - least, random)).min(interval)
}

/// When an unanswered probe is joined by a second one on a connection of its own: at half of its deadline, so that a hang
/// has two witnesses after one and a half deadlines rather than two.
pub fn overlap(plan: &ProbePlan) -> Duration {
    plan.timeout / 2
}

fn fraction(of: Duration, random: u64) -> Duration {
    let nanos = (u128::from(random) * of.as_nanos()) >> 64;
    Duration::from_nanos(nanos as u64)
}

/// A small random sequence (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014). The seed comes
/// from outside, so a test sees the same sequence every time.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// A sequence of its own for every seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_sure_verdict_is_asked_at_the_interval_give_or_take_a_tenth() {
        let mut dice = Dice::new(1);
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for _ in 0..10_000 {
            let wait = next(&ProbePlan::default(), Health::Up { fails: 0 }, dice.roll());
            least = least.min(wait);
            most = most.max(wait);
        }
        assert!(
            least >= Duration::from_millis(1_800) && least < Duration::from_millis(1_805),
            "{least:?}"
        );
        assert!(
            most <= Duration::from_millis(2_200) && most > Duration::from_millis(2_195),
            "{most:?}"
        );
    }

    #[test]
    fn an_unsure_verdict_is_asked_again_soon() {
        for unsure in [Health::START, Health::Up { fails: 1 }, Health::Down { passes: 1 }] {
            assert_eq!(next(&ProbePlan::default(), unsure, 0), CONFIRM);
        }
    }

    #[test]
    fn phases_spread_over_the_interval() {
        let second = Duration::from_secs(1);
        let mut buckets = [0; 10];
        for endpoint in 0..10_000 {
            let phase = phase(&endpoint, 42, second);
            assert!(phase >= second / 2 && phase < second * 3 / 2);
            buckets[(phase - second / 2).as_millis() as usize / 100] += 1;
        }
        assert!(buckets.iter().all(|n| (850..1_150).contains(n)), "{buckets:?}");
    }
}
