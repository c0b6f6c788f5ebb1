//! Capacity: how many connections an endpoint has answered with, and from how many on it refuses or is late. An endpoint that is full is not sick.
//!
//! Servers limit connections, and the probe's own is the one too many: a default Dify (gunicorn with gevent) has ten places and lets the rest wait, granian
//! does the same, uvicorn with `--limit-concurrency` answers 503. All three count idle kept connections. So a probe that fails is held against what was
//! under way when it was sent: where more was under way than with any probe or request that was answered, the endpoint may be full; where less was, it is
//! sick.
//!
//! What is too much becomes a limit on requests in flight that keeps one place for the probe. It falls with each probe that is refused, and with each late one
//! behind another: a single one may have met a pause of its process, or of the gate. It grows where probes pass while it is reached, by one and then
//! by twice as much each time, until a probe fails again (additive increase, multiplicative decrease: Chiu and Jain, "Analysis of the Increase and Decrease
//! Algorithms for Congestion Avoidance", 1989; the doubling lets go of a limit that was an error). It does not follow the latency of requests, as Envoy's
//! gradient controller does: prompts last from a tenth of a second to minutes.

use std::time::{Duration, Instant};

/// What was once answered is believed for one to two of these: a restarted server may have another limit.
const SPAN: Duration = Duration::from_secs(300);
/// The limit grows no sooner than this after its last change: each step too far makes a probe fail.
const GROWS_AFTER: Duration = Duration::from_secs(30);
/// A limit that nothing has confirmed for so long is forgotten.
const FORGETS: Duration = Duration::from_secs(600);
/// Fewer connections than this fill nobody: an endpoint that has little to do was never probed with more than none or one.
const LEAST: u32 = 4;
/// After a request was refused for want of room the gate closes the connections that are only kept there. The server notices that a moment later, and may
/// refuse others until then.
const NOTICES: Duration = Duration::from_secs(2);
/// Where nothing tells how many places there are, the limit falls to so many percent of what was under way.
const DECREASE_PERCENT: u32 = 70;

/// What is under way on an endpoint while it is probed. Connections that are kept for the next request count, the probe's own does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Connections when the probe was sent.
    pub before: u32,
    /// Requests whose answer had begun by then, and kept connections: they hold their places until they end.
    pub begun: u32,
    /// Requests that were given up shortly before: a server notices that only when it writes, and holds their places until then.
    pub left: u32,
    /// Connections that had stood for a moment by then: those that come with the probe may find no room after it.
    pub settled: u32,
    /// Whether a request was sent between: it may have taken the last place for a moment that neither count shows.
    pub came: bool,
    /// Connections when the probe's answer came, or its deadline passed.
    pub now: u32,
    /// Whether parts of answers came during the second half of the probe.
    pub delivering: bool,
}

impl UnderWay {
    /// Places that may have been taken when the probe came.
    fn held(self) -> u32 {
        self.before
            .saturating_add(self.left)
            .saturating_add(u32::from(self.came))
    }
}

/// How an endpoint shows that it has too much to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered 503 and named no component.
    Refused,
    /// It did not answer in time.
    Late,
}

/// The greatest number within one to two [`SPAN`]s.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    latest: u32,
    earlier: u32,
    since: Option<Instant>,
}

impl Peak {
    fn note(&mut self, number: u32, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= SPAN {
            (self.earlier, self.latest, self.since) = (self.latest, 0, Some(now));
        }
        self.latest = self.latest.max(number);
    }

    fn get(self) -> u32 {
        self.latest.max(self.earlier)
    }
}

/// What is known of the capacity of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capacity {
    /// Connections with which a probe passed in good time, its own included.
    probed: Peak,
    /// Connections with which a request was answered well, its own included.
    answered: Peak,
    limit: Option<(u32, Instant)>,
    /// By how much the limit grew last, since a probe was too much.
    step: u32,
    /// Whether the last probe was late, or nearly, with as much under way as ever.
    was_late: bool,
    /// When a request was refused last for want of room.
    refused: Option<Instant>,
}

impl Capacity {
    /// The most requests that it is given at a time, where that is known.
    pub fn limit(&self) -> Option<u32> {
        self.limit.map(|(limit, _)| limit)
    }

    /// The most connections with which a probe passed, its own included; 0 where none has.
    pub fn probed(&self) -> u32 {
        self.probed.get()
    }

    /// A request was answered well with so many connections.
    pub fn note_answered(&mut self, connections: u32, now: Instant) {
        self.answered.note(connections, now);
    }

    /// A probe passed within its time, of which it `took` so much. Returns whether the limit has changed.
    pub fn note_pass(&mut self, under_way: UnderWay, took: Duration, timeout: Duration, now: Instant) -> bool {
        let before = self.limit();
        let connections = under_way.settled.min(under_way.before).min(under_way.now);
        if took > timeout / 2 {
            // It is close to being late. That says something of its load only where it was quick with less.
            let (held, probed) = (under_way.held(), self.probed.get());
            if probed > 0 && held >= probed {
                self.note_too_much(Sign::Late, under_way, now);
            }
        } else {
            self.was_late = false;
            self.probed.note(connections.saturating_add(1), now);
            match self.limit {
                Some((_, since)) if now.saturating_duration_since(since) >= FORGETS => self.limit = None,
                Some((limit, since)) if connections >= limit && now.saturating_duration_since(since) >= GROWS_AFTER => {
                    self.step = self.step.saturating_mul(2).max(1);
                    self.limit = Some((limit.saturating_add(self.step), now));
                }
                _ => {}
            }
        }
        self.limit() != before
    }

    /// Whether a probe that failed in the way of `sign` may have failed for want of room alone. `stalled`: requests wait there although it answered often.
    pub fn is_too_much(&self, sign: Sign, under_way: UnderWay, stalled: bool) -> bool {
        let (held, probed) = (under_way.held(), self.probed.get());
        if probed == 0 || held < LEAST {
            return false;
        }
        match sign {
            Sign::Refused => {
                let held = held.max(under_way.now.saturating_add(under_way.left));
                held >= probed.max(self.answered.get())
            }
            // Who holds a place and is being answered is no sign of a process that hangs. Who merely waits is one: requests gather before each process
            // that hangs.
            Sign::Late => {
                let left = if stalled { 0 } else { under_way.left };
                under_way.begun > 0 && under_way.begun.saturating_add(left) >= probed.max(LEAST)
            }
        }
    }

    /// Whether a request that was answered 503 with so many connections, its own included, was refused for want of room alone.
    pub fn note_refusal(&mut self, connections: u32, now: Instant) -> bool {
        let answered = self.answered.get();
        let has_no_room = answered > 0 && connections > answered.max(self.probed.get()).max(LEAST);
        if has_no_room {
            self.refused = Some(now);
        }
        let is_recent = |at: Instant| now.saturating_duration_since(at) < NOTICES;
        self.refused.is_some_and(is_recent)
    }

    /// Lowers the limit after a probe that was too much; after a late one, where the last one was late as well.
    pub fn note_too_much(&mut self, sign: Sign, under_way: UnderWay, now: Instant) {
        let was_late = std::mem::replace(&mut self.was_late, true);
        if sign == Sign::Late && !was_late {
            return;
        }
        self.step = 0;
        let places = match sign {
            Sign::Refused => under_way.held(),
            Sign::Late if under_way.begun + under_way.left >= self.probed.get() => under_way.begun + under_way.left,
            Sign::Late => under_way.held().saturating_mul(DECREASE_PERCENT) / 100,
        };
        self.lower(places, now);
    }

    /// Forgets the limit: what failed there failed for another reason.
    pub fn forget_limit(&mut self) {
        self.limit = None;
    }

    /// One of the `places` is the probe's. A limit below what it was probed with would be too low, and one of 0 would give it nothing.
    fn lower(&mut self, places: u32, now: Instant) {
        let least = self.probed.get().saturating_sub(1).max(1);
        let wanted = places.saturating_sub(1).max(least);
        let limit = self.limit().map_or(wanted, |limit| limit.min(wanted));
        self.limit = Some((limit, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);
    const QUICK: Duration = Duration::from_millis(3);

    fn streams(count: u32) -> UnderWay {
        UnderWay {
            before: count,
            begun: count,
            left: 0,
            settled: count,
            came: false,
            now: count,
            delivering: false,
        }
    }

    /// A server with ten places that has been probed with 0 to 9 streams.
    fn ten_places(start: Instant) -> Capacity {
        let mut capacity = Capacity::default();
        for count in 0..10 {
            capacity.note_pass(streams(count), QUICK, TIMEOUT, start);
        }
        capacity
    }

    #[test]
    fn the_one_too_many_is_told_from_the_one_that_fails_with_room() {
        let start = Instant::now();
        let capacity = ten_places(start);
        for sign in [Sign::Late, Sign::Refused] {
            assert!(capacity.is_too_much(sign, streams(10), false));
            assert!(!capacity.is_too_much(sign, streams(9), false), "it passed with nine");
            assert!(
                !Capacity::default().is_too_much(sign, streams(10), false),
                "it never passed"
            );
        }
        assert!(
            capacity.is_too_much(Sign::Late, streams(10), true),
            "streams hold the places"
        );
        let left = UnderWay { left: 3, ..streams(7) };
        assert!(
            capacity.is_too_much(Sign::Late, left, false),
            "three places are not free yet"
        );
        assert!(!capacity.is_too_much(Sign::Late, left, true), "they had waited in vain");
        let waiting = UnderWay {
            begun: 2,
            ..streams(12)
        };
        for stalled in [false, true] {
            assert!(!capacity.is_too_much(Sign::Late, waiting, stalled), "it hangs");
        }
    }

    #[test]
    fn the_limit_keeps_a_place_for_the_probe_and_is_never_nothing() {
        let start = Instant::now();
        let mut capacity = ten_places(start);
        assert_eq!(capacity.limit(), None);
        capacity.note_too_much(Sign::Late, streams(10), start);
        assert_eq!(capacity.limit(), None, "once is an accident");
        capacity.note_too_much(Sign::Late, streams(10), start);
        assert_eq!(capacity.limit(), Some(9));
        capacity.note_too_much(Sign::Refused, streams(3), start);
        assert_eq!(capacity.limit(), Some(9), "it was probed with nine");
        let mut unknown = Capacity::default();
        unknown.note_too_much(Sign::Refused, streams(1), start);
        assert_eq!(unknown.limit(), Some(1));
    }

    #[test]
    fn a_refusal_is_one_only_beyond_what_was_answered() {
        let start = Instant::now();
        let mut capacity = Capacity::default();
        assert!(!capacity.note_refusal(1, start), "it has answered nothing yet");
        capacity.note_answered(5, start);
        assert!(!capacity.note_refusal(5, start));
        assert!(capacity.note_refusal(6, start));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(
            capacity.note_refusal(2, at(1)),
            "it has not noticed yet which connections were closed"
        );
        assert!(!capacity.note_refusal(2, at(2)), "that does not go on for ever");
        for minutes in [6, 11] {
            capacity.note_answered(1, start + Duration::from_secs(minutes * 60));
        }
        assert!(
            capacity.note_refusal(5, at(661)),
            "what was answered ten minutes ago is forgotten"
        );
    }

    #[test]
    fn the_limit_grows_where_it_is_reached_and_is_forgotten_where_it_is_not() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut capacity = ten_places(start);
        capacity.note_too_much(Sign::Late, streams(10), start);
        assert_eq!(capacity.limit(), None, "once is an accident");
        capacity.note_too_much(Sign::Late, streams(10), start);
        let mut pass = |count, seconds| {
            capacity.note_pass(streams(count), QUICK, TIMEOUT, at(seconds));
            capacity.limit()
        };
        assert_eq!(pass(9, 29), Some(9));
        assert_eq!(pass(8, 31), Some(9), "it is not reached");
        assert_eq!(pass(9, 31), Some(10));
        assert_eq!(pass(10, 60), Some(10));
        assert_eq!(pass(10, 61), Some(12), "each step is twice the last one");
        assert_eq!(pass(12, 91), Some(16));
        assert_eq!(pass(0, 692), None);
    }

    #[test]
    fn a_probe_that_is_nearly_late_lowers_the_limit_where_it_was_quick_with_less() {
        let start = Instant::now();
        let slow = Duration::from_millis(800);
        let mut capacity = Capacity::default();
        capacity.note_pass(streams(20), slow, TIMEOUT, start);
        assert_eq!(capacity.limit(), None, "it may always be slow");
        capacity.note_pass(streams(4), QUICK, TIMEOUT, start);
        let waiting = UnderWay {
            begun: 0,
            ..streams(20)
        };
        assert!(
            !capacity.note_pass(waiting, slow, TIMEOUT, start),
            "once is an accident"
        );
        capacity.note_pass(waiting, QUICK, TIMEOUT, start);
        let waiting = UnderWay { before: 30, ..waiting };
        assert!(!capacity.note_pass(waiting, slow, TIMEOUT, start), "not in a row");
        assert!(capacity.note_pass(waiting, slow, TIMEOUT, start));
        assert_eq!(capacity.limit(), Some(20), "the probe has a place");
    }
}
