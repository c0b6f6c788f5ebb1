//! The comparison of the books. A rule says which faults may cause which failure, and when: a failure without such a fault is unexplained.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use difygate::simulated_dify::{Deed, Entry};

use super::ledger::{Books, End, Fault, Kind, POOLS, Seen, What, Who, before, members, name, pool_of, who};

/// An instance whose fault is over serves again within this time.
const BACK: Duration = Duration::from_secs(3);
/// An endpoint that is ejected for its traffic is held for 10 s, up to a fifth longer, and waits up to 10 s for a request that tries it.
const HELD: Duration = Duration::from_secs(22);
/// A moment is known only so exactly: a switch is flipped, and an answer is on its way.
const SLACK: Duration = Duration::from_millis(250);
/// After a fault that breaks connections their clients see it within this time.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// An answer without a hold takes no longer, and more is worth a question.
pub(super) const SLOW: Duration = Duration::from_secs(4);
/// So many of what is wrong are shown.
const SHOWN: usize = 40;
/// Codes by which the gate says that a request was sent nowhere.
const UNSENT: [&str; 6] = [
    "upstream_unreachable",
    "no_endpoint",
    "overloaded",
    "paused",
    "maintenance",
    "shutting_down",
];

/// What the comparison came to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) exchanges: usize,
    pub(crate) whole: usize,
    pub(crate) effects: usize,
    /// Clients that waited for more than five seconds for the first byte.
    pub(crate) waited: usize,
    /// Failures by what was seen and what explains it.
    pub(crate) explained: BTreeMap<String, usize>,
    pub(crate) unexplained: Vec<String>,
    /// Rules that may never be broken, whatever happens.
    pub(crate) violations: Vec<String>,
}

impl Findings {
    /// Whether everything is as it must be.
    pub(crate) fn are_right(&self) -> bool {
        self.unexplained.is_empty() && self.violations.is_empty()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: usize = self.explained.values().sum();
        writeln!(
            f,
            "exchanges {}, whole {}, failed or late for a fault {failed}, effects {}, waited > 5 s {}, unexplained {}, violations {}",
            self.exchanges,
            self.whole,
            self.effects,
            self.waited,
            self.unexplained.len(),
            self.violations.len()
        )?;
        for (what, count) in &self.explained {
            writeln!(f, "  {count:>5}  {what}")?;
        }
        for (kind, all) in [("violation", &self.violations), ("unexplained", &self.unexplained)] {
            for what in all.iter().take(SHOWN) {
                writeln!(f, "  {kind}: {what}")?;
            }
        }
        Ok(())
    }
}

/// Holds the books against each other.
pub(crate) fn compare(books: &Books) -> Findings {
    let mut by_id: HashMap<u64, Vec<&Entry>> = HashMap::new();
    for entry in &books.journal {
        by_id.entry(entry.exchange).or_default().push(entry);
    }
    let mut findings = Findings {
        exchanges: books.seen.len(),
        ..Findings::default()
    };
    findings.violations.extend(books.wrong.iter().cloned());
    for seen in &books.seen {
        let entries = by_id.remove(&seen.id).unwrap_or_default();
        one(books, seen, &entries, &mut findings);
    }
    #[allow(clippy::iter_over_hash_type)] // their order means nothing
    for (id, _) in by_id {
        findings.violations.push(format!("#{id} arrived, and nobody sent it"));
    }
    ejections(books, &mut findings);
    ways_back(books, &mut findings);
    findings
}

/// One exchange.
fn one(books: &Books, seen: &Seen, entries: &[&Entry], findings: &mut Findings) {
    let case = Case { books, seen, entries };
    findings.violations.extend(case.violations());
    findings.effects += case.executed().count();
    let wait = seen.began.unwrap_or(seen.ended) - seen.sent;
    findings.waited += usize::from(wait > Duration::from_secs(5));
    let slow = seen.end == End::Whole && wait > SLOW;
    if seen.end == End::Whole && !slow {
        findings.whole += 1;
        return;
    }
    match case.explanation(slow) {
        Some(why) => {
            let what = format!("{}: {why}", case.what(slow));
            *findings.explained.entry(what).or_default() += 1;
        }
        None => findings.unexplained.push(format!("{case}, {}", case.what(slow))),
    }
}

/// An exchange with what arrived of it.
struct Case<'b> {
    books: &'b Books,
    seen: &'b Seen,
    entries: &'b [&'b Entry],
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { books, seen, entries } = self;
        let (sent, ended) = (books.at(seen.sent), books.at(seen.ended));
        write!(f, "#{} {:?} {sent:.3}..{ended:.3} s", seen.id, seen.kind)?;
        for entry in *entries {
            let deed = match entry.deed {
                Deed::Arrived => "at",
                Deed::Executed(_) => "ran at",
            };
            write!(f, ", {deed} {} {:.3}", entry.instance, books.at(entry.at))?;
        }
        Ok(())
    }
}

impl Case<'_> {
    fn executed(&self) -> impl Iterator<Item = [u8; 20]> {
        self.entries.iter().filter_map(|entry| match entry.deed {
            Deed::Executed(sum) => Some(sum),
            Deed::Arrived => None,
        })
    }

    /// The failure in a few words.
    fn what(&self, slow: bool) -> String {
        let kind = format!("{:?}", self.seen.kind).to_lowercase();
        if slow {
            return format!("{kind} late");
        }
        match (&self.seen.end, self.seen.by) {
            (End::Refused { status, .. }, Some(_)) => format!("{kind} {status} of the instance"),
            (End::Refused { status, code }, None) => format!("{kind} {status} {code}"),
            (End::Told(code), _) => format!("{kind} ended by {code}"),
            (End::Broke { how }, _) => format!("{kind} broke off ({how})"),
            (End::Unconnected(how), _) => format!("{kind} not connected ({how})"),
            (End::Wrong(how), _) => format!("{kind} WRONG ({how})"),
            (end, _) => format!("{kind} {end:?}").to_lowercase(),
        }
    }

    /// What may never be, whatever happens.
    fn violations(&self) -> Vec<String> {
        let (seen, mut found) = (self.seen, Vec::new());
        let executed = self.executed().count();
        if executed > 1 {
            found.push(format!("{self}: it ran {executed} times"));
        }
        if let End::Refused { code, .. } = &seen.end
            && UNSENT.contains(&code.as_str())
            && seen.kind.has_effect()
            && executed > 0
        {
            found.push(format!("{self}: it ran, and its client was told {code}"));
        }
        if seen.end == End::Whole && seen.kind.has_effect() && executed == 0 {
            found.push(format!("{self}: answered as a whole, and it never ran"));
        }
        if seen.end == End::Whole && seen.kind == Kind::Upload && self.executed().any(|sum| sum != seen.sum) {
            found.push(format!("{self}: another body arrived"));
        }
        if let End::Wrong(how) = &seen.end {
            found.push(format!("{self}: {how}"));
        }
        found.extend(self.entries.iter().filter_map(|entry| self.against_orders(entry)));
        found
    }

    /// An arrival that an order which was in force forbids.
    fn against_orders(&self, entry: &Entry) -> Option<String> {
        let at = who(&entry.instance)?;
        let sent = self.seen.sent;
        let mut orders = self.books.happened.iter();
        let order = orders.find(|order| {
            let in_force = sent > order.from && entry.at < order.until;
            let forbidden = match order.what {
                What::Away(away, _) => away == at,
                What::Paused | What::Stopped => true,
                What::Active(pool) => pool_of(at) != pool && !self.stands_in(pool, entry.at),
                What::At(..) | What::Shared(_) | What::Lapse | What::Upgrade => false,
            };
            entry.deed == Deed::Arrived && in_force && forbidden
        })?;
        let since = self.books.at(order.from);
        Some(format!("{self}: sent there though {:?} since {since:.3}", order.what))
    }

    /// Whether the other pool may stand in for this one: somebody of it fails.
    fn stands_in(&self, pool: usize, at: Instant) -> bool {
        let from = before(self.seen.sent, BACK);
        let fails = |what| match what {
            What::At(who, _) | What::Away(who, _) => pool_of(who) == pool,
            What::Shared(_) | What::Lapse => true,
            What::Paused | What::Stopped | What::Active(_) | What::Upgrade => false,
        };
        self.books.any(from, at, fails)
    }

    /// Instances that may have caused what was seen: those at which it arrived, the last one that the gate sent it to, or all of them where it was sent
    /// nowhere. A process that ends, or is full, reads nothing of what is sent there.
    fn suspects(&self) -> Vec<Who> {
        let mut suspects: Vec<Who> = self.entries.iter().filter_map(|entry| who(&entry.instance)).collect();
        suspects.extend(self.seen.by);
        suspects.extend(self.books.tried.get(&self.seen.request));
        if suspects.is_empty() {
            suspects.extend(members(0).chain(members(1)));
        }
        suspects
    }

    /// The fault of one of these instances that lasted at some moment of a time.
    fn fault(&self, of: &[Who], from: Instant, until: Instant, faults: &[Fault]) -> Option<String> {
        let mut happened = self.books.happened.iter().filter(|one| one.within(from, until));
        happened.find_map(|one| match one.what {
            What::At(who, fault) if of.contains(&who) && faults.contains(&fault) => Some(format!("{fault:?}")),
            _ => None,
        })
    }

    fn explanation(&self, slow: bool) -> Option<String> {
        let seen = self.seen;
        let suspects = self.suspects();
        if slow {
            return self.holds(&suspects);
        }
        match (&seen.end, seen.by) {
            (End::Refused { .. }, Some(by)) => {
                let faults = [Fault::Refuses, Fault::Sick, Fault::Limited];
                let from = before(seen.sent, SLACK);
                let own = self.fault(&[by], from, seen.ended, &faults);
                own.or_else(|| self.shared(SLACK))
            }
            (End::Refused { code, .. }, None) => self.own_answer(code, &suspects),
            // A WebSocket ends with a close frame, whatever happens.
            (End::Broke { .. }, _) if seen.began.is_some() && seen.status != Some(101) => self.broken(&suspects),
            (End::Told(_), _) if seen.began.is_some() => self.broken(&suspects),
            (End::Short, _) => self.shared(SLACK),
            _ => None,
        }
    }

    /// Why an answer of the gate itself came.
    fn own_answer(&self, code: &str, suspects: &[Who]) -> Option<String> {
        use Fault::{Closes, Cuts, Drains, Freeze, Full, Kill, Stop, Worker};
        let seen = self.seen;
        let from = before(seen.sent, SLACK);
        match code {
            "upstream_failed" => {
                let breaks = [Kill, Worker, Stop, Drains, Closes, Cuts];
                let broke = self.fault(suspects, from, seen.ended, &breaks);
                broke.or_else(|| self.taken_back())
            }
            "upstream_timeout" => self.holds(suspects),
            "upstream_unreachable" => {
                let unreached = [Kill, Worker, Stop, Drains, Freeze, Full];
                let mut pools = 0..POOLS.len();
                pools.find_map(|pool| {
                    let pool: Vec<Who> = members(pool).collect();
                    let fault = self.fault(&pool, from, seen.ended, &unreached)?;
                    let failing = pool.iter().filter(|who| self.is_out(**who)).count();
                    (failing > 1).then(|| format!("{fault} and another one out"))
                })
            }
            "no_endpoint" => {
                let mut pools = 0..POOLS.len();
                let out = pools.any(|pool| members(pool).all(|who| self.is_out(who)));
                out.then(|| "nobody is well".to_owned())
            }
            "dependency_failed" => self.shared(BACK),
            "overloaded" => self.overloaded(),
            "paused" => self.order(What::Paused),
            "maintenance" => self.order(What::Stopped),
            _ => None,
        }
    }

    /// Whether an instance has a fault, or has had one until a moment ago, or is away by an order, or is held back for what its requests came to.
    fn is_out(&self, who: Who) -> bool {
        let is = |what| matches!(what, What::At(at, _) | What::Away(at, _) if at == who);
        let from = before(self.seen.sent, HELD);
        let mut ejections = self.books.ejections.iter();
        let is_held =
            ejections.any(|one| one.who == who && one.to == "ejected" && one.at > from && one.at < self.seen.ended);
        is_held || self.books.any(before(self.seen.sent, BACK), self.seen.ended, is)
    }

    /// A request that can be sent again is taken back from an endpoint that goes down. Where everyone else of the pool is out it ends so.
    fn taken_back(&self) -> Option<String> {
        let tried = *self.books.tried.get(&self.seen.request)?;
        let has_fault = |what| matches!(what, What::At(at, _) if at == tried);
        let goes_down = self
            .books
            .any(before(self.seen.sent, SLACK), self.seen.ended, has_fault);
        let nobody_else = members(pool_of(tried)).all(|who| who == tried || self.is_out(who));
        (goes_down && nobody_else).then(|| "taken back from who goes down, and nobody else is well".to_owned())
    }

    /// A dependency of all that is away, or was until a moment ago.
    fn shared(&self, since: Duration) -> Option<String> {
        let from = before(self.seen.sent, since);
        let mut happened = self.books.happened.iter();
        happened.find_map(|one| match one.what {
            What::Shared(name) if one.within(from, self.seen.ended) => Some(format!("{name} is away")),
            _ => None,
        })
    }

    /// An order in force. It counts from its answer on, and may have been carried out a moment before.
    fn order(&self, order: What) -> Option<String> {
        let from = before(self.seen.sent, SLACK);
        let given = self.books.any(from, self.seen.ended + SLACK, |what| what == order);
        given.then(|| format!("{order:?}").to_lowercase())
    }

    /// What keeps an answer from coming.
    fn holds(&self, suspects: &[Who]) -> Option<String> {
        use Fault::{Drains, Freeze, Full, Kill, Limited, Silent, Slow, Stop, Worker};
        let seen = self.seen;
        let holds = [Freeze, Worker, Kill, Stop, Drains, Full, Limited, Slow, Silent];
        let fault = self.fault(suspects, before(seen.sent, SLACK), seen.ended, &holds);
        let fault = fault.or_else(|| self.shared(SLACK));
        let fault = fault.or_else(|| self.order(What::Paused));
        fault.or_else(|| self.order(What::Lapse))
    }

    /// What keeps all instances of a pool full. Who was full, or late with much under way, has a limit from then on, until it is started anew.
    fn overloaded(&self) -> Option<String> {
        use Fault::{Drains, Freeze, Full, Kill, Limited, Stop, Worker};
        let books = self.books;
        let full = |who: Who| {
            let mut happened = books.happened.iter().rev();
            let last = happened.find_map(|one| match one.what {
                What::At(at, fault @ (Freeze | Full | Limited | Worker | Drains)) if at == who => {
                    Some((one, Some(fault)))
                }
                What::At(at, Kill | Stop) if at == who => Some((one, None)),
                _ => None,
            });
            let fault = last.and_then(|(one, fault)| fault.filter(|_| one.from <= self.seen.ended));
            let late = books.any(books.start, self.seen.ended, |what| what == What::Lapse);
            let why = fault.map(|fault| format!("{fault:?}"));
            why.or_else(|| late.then(|| "a lapse".to_owned()))
        };
        let mut pools = 0..POOLS.len();
        pools.find_map(|pool| {
            let all = members(pool).all(|who| full(who).is_some() || self.is_out(who));
            let why = members(pool).find_map(full).filter(|_| all)?;
            Some(format!("all are out or full since {why}"))
        })
    }

    /// What breaks an answer that has begun, right when it broke.
    fn broken(&self, suspects: &[Who]) -> Option<String> {
        use Fault::{Closes, Cuts, Drains, Kill, Stop, Worker};
        let from = before(self.seen.ended, SEEN_WITHIN);
        let breaks = [Kill, Worker, Stop, Drains, Cuts, Closes];
        self.fault(suspects, from, self.seen.ended, &breaks)
    }
}

/// Endpoints that were taken out though they were well.
fn ejections(books: &Books, findings: &mut Findings) {
    for one in &books.ejections {
        let from = before(one.at, BACK);
        let has_fault = |at: Who| {
            let is = |what| matches!(what, What::At(who, _) | What::Away(who, _) if who == at);
            books.any(from, one.at, is)
        };
        // A failure is known as shared once two endpoints of a pool answer so.
        let mut others = members(pool_of(one.who)).filter(|who| *who != one.who);
        let is_alone = others.all(has_fault);
        let explains = |what| match what {
            What::At(who, _) | What::Away(who, _) => who == one.who,
            What::Shared(_) => is_alone,
            What::Lapse => true,
            What::Paused | What::Stopped | What::Active(_) | What::Upgrade => false,
        };
        if !books.any(from, one.at, explains) {
            let (who, at) = (name(one.who), books.at(one.at));
            findings
                .violations
                .push(format!("{who} was well, and {} at {at:.3} s: {}", one.to, one.cause));
        }
    }
}

/// Cutovers that went back by themselves though the new pool was well since the flip.
fn ways_back(books: &Books, findings: &mut Findings) {
    for one in &books.back {
        let explains = |what| match what {
            What::At(who, _) | What::Away(who, _) => pool_of(who) == one.to,
            What::Shared(_) | What::Lapse => true,
            What::Paused | What::Stopped | What::Active(_) | What::Upgrade => false,
        };
        if !books.any(before(one.flipped, BACK), one.at, explains) {
            let (to, at) = (POOLS[one.to], books.at(one.at));
            findings.violations.push(format!(
                "the cutover to {to} went back at {at:.3} s without a fault there: {}",
                one.why
            ));
        }
    }
}
