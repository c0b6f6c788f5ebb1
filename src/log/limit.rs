//! How many lines one place in the code may write: what a client can cause again and again must not fill a disk. It follows the kernel's
//! printk_ratelimit: ten lines in five seconds, then a count of what was left out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::Level;
use tracing::callsite::Identifier;

/// Lines are counted for so long.
pub(super) const WINDOW: Duration = Duration::from_secs(5);
/// Lines that one client, or several of the same text, may cause at one place in a window.
pub(super) const OF_ONE: u32 = 10;
/// Lines that all clients together may cause at one place in a window.
pub(super) const OF_ALL: u32 = 50;
/// Causes that are told apart at one place in a window.
const CAUSES: usize = 1024;

/// A place in the code that writes lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// One that writes by `tracing`.
    Callsite(Identifier),
    /// One that writes by `log`: a hash of its file and line, for all share one callsite.
    Record(u64),
}

/// Who or what causes a line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// A client.
    Client(IpAddr),
    /// Somebody who is not known, in a library.
    Unknown,
    /// The gate itself: a hash of the line's fields. Only equal lines count together.
    Own(u64),
}

/// Lines that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suppressed {
    /// The level of these lines.
    pub(super) level: Level,
    /// How many there were.
    pub(super) lines: u64,
    /// The text of the first.
    pub(super) like: String,
    /// The client that caused all of them, where it is known and the only one.
    pub(super) client: Option<IpAddr>,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written.
    Write,
    /// It is left out and counted.
    Suppress,
    /// The same, and [`Limiter::describe`] wants its text.
    Describe,
}

/// Counts lines by place and cause.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    places: HashMap<Place, Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    /// Lines of clients and of libraries.
    lines: u32,
    causes: HashMap<Cause, u32>,
    /// What was left out since the last report.
    suppressed: Option<(Instant, Suppressed)>,
}

impl Limiter {
    /// Decides whether a line is written at `now`.
    pub(super) fn admit(&mut self, place: Place, cause: &Cause, level: Level, now: Instant) -> Verdict {
        let window = self.places.entry(place).or_insert_with(|| Window::new(now));
        if window.is_over(now) {
            (window.since, window.lines) = (now, 0);
            window.causes.clear();
        }
        if window.count(cause) {
            return Verdict::Write;
        }
        let client = match cause {
            Cause::Client(client) => Some(*client),
            Cause::Unknown | Cause::Own(_) => None,
        };
        match &mut window.suppressed {
            Some((_, suppressed)) => {
                suppressed.lines += 1;
                suppressed.client = suppressed.client.filter(|other| client == Some(*other));
                Verdict::Suppress
            }
            None => {
                let suppressed = Suppressed {
                    level,
                    lines: 1,
                    like: String::new(),
                    client,
                };
                window.suppressed = Some((now, suppressed));
                Verdict::Describe
            }
        }
    }

    /// Notes the text of the first line that was left out at `place`.
    pub(super) fn describe(&mut self, place: &Place, like: String) {
        let window = self.places.get_mut(place);
        if let Some((_, suppressed)) = window.and_then(|window| window.suppressed.as_mut()) {
            suppressed.like = like;
        }
    }

    /// What was left out and is to be reported at `now`; with no time given, all of it. Places without news are forgotten.
    pub(super) fn report(&mut self, now: Option<Instant>) -> Vec<Suppressed> {
        let is_due = |since: &Instant| now.is_none_or(|now| now.saturating_duration_since(*since) >= WINDOW);
        let mut reports = Vec::new();
        self.places.retain(|_, window| {
            let due = window.suppressed.take_if(|(since, _)| is_due(since));
            reports.extend(due.map(|(_, suppressed)| suppressed));
            window.suppressed.is_some() || now.is_some_and(|now| !window.is_over(now))
        });
        reports
    }
}

impl Window {
    fn new(since: Instant) -> Self {
        Self {
            since,
            lines: 0,
            causes: HashMap::new(),
            suppressed: None,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    /// Counts a line, unless it is one too many.
    fn count(&mut self, cause: &Cause) -> bool {
        let shared = !matches!(cause, Cause::Own(_));
        if shared && self.lines >= OF_ALL {
            return false;
        }
        if let Some(lines) = self.causes.get_mut(cause) {
            if *lines >= OF_ONE {
                return false;
            }
            *lines += 1;
        } else if self.causes.len() < CAUSES {
            // Lines of the gate's own that all differ are as many as what they report.
            self.causes.insert(cause.clone(), 1);
        }
        self.lines += u32::from(shared);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(number: u8) -> Cause {
        Cause::Client(Ipv4Addr::new(192, 0, 2, number).into())
    }

    /// Lets a line come, and returns whether it may be written.
    fn line(limiter: &mut Limiter, place: u64, cause: Cause, now: Instant) -> bool {
        let at = Place::Record(place);
        let verdict = limiter.admit(at.clone(), &cause, Level::WARN, now);
        if verdict == Verdict::Describe {
            limiter.describe(&at, format!("line of {place}"));
        }
        verdict == Verdict::Write
    }

    #[test]
    fn one_client_writes_ten_lines_at_a_place_and_the_rest_is_counted() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for number in 0..1_000 {
            assert_eq!(line(&mut limiter, 1, client(1), start), number < OF_ONE);
        }
        assert!(line(&mut limiter, 1, client(2), start), "others are not silenced by it");
        assert!(line(&mut limiter, 2, client(1), start), "nor are its other lines");
        assert_eq!(limiter.report(Some(start + WINDOW / 2)), []);
        let reported = limiter.report(Some(start + WINDOW));
        let expected = Suppressed {
            level: Level::WARN,
            lines: 990,
            like: "line of 1".into(),
            client: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
        };
        assert_eq!(reported, [expected]);
        assert!(
            line(&mut limiter, 1, client(1), start + WINDOW),
            "a new window has begun"
        );
        assert_eq!(limiter.report(Some(start + 3 * WINDOW)), []);
        assert!(limiter.places.is_empty(), "what is over is forgotten");
    }

    #[test]
    fn many_clients_write_no_more_than_fifty_lines_at_a_place() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let written = (0..200)
            .filter(|number| line(&mut limiter, 1, client(*number), start))
            .count();
        assert_eq!(written, OF_ALL as usize);
        let reported = limiter.report(None);
        assert_eq!((reported[0].lines, reported[0].client), (150, None));
    }

    #[test]
    fn a_library_that_does_not_know_its_client_writes_ten() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let written = (0..200)
            .filter(|_| line(&mut limiter, 1, Cause::Unknown, start))
            .count();
        assert_eq!(written, OF_ONE as usize);
    }

    #[test]
    fn what_the_gate_itself_reports_is_never_left_out_unless_it_repeats() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for number in 0..5_000 {
            assert!(line(&mut limiter, 1, Cause::Own(number), start));
        }
        assert!(limiter.places[&Place::Record(1)].causes.len() <= CAUSES);
        let written = (0..100).filter(|_| line(&mut limiter, 1, Cause::Own(7), start)).count();
        assert_eq!(written, OF_ONE as usize - 1);
    }

    #[test]
    fn a_flood_that_goes_on_is_reported_once_a_window() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let (mut written, mut reports) = (0, Vec::new());
        for millis in 0..60_000 {
            let now = start + Duration::from_millis(millis);
            written += u64::from(line(&mut limiter, 1, client(1), now));
            if millis % 1_000 == 0 {
                reports.extend(limiter.report(Some(now)));
            }
        }
        reports.extend(limiter.report(None));
        assert_eq!(written, u64::from(OF_ONE) * 12);
        assert!((8..=12).contains(&reports.len()), "{reports:?}");
        let suppressed: u64 = reports.iter().map(|report| report.lines).sum();
        assert_eq!(written + suppressed, 60_000);
    }
}
