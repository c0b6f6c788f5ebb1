//! Requests that wait for `100 Continue` (RFC 9110 section 10.1.1), found in the headers of HTTP/2 as they pass: the framework sends no interim answer
//! there, so that their clients would wait until they lose patience.
//!
//! A field is named by its place in the static table or as a literal (RFC 7541 sections 6.1 and 6.2). Where it stood in the dynamic table before, it may be
//! named by a place there, which only a decoder knows. Such a client is told to go on with every body: a client of HTTP/2 must expect an interim answer
//! that it did not ask for (RFC 9110 section 15.2), and one that asks for them reads them.

const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `expect` in the static table (RFC 7541 appendix A).
const EXPECT: usize = 35;
/// The first place of the dynamic table.
const DYNAMIC: usize = 62;
/// The name as a literal, and as one in the Huffman code (appendix B).
const NAMES: [&[u8]; 2] = [b"expect", &[0x2f, 0x9a, 0xca, 0x44, 0xff]];

/// The clients of one connection that wait.
#[derive(Debug, Default)]
pub(super) struct Expecting {
    /// Whether a field of the dynamic table may be one.
    has_been: bool,
}

impl Expecting {
    /// Whether the client of a request waits, by the payload of its HEADERS frame.
    pub(super) fn waits(&mut self, flags: u8, payload: &[u8]) -> bool {
        let mut block = Block(unframed(flags, payload).unwrap_or_default());
        let (mut expects, mut is_dynamic) = (false, false);
        while let Some(name) = block.field() {
            expects |= name == Name::Expect;
            is_dynamic |= name == Name::Dynamic;
        }
        self.has_been |= expects;
        expects || self.has_been && is_dynamic
    }
}

/// The block in a frame (RFC 9113 section 6.2).
fn unframed(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    let (padding, rest) = match flags & PADDED {
        0 => (0, payload),
        _ => payload
            .split_first()
            .map(|(padding, rest)| (usize::from(*padding), rest))?,
    };
    let end = rest.len().checked_sub(padding)?;
    let start = if flags & PRIORITY == 0 { 0 } else { 5 };
    rest.get(start..end)
}

/// What names a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Expect,
    Dynamic,
    Other,
}

/// What is left of a block.
struct Block<'b>(&'b [u8]);

impl Block<'_> {
    /// Reads past the next field; `None` at the end, or where the block goes on in another frame.
    fn field(&mut self) -> Option<Name> {
        let first = *self.0.first()?;
        let (bits, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let is_resize = first & 0xe0 == 0x20;
        let index = self.number(bits)?;
        let name = match index {
            _ if is_resize => Name::Other,
            0 if has_value => self.literal()?,
            EXPECT => Name::Expect,
            DYNAMIC.. => Name::Dynamic,
            _ => Name::Other,
        };
        if has_value {
            self.text()?;
        }
        Some(name)
    }

    fn literal(&mut self) -> Option<Name> {
        let name = self.text()?;
        Some(if NAMES.contains(&name) {
            Name::Expect
        } else {
            Name::Other
        })
    }

    fn text(&mut self) -> Option<&[u8]> {
        let length = self.number(7)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    /// A number in the last `bits` of a byte, and more bytes where it is large (RFC 7541 section 5.1).
    fn number(&mut self, bits: u32) -> Option<usize> {
        let (first, mut rest) = self.0.split_first()?;
        let most = (1_usize << bits) - 1;
        let mut number = usize::from(*first) & most;
        if number == most {
            let mut shift = 0;
            loop {
                let (byte, behind) = rest.split_first()?;
                rest = behind;
                number = number.checked_add(usize::from(byte & 0x7f).checked_shl(shift)?)?;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
                if shift > 28 {
                    return None;
                }
            }
        }
        self.0 = rest;
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_found_however_the_field_is_named() {
        let value: &[u8] = b"\x0c100-continue";
        let get: &[u8] = &[0x82, 0x84, 0x86];
        let huffman: &[u8] = &[0x85, 0x2f, 0x9a, 0xca, 0x44, 0xff];
        for (field, waits) in [
            (&[&[0x0f, 20], value].concat()[..], true),
            (&[&[0x1f, 20], value].concat(), true),
            (&[&[0x40 | 35], value].concat(), true),
            (&[b"\0\x06expect", value].concat(), true),
            (&[&[0x40], huffman, value].concat(), true),
            (&[b"\0\x06expecT", value].concat(), false),
            (&[&[0x40 | 34], value].concat(), false),
            (&[0x80 | 35], true),
            (&[0x80 | 62], false),
            (&[0x20 | 3, 0x88], false),
            (&[], false),
        ] {
            let block = [get, field, &[0x04, 0x01, b'/']].concat();
            assert_eq!(Expecting::default().waits(0, &block), waits, "{field:?}");
            let padded = [&[3, 0, 0, 0, 0, 9][..], &block, &[0; 3]].concat();
            assert_eq!(
                Expecting::default().waits(PADDED | PRIORITY, &padded),
                waits,
                "{field:?}"
            );
        }
    }

    #[test]
    fn one_that_has_waited_may_do_so_by_the_dynamic_table() {
        let mut expecting = Expecting::default();
        assert!(!expecting.waits(0, &[0x82, 0x80 | 62]));
        assert!(expecting.waits(0, &[&[0x40 | 35, 12][..], b"100-continue"].concat()));
        assert!(expecting.waits(0, &[0x82, 0x80 | 62]));
        assert!(!expecting.waits(0, &[0x82]));
    }

    #[test]
    fn what_is_cut_or_makes_no_sense_is_read_as_far_as_it_goes() {
        for payload in [
            &[][..],
            &[0xff],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x40],
            &[0x40, 0x7f],
            &[9],
        ] {
            for flags in [0, PADDED, PRIORITY, PADDED | PRIORITY] {
                assert!(!Expecting::default().waits(flags, payload));
            }
        }
    }
}
