//! What is fuzzed: each reader of foreign bytes with what must hold of its results, for the targets of `fuzz/` and for a short run of every test.
//!
//! A target takes any bytes. It fails by a panic: one of the reader, or one of what is asserted here.

#![allow(clippy::unwrap_used)] // a panic is what a fuzzer looks for

mod answers;
mod clients;
mod documents;
mod paths;
mod requests;
mod streams;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

pub use answers::answers;
pub use clients::{identity, proxy_header};
pub use documents::{config, state};
pub use paths::path_and_guard;
pub use requests::{http2, requests};
pub use streams::{events, frames};

/// A target: its name in `fuzz/`, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 10] = [
    ("requests", requests),
    ("http2", http2),
    ("answers", answers),
    ("path_and_guard", path_and_guard),
    ("identity", identity),
    ("proxy_header", proxy_header),
    ("events", events),
    ("frames", frames),
    ("config", config),
    ("state", state),
];

/// The value of a future that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits, and all of its input is there"),
    }
}

/// Cuts bytes into parts, as `by` says: each of its bytes is the length of a part, and none of them means one part.
fn cut<'b>(bytes: &'b [u8], by: &[u8]) -> Vec<&'b [u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    let mut lengths = by.iter().cycle();
    while !rest.is_empty() {
        let length = lengths.next().map_or(rest.len(), |length| usize::from(*length).max(1));
        let (part, behind) = rest.split_at(length.min(rest.len()));
        parts.push(part);
        rest = behind;
    }
    parts
}

/// An input that says first how the rest of it is cut.
fn with_cuts(data: &[u8]) -> (&[u8], &[u8]) {
    let count = data.first().map_or(0, |count| usize::from(count & 7));
    let (cuts, rest) = data
        .get(1..)
        .unwrap_or_default()
        .split_at_checked(count)
        .unwrap_or_default();
    (cuts, rest)
}

#[cfg(test)]
mod tests;
