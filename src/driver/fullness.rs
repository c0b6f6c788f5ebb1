//! What is under way on an endpoint, by which the keeper tells one that is full from one that is sick.

use std::time::Instant;

use super::{Driver, Slot, Ticket, Watched};
use crate::gate::capacity::UnderWay;
use crate::gate::keeper::ProbeReport;
use crate::gate::passive::TrafficFailure;

/// So many beats ([`BEAT`](crate::gate::rhythm::BEAT)) are ten seconds: Dify writes a ping to a silent stream each ten, and notices only then that its
/// client has left.
const TEN_SECONDS: u32 = 200;

/// How a server answers that has no room (uvicorn with `--limit-concurrency`, and whoever sheds load by RFC 9110 section 15.6.4).
pub(super) const REFUSAL: TrafficFailure = TrafficFailure::Status(503);

/// Requests to an endpoint that were given up within the last ten to twenty seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    latest: u32,
    earlier: u32,
    beats: u32,
}

impl Left {
    /// Notes how many there were since the last beat.
    pub(super) fn note(&mut self, left: u32) {
        self.beats += 1;
        if self.beats >= TEN_SECONDS {
            (self.earlier, self.latest, self.beats) = (self.latest, 0, 0);
        }
        self.latest = self.latest.saturating_add(left);
    }

    fn sum(self) -> u32 {
        self.latest.saturating_add(self.earlier)
    }
}

impl Watched {
    /// What is under way on the endpoint as it is about to be probed.
    pub(super) fn under_way(&self) -> UnderWay {
        let waiting = u32::try_from(self.endpoint.pulse.feel().waiting).unwrap_or(u32::MAX);
        let before = self.endpoint.connections();
        UnderWay {
            before,
            begun: before.saturating_sub(waiting),
            left: self.given_up(),
            settled: self.beats.into_iter().min().unwrap_or_default(),
            ..UnderWay::default()
        }
    }

    /// Notes the connections at a beat. Returns how many of them have stood since the last one.
    pub(super) fn settle(&mut self) -> u32 {
        let [last, _] = self.beats;
        let now = self.endpoint.connections();
        self.beats = [now, last];
        now.min(last)
    }

    fn given_up(&self) -> u32 {
        self.left.sum().saturating_add(self.endpoint.pulse.left())
    }
}

impl Driver {
    /// What was under way on an endpoint while it was probed, of which `before` tells how it was when the probe was sent: so many
    /// requests had been `asked` by then.
    pub(super) fn under_way_by_now(
        &self,
        ticket: Ticket,
        report: &ProbeReport,
        before: UnderWay,
        asked: u64,
    ) -> UnderWay {
        let Some(watched) = self.endpoints.get(ticket.slot) else {
            return before;
        };
        // What came in the first half may be older than the silence.
        let half = u64::try_from(report.phases.total.as_millis() / 2).unwrap_or(u64::MAX);
        UnderWay {
            came: watched.endpoint.pulse.asked() != asked,
            now: watched.endpoint.connections(),
            delivering: watched.endpoint.pulse.delivered_within(half),
            ..before
        }
    }

    /// Whether a 503 was given for want of room alone: requests that were given up shortly before hold their places until the server notices.
    /// Connections that are only kept take places there, so they are closed.
    pub(super) fn is_refusal(&mut self, slot: Slot, connections: u32, now: Instant) -> bool {
        let Some(watched) = self.endpoints.get(slot) else {
            return false;
        };
        // How many connections stood by the answers since the last beat is not known yet, but that it answers is.
        if watched.endpoint.pulse.has_answered_well() {
            self.keeper.handle_answered_with(slot, 1, now);
        }
        let connections = connections.saturating_add(watched.given_up());
        let is_refusal = self.keeper.handle_refusal(slot, connections, now);
        if is_refusal {
            watched.endpoint.trim_idle(0);
        }
        is_refusal
    }
}
