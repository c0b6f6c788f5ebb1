//! The scanners of event streams and WebSockets, which must say the same however a stream is cut.

use super::{cut, with_cuts};
use crate::gate::sse::Reader;
use crate::gate::websocket::Frames;

/// Where a plain reading has the ends of events: behind an empty line that no carriage return may yet belong to.
pub fn events(data: &[u8]) {
    let (cuts, bytes) = with_cuts(data);
    let (mut whole, mut parted, mut bounded) = (Reader::default(), Reader::default(), Reader::default());
    whole.feed(bytes);
    cut(bytes, cuts).into_iter().for_each(|part| parted.feed(part));
    assert_eq!(
        (whole.is_between_events(), whole.is_over(), whole.task()),
        (parted.is_between_events(), parted.is_over(), parted.task())
    );
    let mut rest = bytes;
    while let Some(length) = bounded.feed_to_boundary(rest) {
        assert!((1..=rest.len()).contains(&length) && bounded.is_between_events());
        rest = rest.get(length..).unwrap_or_default();
    }
    assert_eq!((whole.is_over(), whole.task()), (bounded.is_over(), bounded.task()));
    // What stands between two events, another event may follow.
    if whole.is_between_events() {
        let ends = bytes.is_empty() || bytes.ends_with(b"\n");
        assert!(ends, "it is said to stand between events within a line");
        let mut more = whole.clone();
        more.feed(b"data: [DONE]\n\n");
        assert!(more.is_over() && more.is_between_events());
    }
    if let Some(task) = whole.task() {
        assert!(task.len() <= 64 && bytes.windows(task.len()).any(|part| part == task.as_bytes()));
    }
}

/// The bytes of a frame from its start, where all of it is there (RFC 6455 section 5.2).
fn frame(bytes: &[u8]) -> Option<usize> {
    let second = *bytes.get(1)?;
    let (extended, length) = match second & 0x7f {
        126 => (2, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (8, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        short => (0, u64::from(short)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let all = length.checked_add(2 + extended + mask)?;
    usize::try_from(all).ok().filter(|all| *all <= bytes.len())
}

/// Frames end where their heads say.
pub fn frames(data: &[u8]) {
    let (cuts, bytes) = with_cuts(data);
    let (mut whole, mut parted, mut bounded) = (Frames::default(), Frames::default(), Frames::default());
    whole.feed(bytes);
    cut(bytes, cuts).into_iter().for_each(|part| parted.feed(part));
    assert_eq!(whole.is_between_frames(), parted.is_between_frames());
    let mut rest = bytes;
    loop {
        let plain = frame(rest);
        assert_eq!(bounded.feed_to_boundary(rest), plain);
        let Some(length) = plain else { break };
        rest = rest.get(length..).unwrap_or_default();
    }
    assert_eq!(whole.is_between_frames(), rest.is_empty());
}
