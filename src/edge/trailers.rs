//! Trailers of an answer in HTTP/1.1. The framework ends a chunked body without any, so the connection puts them behind the last chunk (RFC 9112
//! section 7.1.2).

use http::HeaderMap;

/// The last chunk and the end of the message, as the framework writes them at once.
const END: &[u8] = b"0\r\n\r\n";

/// Trailers that wait for the last chunk of the answer under way.
#[derive(Debug)]
pub(super) struct Trailers {
    lines: Vec<u8>,
    /// Bytes of the chunk under way that are still to be written, its line end with them.
    left: usize,
}

impl Trailers {
    /// Trailers of an answer that stands between two chunks.
    pub(super) fn new(trailers: &HeaderMap) -> Self {
        let mut lines = Vec::new();
        for (name, value) in trailers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
        Self { lines, left: 0 }
    }

    /// What is to be written in place of `bytes`, where they end the answer.
    pub(super) fn in_place_of(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let ends = self.left == 0 && bytes == END;
        ends.then(|| [b"0\r\n", &self.lines[..], b"\r\n"].concat())
    }

    /// Notes bytes that are written. The framework writes the size of a chunk on its own, and then the chunk, which may look like the end.
    pub(super) fn see(&mut self, written: &[u8]) {
        if self.left > 0 {
            self.left = self.left.saturating_sub(written.len());
            return;
        }
        let size = written
            .strip_suffix(b"\r\n")
            .and_then(|size| std::str::from_utf8(size).ok());
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        self.left = size.map_or(0, |size| size + 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands on the wire after `writes`, of each of which the connection takes `most` bytes at a time, but no size line in parts.
    fn wire(writes: &[&[u8]], most: usize) -> String {
        let mut trailers = HeaderMap::new();
        trailers.append("x-sum", "1".parse().unwrap());
        trailers.append("x-sum", "2".parse().unwrap());
        let mut trailers = Trailers::new(&trailers);
        let mut wire = Vec::new();
        for write in writes {
            if let Some(instead) = trailers.in_place_of(write) {
                wire.extend(instead);
                continue;
            }
            let most = if write.len() < 8 { write.len() } else { most };
            for part in write.chunks(most) {
                assert_eq!(trailers.in_place_of(part), None, "within a chunk");
                wire.extend_from_slice(part);
                trailers.see(part);
            }
        }
        String::from_utf8(wire).unwrap()
    }

    #[test]
    fn trailers_stand_behind_the_last_chunk() {
        assert_eq!(wire(&[END], 1), "0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n");
        let chunk: [&[u8]; 4] = [b"3\r\n", b"abc", b"\r\n", END];
        assert_eq!(wire(&chunk, 1), "3\r\nabc\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n");
    }

    #[test]
    fn a_chunk_that_looks_like_the_end_is_none() {
        let same: [&[u8]; 4] = [b"5\r\n", END, b"\r\n", END];
        assert_eq!(wire(&same, 9), "5\r\n0\r\n\r\n\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n");
        // The rest of a chunk that was written in parts.
        let rest: [&[u8]; 4] = [b"F\r\n", b"1234567890\x30\r\n\r\n", b"\r\n", END];
        for most in 1..15 {
            assert!(
                wire(&rest, most).ends_with("\r\n\r\n\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n"),
                "{most}"
            );
        }
    }
}
