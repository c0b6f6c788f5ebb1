//! The frames of an HTTP/2 connection (RFC 9113 section 4.1) as they pass both ways: which requests are under way as the client sees it, and where
//! GOAWAY may be put between two frames.
//!
//! The framework knows when it has handed over the end of an answer, and not when that has been written. A GOAWAY that overtakes it makes some clients
//! give up the very request that is being answered (httpx 0.28 with h2 4.4).

mod expect;

use std::collections::{BTreeSet, VecDeque};

use crate::edge::frames::expect::Expecting;

const HEADER: usize = 9;
/// An interim answer.
pub(super) const INTERIM: usize = HEADER + 5;
/// The first bytes of a client.
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What the header of a frame says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Its header has passed.
    Begun(Frame),
    /// Its last byte has passed.
    Over(Frame),
}

/// One direction.
#[derive(Debug, Default)]
struct Reader {
    head: [u8; HEADER],
    known: usize,
    /// The frame whose payload is passing, and how much of it is left.
    frame: Option<(Frame, usize)>,
    /// Bytes before the first frame.
    skip: usize,
    /// The payload of the frame that is passing, where it is asked for.
    payload: Option<Vec<u8>>,
}

impl Reader {
    /// Reads on until a frame begins or ends, and leaves the rest of `bytes`.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Seen> {
        take(bytes, &mut self.skip);
        if let Some((frame, mut left)) = self.frame {
            let taken = take(bytes, &mut left);
            if let Some(payload) = &mut self.payload {
                payload.extend_from_slice(taken);
            }
            self.frame = (left > 0).then_some((frame, left));
            return (left == 0).then_some(Seen::Over(frame));
        }
        while let Some((byte, rest)) = bytes.split_first() {
            *bytes = rest;
            if let Some(place) = self.head.get_mut(self.known) {
                *place = *byte;
            }
            self.known += 1;
            if self.known == HEADER {
                self.known = 0;
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
                let frame = Frame { kind, flags, stream };
                self.frame = Some((frame, u32::from_be_bytes([0, a, b, c]) as usize));
                return Some(Seen::Begun(frame));
            }
        }
        None
    }

    fn is_between_frames(&self) -> bool {
        self.known == 0 && self.frame.is_none() && self.skip == 0
    }
}

/// Takes so many bytes, or as many as there are.
fn take<'b>(bytes: &mut &'b [u8], left: &mut usize) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(bytes.len().min(*left));
    *bytes = rest;
    *left -= taken.len();
    taken
}

/// Both directions.
#[derive(Debug)]
pub(crate) struct Traffic {
    received: Reader,
    sent: Reader,
    /// Whether anything was sent: the first frame is never GOAWAY (section 3.4).
    begun: bool,
    /// Requests whose answer is not over.
    open: BTreeSet<u32>,
    /// The last request.
    last: u32,
    /// Whether frames of other kinds are forbidden until the headers that are being sent are over (section 4.3), and the stream that ends with them.
    block: Option<Option<u32>>,
    expecting: Expecting,
    /// Requests whose clients wait for `100 Continue`.
    waiting: VecDeque<u32>,
}

impl Traffic {
    /// A connection on which nothing has passed.
    pub(crate) fn new() -> Self {
        Self {
            received: Reader {
                skip: PREFACE,
                ..Reader::default()
            },
            sent: Reader::default(),
            begun: false,
            open: BTreeSet::new(),
            last: 0,
            block: None,
            expecting: Expecting::default(),
            waiting: VecDeque::new(),
        }
    }

    /// Reads what the client has sent.
    pub(crate) fn receive(&mut self, mut bytes: &[u8]) {
        while let Some(seen) = self.received.next(&mut bytes) {
            match seen {
                // Trailers are of a stream that is known.
                Seen::Begun(frame) if frame.kind == HEADERS && frame.stream > self.last => {
                    self.last = frame.stream;
                    self.open.insert(frame.stream);
                    // Only a request with a body can wait.
                    self.received.payload = (frame.flags & END_STREAM == 0).then(Vec::new);
                }
                Seen::Over(frame) if frame.kind == HEADERS => {
                    let payload = self.received.payload.take();
                    if payload.is_some_and(|payload| self.expecting.waits(frame.flags, &payload)) {
                        self.waiting.push_back(frame.stream);
                    }
                }
                Seen::Over(frame) if frame.kind == RST_STREAM => {
                    self.open.remove(&frame.stream);
                }
                Seen::Begun(_) | Seen::Over(_) => {}
            }
        }
    }

    /// Reads what was sent to the client; tells whether the answer to the last request under way ended there.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> bool {
        let before = self.open.len();
        while let Some(seen) = self.sent.next(&mut bytes) {
            if let Seen::Over(frame) = seen {
                self.over(frame);
            }
        }
        before > 0 && self.open.is_empty()
    }

    fn over(&mut self, frame: Frame) {
        self.begun = true;
        let ends = (frame.flags & END_STREAM != 0).then_some(frame.stream);
        let is_last = frame.flags & END_HEADERS != 0;
        let ended = match frame.kind {
            DATA => ends,
            HEADERS if is_last => {
                self.waiting.retain(|waiting| *waiting != frame.stream);
                ends
            }
            HEADERS => {
                self.block = Some(ends);
                None
            }
            CONTINUATION if is_last => self.block.take().flatten(),
            RST_STREAM => Some(frame.stream),
            _ => None,
        };
        if let Some(stream) = ended {
            self.open.remove(&stream);
        }
    }

    /// The interim answer that may be sent now (RFC 9113 section 8.1), if somebody waits for one.
    pub(crate) fn interim(&mut self) -> Option<[u8; INTERIM]> {
        if !self.begun || self.block.is_some() || !self.sent.is_between_frames() {
            return None;
        }
        loop {
            let stream = self.waiting.pop_front()?;
            if self.open.contains(&stream) {
                let [a, b, c, d] = stream.to_be_bytes();
                // The field `:status: 100`, in no table.
                return Some([0, 0, 5, HEADERS, END_HEADERS, a, b, c, d, 8, 3, b'1', b'0', b'0']);
            }
        }
    }

    /// Whether no request is under way and GOAWAY may be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.begun && self.open.is_empty() && self.block.is_none() && self.sent.is_between_frames()
    }

    /// A GOAWAY without an error (section 6.8): no request after the last one was or will be looked at.
    pub(crate) fn goaway(&self) -> Vec<u8> {
        let mut frame = vec![0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend(self.last.to_be_bytes());
        frame.extend(0_u32.to_be_bytes());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.resize(HEADER + length, 0xff);
        frame
    }

    /// A connection after the client's preface and the first frames of both sides.
    fn opened() -> Traffic {
        let mut traffic = Traffic::new();
        traffic.receive(&[0xff; PREFACE]);
        traffic.receive(&frame(4, 0, 0, 18));
        assert!(!traffic.is_idle(), "GOAWAY is not the first frame");
        traffic.send(&frame(4, 0, 0, 6));
        assert!(traffic.is_idle());
        traffic
    }

    #[test]
    fn a_request_is_under_way_until_the_end_of_its_answer_is_written() {
        let mut traffic = opened();
        traffic.receive(&frame(HEADERS, 5, 1, 30));
        traffic.receive(&frame(HEADERS, 4, 3, 30));
        assert!(!traffic.send(&frame(HEADERS, 4, 1, 20)));
        // A padded frame looks no different, and an empty one may end an answer.
        let end = frame(DATA, 9, 1, 300);
        assert!(!traffic.send(&end[..end.len() - 1]));
        assert!(!traffic.send(&end[end.len() - 1..]), "the other one goes on");
        assert!(traffic.send(&[frame(HEADERS, 4, 3, 1), frame(DATA, 1, 3, 0), frame(6, 1, 0, 8)].concat()));
        assert!(traffic.is_idle());
        assert_eq!(traffic.goaway()[HEADER..], [0, 0, 0, 3, 0, 0, 0, 0]);
    }

    #[test]
    fn either_side_may_reset_a_request_and_trailers_are_no_new_one() {
        let mut traffic = opened();
        traffic.receive(&[frame(HEADERS, 4, 1, 9), frame(DATA, 0, 1, 9), frame(HEADERS, 5, 1, 9)].concat());
        assert!(!traffic.is_idle());
        traffic.receive(&frame(RST_STREAM, 0, 1, 4));
        assert!(traffic.is_idle());
        traffic.receive(&frame(HEADERS, 5, 3, 9));
        assert!(traffic.send(&frame(RST_STREAM, 0, 3, 4)));
        // Frames of a stream that was reset may still come.
        traffic.receive(&frame(DATA, 1, 1, 9));
        assert!(traffic.is_idle());
    }

    #[test]
    fn who_waits_to_send_a_body_is_told_to_go_on_between_two_frames() {
        let mut traffic = opened();
        let mut request = frame(HEADERS, 4, 1, 3);
        request[HEADER..].copy_from_slice(&[0x40 | 35, 1, b'x']);
        request.iter().for_each(|byte| traffic.receive(&[*byte]));
        let settings = frame(4, 1, 0, 0);
        traffic.send(&settings[..4]);
        assert_eq!(traffic.interim(), None);
        traffic.send(&settings[4..]);
        let interim = traffic.interim().unwrap();
        assert_eq!(interim, [0, 0, 5, 1, 4, 0, 0, 0, 1, 8, 3, b'1', b'0', b'0']);
        assert_eq!(traffic.interim(), None);
        assert!(!traffic.send(&interim), "the answer is yet to come");
        // Without a body nobody waits, and after an answer nobody does any more.
        request[4] = 5;
        request[8] = 3;
        traffic.receive(&request);
        assert_eq!(traffic.interim(), None);
        request[4] = 4;
        request[8] = 5;
        traffic.receive(&request);
        traffic.send(&frame(HEADERS, 5, 5, 1));
        assert_eq!(traffic.interim(), None);
    }

    #[test]
    fn nothing_is_put_within_headers() {
        let mut traffic = opened();
        traffic.receive(&frame(HEADERS, 5, 1, 9));
        assert!(!traffic.send(&frame(HEADERS, END_STREAM, 1, 9)));
        assert!(!traffic.is_idle());
        assert!(!traffic.send(&frame(CONTINUATION, 0, 1, 9)));
        assert!(traffic.send(&frame(CONTINUATION, END_HEADERS, 1, 9)));
        assert!(traffic.is_idle());
    }

    #[test]
    fn how_the_bytes_are_cut_makes_no_difference() {
        let asked = [
            vec![0xff; PREFACE],
            frame(4, 0, 0, 18),
            frame(HEADERS, 4, 1, 40),
            frame(DATA, 1, 1, 700),
            frame(HEADERS, 5, 3, 0),
            frame(RST_STREAM, 0, 3, 4),
        ]
        .concat();
        let answered = [
            frame(4, 0, 0, 6),
            frame(HEADERS, 0, 1, 30),
            frame(CONTINUATION, 4, 1, 30),
            frame(DATA, 1, 1, 900),
        ]
        .concat();
        for step in 1..60 {
            let mut traffic = Traffic::new();
            asked.chunks(step).for_each(|piece| traffic.receive(piece));
            let idle: Vec<bool> = answered.chunks(step).map(|piece| traffic.send(piece)).collect();
            assert_eq!(idle.iter().filter(|idle| **idle).count(), 1, "pieces of {step}");
            assert!(idle.ends_with(&[true]) && traffic.is_idle(), "pieces of {step}");
            assert_eq!(traffic.last, 3);
        }
    }
}
