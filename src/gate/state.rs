//! The states of an endpoint as operators see them, and why it is in one.

use std::fmt;

use super::health::{FailureClass, Health, Outcome};
use super::names::EndpointId;

/// Where an endpoint stands. Declared best first, so that of several verdicts the worst one is the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Every probe passes: it takes traffic.
    Up,
    /// No probe has passed yet: it takes no traffic.
    Unknown,
    /// A probe says that it is not fit to serve: it takes no traffic.
    Down,
}

impl State {
    /// Every state, in the order in which documents list them.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Up, Self::Down];

    /// The stable word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unknown => "unknown",
            Self::Down => "down",
        }
    }

    /// Whether requests may go there.
    pub fn is_routable(self) -> bool {
        self == Self::Up
    }
}

impl From<Health> for State {
    fn from(health: Health) -> Self {
        match health {
            Health::Unknown { .. } => Self::Unknown,
            Health::Up { .. } => Self::Up,
            Health::Down { .. } => Self::Down,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an endpoint is in its state. Every change carries one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It has not been asked yet.
    NotProbed,
    /// A probe passed.
    Passed,
    /// A probe failed.
    Failed {
        /// The probe's name.
        probe: String,
        /// The kind of failure.
        class: FailureClass,
        /// What exactly.
        detail: String,
    },
    /// The probe itself is wrong: the path does not exist on this service.
    Misconfigured {
        /// What to do about it.
        detail: String,
    },
    /// The gate could not ask.
    NoEvidence {
        /// What kept it from asking.
        detail: String,
    },
}

impl Cause {
    /// What an outcome of the probe `probe` says.
    pub fn of(probe: &str, outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Pass => Self::Passed,
            Outcome::Fail { class, detail } => Self::Failed {
                probe: probe.to_owned(),
                class: *class,
                detail: detail.clone(),
            },
            Outcome::Misconfigured { detail } => Self::Misconfigured { detail: detail.clone() },
            Outcome::Unknown { detail } => Self::NoEvidence { detail: detail.clone() },
        }
    }

    /// The word that metrics use; there are nine, so that a label stays bounded.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotProbed => "not_probed",
            Self::Passed => "probe_passed",
            Self::Failed { class, .. } => class.as_str(),
            Self::Misconfigured { .. } => "misconfigured",
            Self::NoEvidence { .. } => "no_evidence",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotProbed => f.write_str("not probed yet"),
            Self::Passed => f.write_str("probe passed"),
            Self::Failed { probe, class, detail } if probe == "default" => {
                write!(f, "probe failed ({class}): {detail}")
            }
            Self::Failed { probe, class, detail } => write!(f, "probe `{probe}` failed ({class}): {detail}"),
            Self::Misconfigured { detail } => write!(f, "probe misconfigured: {detail}"),
            Self::NoEvidence { detail } => write!(f, "could not probe: {detail}"),
        }
    }
}

/// A change of state; there is none without an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose state changed.
    pub endpoint: EndpointId,
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// Why.
    pub cause: Cause,
}
