//! Files: the configuration, and what outlives the process.

use std::path::Path;
use std::time::Instant;

use crate::clock::Clock;
use crate::config;
use crate::cutover::document::RecordDoc;
use crate::upgrade;

/// A configuration is taken or its errors are named, each at a place that is in the file; and it is taken in the same way twice.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parse = || config::parse(text, Path::new("fuzz.yaml"), &config::unset);
    match parse() {
        Ok(first) => assert_eq!(format!("{:?}", parse().unwrap()), format!("{first:?}")),
        Err(errors) => {
            assert!(!errors.errors.is_empty());
            // The end of the file counts as a place, and as a line of its own.
            let lines = text.split(['\n', '\r']).count() + 1;
            for mark in errors.errors.iter().filter_map(|error| error.mark) {
                assert!(
                    (1..=lines).contains(&mark.line) && mark.column >= 1,
                    "{mark:?} of {lines} lines"
                );
            }
            assert!(!errors.to_string().is_empty());
        }
    }
}

/// A record that can be read is written in the same way, and what one process tells another is read or left out.
#[allow(clippy::disallowed_methods)] // the time of a fuzzer is its own
pub fn state(data: &[u8]) {
    let (clock, now) = (Clock::start(), Instant::now());
    if let Some(told) = upgrade::retell(data, now) {
        assert_eq!(upgrade::retell(told.as_bytes(), now), Some(told));
    }
    let Ok(document) = serde_json::from_slice::<RecordDoc>(data) else {
        return;
    };
    let Ok(record) = document.read(&clock) else {
        return;
    };
    let written = serde_json::to_string(&RecordDoc::of(&record, &clock)).unwrap();
    let again: RecordDoc = serde_json::from_str(&written).unwrap();
    let again = again
        .read(&clock)
        .unwrap_or_else(|e| panic!("what was written is not read: {e}"));
    assert_eq!(serde_json::to_string(&RecordDoc::of(&again, &clock)).unwrap(), written);
}
