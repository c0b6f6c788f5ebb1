//! The request target, before anything is decided on it.
//!
//! Servers disagree about targets that are not plain: some decode them twice, some take `x:/healthz` for a path. So what no
//! honest client sends is refused here, and the rest is kept byte for byte: a signed URL or an encoded `/` must reach
//! Dify as it was sent. Only the guard and the routes look at decoded copies.
//!
//! A query may have bytes that a URL must encode (RFC 3986 section 3.4): raw UTF-8, JSON. Clients send them, nginx and HAProxy pass them on, and no
//! server chooses a resource by them. A path may not.

use std::borrow::Cow;
use std::fmt;

/// The longest target that is read, in bytes. Every reading that the guard tries costs time in proportion.
pub const MAX_TARGET: usize = 8 * 1024;

/// What a well-formed request target is (RFC 9112 section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// A path and perhaps a query.
    Origin(OriginForm<'a>),
    /// `*`, which asks about the gate itself and is never forwarded. Only `OPTIONS` has it.
    Asterisk,
}

/// A target in origin-form with the bytes that the client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginForm<'a> {
    target: Cow<'a, [u8]>,
    path: &'a str,
}

impl<'a> OriginForm<'a> {
    /// Reads a raw target. An absolute-form with `http` or `https` is cut to its path, since that is what a proxy sends on
    /// (RFC 9112 section 3.2.1).
    ///
    /// # Errors
    /// Everything that two servers could read as different paths.
    pub fn parse(raw: &'a [u8], method_is_options: bool) -> Result<Form<'a>, Malformed> {
        if raw.len() > MAX_TARGET {
            return Err(Malformed::TooLong);
        }
        if raw.first() == Some(&b'/') {
            return Self::read(raw).map(Form::Origin);
        }
        if raw == b"*" && method_is_options {
            return Ok(Form::Asterisk);
        }
        let (_, target) = cut_authority(raw)?;
        if target.first() == Some(&b'/') {
            return Self::read(target).map(Form::Origin);
        }
        // Without a path it is the root, and perhaps a query.
        let target = [b"/", target].concat();
        check_bytes(&target)?;
        Ok(Form::Origin(Self {
            target: Cow::Owned(target),
            path: "/",
        }))
    }

    /// Reads a target that begins with `/`.
    fn read(target: &'a [u8]) -> Result<Self, Malformed> {
        let (path_length, has_escapes) = check_bytes(target)?;
        let path = target.get(..path_length).unwrap_or(target);
        // The bytes of a path are ASCII by now.
        let path = std::str::from_utf8(path).map_err(|_| Malformed::Byte)?;
        if has_escapes {
            check_escapes(path)?;
        }
        Ok(Self {
            target: Cow::Borrowed(target),
            path,
        })
    }

    /// The path as it was sent, still encoded. It starts with `/`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// What stands after the first `?`, as it was sent. It need not be UTF-8.
    pub fn query(&self) -> Option<&[u8]> {
        self.target.get(self.path.len() + 1..)
    }

    /// The target to send on.
    pub fn target(&self) -> &[u8] {
        &self.target
    }

    /// The target to send on, borrowed from the request where nothing had to be added.
    pub fn into_target(self) -> Cow<'a, [u8]> {
        self.target
    }
}

/// The authority of a target in absolute form (RFC 9112 section 3.2.2).
pub fn authority_of(target: &[u8]) -> Option<&str> {
    let (authority, _) = cut_authority(target).ok()?;
    std::str::from_utf8(authority).ok()
}

/// `http://host/path?query` cut into its authority and what is behind that, which begins with `/`, `?` or `#`, or is empty.
fn cut_authority(target: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    const MARK: &[u8] = b"://";
    let scheme = target.windows(MARK.len()).position(|bytes| bytes == MARK);
    let (scheme, rest) = target.split_at(scheme.ok_or(Malformed::NotOriginForm)?);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Malformed::NotOriginForm);
    }
    let rest = rest.get(MARK.len()..).unwrap_or_default();
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if !is_authority(authority) {
        return Err(Malformed::Authority);
    }
    Ok((authority, target))
}

/// Whether `authority` can name a host and a port (RFC 3986 section 3.2). User information is refused: it serves only to
/// make one host look like another (RFC 9110 section 4.2.4).
pub(crate) fn is_authority(authority: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:%[]".contains(byte);
    !authority.is_empty() && authority.iter().all(allowed)
}

/// May not stand in a target.
const NOT_IN_A_TARGET: u8 = 1;
/// May stand in a query but not in a path.
const NOT_IN_A_PATH: u8 = 2;
/// Begins an escape.
const ESCAPE: u8 = 4;

/// Of visible ASCII only `#` may not stand in a target; a path must encode some more (RFC 3986 section 3.3), and every byte above ASCII.
const CLASSES: [u8; 256] = {
    let mut classes = [NOT_IN_A_TARGET; 256];
    let mut byte = 0x21;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'#' | 0x7f => NOT_IN_A_TARGET,
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => NOT_IN_A_PATH,
            b'%' => ESCAPE,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// Checks every byte of a target and tells how long its path is, and whether it has escapes.
fn check_bytes(target: &[u8]) -> Result<(usize, bool), Malformed> {
    let (mut path_length, mut in_path) = (0, 0);
    // Most targets are clean, so no byte is worth a branch of its own.
    for byte in target.iter().take_while(|byte| **byte != b'?') {
        in_path |= CLASSES[usize::from(*byte)];
        path_length += 1;
    }
    let query = target.iter().copied().skip(path_length);
    let in_query = query.fold(0, |seen, byte| seen | CLASSES[usize::from(byte)]);
    if in_path & (NOT_IN_A_PATH | NOT_IN_A_TARGET) != 0 || in_query & NOT_IN_A_TARGET != 0 {
        return Err(Malformed::Byte);
    }
    Ok((path_length, in_path & ESCAPE != 0))
}

fn check_escapes(path: &str) -> Result<(), Malformed> {
    if !path
        .as_bytes()
        .split(|byte| *byte == b'%')
        .skip(1)
        .all(|tail| escaped_byte(tail).is_some())
    {
        return Err(Malformed::Percent);
    }
    let decoded = decode_bytes(path.as_bytes());
    if decoded.iter().any(u8::is_ascii_control) {
        return Err(Malformed::Control);
    }
    std::str::from_utf8(&decoded).map(drop).map_err(|_| Malformed::Encoding)
}

/// The byte that the two hexadecimal digits at the start of `tail` stand for.
fn escaped_byte(tail: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let [high, low, ..] = tail else { return None };
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn decode_bytes(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut pieces = text.split(|byte| *byte == b'%');
    decoded.extend_from_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (byte, rest) = match escaped_byte(piece) {
            Some(byte) => (byte, piece.get(2..).unwrap_or_default()),
            None => (b'%', piece),
        };
        decoded.push(byte);
        decoded.extend_from_slice(rest);
    }
    decoded
}

/// `text` with its escapes decoded once. What is no escape stays, and what is no UTF-8 becomes U+FFFD.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let decoded = decode_bytes(text.as_bytes());
    Cow::Owned(String::from_utf8(decoded).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()))
}

/// A target as a URL has it: what a URL must encode is encoded, and nothing else.
pub fn as_url(target: &[u8]) -> Cow<'_, str> {
    let is_plain = |byte: u8| CLASSES[usize::from(byte)] & (NOT_IN_A_PATH | NOT_IN_A_TARGET) == 0;
    match std::str::from_utf8(target) {
        Ok(text) if text.bytes().all(is_plain) => Cow::Borrowed(text),
        Ok(_) | Err(_) => {
            let encoded = target.iter().map(|byte| match *byte {
                byte if is_plain(byte) => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            });
            Cow::Owned(encoded.collect())
        }
    }
}

/// The path that prefixes are compared with, as nginx compares its locations: decoded once, slashes merged, `.` and `..`
/// resolved, a final `/` kept. Borrowed where the path is so already.
pub fn canonical(path: &str) -> Cow<'_, str> {
    let decoded = decode(path);
    let is_open = |pair: &[u8]| matches!(pair, [b'/', b'/' | b'.']);
    if !decoded.as_bytes().windows(2).any(is_open) {
        return decoded;
    }
    let mut resolved = String::with_capacity(decoded.len());
    let mut segments = decoded.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" | "." => {}
            ".." => pop_segment(&mut resolved),
            name => {
                resolved.push('/');
                resolved.push_str(name);
                if segments.peek().is_none() {
                    return Cow::Owned(resolved);
                }
            }
        }
    }
    resolved.push('/');
    Cow::Owned(resolved)
}

/// Takes the last `/segment` away. Above the root there is only the root (RFC 3986 section 5.2.4).
fn pop_segment(path: &mut String) {
    path.truncate(path.rfind('/').unwrap_or(0));
}

/// Why a target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Malformed {
    /// Longer than [`MAX_TARGET`].
    TooLong,
    /// Neither a path nor an absolute `http` URL.
    NotOriginForm,
    /// An absolute URL whose host is missing or impossible.
    Authority,
    /// A byte that a URL must encode.
    Byte,
    /// A `%` without two hexadecimal digits behind it.
    Percent,
    /// An encoded control character.
    Control,
    /// Encoded bytes that are no UTF-8.
    Encoding,
}

impl Malformed {
    /// The HTTP status that says so.
    pub fn status(self) -> u16 {
        match self {
            Self::TooLong => 414,
            Self::NotOriginForm | Self::Authority | Self::Byte | Self::Percent | Self::Control | Self::Encoding => 400,
        }
    }

    /// The stable word for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "target_too_long",
            Self::NotOriginForm => "target_form",
            Self::Authority => "target_authority",
            Self::Byte => "target_byte",
            Self::Percent => "target_percent",
            Self::Control => "target_control",
            Self::Encoding => "target_encoding",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the request target is longer than 8192 bytes",
            Self::NotOriginForm => "the request target is neither a path that starts with / nor an http URL",
            Self::Authority => "the request target names no usable host",
            Self::Byte => "the request target has a character that must be percent-encoded",
            Self::Percent => "the path has a % without two hexadecimal digits behind it",
            Self::Control => "the path has an encoded control character",
            Self::Encoding => "the path does not decode to UTF-8",
        })
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests;
