//! Full is not sick: whether a probe or a request failed only because an endpoint had no place for it.

use std::time::{Duration, Instant};

use super::{Cause, Effect, Keeper, Outcome, ProbeRecord, ProbeReport, Slot, Ticket, Track, UnderWay};
use crate::gate::capacity::Sign;
use crate::gate::components::names_components;
use crate::gate::health::FailureClass;

/// A probe that was answered so shortly before may have held a place when a request came: a busy server notices late that its connection is closed.
const MOMENT: Duration = Duration::from_millis(500);

impl Track {
    /// Whether a probe is under way.
    fn is_asking(&self) -> bool {
        self.answered < self.asked
    }
}

impl Keeper {
    /// Holds a probe against what was under way meanwhile. Returns the cause where it failed for want of room alone. A probe of a service at another port,
    /// such as a sidecar's `/healthz`, takes no place on the endpoint and says nothing of its room.
    pub(super) fn fills(
        &mut self,
        ticket: Ticket,
        report: &ProbeReport,
        under_way: UnderWay,
        now: Instant,
    ) -> Option<Cause> {
        let (plan, _) = self.verdict(ticket.slot, ticket.probe)?;
        let known = self.known.get_mut(ticket.slot)?;
        if !known.is_asked_itself(report) {
            return None;
        }
        let before = known.capacity.limit();
        if had_room(report, plan.timeout) {
            let took = report.phases.total;
            if known.capacity.note_pass(under_way, took, plan.timeout, now) {
                self.effects.push_back(Effect::Publish(ticket.slot));
            }
            return None;
        }
        let sign = sign_of(report)?;
        let stalled = known.passive.is_silent(now);
        let is_full = known.capacity.is_too_much(sign, under_way, stalled);
        if is_full {
            known.capacity.note_too_much(sign, under_way, now);
            if known.capacity.limit() != before {
                self.effects.push_back(Effect::Publish(ticket.slot));
            }
            return Some(Cause::Full {
                under_way: under_way.before,
            });
        }
        (under_way.delivering && sign == Sign::Late).then_some(Cause::Streaming)
    }

    /// A request was answered well while there were so many connections to an endpoint.
    pub fn handle_answered_with(&mut self, slot: Slot, connections: u32, now: Instant) {
        if let Some(known) = self.known.get_mut(slot) {
            known.capacity.note_answered(connections, now);
        }
    }

    /// A request was answered 503 with so many connections to an endpoint, its own included. Returns whether it was refused for want of room alone, so that
    /// it says nothing against the endpoint.
    pub fn handle_refusal(&mut self, slot: Slot, connections: u32, now: Instant) -> bool {
        let (Some(known), Some(tracks)) = (self.known.get_mut(slot), self.tracks.get(slot)) else {
            return false;
        };
        let itself = |record: &&ProbeRecord| known.is_asked_itself(&record.report);
        let asks = known.verdicts.iter().zip(tracks).any(|((plan, _), track)| {
            let last = known.last_of(&plan.name);
            track.is_asking() && last.as_ref().is_none_or(itself)
        });
        let recent = |record: &ProbeRecord| now.saturating_duration_since(record.at) <= MOMENT;
        let is_probed = asks || known.history.iter().rev().find(itself).is_some_and(recent);
        let connections = connections.saturating_add(u32::from(is_probed));
        // The limit is the probes' alone: an application has 503s of its own.
        known.state.tier().is_some() && known.capacity.note_refusal(connections, now)
    }

    /// Notes whether an endpoint had no room or no time for its probe. The answer of a service at another port shows no room here.
    pub(super) fn weigh_busy(&mut self, slot: Slot, busy: bool, report: &ProbeReport, outcome: &Outcome) {
        if let Some(known) = self.known.get_mut(slot)
            && (busy || outcome.is_evidence() && known.is_asked_itself(report))
        {
            known.busy = busy;
        }
    }
}

/// Whether a probe found room on its endpoint: it passed, or the answer names components, which no server writes that is full. While a dependency fails no probe
/// passes, and an endpoint that came back meanwhile is known by such answers alone. One that took more than half of the `timeout` may have waited for the
/// dependency, and says nothing of room.
fn had_room(report: &ProbeReport, timeout: Duration) -> bool {
    let names = names_components(&report.outcome) && !report.components.is_empty();
    report.outcome.is_pass() || (names && report.phases.total <= timeout / 2)
}

/// How a probe that failed may show that its endpoint is full: it got no answer in time, or a 503 that names nothing as the reason.
fn sign_of(report: &ProbeReport) -> Option<Sign> {
    match report.outcome.class()? {
        FailureClass::Timeout => Some(Sign::Late),
        FailureClass::Status if report.status == Some(503) && report.components.is_empty() => Some(Sign::Refused),
        FailureClass::Status
        | FailureClass::Connect
        | FailureClass::Tls
        | FailureClass::Protocol
        | FailureClass::Body => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::keeper::Phases;

    #[test]
    fn an_answer_that_names_components_shows_room_where_it_came_soon() {
        let timeout = Duration::from_secs(1);
        let found_room = |outcome: Outcome, names: bool, millis: u64| {
            let report = ProbeReport {
                outcome,
                status: Some(503),
                components: names.then(|| ("database".to_owned(), false)).into_iter().collect(),
                failed: Vec::new(),
                version: None,
                asked: None,
                phases: Phases {
                    total: Duration::from_millis(millis),
                    ..Phases::default()
                },
            };
            had_room(&report, timeout)
        };
        let fail = |class| Outcome::Fail {
            class,
            detail: String::new(),
        };
        assert!(found_room(fail(FailureClass::Status), true, 500));
        assert!(
            !found_room(fail(FailureClass::Status), true, 501),
            "it may have waited for the database"
        );
        assert!(
            !found_room(fail(FailureClass::Status), false, 2),
            "a full server names nothing"
        );
        assert!(!found_room(fail(FailureClass::Timeout), true, 2));
        assert!(
            found_room(Outcome::Pass, true, 900),
            "how late a pass is, is weighed by itself"
        );
    }
}
