//! The states of an endpoint as operators see them, and why it is in one.

use std::fmt;

use super::health::{FailureClass, Health, Outcome};
use super::names::EndpointId;
use super::passive::TrafficFailure;

/// Where an endpoint stands. Declared best first, so that of several verdicts the worst one is the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Every probe passes: it takes traffic.
    Up,
    /// It has come back: it takes a growing share of its traffic.
    Ramping,
    /// It has no room for a probe, or no time while its streams go on: it takes traffic only where nothing better is.
    Busy,
    /// A component that it can do without fails: it takes traffic only where nothing better is.
    Degraded,
    /// A request failed on it; the probe that decides is under way. It takes no new traffic meanwhile.
    Suspect,
    /// Its probes pass and its traffic fails: it is held back, and then tried with one request.
    Ejected,
    /// No probe has passed yet: it takes no traffic.
    Unknown,
    /// A probe says that it is not fit to serve: it takes no traffic.
    Down,
    /// The operator lets it run empty: it takes no new request.
    Draining,
    /// The operator works on it: it takes no new request and is not probed.
    Maintenance,
}

impl State {
    /// Every state, in the order in which documents list them.
    pub const ALL: [Self; 10] = [
        Self::Unknown,
        Self::Up,
        Self::Ramping,
        Self::Busy,
        Self::Degraded,
        Self::Suspect,
        Self::Ejected,
        Self::Down,
        Self::Draining,
        Self::Maintenance,
    ];

    /// The stable word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ramping => "ramping",
            Self::Busy => "busy",
            Self::Degraded => "degraded",
            Self::Suspect => "suspect",
            Self::Ejected => "ejected",
            Self::Unknown => "unknown",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }

    /// Whether requests may go there as a matter of course.
    pub fn is_routable(self) -> bool {
        self.tier() == Some(Tier::Fit)
    }

    /// Among which endpoints it is chosen; a lesser tier serves only where the better ones are empty. None: never.
    pub fn tier(self) -> Option<Tier> {
        match self {
            Self::Up | Self::Ramping => Some(Tier::Fit),
            Self::Busy | Self::Degraded => Some(Tier::Spare),
            // Its probes pass, so it is better than nobody.
            Self::Suspect | Self::Ejected => Some(Tier::Accused),
            Self::Unknown | Self::Down | Self::Draining | Self::Maintenance => None,
        }
    }
}

/// How good a choice an endpoint is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Fit to serve.
    Fit,
    /// Its hands are full, or it lacks something.
    Spare,
    /// Its traffic fails while its probes pass.
    Accused,
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
    /// It says that it is about to stop.
    Leaving {
        /// How it said so.
        detail: String,
    },
    /// A request failed on it.
    Traffic(TrafficFailure),
    /// Its probe passes while its traffic fails.
    Contradiction(TrafficFailure),
    /// The request that tried it failed as well.
    TrialFailed(TrafficFailure),
    /// The request that tried it was answered.
    TrialPassed,
    /// Its probes pass, and no request came to try it.
    NobodyCame,
    /// Its probe found no time while its streams went on.
    Streaming,
    /// Its probe is overdue, and was answered at once before.
    Late,
    /// Its probe found no room.
    Full {
        /// Connections when the probe was sent, without its own.
        under_way: u32,
    },
    /// It answers much later than the others, for long.
    Slow {
        /// What it takes to the first byte, in milliseconds.
        ms: u32,
        /// What the others take.
        median: u32,
    },
    /// It asked to be spared.
    Sheds {
        /// For so many seconds.
        seconds: u32,
    },
    /// The time for which it asked to be spared is over.
    ShedOver,
    /// A request failed, and no probe decided what that is worth.
    Undecided(TrafficFailure),
    /// Components fail that it can do without.
    Degraded(Vec<String>),
    /// It was held down and well, and nobody else of its pool serves.
    Reserve,
    /// Its failure turned out to be that of dependencies which its pool shares.
    Shared(Vec<String>),
    /// It has its whole share again.
    Ramped,
    /// The operator's word.
    Operator {
        /// Why, as the operator said.
        reason: String,
    },
    /// The operator took the word back.
    Enabled,
    /// The configuration was loaded anew, and asks for less or something else.
    Reloaded,
    /// The time of the operator's word is over.
    OverrideExpired,
    /// The process before this one said so.
    HandedOver {
        /// What it said.
        cause: String,
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
            Outcome::Pass | Outcome::Absent { .. } => Self::Passed,
            Outcome::Fail { class, detail } => Self::Failed {
                probe: probe.to_owned(),
                class: *class,
                detail: detail.clone(),
            },
            Outcome::Misconfigured { detail } => Self::Misconfigured { detail: detail.clone() },
            Outcome::Leaving { detail } => Self::Leaving { detail: detail.clone() },
            Outcome::Sheds { seconds } => Self::Sheds { seconds: *seconds },
            Outcome::Unknown { detail } => Self::NoEvidence { detail: detail.clone() },
        }
    }

    /// The word that metrics use, so that a label stays bounded.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotProbed => "not_probed",
            Self::Passed => "probe_passed",
            Self::Failed { class, .. } => class.as_str(),
            Self::Misconfigured { .. } => "misconfigured",
            Self::Leaving { .. } => "leaving",
            Self::Slow { .. } => "slow",
            Self::Sheds { .. } => "sheds_load",
            Self::ShedOver => "shed_over",
            Self::Undecided(_) => "traffic_undecided",
            Self::Traffic(_) => "traffic_failed",
            Self::Contradiction(_) => "traffic_contradicts_probe",
            Self::TrialFailed(_) => "trial_failed",
            Self::TrialPassed => "trial_passed",
            Self::NobodyCame => "trial_not_taken",
            Self::Streaming => "streams_deliver",
            Self::Late => "probe_late",
            Self::Full { .. } => "full",
            Self::Degraded(_) => "component_degraded",
            Self::Reserve => "reserve",
            Self::Shared(_) => "shared_failure",
            Self::Ramped => "slow_start_over",
            Self::Operator { .. } => "operator",
            Self::Enabled => "enabled",
            Self::Reloaded => "reloaded",
            Self::OverrideExpired => "override_expired",
            Self::HandedOver { .. } => "handed_over",
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
            Self::Leaving { detail } => write!(f, "about to stop: {detail}"),
            Self::Slow { ms, median } => write!(f, "its first byte takes {ms} ms, and the others' {median} ms"),
            Self::Sheds { seconds } => write!(f, "asks to be spared for {seconds} s (429)"),
            Self::ShedOver => f.write_str("the time for which it asked to be spared is over"),
            Self::Undecided(failure) => write!(f, "traffic failed, and no probe decided: {failure}"),
            Self::Traffic(failure) => write!(f, "a request failed: {failure}"),
            Self::Contradiction(failure) => write!(f, "traffic failed while the probe passes: {failure}"),
            Self::TrialFailed(failure) => write!(f, "the request that tried it failed: {failure}"),
            Self::TrialPassed => f.write_str("the request that tried it was answered"),
            Self::NobodyCame => f.write_str("probes pass, and no request came to try it"),
            Self::Streaming => f.write_str("the probe timed out while streams deliver"),
            Self::Late => f.write_str("the probe is overdue, and was answered at once before"),
            Self::Full { under_way } => write!(f, "full: the probe found no room beside {under_way} under way"),
            Self::Degraded(components) => write!(f, "does without {}", components.join(", ")),
            Self::Reserve => f.write_str("held down while it was well, and nobody else of its pool serves"),
            Self::Shared(components) => write!(f, "{} fails for the whole pool", components.join(", ")),
            Self::Ramped => f.write_str("slow start is over"),
            Self::Operator { reason } => write!(f, "by the operator: {reason}"),
            Self::Enabled => f.write_str("enabled by the operator"),
            Self::Reloaded => f.write_str("configuration reloaded"),
            Self::OverrideExpired => f.write_str("the operator's time for it is over"),
            Self::HandedOver { cause } => f.write_str(cause),
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
