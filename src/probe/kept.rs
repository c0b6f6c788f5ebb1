//! The connection that a probe with `reuse` keeps for its next question.
//!
//! What a kept connection hides, a full accept queue or a name that moved, is still found: it serves [`QUESTIONS`], the next one has a new one, and
//! so has each question after one that failed.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::bounded::Bounded;
use crate::http1::Connection;
use crate::wire::Wire;

/// A connection ends with the answer to so many.
const QUESTIONS: u32 = 10;

/// Where one probe of one endpoint keeps its connection between two questions.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<Line>>);

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) connection: Connection<Bounded<Wire>>,
    /// Whom it leads to.
    at: SocketAddr,
    /// How many more questions it may carry.
    left: u32,
}

impl Line {
    pub(super) fn new(wire: Wire, at: SocketAddr, reuse: bool) -> Self {
        Self {
            connection: Connection::over(Bounded::new(wire)),
            at,
            left: if reuse { QUESTIONS } else { 1 },
        }
    }

    /// Makes it ready for another question, and tells whether that is its last.
    pub(super) fn begin(&mut self) -> bool {
        self.connection.stream().renew();
        self.left -= 1;
        self.left == 0
    }
}

impl Kept {
    /// The kept connection, if it leads to `at` and nobody has closed it.
    pub(super) fn take(&self, at: SocketAddr) -> Option<Line> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        (line.at == at && !line.connection.is_stale()).then_some(line)
    }

    /// Keeps a connection whose question is answered, unless it was its last.
    pub(super) fn keep(&self, line: Line) {
        if line.left > 0 && line.connection.is_reusable() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        }
    }
}
