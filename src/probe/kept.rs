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
pub(super) const QUESTIONS: u32 = 10;

/// Where one probe of one endpoint keeps its connection between two questions.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<Line>>);

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) connection: Connection<Bounded<Wire>>,
    /// Whom it leads to.
    pub(super) at: SocketAddr,
    /// How many questions it has carried.
    pub(super) asked: u32,
}

impl Line {
    pub(super) fn new(wire: Wire, at: SocketAddr) -> Self {
        Self {
            connection: Connection::over(Bounded::new(wire)),
            at,
            asked: 0,
        }
    }

    /// Whether it stood before the question that it carries.
    pub(super) fn was_kept(&self) -> bool {
        self.asked > 1
    }
}

impl Kept {
    /// The kept connection, if it leads to `at` and nobody has closed it.
    pub(super) fn take(&self, at: SocketAddr) -> Option<Line> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        (line.at == at && !line.connection.is_stale()).then_some(line)
    }

    /// Keeps a connection, unless it has served, or can serve no more.
    pub(super) fn keep(&self, line: Line) {
        if line.asked < QUESTIONS && line.connection.is_reusable() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        }
    }
}
