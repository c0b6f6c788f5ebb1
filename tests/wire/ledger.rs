//! What arrives at the origin, and what it answers, by trial.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::digest::{SHA256, digest};

use crate::message::{Field, Message, trial_of};
use crate::reader::Fault;
use crate::split::Split;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) http2: bool,
    /// The first line of the request before it on the connection.
    pub(crate) before: String,
    /// The first line of HTTP/1.1, as it came.
    pub(crate) line: String,
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    pub(crate) length: usize,
    pub(crate) hash: String,
    pub(crate) trailers: Vec<Field>,
    /// Why it did not come as a whole.
    pub(crate) fault: Option<Fault>,
}

/// What the origin does behind an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Then {
    #[default]
    Keep,
    Close,
    Reset,
}

/// When the origin answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum When {
    /// Once the whole request has come; `100 Continue` is sent where it is asked for.
    #[default]
    After,
    /// Upon the head; the body is read and thrown away.
    Early,
}

/// What the origin answers.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) interim: Vec<Message>,
    pub(crate) last: Message,
    /// So many bytes at its end are not sent.
    pub(crate) cut: usize,
    /// These are sent behind it.
    pub(crate) more: Vec<u8>,
    pub(crate) then: Then,
    pub(crate) when: When,
    pub(crate) split: Split,
}

impl From<Message> for Reply {
    fn from(last: Message) -> Self {
        Self {
            interim: Vec::new(),
            last,
            cut: 0,
            more: Vec::new(),
            then: Then::Keep,
            when: When::After,
            split: Split::Random,
        }
    }
}

/// Shared by the origins and whoever asks them.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    replies: Mutex<HashMap<u64, Reply>>,
    arrivals: Mutex<Vec<Arrival>>,
    connections: AtomicU64,
}

impl Ledger {
    /// Lets the origin answer a trial so; without it the answer tells what arrived.
    pub(crate) fn plan(&self, trial: u64, reply: Reply) {
        self.replies.lock().unwrap().insert(trial, reply);
    }

    /// What is to be answered to `target`.
    pub(crate) fn reply(&self, target: &[u8]) -> Option<Reply> {
        let trial = trial_of(target).filter(|_| !target.ends_with(NEXT))?;
        self.replies.lock().unwrap().get(&trial).cloned()
    }

    pub(crate) fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn record(&self, arrival: Arrival) {
        self.arrivals.lock().unwrap().push(arrival);
    }

    /// What arrived, by trial; what names none stands under `None`.
    pub(crate) fn by_trial(&self) -> HashMap<Option<u64>, Vec<Arrival>> {
        let mut sorted: HashMap<_, Vec<_>> = HashMap::new();
        for arrival in self.arrivals.lock().unwrap().iter() {
            let trial = trial_of(&arrival.target);
            sorted.entry(trial).or_default().push(arrival.clone());
        }
        sorted
    }
}

/// The end of the target of the request that follows on a kept connection.
pub(crate) const NEXT: &[u8] = b"/next";

/// What the origin answers by itself: what arrived.
pub(crate) fn echo(arrival: &Arrival) -> String {
    let target = arrival.target.escape_ascii();
    format!("{} {target} {} {}", arrival.method, arrival.length, arrival.hash)
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
