//! What a failing component means: that the endpoint is out, that it is a lesser choice, or nothing; and when many endpoints miss the
//! same one.
//!
//! A database that all instances share fails on all of them at once. To eject them one by one would turn a fault of the database into an
//! outage of the service, so a component that is marked as shared and fails on most of a pool is one failure of one dependency.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::health::{FailureClass, Outcome};

/// What becomes of an endpoint whose probe names a component as failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnFailure {
    /// Nothing.
    Ignore,
    /// It serves only where nothing better is.
    Degrade,
    /// It counts as a failed probe.
    #[default]
    Eject,
}

/// The rule for one component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComponentRule {
    /// What becomes of the endpoint.
    pub on_failure: OnFailure,
    /// Whether all endpoints of a pool depend on the same one.
    pub shared: bool,
}

/// The rules of an upstream, by component; one that is not named is ejected for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentRules(pub BTreeMap<String, ComponentRule>);

/// What an answer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// What it says.
    Face,
    /// A pass.
    Pass,
    /// A pass of a lesser endpoint.
    Degraded,
    /// Nothing, since a shared dependency fails.
    Frozen,
}

impl ComponentRules {
    /// The rule for a component.
    pub fn of(&self, component: &str) -> ComponentRule {
        self.0.get(component).copied().unwrap_or_default()
    }

    /// What an answer is worth that calls these components failed, while the dependencies in `failing` fail for the whole pool. Only an answer
    /// that came, with a status or a body that was not expected, can be excused by what it names.
    pub fn weigh(&self, outcome: &Outcome, failed: &[String], failing: &BTreeSet<String>) -> Worth {
        let worst = failed.iter().map(|name| self.of(name).on_failure).max();
        match worst.filter(|_| names_components(outcome)) {
            None => Worth::Face,
            Some(OnFailure::Ignore) => Worth::Pass,
            Some(OnFailure::Degrade) => Worth::Degraded,
            Some(OnFailure::Eject) if self.grave(failed).all(|name| failing.contains(name)) => Worth::Frozen,
            Some(OnFailure::Eject) => Worth::Face,
        }
    }

    /// Of failed components those that an endpoint cannot do without.
    fn grave<'a>(&'a self, failed: &'a [String]) -> impl Iterator<Item = &'a String> {
        let ejects = |name: &&String| self.of(name).on_failure == OnFailure::Eject;
        failed.iter().filter(ejects)
    }

    /// Whether an endpoint fails only for components that its pool shares, so that the failure may be everyone's.
    pub fn may_be_shared(&self, outcome: &Outcome, failed: &[String]) -> bool {
        let mut grave = self.grave(failed).peekable();
        names_components(outcome) && grave.peek().is_some() && grave.all(|name| self.of(name).shared)
    }

    /// Whether a shared component that fails on `count` of `all` endpoints is one failure of one dependency: on two at least, and on half.
    pub fn is_shared_failure(&self, component: &str, count: usize, all: usize) -> bool {
        self.of(component).shared && count >= 2 && count * 2 >= all
    }
}

/// Whether a failure is an answer that can name components.
pub fn names_components(outcome: &Outcome) -> bool {
    let answered = matches!(outcome.class(), Some(FailureClass::Status | FailureClass::Body));
    answered && matches!(outcome, Outcome::Fail { .. })
}

/// Whether to serve when nothing is fit to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllDown {
    /// By the evidence: where every endpoint refuses, 503 at once; where a shared dependency fails, or all are silent, which may well be
    /// the gate's own trouble, requests go to all of them.
    #[default]
    Auto,
    /// Never: 503 at once.
    Closed,
    /// Always: requests go to all of them.
    Open,
}

impl AllDown {
    /// Whether requests go to endpoints of which none is fit, where one of them `refuses` or none does.
    pub fn is_open(self, refuses: bool) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::Auto => !refuses,
        }
    }
}

/// How long such a decision stands, so that requests do not flap between an answer and a refusal.
const STANDS: Duration = Duration::from_secs(5);

/// Whether requests go to endpoints of which none is fit, decided once in a while.
#[derive(Clone, Copy, Debug, Default)]
pub struct Openness(Option<(bool, Instant)>);

impl Openness {
    /// Whether a decision has stood for its time.
    pub fn is_due(self, now: Instant) -> bool {
        self.0
            .is_some_and(|(_, since)| now.saturating_duration_since(since) >= STANDS)
    }

    /// The decision at `now`; an earlier one stands for five seconds.
    pub fn decide(&mut self, rule: AllDown, refuses: bool, now: Instant) -> bool {
        match self.0 {
            Some((open, since)) if now.saturating_duration_since(since) < STANDS => open,
            _ => {
                let open = rule.is_open(refuses);
                self.0 = Some((open, now));
                open
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> ComponentRules {
        let rule = |on_failure, shared| ComponentRule { on_failure, shared };
        let named = [
            ("database", rule(OnFailure::Eject, true)),
            ("cache", rule(OnFailure::Degrade, true)),
            ("metrics", rule(OnFailure::Ignore, false)),
        ];
        ComponentRules(named.map(|(name, rule)| (name.to_owned(), rule)).into())
    }

    fn worth(failed: &[&str], failing: &[&str]) -> Worth {
        let refusal = Outcome::Fail {
            class: FailureClass::Status,
            detail: "status 503".into(),
        };
        let failed: Vec<String> = failed.iter().map(|name| (*name).to_owned()).collect();
        let failing = failing.iter().map(|name| (*name).to_owned()).collect();
        rules().weigh(&refusal, &failed, &failing)
    }

    #[test]
    fn the_gravest_component_decides() {
        for (failed, expected) in [
            (&[][..], Worth::Face),
            (&["metrics"], Worth::Pass),
            (&["metrics", "cache"], Worth::Degraded),
            (&["cache", "database"], Worth::Face),
            (&["never heard of"], Worth::Face),
        ] {
            assert_eq!(worth(failed, &[]), expected, "{failed:?}");
        }
    }

    #[test]
    fn a_shared_failure_excuses_itself_and_nothing_else() {
        assert_eq!(worth(&["database"], &["database"]), Worth::Frozen);
        assert_eq!(worth(&["database", "model"], &["database"]), Worth::Face);
        assert_eq!(worth(&["database", "cache"], &["database"]), Worth::Frozen);
    }

    #[test]
    fn silence_is_not_excused_by_what_was_said_before() {
        let silence = Outcome::Fail {
            class: FailureClass::Timeout,
            detail: String::new(),
        };
        let failed = ["metrics".to_owned()];
        assert_eq!(rules().weigh(&silence, &failed, &BTreeSet::new()), Worth::Face);
    }

    #[test]
    fn two_and_half_of_a_pool_make_a_shared_failure() {
        for (count, all, expected) in [
            (1, 1, false),
            (1, 2, false),
            (2, 2, true),
            (2, 3, true),
            (2, 5, false),
            (3, 6, true),
        ] {
            assert_eq!(
                rules().is_shared_failure("database", count, all),
                expected,
                "{count} of {all}"
            );
        }
        assert!(!rules().is_shared_failure("model", 3, 3), "not marked as shared");
    }
}
