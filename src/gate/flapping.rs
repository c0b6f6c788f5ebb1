//! Flapping: an endpoint that its probes take out and back again and again is worse than one that is simply down, since each return costs
//! requests. BGP damps routes that flap for the same reason (RFC 2439).

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// When an endpoint flaps, and what it must do then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlapRules {
    /// So many changes between serving and down ...
    pub changes: u32,
    /// ... within this time are flapping; 0 changes turn it off.
    pub within: Duration,
    /// So long it stays down whatever its probes say ...
    pub hold: Duration,
    /// ... and then so many passes in a row take it back.
    pub rise: NonZeroU32,
}

impl Default for FlapRules {
    /// Two restarts within five minutes are a bad deployment; a third fall is not an accident any more.
    fn default() -> Self {
        Self {
            changes: 4,
            within: Duration::from_secs(300),
            hold: Duration::from_secs(60),
            rise: NonZeroU32::MIN.saturating_add(4),
        }
    }
}

/// The changes of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Flapping {
    changes: VecDeque<Instant>,
    /// Until when it is held down.
    until: Option<Instant>,
}

impl Flapping {
    /// It has come back, or (`falls`) gone down. Tells whether it is held down from now on.
    pub fn note(&mut self, falls: bool, rules: &FlapRules, now: Instant) -> bool {
        let most = rules.changes as usize;
        self.changes
            .retain(|at| now.saturating_duration_since(*at) <= rules.within);
        self.until = (falls && most > 0 && self.changes.len() >= most).then(|| now + rules.hold);
        self.changes.push_back(now);
        if self.changes.len() > most.max(1) {
            self.changes.pop_front();
        }
        self.until.is_some()
    }

    /// The last change was not its own.
    pub fn forgive(&mut self) {
        self.changes.pop_back();
        self.until = None;
    }

    /// The changes that count still, and until when it is held down.
    pub fn told(&self) -> (Vec<Instant>, Option<Instant>) {
        (self.changes.iter().copied().collect(), self.until)
    }

    /// What [`Flapping::told`] tells.
    pub fn of((changes, until): (Vec<Instant>, Option<Instant>)) -> Self {
        Self {
            changes: changes.into(),
            until,
        }
    }

    /// Until when it is held down; it may lie in the past, and then more passes than usual take it back.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_fall_within_five_minutes_is_held() {
        let (start, rules) = (Instant::now(), FlapRules::default());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut flapping = Flapping::default();
        let held =
            [(0, true), (10, false), (20, true), (30, false)].map(|(s, falls)| flapping.note(falls, &rules, at(s)));
        assert_eq!(held, [false; 4]);
        assert!(flapping.note(true, &rules, at(40)));
        assert_eq!(flapping.until(), Some(at(100)));
        assert!(!flapping.note(false, &rules, at(110)), "it is back");
        assert!(flapping.note(true, &rules, at(300)), "four of its changes are younger");
        assert!(!flapping.note(true, &rules, at(1_000)));
    }

    #[test]
    fn no_changes_turn_it_off() {
        let rules = FlapRules {
            changes: 0,
            ..FlapRules::default()
        };
        let mut flapping = Flapping::default();
        assert!((0..20).all(|n| !flapping.note(n % 2 == 0, &rules, Instant::now())));
    }
}
