//! Why an HTTP/2 connection was given up. The framework keeps that to itself, but the gate's own GOAWAY tells it (RFC 9113 section 6.8): it is read
//! from what is written, frame by frame.

const HEADER: usize = 9;
/// A frame's header, the last stream and the code.
const GOAWAY: usize = HEADER + 8;

/// Follows the frames of one connection.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    /// Bytes of the frame under way that do not matter.
    skip: usize,
    /// The beginning of the next one.
    head: Vec<u8>,
}

impl Farewell {
    /// Sees what is written, and tells the code of a GOAWAY that gives an error.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> Option<&'static str> {
        let mut told = None;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = if self.is_goaway() { GOAWAY } else { HEADER };
            let taken = (wanted - self.head.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            self.head.extend_from_slice(head);
            bytes = rest;
            if self.head.len() == HEADER && self.is_goaway() {
                continue;
            }
            if self.head.len() >= wanted {
                told = told.or_else(|| self.code());
                self.skip = (HEADER + self.length()).saturating_sub(self.head.len());
                self.head.clear();
            }
        }
        told
    }

    fn is_goaway(&self) -> bool {
        self.head.len() >= HEADER && self.head.get(3) == Some(&7) && self.length() >= GOAWAY - HEADER
    }

    fn length(&self) -> usize {
        let length = self.head.iter().take(3);
        length.fold(0, |length, byte| length << 8 | usize::from(*byte))
    }

    /// RFC 9113 section 7; the others end no connection.
    fn code(&self) -> Option<&'static str> {
        let code: [u8; 4] = self.head.get(GOAWAY - 4..)?.try_into().ok()?;
        match u32::from_be_bytes(code) {
            0 => None,
            1 => Some("protocol_error"),
            3 => Some("flow_control_error"),
            4 => Some("settings_timeout"),
            6 => Some("frame_size_error"),
            9 => Some("compression_error"),
            11 => Some("enhance_your_calm"),
            _ => Some("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn an_error_is_found_wherever_the_pieces_are_cut() {
        let goaway = |code: u8| frame(7, &[0, 0, 0, 5, 0, 0, 0, code, b'w', b'h', b'y']);
        for (code, told) in [(0, None), (1, Some("protocol_error")), (11, Some("enhance_your_calm"))] {
            let all = [
                frame(4, &[]),
                frame(0, &[7; 30]),
                frame(7, &[1]),
                goaway(code),
                frame(1, &[7; 9]),
            ]
            .concat();
            for step in 1..all.len() {
                let mut farewell = Farewell::default();
                let found = all.chunks(step).find_map(|piece| farewell.see(piece));
                assert_eq!(found, told, "{code} in pieces of {step}");
            }
        }
    }
}
