//! May this attempt be made again on another endpoint?
//!
//! A prompt costs tokens and a webhook starts a run, so nothing is sent twice on a guess: only what cannot have been
//! processed, or what is idempotent (RFC 9110 section 9.2.2), and never after the first byte of an answer. An endpoint that
//! timed out may still run what it was sent, however dead it looks.

/// What an upstream's requests may do after a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryRules {
    /// Further attempts after the first; 0 turns retries off.
    pub attempts: u32,
    /// Retries allowed as a share of the requests in flight, in percent, so that retries cannot multiply an overload.
    pub budget_percent: u32,
    /// Retries that may be under way whatever the share says, so that a quiet gate can still retry.
    pub budget_min: u32,
    /// Path prefixes under which every method has effects: a GET of a webhook starts a run.
    pub unsafe_paths: Vec<String>,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self {
            attempts: 1,
            budget_percent: 20,
            budget_min: 3,
            unsafe_paths: vec!["/triggers".into(), "/e/".into()],
        }
    }
}

/// How careful a request makes us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// Idempotent: may be sent again after any failure before the first byte of an answer.
    Idempotent,
    /// Has effects: may be sent again only if it was certainly not processed.
    Effects,
    /// Starts something whatever its method: may be sent again only if not one byte of it left.
    Unsafe,
}

/// What went wrong with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttemptFailure {
    /// No connection came about, so nothing was sent.
    Connect,
    /// The connection ended before a byte of the request was sent.
    Unsent,
    /// The connection ended after bytes were sent and before the answer began.
    Reset,
    /// The endpoint answered 503: it refuses, so it has not processed the request (RFC 9110 section 15.6.4).
    Refused,
    /// The first byte of the answer did not come in time.
    Timeout,
    /// The gate took the request back from an endpoint that went down while it waited.
    Rescued,
}

impl AttemptFailure {
    /// Whether the endpoint may have got some of the request and not refused it, so that it may have processed it.
    pub fn was_sent(self) -> bool {
        match self {
            Self::Connect | Self::Unsent | Self::Refused => false,
            Self::Reset | Self::Timeout | Self::Rescued => true,
        }
    }

    /// The stable word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Unsent => "unsent",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Rescued => "rescued",
        }
    }
}

/// Everything that the decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// How careful the request makes us.
    pub class: RetryClass,
    /// What went wrong.
    pub failure: AttemptFailure,
    /// Attempts made so far, this one included.
    pub made: u32,
    /// Whether every byte of the request body is still at hand.
    pub replayable: bool,
    /// Requests in flight to the upstream.
    pub in_flight: u32,
    /// Retries under way at the upstream.
    pub retrying: u32,
}

impl RetryRules {
    /// How careful a request with this method and path makes us.
    pub fn class(&self, method: &str, path: &str) -> RetryClass {
        if self.unsafe_paths.iter().any(|prefix| path.starts_with(prefix.as_str())) {
            return RetryClass::Unsafe;
        }
        match method {
            "GET" | "HEAD" | "OPTIONS" => RetryClass::Idempotent,
            _ => RetryClass::Effects,
        }
    }

    /// Whether the attempt may be made again elsewhere.
    pub fn allow(&self, attempt: Attempt) -> bool {
        let safe = match (attempt.class, attempt.failure) {
            (_, AttemptFailure::Connect | AttemptFailure::Unsent) => true,
            (RetryClass::Unsafe, _) => false,
            (RetryClass::Idempotent, _) => true,
            (RetryClass::Effects, AttemptFailure::Refused) => true,
            (RetryClass::Effects, AttemptFailure::Reset | AttemptFailure::Timeout | AttemptFailure::Rescued) => false,
        };
        safe && attempt.replayable && attempt.made <= self.attempts && self.within_budget(attempt)
    }

    /// What the gate takes back itself is bounded by what waited on one endpoint, and needs no budget.
    fn within_budget(&self, attempt: Attempt) -> bool {
        if attempt.failure == AttemptFailure::Rescued {
            return true;
        }
        let share = u64::from(attempt.in_flight) * u64::from(self.budget_percent) / 100;
        u64::from(attempt.retrying) < share.max(u64::from(self.budget_min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AttemptFailure::{Connect, Refused, Rescued, Reset, Timeout, Unsent};

    fn attempt(class: RetryClass, failure: AttemptFailure) -> Attempt {
        Attempt {
            class,
            failure,
            made: 1,
            replayable: true,
            in_flight: 10,
            retrying: 0,
        }
    }

    #[test]
    fn only_what_cannot_have_been_processed_or_is_idempotent_goes_again() {
        let rules = RetryRules::default();
        for (class, allowed) in [
            (
                RetryClass::Idempotent,
                &[Connect, Unsent, Reset, Refused, Timeout, Rescued][..],
            ),
            (RetryClass::Effects, &[Connect, Unsent, Refused]),
            (RetryClass::Unsafe, &[Connect, Unsent]),
        ] {
            for failure in [Connect, Unsent, Reset, Refused, Timeout, Rescued] {
                let expected = allowed.contains(&failure);
                assert_eq!(rules.allow(attempt(class, failure)), expected, "{class:?} {failure:?}");
            }
        }
    }

    #[test]
    fn a_webhook_is_unsafe_whatever_its_method() {
        let rules = RetryRules::default();
        for (method, path, class) in [
            ("GET", "/v1/parameters", RetryClass::Idempotent),
            ("POST", "/v1/chat-messages", RetryClass::Effects),
            ("DELETE", "/v1/conversations/1", RetryClass::Effects),
            ("GET", "/triggers/webhook/abc", RetryClass::Unsafe),
            ("GET", "/e/hook", RetryClass::Unsafe),
            ("GET", "/explore", RetryClass::Idempotent),
        ] {
            assert_eq!(rules.class(method, path), class, "{method} {path}");
        }
    }

    #[test]
    fn one_retry_is_the_default_and_none_is_a_choice() {
        let second = Attempt {
            made: 2,
            ..attempt(RetryClass::Idempotent, Connect)
        };
        assert!(!RetryRules::default().allow(second));
        let none = RetryRules {
            attempts: 0,
            ..RetryRules::default()
        };
        assert!(!none.allow(attempt(RetryClass::Idempotent, Connect)));
    }

    #[test]
    fn a_body_that_is_gone_is_not_sent_again() {
        let rules = RetryRules::default();
        assert!(!rules.allow(Attempt {
            replayable: false,
            ..attempt(RetryClass::Effects, Refused)
        }));
    }

    #[test]
    fn the_budget_grows_with_the_traffic_and_never_below_its_floor() {
        let rules = RetryRules::default();
        for (in_flight, retrying, allowed) in [(0, 2, true), (0, 3, false), (100, 19, true), (100, 20, false)] {
            let attempt = Attempt {
                in_flight,
                retrying,
                ..attempt(RetryClass::Idempotent, Connect)
            };
            assert_eq!(rules.allow(attempt), allowed, "{retrying} of {in_flight}");
        }
    }
}
