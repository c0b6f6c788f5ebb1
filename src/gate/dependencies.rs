//! What the probes of one endpoint say of the components that it depends on, and whether its failure waits for what the others say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::components::names_components;
use super::health::Outcome;

/// How long the failure of a shared component on one endpoint is held back until the others are known to lack it as well. A service beside an
/// instance may repeat an answer for a second, and its checks may take most of another one.
pub const HELD_BACK: Duration = Duration::from_secs(2);

/// The last answer of one probe that named failed components.
#[derive(Clone, Debug)]
struct Named {
    at: Instant,
    failed: Vec<String>,
    /// Whether the probe has not failed otherwise since.
    is_latest: bool,
}

/// See the module's own words.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    /// By probe.
    named: BTreeMap<usize, Named>,
    /// Since when a failure is held back.
    held: Option<Instant>,
    /// Whether its last fall was the pool's rather than its own.
    excused: bool,
    /// When the last shared failure ended.
    over: Option<Instant>,
}

impl Dependencies {
    /// Takes note of an answer of a probe. An answer that never came leaves what the last one named, which expires by its age.
    pub fn note(&mut self, probe: usize, outcome: &Outcome, failed: &[String], now: Instant) {
        if names_components(outcome) && !failed.is_empty() {
            let (at, failed) = (now, failed.to_vec());
            let is_latest = true;
            self.named.insert(probe, Named { at, failed, is_latest });
        } else if outcome.is_pass() || names_components(outcome) {
            self.named.remove(&probe);
        } else if let Some(named) = self.named.get_mut(&probe).filter(|_| outcome.is_evidence()) {
            named.is_latest = false;
        }
        if self.named.is_empty() {
            self.held = None;
        }
    }

    /// Takes over that these components failed at `now`, as another process knew.
    pub fn resume(&mut self, failed: Vec<String>, now: Instant) {
        if !failed.is_empty() {
            let (at, is_latest) = (now, true);
            self.named.insert(0, Named { at, failed, is_latest });
        }
    }

    /// Forgets what the probes said, since they are others now.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether a probe named this component as failed, `within` so long before `now`.
    pub fn lacks(&self, component: &str, within: Duration, now: Instant) -> bool {
        self.recent(within, now).any(|name| name == component)
    }

    /// The components that a probe named as failed, `within` so long before `now`.
    pub fn recent(&self, within: Duration, now: Instant) -> impl Iterator<Item = &str> {
        let fresh = move |named: &&Named| now.saturating_duration_since(named.at) <= within;
        let named = self.named.values().filter(fresh).flat_map(|named| &named.failed);
        named.map(String::as_str)
    }

    /// All components that some probe calls failed.
    pub fn failed(&self) -> impl Iterator<Item = &String> {
        self.named.values().flat_map(|named| &named.failed)
    }

    /// What a probe called failed, where that is its latest word.
    pub fn latest(&self, probe: usize) -> Option<&[String]> {
        let named = self.named.get(&probe).filter(|named| named.is_latest);
        named.map(|named| named.failed.as_slice())
    }

    /// Holds a failure back that came at `now`. Tells whether the time for that is not over.
    pub fn hold(&mut self, now: Instant) -> bool {
        let since = *self.held.get_or_insert(now);
        now.saturating_duration_since(since) < HELD_BACK
    }

    /// Whether a failure is held back.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// It is known whose failure it is.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// A failure that its pool shared is over.
    pub fn end_shared(&mut self, now: Instant) {
        self.over = Some(now);
    }

    /// Whether a failure that its pool shared was over only after `since`.
    pub fn ended_after(&self, since: Instant) -> bool {
        self.over.is_some_and(|over| since <= over)
    }

    /// Notes whether its last fall was the pool's rather than its own.
    pub fn excuse(&mut self, excused: bool) {
        self.excused = excused;
    }

    /// Whether its last fall was the pool's rather than its own.
    pub fn is_excused(&self) -> bool {
        self.excused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::health::FailureClass;

    fn fail(class: FailureClass) -> Outcome {
        let detail = String::new();
        Outcome::Fail { class, detail }
    }

    #[test]
    fn a_word_lasts_until_its_probe_says_otherwise_or_it_is_old() {
        let (mut known, start) = (Dependencies::default(), Instant::now());
        let (second, failed) = (Duration::from_secs(1), ["database".to_owned()]);
        let lacks = |known: &Dependencies, after: u32| known.lacks("database", 6 * second, start + after * second);
        known.note(1, &fail(FailureClass::Status), &failed, start);
        known.note(0, &Outcome::Pass, &[], start);
        assert!(lacks(&known, 6), "another probe says nothing of it");
        assert!(!lacks(&known, 7));
        assert_eq!(known.latest(1), Some(&failed[..]));
        known.note(1, &fail(FailureClass::Timeout), &[], start + second);
        assert!(lacks(&known, 6), "silence takes nothing back");
        assert_eq!(known.latest(1), None);
        known.note(1, &fail(FailureClass::Status), &[], start + second);
        assert!(!lacks(&known, 1), "it fails for another reason");
    }

    #[test]
    fn a_failure_is_held_back_for_two_seconds() {
        let (mut known, start) = (Dependencies::default(), Instant::now());
        known.note(0, &fail(FailureClass::Status), &["database".to_owned()], start);
        assert!(known.hold(start));
        assert!(known.hold(start + HELD_BACK / 2));
        assert!(!known.hold(start + HELD_BACK));
        known.note(0, &Outcome::Pass, &[], start + HELD_BACK);
        assert!(!known.is_held());
    }
}
