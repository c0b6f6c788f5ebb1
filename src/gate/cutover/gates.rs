//! What must hold of a pool before users are sent to it, each with three possible answers.
//!
//! Argo Rollouts takes a run that ended early for a success, and Flagger judges without traffic; here what was not shown is not passed.

use std::cmp::Reverse;
use std::fmt;

/// What a gate says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It was shown to hold.
    Pass,
    /// It was not shown either way.
    #[default]
    Inconclusive,
    /// It was shown not to hold.
    Fail,
}

impl Verdict {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Inconclusive => "inconclusive",
            Self::Fail => "fail",
        }
    }

    /// The verdict of a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pass, Self::Inconclusive, Self::Fail]
            .into_iter()
            .find(|verdict| verdict.as_str() == word)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One condition, and what was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// What it is about: `health`, `version`, `smoke`, ...
    pub name: String,
    /// What it says.
    pub verdict: Verdict,
    /// What was measured, in words.
    pub detail: String,
}

impl Gate {
    /// A gate.
    pub fn new(name: &str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            verdict,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.name, self.verdict, self.detail)
    }
}

/// The worst of all verdicts; inconclusive where there are none, for nothing was shown.
pub fn worst(gates: &[Gate]) -> Verdict {
    gates.iter().map(|gate| gate.verdict).max().unwrap_or_default()
}

/// The gate that does not pass; of several the first of the worst.
pub fn obstacle(gates: &[Gate]) -> Option<&Gate> {
    gates
        .iter()
        .filter(|gate| gate.verdict != Verdict::Pass)
        .min_by_key(|gate| Reverse(gate.verdict))
}

/// What keeps a pool from taking users, in words: the obstacle, or that nothing was measured, for then nothing was shown.
pub fn lack(gates: &[Gate]) -> Option<String> {
    let unmeasured = gates.is_empty().then(|| "nothing was measured".to_owned());
    unmeasured.or_else(|| obstacle(gates).map(ToString::to_string))
}

/// What is known of one endpoint of the new pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSeen {
    /// Which one: its upstream and its address.
    pub name: String,
    /// Its state, in the word that users see.
    pub state: String,
    /// Whether it may serve.
    pub fit: bool,
    /// Probes that it has passed in a row since the cutover started; of several probes the least.
    pub passes: u32,
    /// Whether it has answered at all since then.
    pub asked: bool,
    /// The version that its last passing probe named.
    pub version: Option<String>,
}

/// Every endpoint must have passed so many probes in a row, counted from the start of the cutover, so that no verdict is older than it.
pub fn health(endpoints: &[EndpointSeen], rise: u32) -> Gate {
    const NAME: &str = "health";
    if endpoints.is_empty() {
        return Gate::new(NAME, Verdict::Fail, "the pool has no endpoint");
    }
    let sick = endpoints.iter().find(|endpoint| endpoint.asked && !endpoint.fit);
    if let Some(sick) = sick {
        return Gate::new(NAME, Verdict::Fail, format!("{} is {}", sick.name, sick.state));
    }
    let fewest = endpoints.iter().min_by_key(|endpoint| endpoint.passes);
    match fewest {
        Some(fewest) if fewest.passes < rise => {
            let detail = format!("{} of {rise} probes in a row passed on {}", fewest.passes, fewest.name);
            Gate::new(NAME, Verdict::Inconclusive, detail)
        }
        Some(_) | None => {
            let detail = format!("{rise} probes in a row passed on each of {} endpoints", endpoints.len());
            Gate::new(NAME, Verdict::Pass, detail)
        }
    }
}

/// Every endpoint must name the version that the release is.
pub fn version(endpoints: &[EndpointSeen], expected: &str) -> Gate {
    const NAME: &str = "version";
    let other = endpoints
        .iter()
        .find(|endpoint| endpoint.version.as_deref().is_some_and(|version| version != expected));
    let silent = endpoints.iter().find(|endpoint| endpoint.version.is_none());
    match (other, silent) {
        (Some(other), _) => {
            let version = other.version.as_deref().unwrap_or_default();
            Gate::new(
                NAME,
                Verdict::Fail,
                format!("{} is {version}, expected {expected}", other.name),
            )
        }
        (None, Some(silent)) => {
            let detail = format!(
                "{} names no version, neither in its probe's body nor in X-Version",
                silent.name
            );
            Gate::new(NAME, Verdict::Inconclusive, detail)
        }
        (None, None) if endpoints.is_empty() => Gate::new(NAME, Verdict::Inconclusive, "the pool has no endpoint"),
        (None, None) => Gate::new(NAME, Verdict::Pass, format!("every endpoint is {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(passes: u32, version: Option<&str>) -> EndpointSeen {
        EndpointSeen {
            name: "dify/10.0.0.2:80".to_owned(),
            state: "up".to_owned(),
            fit: true,
            passes,
            asked: true,
            version: version.map(str::to_owned),
        }
    }

    #[test]
    fn no_endpoint_is_a_failure_and_no_gate_is_no_pass() {
        assert_eq!(health(&[], 3).verdict, Verdict::Fail);
        assert_eq!(version(&[], "1").verdict, Verdict::Inconclusive);
        assert_eq!(worst(&[]), Verdict::Inconclusive);
    }

    #[test]
    fn the_weakest_endpoint_decides() {
        assert_eq!(
            health(&[endpoint(3, None), endpoint(2, None)], 3).verdict,
            Verdict::Inconclusive
        );
        assert_eq!(
            health(&[endpoint(3, None), endpoint(7, None)], 3).verdict,
            Verdict::Pass
        );
        let down = EndpointSeen {
            fit: false,
            state: "down".to_owned(),
            ..endpoint(0, None)
        };
        let gate = health(&[endpoint(3, None), down.clone()], 3);
        assert_eq!(
            (gate.verdict, gate.detail.as_str()),
            (Verdict::Fail, "dify/10.0.0.2:80 is down")
        );
        let unheard = EndpointSeen { asked: false, ..down };
        assert_eq!(health(&[unheard], 3).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_version_that_nobody_names_is_not_the_expected_one() {
        let verdict = |versions: &[Option<&str>]| {
            let endpoints: Vec<_> = versions.iter().map(|version| endpoint(3, *version)).collect();
            version(&endpoints, "1.15.0").verdict
        };
        assert_eq!(verdict(&[Some("1.15.0"), Some("1.15.0")]), Verdict::Pass);
        assert_eq!(verdict(&[Some("1.15.0"), None]), Verdict::Inconclusive);
        assert_eq!(verdict(&[Some("1.15.0"), None, Some("1.14.2")]), Verdict::Fail);
    }

    #[test]
    fn the_worst_gate_is_the_obstacle() {
        let gates = [
            Gate::new("a", Verdict::Pass, ""),
            Gate::new("b", Verdict::Inconclusive, ""),
            Gate::new("c", Verdict::Fail, ""),
        ];
        assert_eq!(worst(&gates), Verdict::Fail);
        assert_eq!(obstacle(&gates).map(|gate| gate.name.as_str()), Some("c"));
        assert_eq!(obstacle(gates.get(..1).unwrap_or_default()), None);
        let both = [
            Gate::new("first", Verdict::Fail, ""),
            Gate::new("second", Verdict::Fail, ""),
        ];
        assert_eq!(obstacle(&both).map(|gate| gate.name.as_str()), Some("first"));
    }

    #[test]
    fn where_nothing_was_measured_something_is_lacking() {
        assert_eq!(lack(&[]).as_deref(), Some("nothing was measured"));
        assert_eq!(lack(&[Gate::new("a", Verdict::Pass, "")]), None);
        let gates = [Gate::new("a", Verdict::Fail, "down")];
        assert_eq!(lack(&gates).as_deref(), Some("a: fail (down)"));
    }
}
