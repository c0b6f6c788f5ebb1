//! Where the body of an answer ends, and what stands between its chunks and behind them.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{StatusCode, Version};

use super::{Body, Head, WireError};

/// The members of a list that stands on one line or on several (RFC 9110 section 5.6.1).
pub fn members<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a str> {
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// How the body is framed (RFC 9112 section 6.3).
pub(super) fn framing(head: &mut Head, version: Version, to_head: bool) -> Result<Body, WireError> {
    let length = one_length(head)?;
    let mut codings = head.all(TRANSFER_ENCODING);
    let is_bodiless = to_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match (codings.next(), length) {
        // What it says of a body is of one that does not come.
        _ if is_bodiless => Ok(Body::Over),
        (Some(_), Some(_)) => Err(WireError::Malformed("it has a length and a transfer coding")),
        (Some(coding), None) => {
            let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            if !chunked || version != Version::HTTP_11 {
                return Err(WireError::Malformed("its transfer coding is not chunked alone"));
            }
            Ok(Body::ChunkSize)
        }
        (None, Some(0)) => Ok(Body::Over),
        (None, Some(length)) => Ok(Body::Length(length)),
        (None, None) => Ok(Body::UntilClose),
    }
}

/// The length of the body. Where it is said more than once, on several lines or on one with commas, and always the same, the head says it once
/// afterwards (RFC 9110 section 8.6): HTTP/2 clients take anything else for a broken message.
fn one_length(head: &mut Head) -> Result<Option<u64>, WireError> {
    let (mut length, mut times) = (None, 0);
    for line in head.all(CONTENT_LENGTH) {
        for member in line.as_bytes().split(|byte| *byte == b',') {
            let said = number(member.trim_ascii(), 10).ok_or(WireError::Malformed("its length is no number"))?;
            if *length.get_or_insert(said) != said {
                return Err(WireError::Malformed("it has two lengths"));
            }
            times += 1;
        }
    }
    if let Some(length) = length.filter(|_| times > 1) {
        head.headers.retain(|(name, _)| *name != CONTENT_LENGTH);
        head.headers.push((CONTENT_LENGTH, length.into()));
    }
    Ok(length)
}

pub(super) fn keeps_alive(head: &Head, version: Version) -> bool {
    let says = |word: &str| members(head.all(CONNECTION)).any(|option| option.eq_ignore_ascii_case(word));
    !says("close") && (version == Version::HTTP_11 || says("keep-alive"))
}

/// A chunk's size; its extensions mean nothing here (RFC 9112 section 7.1.1). Where a line ends in a bare CR or LF, or within a quoted string, other
/// readers see another line.
pub(super) fn chunk_size(line: &[u8]) -> Result<u64, WireError> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for byte in line {
        if byte.is_ascii_control() && *byte != b'\t' {
            return Err(WireError::Malformed("a chunk's line has a control character"));
        }
        let escaped = std::mem::take(&mut is_escaped);
        match byte {
            b'"' if !escaped => is_quoted = !is_quoted,
            b'\\' => is_escaped = is_quoted && !escaped,
            _ => {}
        }
    }
    if is_quoted {
        return Err(WireError::Malformed("a chunk's line ends within a quoted string"));
    }
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
    number(size.trim_ascii_end(), 16).ok_or(WireError::Malformed("a chunk's size is no number"))
}

/// One line of the trailers.
pub(super) fn trailer(line: &[u8]) -> Result<(HeaderName, HeaderValue), WireError> {
    let split = line.iter().position(|byte| *byte == b':');
    let (name, value) = line.split_at(split.unwrap_or_default());
    let name = HeaderName::from_bytes(name).map_err(|_| WireError::Malformed("a trailer has no name"))?;
    let value = value.get(1..).unwrap_or_default();
    let bad = |_| WireError::Malformed("a trailer has no value");
    // Before anything is trimmed, so that no control character is.
    let value = HeaderValue::from_bytes(value).map_err(bad)?;
    let value = HeaderValue::from_bytes(value.as_bytes().trim_ascii()).map_err(bad)?;
    Ok((name, value))
}

/// Digits alone: no sign, no space, no overflow.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok()?;
    let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).ok())?
}
