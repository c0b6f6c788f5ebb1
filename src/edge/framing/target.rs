//! Targets that the framework does not take. Its URLs have no `"`, `<` and `>` and nothing but UTF-8, and clients send such queries as they are. So the
//! framework is given others in their place, and the gate reads the target as it came.

use std::ops::Range;

/// What the framework is given in place of a byte that it does not take.
const STAND_IN: u8 = b'_';

/// Where the target of the request at the start of `head` stands; nothing where it has not come as a whole.
fn place(head: &[u8]) -> Option<Range<usize>> {
    let is_space = |byte: &u8| *byte == b' ';
    let start = head.iter().position(is_space)? + 1;
    let length = head.get(start..)?.iter().position(is_space)?;
    Some(start..start + length)
}

/// Whether the framework takes none of the URLs in which this byte stands.
pub(super) fn is_strange(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`')
}

/// Has others stand in for the bytes of a target that the framework does not take. Returns the target as it came, where there was one.
pub(super) fn stand_in(head: &mut [u8]) -> Option<Box<[u8]>> {
    let target = head.get_mut(place(head)?)?;
    let is_text = std::str::from_utf8(target).is_ok();
    let stands = |byte: u8| is_strange(byte) || !is_text && !byte.is_ascii();
    if !target.iter().any(|byte| stands(*byte)) {
        return None;
    }
    let came = Box::from(&*target);
    for byte in target.iter_mut().filter(|byte| stands(**byte)) {
        *byte = STAND_IN;
    }
    Some(came)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_stand_in_for_what_the_framework_does_not_take() {
        #[allow(clippy::type_complexity)] // a table
        let cases: [(&[u8], Option<(&[u8], &[u8])>); 8] = [
            (b"GET /a?b HTTP/1.1\r\n", None),
            (
                b"GET /a?q=\"<x>\" HTTP/1.1\r\n",
                Some((b"/a?q=\"<x>\"", b"GET /a?q=__x__ HTTP/1.1\r\n")),
            ),
            (b"GET /?q=\xe5\xbc\xa0 HTTP/1.1\r\n", None),
            (
                b"GET /?q=\xd5\xc5&\xe5\xbc\xa0 HTTP/1.1\r\nX: \xff\"\r\n",
                Some((
                    b"/?q=\xd5\xc5&\xe5\xbc\xa0",
                    b"GET /?q=__&___ HTTP/1.1\r\nX: \xff\"\r\n",
                )),
            ),
            (b"GET /?q=\"", None),
            (b"GET /?q=\" HT", Some((b"/?q=\"", b"GET /?q=_ HT"))),
            (b"GET", None),
            (b"", None),
        ];
        for (head, expected) in cases {
            let mut given = head.to_vec();
            let came = stand_in(&mut given);
            let (came_as, given_as) = expected.unzip();
            assert_eq!(came.as_deref(), came_as, "{}", head.escape_ascii());
            assert_eq!(given, given_as.unwrap_or(head), "{}", head.escape_ascii());
            assert_eq!(stand_in(&mut given), None, "once");
        }
    }
}
