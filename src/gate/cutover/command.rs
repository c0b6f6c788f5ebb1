//! An operator's verbs. Each has a defined outcome in every phase.

use std::fmt;
use std::time::Instant;

use super::gates::lack;
use super::triggers::Tally;
use super::{Cutover, Gate, Phase, Plan, Record, Seen, Traffic};
use crate::gate::names::PoolName;

/// What an operator can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Begin.
    Start(Box<Start>),
    /// Go on, without waiting for the clock; once it is ready, go on by itself; once it is committed, let the old pool go.
    Promote,
    /// Stay where it is; reasons to go back still count.
    Pause,
    /// Go on with the clocks.
    Resume,
    /// Give up: before anything moved it fails, afterwards everything goes back.
    Abort,
    /// Give everything back to the old pool.
    Rollback {
        /// Also where that may do harm.
        force: bool,
    },
    /// Let requests go on, wait, or be told of maintenance.
    Traffic(Traffic),
}

/// A cutover to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The pool to move to.
    pub to: PoolName,
    /// How.
    pub plan: Plan,
    /// Whether one that is under way is given up for it, where nothing is lost by that.
    pub supersede: bool,
}

impl Verb {
    /// The stable word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Rollback { .. } => "rollback",
            Self::Traffic(traffic) => traffic.as_str(),
        }
    }
}

/// Why a verb was not carried out. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose fault it is.
    pub kind: RefusalKind,
    /// What is wrong, and what to do instead.
    pub message: String,
    /// What was measured.
    pub evidence: Vec<Gate>,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// It makes no sense where the cutover stands.
    Conflict,
    /// A gate does not pass.
    Gate,
    /// It makes no sense at all.
    Invalid,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

fn conflict<T>(message: String) -> Result<T, Refusal> {
    Err(Refusal {
        kind: RefusalKind::Conflict,
        message,
        evidence: Vec::new(),
    })
}

impl Record {
    /// The record after a verb of `by`, for this reason; the same epoch where there is nothing to do.
    ///
    /// # Errors
    /// It cannot be done; the message says why, and what to do instead.
    pub fn command(&self, verb: &Verb, by: &str, reason: &str, seen: &Seen, now: Instant) -> Result<Self, Refusal> {
        let said = Said { by, reason, seen, now };
        let next = match (verb, self.cutover.clone()) {
            (Verb::Start(start), _) => return self.start(start, &said),
            (Verb::Traffic(traffic), _) => return Ok(self.direct(traffic)),
            (Verb::Abort | Verb::Resume, None) => None,
            (Verb::Promote | Verb::Pause | Verb::Rollback { .. }, None) => {
                return conflict("no cutover was ever started here".to_owned());
            }
            (Verb::Promote, Some(cutover)) => said.promote(cutover)?,
            (Verb::Pause, Some(cutover)) => said.pause(cutover)?,
            (Verb::Resume, Some(cutover)) => said.resume(cutover),
            (Verb::Abort, Some(cutover)) => said.abort(cutover)?,
            (Verb::Rollback { force }, Some(cutover)) => said.rollback(cutover, *force)?,
        };
        Ok(next.map_or_else(|| self.clone(), |cutover| self.with(cutover)))
    }

    fn direct(&self, traffic: &Traffic) -> Self {
        if self.traffic == *traffic {
            return self.clone();
        }
        Self {
            epoch: self.epoch + 1,
            traffic: traffic.clone(),
            ..self.clone()
        }
    }

    fn start(&self, start: &Start, said: &Said<'_>) -> Result<Self, Refusal> {
        let (phase, now) = (self.phase(), said.now);
        let id = self.cutover.as_ref().map(|cutover| cutover.id);
        let gives_way = phase.is_before_the_flip() || phase == Phase::Committed;
        if let Some(id) = id.filter(|_| !(phase.is_over() || start.supersede && gives_way)) {
            let instead = match phase {
                Phase::Committed => "promote it to let the old pool go, or start with supersede",
                Phase::Shifting | Phase::Baking => "let it end, or roll it back",
                Phase::Frozen => "promote it, or roll it back",
                Phase::RollingBack => "let it end",
                Phase::Preparing | Phase::Verifying | Phase::Ready => "abort it, or start with supersede",
                Phase::Steady | Phase::Retired | Phase::Failed | Phase::RolledBack => "it is over",
            };
            return conflict(format!("cutover {id} is under way ({phase}): {instead}"));
        }
        if start.to == self.active {
            return Err(Refusal {
                kind: RefusalKind::Invalid,
                message: format!("`{}` is active already", start.to),
                evidence: Vec::new(),
            });
        }
        let cutover = Cutover {
            id: self.epoch + 1,
            from: self.active.clone(),
            to: start.to.clone(),
            plan: start.plan.clone(),
            by: said.by.to_owned(),
            reason: said.reason.to_owned(),
            phase: Phase::Preparing,
            entered: now,
            started: now,
            verifying: None,
            step: 0,
            percent: 0,
            flipped: None,
            paused: None,
            extensions: 0,
            drain_extended: false,
            drained: None,
            cut: None,
            released: false,
            frozen_from: None,
            baseline: Tally::default(),
            log: std::collections::VecDeque::new(),
        };
        let what = match id.filter(|_| !phase.is_over()) {
            Some(id) => format!("started in the place of cutover {id} ({phase})"),
            None => "started".to_owned(),
        };
        let why = said.why(&what);
        Ok(self.with(cutover.enter(Phase::Preparing, said.by, why, Vec::new(), now)))
    }
}

/// A verb as it was said.
struct Said<'a> {
    by: &'a str,
    reason: &'a str,
    seen: &'a Seen,
    now: Instant,
}

/// The next state of a cutover; none where there is nothing to do.
type Next = Result<Option<Cutover>, Refusal>;

impl Said<'_> {
    fn why(&self, what: &str) -> String {
        if self.reason.is_empty() {
            what.to_owned()
        } else {
            format!("{what}: {}", self.reason)
        }
    }

    fn promote(&self, mut cutover: Cutover) -> Next {
        let (seen, now) = (self.seen, self.now);
        let why = self.why("promoted");
        let next = match cutover.phase {
            Phase::Preparing | Phase::Verifying => {
                if cutover.plan.auto {
                    return Ok(None);
                }
                cutover.plan.auto = true;
                cutover.note(self.by, self.why("it is to go on by itself"), Vec::new(), now)
            }
            Phase::Ready => {
                self.ask()?;
                cutover.flip(self.by, &why, seen, now)
            }
            Phase::Shifting => {
                self.ask()?;
                cutover.next_step(self.by, &why, seen, now)
            }
            Phase::Baking => cutover.enter(Phase::Committed, self.by, why, seen.triggers.clone(), now),
            Phase::Committed if cutover.released => return Ok(None),
            Phase::Committed => {
                cutover.released = true;
                cutover.note(self.by, self.why("the old pool need not stay ready"), Vec::new(), now)
            }
            Phase::Frozen if cutover.percent == 100 => {
                cutover.enter(Phase::Committed, self.by, why, seen.triggers.clone(), now)
            }
            Phase::Frozen => {
                self.ask()?;
                let whole = cutover.share(100, now);
                whole.enter(Phase::Baking, self.by, why, seen.gates.clone(), now)
            }
            Phase::RollingBack | Phase::Steady | Phase::Retired | Phase::Failed | Phase::RolledBack => {
                return conflict(format!(
                    "cutover {} is {}: there is nothing to promote",
                    cutover.id, cutover.phase
                ));
            }
        };
        Ok(Some(next))
    }

    /// Users are moved only where every gate passes at this moment.
    fn ask(&self) -> Result<(), Refusal> {
        let Some(lack) = lack(&self.seen.gates) else {
            return Ok(());
        };
        Err(Refusal {
            kind: RefusalKind::Gate,
            message: format!("a gate does not pass, nothing has moved: {lack}"),
            evidence: self.seen.gates.clone(),
        })
    }

    fn pause(&self, mut cutover: Cutover) -> Next {
        if cutover.phase.is_over() || cutover.phase == Phase::RollingBack {
            return conflict(format!(
                "cutover {} is {}: there is nothing to pause",
                cutover.id, cutover.phase
            ));
        }
        if cutover.paused.is_some() || cutover.phase == Phase::Frozen {
            return Ok(None);
        }
        cutover.paused = Some(self.now);
        Ok(Some(cutover.note(self.by, self.why("paused"), Vec::new(), self.now)))
    }

    fn resume(&self, mut cutover: Cutover) -> Option<Cutover> {
        if cutover.phase == Phase::Frozen {
            let back = match cutover.frozen_from.take() {
                Some(Phase::Shifting) if cutover.percent < 100 => Phase::Shifting,
                _ => Phase::Baking,
            };
            cutover.extensions = 0;
            return Some(cutover.enter(back, self.by, self.why("resumed"), Vec::new(), self.now));
        }
        cutover.paused?;
        cutover.let_go(self.now);
        Some(cutover.note(self.by, self.why("resumed"), Vec::new(), self.now))
    }

    fn fail(&self, cutover: Cutover, what: &str) -> Cutover {
        let evidence = self.seen.gates.clone();
        cutover.enter(Phase::Failed, self.by, self.why(what), evidence, self.now)
    }

    fn abort(&self, cutover: Cutover) -> Next {
        match cutover.phase {
            Phase::Steady | Phase::Retired | Phase::Failed | Phase::RolledBack | Phase::RollingBack => Ok(None),
            Phase::Preparing | Phase::Verifying | Phase::Ready => Ok(Some(self.fail(cutover, "aborted"))),
            Phase::Shifting | Phase::Baking | Phase::Frozen => self.go_back(cutover, "aborted", false),
            Phase::Committed => conflict(format!(
                "cutover {} is committed: roll it back if the old pool is to take over",
                cutover.id
            )),
        }
    }

    /// What still goes forward stops where going back may do harm. What stands already is left as it is.
    fn go_back(&self, cutover: Cutover, what: &str, force: bool) -> Next {
        let harm = cutover.harm(self.seen).filter(|_| !force);
        let why = match harm {
            Some(harm) if !cutover.phase.is_watched() => {
                return conflict(format!(
                    "cutover {} is {}, and going back may do harm: {harm}; say it with force",
                    cutover.id, cutover.phase
                ));
            }
            Some(_) => self.why(&format!("to be {what}")),
            None => self.why(what),
        };
        Ok(Some(cutover.go_back(self.by, &why, force, self.seen, self.now)))
    }

    fn rollback(&self, cutover: Cutover, force: bool) -> Next {
        match cutover.phase {
            Phase::RollingBack | Phase::RolledBack => Ok(None),
            Phase::Preparing | Phase::Verifying | Phase::Ready => Ok(Some(self.fail(cutover, "rolled back"))),
            Phase::Shifting | Phase::Baking | Phase::Committed | Phase::Frozen => {
                self.go_back(cutover, "rolled back", force)
            }
            Phase::Retired => conflict(format!(
                "cutover {} is retired, its old pool may be gone: `difygate switch NAME --to {}` moves there with every gate",
                cutover.id, cutover.from
            )),
            Phase::Steady | Phase::Failed => conflict(format!(
                "cutover {} is {}: nothing had moved, there is nothing to take back",
                cutover.id, cutover.phase
            )),
        }
    }
}
