//! What was measured of pools, and what fires, as it is written: in a cutover's record, as what its new pool is held against, and beside it, for the
//! next process.

use serde::{Deserialize, Serialize};

use crate::gate::cutover::triggers::{BUCKETS, Tally};

/// Requests and streams of a pool, counted over a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TallyDoc {
    /// Requests that an endpoint answered, or failed to.
    pub requests: u64,
    /// Answers of 5xx, and requests that got none.
    pub errors: u64,
    /// Connections that did not come about.
    pub connects: u64,
    /// Event streams that ended.
    pub streams: u64,
    /// Those of them that ended without their last event.
    pub aborts: u64,
    /// Event streams that were silent.
    pub silent: u64,
    /// Times to the first byte: the number below 1 ms, 2 ms, 4 ms and so on, without the zeros at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_byte: Vec<u64>,
}

/// What the next process is to know of a name beside its record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct MeasuredDoc {
    /// What pools have done.
    #[serde(default)]
    pub pools: Vec<PastDoc>,
    /// Alerts that fire.
    #[serde(default)]
    pub alerts: Vec<AlertDoc>,
}

/// What a pool did up to a time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PastDoc {
    /// The pool.
    pub pool: String,
    /// The time.
    pub at: String,
    /// What it did.
    #[serde(flatten)]
    pub counted: TallyDoc,
}

/// An alert that fires.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AlertDoc {
    /// Tells it from others.
    pub key: String,
    /// What it is called.
    pub name: String,
    /// When it was said last.
    pub at: String,
}

impl From<&Tally> for TallyDoc {
    fn from(tally: &Tally) -> Self {
        let used = tally.first_byte.iter().rposition(|count| *count > 0);
        let used = used.map_or(0, |last| last + 1);
        Self {
            requests: tally.requests,
            errors: tally.errors,
            connects: tally.connects,
            streams: tally.streams,
            aborts: tally.aborts,
            silent: tally.silent,
            first_byte: tally.first_byte.iter().take(used).copied().collect(),
        }
    }
}

impl From<TallyDoc> for Tally {
    fn from(doc: TallyDoc) -> Self {
        let mut first_byte = [0; BUCKETS];
        for (count, counted) in first_byte.iter_mut().zip(doc.first_byte) {
            *count = counted;
        }
        Self {
            requests: doc.requests,
            errors: doc.errors,
            connects: doc.connects,
            streams: doc.streams,
            aborts: doc.aborts,
            silent: doc.silent,
            first_byte,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_as_it_was() {
        let mut tally = Tally {
            requests: 7,
            errors: 6,
            connects: 5,
            streams: 4,
            aborts: 3,
            silent: 2,
            ..Tally::default()
        };
        for last in [0, 9, BUCKETS - 1] {
            tally.first_byte[last] = 11;
            let written = serde_json::to_string(&TallyDoc::from(&tally)).unwrap();
            let read: TallyDoc = serde_json::from_str(&written).unwrap();
            assert_eq!(Tally::from(read), tally);
        }
        let long = TallyDoc {
            first_byte: vec![1; BUCKETS + 9],
            ..TallyDoc::default()
        };
        assert_eq!(Tally::from(long).first_byte, [1; BUCKETS]);
    }
}
