//! The two ends of every exchange, and everything that happened meanwhile: what clients sent and got, what arrived at the instances, which faults and
//! orders there were, and what the gate said of its endpoints.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use difygate::simulated_dify::Entry;

/// An instance, by its number: those of blue come first.
pub(crate) type Who = usize;

/// Instances of one pool.
pub(crate) const EACH: usize = 3;

/// The pools, in the order of their instances.
pub(crate) const POOLS: [&str; 2] = ["blue", "green"];

/// The pool of an instance.
pub(crate) fn pool_of(who: Who) -> usize {
    who / EACH
}

/// The instances of a pool.
pub(crate) fn members(pool: usize) -> std::ops::Range<Who> {
    pool * EACH..(pool + 1) * EACH
}

/// The name of an instance.
pub(crate) fn name(who: Who) -> String {
    format!("{}-{}", POOLS[pool_of(who)], who % EACH)
}

/// The instance of this name.
pub(crate) fn who(name: &str) -> Option<Who> {
    (0..POOLS.len() * EACH).find(|who| self::name(*who) == name)
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Get,
    Download,
    Prompt,
    Stream,
    Upload,
    Socket,
}

impl Kind {
    /// Whether it may not be sent twice, for it has an effect.
    pub(crate) fn has_effect(self) -> bool {
        matches!(self, Self::Prompt | Self::Stream | Self::Upload)
    }
}

/// How an exchange ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With everything that was to come.
    Whole,
    /// With a whole answer that is an error.
    Refused { status: u16, code: String },
    /// With an error inside an answer that had begun: the code of an event, or of a close frame.
    Told(String),
    /// Visibly before its end.
    Broke { how: String },
    /// An event stream with a clean end and without its last event.
    Short,
    /// With a whole answer that is not the right one.
    Wrong(String),
    /// Nothing came for as long as the client waits.
    Late,
    /// The gate did not take the connection.
    Unconnected(String),
}

/// An exchange as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) sent: Instant,
    /// When the head of the answer came.
    pub(crate) began: Option<Instant>,
    pub(crate) ended: Instant,
    /// Its status.
    pub(crate) status: Option<u16>,
    /// The id that the gate gave the request.
    pub(crate) request: String,
    /// The instance that the answer names.
    pub(crate) by: Option<Who>,
    pub(crate) end: End,
    /// The SHA-1 of the body that was sent.
    pub(crate) sum: [u8; 20],
}

/// What is done to one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL of all of it; it is started again.
    Kill,
    /// SIGKILL of the worker, whose successor is silent at first.
    Worker,
    /// SIGSTOP, and SIGCONT.
    Freeze,
    /// SIGTERM with a closed port, and a start.
    Stop,
    /// SIGTERM with a port that stays open and does not answer, and a start.
    Drains,
    /// 503 to everything but probes.
    Refuses,
    /// 503 to probes as well.
    Sick,
    /// Answers late.
    Slow,
    /// Room for few connections; the others wait.
    Full,
    /// Room for few connections; the others get 503.
    Limited,
    /// Connections end instead of an answer.
    Closes,
    /// Answers break off.
    Cuts,
    /// No worker takes a run.
    Silent,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A fault of one instance.
    At(Who, Fault),
    /// A dependency of all instances is away.
    Shared(&'static str),
    /// An order: nothing new goes to the instance.
    Away(Who, &'static str),
    /// An order: requests wait.
    Paused,
    /// An order: requests are told of a maintenance.
    Stopped,
    /// New requests go to this pool alone, as the gate said before and after.
    Active(usize),
    /// This process did not run, so instances and clients did not either.
    Lapse,
    /// Another process of the gate took over.
    Upgrade,
}

/// Something that happened, and how long it lasted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Happening {
    pub(crate) what: What,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Happening {
    /// Whether it lasted at some moment of a time.
    pub(crate) fn within(&self, from: Instant, until: Instant) -> bool {
        self.from <= until && self.until >= from
    }
}

/// A change of state that takes an endpoint out, as the gate logged it.
#[derive(Clone, Debug)]
pub(crate) struct Ejection {
    pub(crate) who: Who,
    pub(crate) at: Instant,
    pub(crate) to: String,
    pub(crate) cause: String,
}

/// A cutover that went back by itself.
#[derive(Clone, Debug)]
pub(crate) struct WayBack {
    pub(crate) to: usize,
    pub(crate) flipped: Instant,
    pub(crate) at: Instant,
    pub(crate) why: String,
}

/// Everything that is held against each other.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    pub(crate) start: Instant,
    pub(crate) seen: Vec<Seen>,
    pub(crate) journal: Vec<Entry>,
    pub(crate) happened: Vec<Happening>,
    pub(crate) ejections: Vec<Ejection>,
    /// The last endpoint that a request was sent to, by the gate's access log.
    pub(crate) tried: HashMap<String, Who>,
    pub(crate) back: Vec<WayBack>,
    /// What went wrong with the gate itself: a process that died, an order that was refused without a reason.
    pub(crate) wrong: Vec<String>,
}

/// The books while they are written.
#[derive(Debug)]
pub(crate) struct Ledger(Mutex<Books>);

impl Ledger {
    pub(crate) fn new(start: Instant) -> Self {
        Self(Mutex::new(Books::new(start)))
    }

    pub(crate) fn seen(&self, seen: Seen) {
        self.0.lock().unwrap().seen.push(seen);
    }

    pub(crate) fn happened(&self, what: What, from: Instant, until: Instant) {
        let happening = Happening { what, from, until };
        self.0.lock().unwrap().happened.push(happening);
    }

    pub(crate) fn went_back(&self, back: WayBack) {
        self.0.lock().unwrap().back.push(back);
    }

    /// Seconds since the start.
    pub(crate) fn at(&self, moment: Instant) -> f64 {
        self.0.lock().unwrap().at(moment)
    }

    pub(crate) fn wrong(&self, what: String) {
        self.0.lock().unwrap().wrong.push(what);
    }

    /// The books, closed.
    pub(crate) fn close(
        &self,
        journal: Vec<Entry>,
        (ejections, tried): (Vec<Ejection>, HashMap<String, Who>),
    ) -> Books {
        let mut books = self.0.lock().unwrap().clone();
        (books.journal, books.ejections, books.tried) = (journal, ejections, tried);
        books.happened.sort_by_key(|happening| happening.from);
        books
    }
}

impl Books {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            seen: Vec::new(),
            journal: Vec::new(),
            happened: Vec::new(),
            ejections: Vec::new(),
            tried: HashMap::new(),
            back: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Seconds since the start.
    pub(crate) fn at(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.start).as_secs_f64()
    }

    /// Whether something happened within a time.
    pub(crate) fn any(&self, from: Instant, until: Instant, is: impl Fn(What) -> bool) -> bool {
        let mut happened = self.happened.iter();
        happened.any(|one| one.within(from, until) && is(one.what))
    }
}

/// A moment before another one.
pub(crate) fn before(moment: Instant, time: Duration) -> Instant {
    moment.checked_sub(time).unwrap_or(moment)
}
