//! The operator's word on an endpoint, which stands above every witness until it is taken back or its time is over.
//!
//! The two words are HAProxy's (`set server ... state drain|maint`): a draining endpoint takes no new request and is still probed; one in
//! maintenance is not probed either, since what is done to it says nothing about its health. Afterwards it must pass a probe anew.

use std::fmt;
use std::time::Instant;

use super::state::State;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// No new request; what it serves goes on, and it is probed.
    Drain,
    /// No new request and no probe; what it serves goes on.
    Maintain,
}

impl Wish {
    /// The state that it puts an endpoint in.
    pub fn state(self) -> State {
        match self {
            Self::Drain => State::Draining,
            Self::Maintain => State::Maintenance,
        }
    }

    /// The wish that puts an endpoint in the state of this name.
    pub fn for_state(name: &str) -> Option<Self> {
        [Self::Drain, Self::Maintain]
            .into_iter()
            .find(|wish| wish.state().as_str() == name)
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state().fmt(f)
    }
}

/// One word of an operator on one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What is wanted.
    pub wish: Wish,
    /// Why, in the operator's words.
    pub reason: String,
    /// When it was said.
    pub since: Instant,
    /// When it ends by itself; `None`: when it is taken back.
    pub until: Option<Instant>,
}

impl Override {
    /// Whether its time is over.
    pub fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// What an override would do to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The endpoint's state afterwards.
    pub state: State,
    /// Endpoints of the pool that take traffic now.
    pub routable_now: usize,
    /// How many would.
    pub routable_then: usize,
    /// Whether live traffic alone could hold this endpoint back today: there is another one, and not too many are held back.
    pub traffic_may_eject: bool,
}
