//! Optional probes: whether the service that they ask is there is found by asking.
//!
//! Rules:
//! - **Who never answered is not there**, and that counts as a pass. A port that accepts connections is somebody.
//! - **Who answered once and is refused says nothing**: the service is restarted, and what it said last stands. After half a minute it is not there
//!   any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Keeper, Outcome, ProbeReport, Ticket};
use crate::gate::health::FailureClass;

/// So long a service that was there may be away before it counts as gone.
const AWAY: Duration = Duration::from_secs(30);

/// The status of a service that does not know the path.
const NOT_FOUND: u16 = 404;

impl Keeper {
    /// What an answer says, where its probe is optional; the same otherwise.
    pub fn interpret(&mut self, ticket: Ticket, mut report: Arc<ProbeReport>, now: Instant) -> Arc<ProbeReport> {
        let optional = self
            .verdict(ticket.slot, ticket.probe)
            .is_some_and(|(plan, _)| plan.optional);
        let Some(track) = self.track(ticket.slot, ticket.probe).filter(|_| optional) else {
            return report;
        };
        let is_foreign = report.status == Some(NOT_FOUND);
        if report.status.is_some() && !is_foreign {
            (track.found, track.refused) = (true, None);
            return report;
        }
        let unreached = report.phases.connected.is_none();
        let detail = match &report.outcome {
            Outcome::Fail { class, detail } if unreached && is_nobody(*class, track.found) => detail.clone(),
            Outcome::Misconfigured { detail } if is_foreign => detail.clone(),
            Outcome::Fail { .. }
            | Outcome::Misconfigured { .. }
            | Outcome::Pass
            | Outcome::Absent { .. }
            | Outcome::Leaving { .. }
            | Outcome::Sheds { .. }
            | Outcome::Unknown { .. } => return report,
        };
        let since = *track.refused.get_or_insert(now);
        if now.saturating_duration_since(since) >= AWAY {
            track.found = false;
        }
        Arc::make_mut(&mut report).outcome = if track.found {
            Outcome::Unknown {
                detail: format!("the service beside it is away, and what it said last stands: {detail}"),
            }
        } else {
            Outcome::Absent {
                detail: format!("there is no such service, so only the other probes count: {detail}"),
            }
        };
        report
    }
}

/// Whether no connection means that nobody is there. Who answered before and takes too long to accept is in trouble.
fn is_nobody(class: FailureClass, found: bool) -> bool {
    class == FailureClass::Connect || class == FailureClass::Timeout && !found
}
