//! The rise and fall machine of one probe: how many answers in a row it takes to believe a change.
//!
//! The idea is HAProxy's (`rise` and `fall` of a `server` line); what differs is that an endpoint starts `Unknown`, which is
//! not routable, and that a probe which failed for a reason of the gate's own moves nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// What kind of failure a probe met; the words that the API, the metrics and the logs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureClass {
    /// The answer came, with a status that is not expected: the endpoint refuses.
    Status,
    /// The deadline passed: the endpoint is silent.
    Timeout,
    /// No connection came about: refused, reset or unreachable.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The bytes that came are not the HTTP answer that was asked for.
    Protocol,
    /// The status was right and the body, or a header, was not.
    Body,
}

impl FailureClass {
    /// Every class, in the order in which documents list them.
    pub const ALL: [Self; 6] = [
        Self::Status,
        Self::Timeout,
        Self::Connect,
        Self::Tls,
        Self::Protocol,
        Self::Body,
    ];

    /// Whether an HTTP answer came, so that the process lives whatever it says.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Status | Self::Body)
    }

    /// The stable word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Body => "body",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one probe says. A failed probe is data, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything expected was there.
    Pass,
    /// Nobody answers an optional probe, and nobody ever did: there is no such service beside this endpoint. It counts as a pass.
    Absent {
        /// What came of the question.
        detail: String,
    },
    /// Something was not; `detail` is one line for people.
    Fail {
        /// The kind of failure.
        class: FailureClass,
        /// What exactly, in a few words.
        detail: String,
    },
    /// The answer says that the question is wrong: the probe path does not exist there, wants a login or redirects. It counts as a
    /// failure of class `status`, unless the whole pool answers so: then the probe is at fault, and it moves nothing.
    Misconfigured {
        /// What was answered, and what to set instead.
        detail: String,
    },
    /// The endpoint says itself that it is about to stop: it is out at once, and what it serves is let go on.
    Leaving {
        /// How it said so.
        detail: String,
    },
    /// The endpoint asks to be spared for a while (429, RFC 6585 section 4): it is well, and has too much to do.
    Sheds {
        /// For so many seconds.
        seconds: u32,
    },
    /// No evidence: the probe failed for a reason of the gate's own (descriptors, ports, DNS), so it moves nothing.
    Unknown {
        /// What kept the gate from asking.
        detail: String,
    },
}

impl Outcome {
    /// Whether the endpoint passed.
    pub fn is_pass(&self) -> bool {
        matches!(self, Self::Pass | Self::Absent { .. })
    }

    /// Whether it says anything about the endpoint.
    pub fn is_evidence(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    /// The class, where it failed.
    pub fn class(&self) -> Option<FailureClass> {
        match self {
            Self::Fail { class, .. } => Some(*class),
            Self::Misconfigured { .. } | Self::Leaving { .. } | Self::Sheds { .. } => Some(FailureClass::Status),
            Self::Pass | Self::Absent { .. } | Self::Unknown { .. } => None,
        }
    }

    /// The stable word: `pass`, `absent`, `fail` or `unknown`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Absent { .. } => "absent",
            Self::Fail { .. } | Self::Misconfigured { .. } | Self::Leaving { .. } | Self::Sheds { .. } => "fail",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// How many failures in a row bring an endpoint down, by class.
///
/// A streak may mix classes: it counts every failure and is held against the threshold of the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fall {
    /// For a class that has no threshold of its own.
    pub default: NonZeroU32,
    /// Thresholds of single classes.
    pub by_class: BTreeMap<FailureClass, NonZeroU32>,
}

impl Fall {
    /// The threshold for a failure of `class`.
    pub fn of(&self, class: FailureClass) -> NonZeroU32 {
        self.by_class.get(&class).copied().unwrap_or(self.default)
    }
}

/// When one named probe is sent and how its answers count. The request itself is no concern of the decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePlan {
    /// The name under which operators see it, `default` for an upstream's only probe.
    pub name: Arc<str>,
    /// Time from the start of one probe to the start of the next.
    pub interval: Duration,
    /// One absolute deadline over name resolution, connect, TLS, headers and body.
    pub timeout: Duration,
    /// Passes in a row that take a down endpoint back.
    pub rise: NonZeroU32,
    /// Failures in a row that take an up endpoint out.
    pub fall: Fall,
    /// How long after an endpoint appears its first probe is sent.
    pub initial_delay: Duration,
    /// Whether it asks a service that need not be there.
    pub optional: bool,
}

/// The plan of a probe of which nothing else is said: two answers in a row, two seconds apart, within a second each.
impl Default for ProbePlan {
    fn default() -> Self {
        const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
        Self {
            name: "default".into(),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: TWO,
            fall: Fall {
                default: TWO,
                by_class: BTreeMap::new(),
            },
            initial_delay: Duration::ZERO,
            optional: false,
        }
    }
}

/// The verdict of one probe's machine. It consumes itself, so that a stale state cannot be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing has passed yet, and not enough has failed: not routable.
    Unknown {
        /// Failures in a row so far.
        fails: u32,
    },
    /// Fit to serve.
    Up {
        /// Failures in a row since the last pass.
        fails: u32,
    },
    /// Not fit to serve.
    Down {
        /// Passes in a row since the last failure.
        passes: u32,
    },
}

impl Health {
    /// Where every endpoint starts.
    pub const START: Self = Self::Unknown { fails: 0 };

    /// The machine's next state after one more answer.
    ///
    /// The first pass of an endpoint counts at once: it has never failed anybody, and may just have started. Afterwards
    /// `rise` passes bring it back and `fall` failures bring it down.
    #[must_use]
    pub fn observe(self, outcome: &Outcome, plan: &ProbePlan) -> Self {
        match (outcome, outcome.class()) {
            (Outcome::Pass | Outcome::Absent { .. }, _) => self.passed(plan.rise.get()),
            (Outcome::Leaving { .. }, _) => Self::Down { passes: 0 },
            (Outcome::Sheds { .. }, _) => self,
            (_, Some(class)) => self.failed(plan.fall.of(class).get()),
            (_, None) => self,
        }
    }

    fn passed(self, rise: u32) -> Self {
        match self {
            Self::Unknown { .. } | Self::Up { .. } => Self::Up { fails: 0 },
            Self::Down { passes } if passes + 1 < rise => Self::Down { passes: passes + 1 },
            Self::Down { .. } => Self::Up { fails: 0 },
        }
    }

    fn failed(self, fall: u32) -> Self {
        match self {
            Self::Unknown { fails } if fails + 1 < fall => Self::Unknown { fails: fails + 1 },
            Self::Up { fails } if fails + 1 < fall => Self::Up { fails: fails + 1 },
            Self::Unknown { .. } | Self::Up { .. } | Self::Down { .. } => Self::Down { passes: 0 },
        }
    }

    /// Whether the next answer may change the verdict, so that it is worth asking again soon.
    pub fn is_unsure(self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Up { fails } => fails > 0,
            Self::Down { passes } => passes > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rise: u32, fall: u32) -> ProbePlan {
        let count = |n| NonZeroU32::new(n).unwrap();
        ProbePlan {
            rise: count(rise),
            fall: Fall {
                default: count(fall),
                by_class: [(FailureClass::Timeout, count(fall + 1))].into(),
            },
            ..ProbePlan::default()
        }
    }

    /// Plays a word: `p` passes, `f` fails by status, `t` by timeout, `m` is misconfigured, `l` leaves, `u` says nothing.
    fn play(word: &str, plan: &ProbePlan) -> Health {
        word.chars().fold(Health::START, |health, letter| {
            let fail = |class| Outcome::Fail {
                class,
                detail: String::new(),
            };
            let outcome = match letter {
                'p' => Outcome::Pass,
                'f' => fail(FailureClass::Status),
                't' => fail(FailureClass::Timeout),
                'm' => Outcome::Misconfigured { detail: String::new() },
                'l' => Outcome::Leaving { detail: String::new() },
                _ => Outcome::Unknown { detail: String::new() },
            };
            health.observe(&outcome, plan)
        })
    }

    #[test]
    fn verdicts_follow_rise_and_fall() {
        let plan = plan(2, 2);
        for (word, health) in [
            ("", Health::START),
            ("p", Health::Up { fails: 0 }),
            ("f", Health::Unknown { fails: 1 }),
            ("fp", Health::Up { fails: 0 }),
            ("ff", Health::Down { passes: 0 }),
            ("pf", Health::Up { fails: 1 }),
            ("pfp", Health::Up { fails: 0 }),
            ("pff", Health::Down { passes: 0 }),
            ("pffp", Health::Down { passes: 1 }),
            ("pffpf", Health::Down { passes: 0 }),
            ("pffpp", Health::Up { fails: 0 }),
            ("pmm", Health::Down { passes: 0 }),
            ("pl", Health::Down { passes: 0 }),
            ("l", Health::Down { passes: 0 }),
            ("plpp", Health::Up { fails: 0 }),
        ] {
            assert_eq!(play(word, &plan), health, "{word:?}");
        }
    }

    #[test]
    fn a_class_may_have_a_threshold_of_its_own() {
        let plan = plan(2, 2);
        assert_eq!(play("ptt", &plan), Health::Up { fails: 2 });
        assert_eq!(play("pttt", &plan), Health::Down { passes: 0 });
        assert_eq!(
            play("ptf", &plan),
            Health::Down { passes: 0 },
            "a streak may mix classes"
        );
    }

    #[test]
    fn no_evidence_moves_nothing() {
        let plan = plan(2, 2);
        for word in ["", "p", "pf", "pff", "pffp"] {
            assert_eq!(play(word, &plan), play(&format!("{word}uuu"), &plan), "{word:?}");
        }
    }
}
