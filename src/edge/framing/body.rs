//! The body of a request: bytes of a known length, or chunks (RFC 9112 section 7.1), which are written anew.

use super::{Framer, Malformed, Stage, length_left};

/// A line between two chunks may be as long as this, in bytes: a number, and extensions that nobody sends.
const MAX_LINE: usize = 4 * 1024;
/// A trailer section may be as long as this, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;
/// Digits of a chunk size that is written anew, and its line end.
pub(crate) const SIZE_LINE: usize = 10;
const LINE_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The size line of a chunk of `length` bytes, always of [`SIZE_LINE`] bytes.
pub(crate) fn size_line(length: usize) -> [u8; SIZE_LINE] {
    let mut line = *b"00000000\r\n";
    let mut rest = length;
    for digit in line.iter_mut().take(SIZE_LINE - 2).rev() {
        *digit = b"0123456789abcdef".get(rest & 0xf).copied().unwrap_or(b'0');
        rest >>= 4;
    }
    line
}

impl Framer {
    /// Moves bytes of a body of known length; tells whether that was its end.
    pub(super) fn length(&mut self, left: u64) -> bool {
        let moved = usize::try_from(left).map_or(self.input.len(), |left| left.min(self.input.len()));
        self.output.unsplit(self.input.split_to(moved));
        self.stage = length_left(left - moved as u64);
        self.stage == Stage::Over
    }

    /// Moves bytes of a chunk behind those that were moved before it, as one chunk; tells whether that was its end. Each chunk costs the proxy a read and
    /// a write of its own, and where one ends means nothing (RFC 9112 section 7.1).
    pub(super) fn chunk(&mut self, left: u64) -> bool {
        let moved = usize::try_from(left).map_or(self.input.len(), |left| left.min(self.input.len()));
        if moved > 0 {
            let start = self.grows.take().unwrap_or(self.output.len());
            if start == self.output.len() {
                self.output.extend_from_slice(&size_line(0));
            } else {
                self.output.truncate(self.output.len() - LINE_END.len());
            }
            self.output.extend_from_slice(&self.input.split_to(moved));
            let length = self.output.len() - start - SIZE_LINE;
            if let Some(line) = self.output.get_mut(start..start + SIZE_LINE) {
                line.copy_from_slice(&size_line(length));
            }
            self.output.extend_from_slice(LINE_END);
            self.grows = Some(start);
        }
        let left = left - moved as u64;
        self.stage = if left == 0 { Stage::ChunkEnd } else { Stage::Chunk(left) };
        left == 0
    }

    /// Reads one line between chunks, or of the trailer section; tells whether it was there.
    pub(super) fn line(&mut self) -> Result<bool, Malformed> {
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            return if self.input.len() > MAX_LINE {
                Err(Malformed("a line is too long"))
            } else {
                Ok(false)
            };
        };
        // Wherever the network cuts it.
        if end > MAX_LINE {
            return Err(Malformed("a line is too long"));
        }
        let line = self.input.split_to(end + 1);
        let Some(text) = line.strip_suffix(b"\r\n").filter(|text| !text.contains(&b'\r')) else {
            return Err(Malformed("a line does not end in CR LF"));
        };
        self.stage = match (self.stage, text.is_empty()) {
            (Stage::ChunkEnd, true) => Stage::ChunkSize,
            (Stage::ChunkEnd, false) => return Err(Malformed("a chunk is longer than its size")),
            (Stage::Trailers, true) => {
                self.output.extend_from_slice(LAST_CHUNK);
                Stage::Over
            }
            (Stage::Trailers, false) => {
                check_field(text)?;
                if self.trailers.len() + line.len() > MAX_TRAILERS {
                    return Err(Malformed("the trailer section is too long"));
                }
                self.trailers.extend_from_slice(&line);
                Stage::Trailers
            }
            (_, _) => match chunk_size(text)? {
                0 => Stage::Trailers,
                size => Stage::Chunk(size),
            },
        };
        Ok(true)
    }
}

/// Checks a trailer field: a name, a colon, and a value without control characters (RFC 9110 section 5.5).
fn check_field(line: &[u8]) -> Result<(), Malformed> {
    const BAD: Malformed = Malformed("a trailer field is malformed");
    let colon = line.iter().position(|byte| *byte == b':').ok_or(BAD)?;
    let (name, value) = line.split_at(colon);
    let is_value = value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    let is_name = http::HeaderName::from_bytes(name).is_ok();
    if is_name && is_value { Ok(()) } else { Err(BAD) }
}

/// The size of a chunk: one to sixteen hexadecimal digits, then nothing or extensions, which mean nothing here (RFC 9112 section 7.1.1).
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    const BAD: Malformed = Malformed("a chunk size is not a hexadecimal number");
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let rest = rest.trim_ascii_start();
    let has_text_only = rest.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if !(rest.is_empty() || rest.starts_with(b";") && has_text_only) {
        return Err(BAD);
    }
    let size = std::str::from_utf8(size).map_err(|_| BAD)?;
    u64::from_str_radix(size, 16).map_err(|_| BAD)
}
