//! One direction of a WebSocket (RFC 6455 section 5.2) as it passes: whether it stands between two frames, where another frame may be put,
//! and the frame that ends it well.

/// The reader of one direction. It keeps the start of a frame's head and no byte of what is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    head: [u8; 10],
    /// Bytes of the head that are known.
    known: usize,
    /// Bytes until the frame is over, its mask among them.
    left: u64,
    /// Whether a close frame has begun.
    closes: bool,
}

/// The opcode of a close frame (RFC 6455 section 5.5.1).
const CLOSE: u8 = 8;

impl Frames {
    /// Reads what passes.
    pub fn feed(&mut self, part: &[u8]) {
        let mut rest = part;
        while let Some(length) = self.feed_to_boundary(rest) {
            rest = rest.get(length..).unwrap_or_default();
        }
    }

    /// Reads until the end of a frame, and tells how much that was; all of it is read where that does not come.
    pub fn feed_to_boundary(&mut self, part: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.left > 0 {
                let rest = (part.len() - at) as u64;
                let passed = self.left.min(rest);
                self.left -= passed;
                at += usize::try_from(passed).unwrap_or(part.len());
                if self.left > 0 {
                    return None;
                }
                return Some(at);
            }
            let byte = part.get(at)?;
            at += 1;
            if self.step(*byte) && self.left == 0 {
                return Some(at);
            }
        }
    }

    /// Whether a frame may come next.
    pub fn is_between_frames(&self) -> bool {
        self.known == 0 && self.left == 0
    }

    /// Whether a close frame has passed: this direction ends as it should.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// Takes one more byte of a head; tells whether that was its last one.
    fn step(&mut self, byte: u8) -> bool {
        if let Some(place) = self.head.get_mut(self.known) {
            *place = byte;
        }
        self.known += 1;
        let [first, second, length @ ..] = self.head;
        let (more, length) = match second & 0x7f {
            _ if self.known < 2 => return false,
            126 => (2, u64::from(u16::from_be_bytes([length[0], length[1]]))),
            127 => (8, u64::from_be_bytes(length)),
            short => (0, u64::from(short)),
        };
        if self.known < 2 + more {
            return false;
        }
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        (self.left, self.known) = (length.saturating_add(mask), 0);
        self.closes |= first & 0x0f == CLOSE;
        true
    }
}

/// A service that is restarted or replaced says this to its clients (IANA's registry of close codes).
pub const SERVICE_RESTART: u16 = 1012;
/// A service that ended without a close frame of its own is said to have met an unexpected condition (RFC 6455 section 7.4.1).
pub const INTERNAL_ERROR: u16 = 1011;
/// Who goes away says this to the other side (RFC 6455 section 7.4.1).
pub const GOING_AWAY: u16 = 1001;

/// A frame that closes a WebSocket. What a client sends is masked (section 5.3), what a service sends is not.
pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    // A control frame holds 125 bytes.
    let reason = reason.as_bytes().get(..reason.len().min(123)).unwrap_or_default();
    let payload = code.to_be_bytes().into_iter().chain(reason.iter().copied());
    let length = reason.len() as u8 + 2;
    let mut frame = vec![0x88, length | mask.map_or(0, |_| 0x80)];
    frame.extend(mask.into_iter().flatten());
    match mask {
        None => frame.extend(payload),
        Some(mask) => frame.extend(payload.zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key)),
    }
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mut frame = vec![0x82];
        let mask = if masked { 0x80 } else { 0 };
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(if masked { vec![1, 2, 3, 4] } else { Vec::new() });
        frame.resize(frame.len() + length, 0x88);
        frame
    }

    #[test]
    fn a_frame_of_any_length_ends_where_it_ends() {
        for length in [0, 1, 125, 126, 300, 65_535, 65_536, 70_000] {
            for masked in [false, true] {
                let frame = frame(length, masked);
                let mut frames = Frames::default();
                assert!(frames.is_between_frames());
                frames.feed(&frame[..frame.len() - 1]);
                assert!(!frames.is_between_frames(), "{length}");
                assert_eq!(frames.feed_to_boundary(&[frame[frame.len() - 1], 0x81]), Some(1));
                assert!(frames.is_between_frames());
            }
        }
    }

    #[test]
    fn a_close_frame_is_told_from_what_looks_like_one() {
        let mut frames = Frames::default();
        // Data full of bytes that would begin one.
        frames.feed(&frame(300, true));
        assert!(!frames.closes());
        frames.feed(&[0x88]);
        assert!(!frames.closes());
        frames.feed(&[0x82, 3]);
        assert!(frames.closes());
    }

    #[test]
    fn a_length_without_end_is_never_over() {
        let mut frames = Frames::default();
        frames.feed(&[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.feed(&[0; 4096]);
        assert!(!frames.is_between_frames());
    }

    #[test]
    fn a_close_frame_is_a_frame_and_says_why() {
        assert_eq!(close(1012, "bye", None), [0x88, 5, 0x03, 0xf4, b'b', b'y', b'e']);
        assert_eq!(
            close(1001, "", Some([1, 2, 3, 4])),
            [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]
        );
        for reason in ["", "moved", &"long ".repeat(60)] {
            for mask in [None, Some([9; 4])] {
                let frame = close(1012, reason, mask);
                let mut frames = Frames::default();
                assert_eq!(frames.feed_to_boundary(&frame), Some(frame.len()));
            }
        }
    }

    proptest! {
        #[test]
        fn how_frames_are_cut_makes_no_difference(
            lengths in proptest::collection::vec((0_usize..300, any::<bool>()), 0..8),
            cuts in proptest::collection::vec(0_usize..64, 0..32),
        ) {
            let stream: Vec<u8> = lengths.iter().flat_map(|(length, masked)| frame(*length, *masked)).collect();
            let (mut whole, mut pieces) = (Frames::default(), Frames::default());
            whole.feed(&stream);
            let mut rest = stream.as_slice();
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.feed(piece);
                rest = behind;
            }
            pieces.feed(rest);
            prop_assert!(whole.is_between_frames() && pieces.is_between_frames());
        }
    }
}
