//! The ways in which servers read a path.

use crate::gate::path::decode;

/// A path that is still yielding new texts after so many was built to.
const MAX_TEXTS: usize = 8;

/// Does not mean itself to every server.
const ODD: u8 = 1;
/// Separates segments.
const SLASH: u8 = 2;
/// Means something of its own before a slash.
const BEFORE_SLASH: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [ODD; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        classes[byte] = match byte as u8 {
            b'%' | b'\\' | b';' | b'?' | b'#' => ODD,
            b'/' => SLASH | BEFORE_SLASH,
            b'.' => BEFORE_SLASH,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// Whether all servers read `path` alike, but for the case of its letters.
pub(super) fn is_plain(path: &str) -> bool {
    let (mut seen, mut last) = (0, 0);
    for byte in path.bytes() {
        let class = CLASSES[usize::from(byte)];
        let is_split = class & SLASH != 0 && last & BEFORE_SLASH != 0;
        seen |= class | u8::from(is_split);
        last = class;
    }
    seen & ODD == 0 && path.starts_with('/') && !path.ends_with('.')
}

/// What was found among the readings of a path.
pub(super) enum Found<T> {
    /// What `seek` found.
    Here(T),
    /// Nothing, in any reading.
    Nothing,
    /// Nothing so far, and no end in sight: the path was built to have more readings than anybody would try.
    NoEnd,
}

/// Shows `seek` every reading of `path` as `/segment/segment`, in lower case, until it finds something. Readings may end
/// after `limit` bytes, at the end of a segment.
///
/// A server may decode before it resolves `..` or after (the URL Standard resolves first), and the next one may do both
/// again. So each text is read, and what is decoded from it or from a reading of it is another text to read.
pub(super) fn find_reading<T>(path: &str, limit: usize, mut seek: impl FnMut(&str) -> Option<T>) -> Found<T> {
    let mut texts = Texts::new(fold(path));
    while let Some(text) = texts.next() {
        let segments: Vec<Segment<'_>> = text.split('/').map(Segment::new).collect();
        let (ends, climbs) = (ends(&text), text.contains(".."));
        let may_reorder = climbs && text.contains('%');
        let mut view = View::new(if may_reorder { text.len() } else { limit });
        let mut seek = |reading: &str| {
            if may_reorder {
                texts.add_decoded(reading);
            }
            seek(reading)
        };
        let mut readings = READINGS.iter().take(if climbs { READINGS.len() } else { 1 });
        let found = readings.find_map(|reading| reading.find(&segments, &ends, climbs, &mut view, &mut seek));
        if let Some(found) = found {
            return Found::Here(found);
        }
        texts.add_decoded(&text);
    }
    if texts.is_exhausted() {
        Found::NoEnd
    } else {
        Found::Nothing
    }
}

/// The texts that a path stands for, each of them once.
struct Texts {
    known: Vec<String>,
    read: usize,
}

impl Texts {
    fn new(first: String) -> Self {
        let mut texts = Self {
            known: Vec::new(),
            read: 0,
        };
        texts.add(first);
        texts
    }

    fn next(&mut self) -> Option<String> {
        let next = self.known.get(self.read).filter(|_| !self.is_exhausted())?.clone();
        self.read += 1;
        Some(next)
    }

    fn is_exhausted(&self) -> bool {
        self.known.len() > MAX_TEXTS
    }

    /// Adds what `text` is decoded to.
    fn add_decoded(&mut self, text: &str) {
        if text.contains('%') && !self.is_exhausted() {
            self.add(fold(&decode(text)));
        }
    }

    /// Adds `text` where it is new, and what it is to a server that takes `\` for `/`.
    fn add(&mut self, text: String) {
        let slashed = text.contains('\\').then(|| text.replace('\\', "/"));
        for text in [Some(text), slashed].into_iter().flatten() {
            if !self.known.contains(&text) {
                self.known.push(text);
            }
        }
    }
}

/// Where a server may see the end of a path.
struct End<'t> {
    /// The segments before it.
    before: usize,
    /// What is left of the segment that it is in.
    last: Segment<'t>,
}

/// The end of `text`, and those that some servers see: at a control character, `?` or `#`, or at a space. In their order.
fn ends(text: &str) -> Vec<End<'_>> {
    let up_to = |ends: fn(char) -> bool| text.split_once(ends).map(|(start, _)| start);
    let at_mark = up_to(|c| c.is_control() || matches!(c, '?' | '#'));
    let at_space = up_to(char::is_whitespace);
    let mut cuts: Vec<&str> = [at_mark, at_space, Some(text)].into_iter().flatten().collect();
    cuts.sort_by_key(|cut| cut.len());
    cuts.into_iter().map(End::new).collect()
}

impl<'t> End<'t> {
    fn new(cut: &'t str) -> Self {
        let before = cut.bytes().filter(|byte| *byte == b'/').count();
        let last = cut.rsplit_once('/').map_or(cut, |(_, last)| last);
        Self {
            before,
            last: Segment::new(last),
        }
    }
}

/// The form in which guarded paths are kept: decoded to the end, folded, resolved, `/a/b` without a final slash.
pub(super) fn normalise(path: &str) -> String {
    let fold = |text: &str| fold(text).replace('\\', "/");
    let mut text = fold(path);
    loop {
        let decoded = fold(&decode(&text));
        if decoded == text {
            break;
        }
        text = decoded;
    }
    let mut view = View::new(text.len());
    let segments: Vec<Segment<'_>> = text.split('/').map(Segment::new).collect();
    READINGS[0].read(&segments, true, &mut view);
    view.path
}

/// What lies between two slashes.
struct Segment<'t> {
    /// The name without its parameters.
    name: &'t str,
    /// What it is to a server that knows of no parameters.
    whole: Kind,
    /// What it is without them.
    bare: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Empty,
    Here,
    Up,
    Name,
}

impl<'t> Segment<'t> {
    fn new(segment: &'t str) -> Self {
        let whole = Kind::of(segment);
        match segment.split_once(';') {
            Some((name, _)) => Self {
                name,
                whole,
                bare: Kind::of(name),
            },
            None => Self {
                name: segment,
                whole,
                bare: whole,
            },
        }
    }

    /// The name without the white space around it and the dots behind it, which Windows drops.
    fn trimmed_name(&self) -> &'t str {
        self.name
            .trim_start()
            .trim_end_matches(|c: char| c == '.' || c.is_whitespace())
    }
}

impl Kind {
    fn of(segment: &str) -> Self {
        match segment.trim() {
            "" => Self::Empty,
            "." => Self::Here,
            ".." => Self::Up,
            _ => Self::Name,
        }
    }
}

/// How a server goes about the segments of a path.
struct Reading {
    /// Cuts `;parameters` off before it looks for dots, as Tomcat does (`/a/..;/healthz`).
    cuts_parameters: bool,
    /// Drops empty segments before it resolves `..`, as nginx does; RFC 3986 section 5.2.4 keeps them.
    merges_slashes: bool,
    /// Resolves `..`; else it is left out, like `.`.
    climbs: bool,
}

/// The first alone is enough for a path without `..`.
const READINGS: [Reading; 5] = [
    Reading {
        cuts_parameters: true,
        merges_slashes: true,
        climbs: true,
    },
    Reading {
        cuts_parameters: true,
        merges_slashes: false,
        climbs: true,
    },
    Reading {
        cuts_parameters: false,
        merges_slashes: true,
        climbs: true,
    },
    Reading {
        cuts_parameters: false,
        merges_slashes: false,
        climbs: true,
    },
    Reading {
        cuts_parameters: true,
        merges_slashes: true,
        climbs: false,
    },
];

impl Reading {
    /// Seeks in what this reading makes of the path up to each of its `ends`.
    fn find<T>(
        &self,
        segments: &[Segment<'_>],
        ends: &[End<'_>],
        climbs: bool,
        view: &mut View,
        seek: &mut impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        view.clear();
        let mut read = 0;
        ends.iter().find_map(|End { before, last }| {
            self.read(segments.get(read..*before).unwrap_or_default(), climbs, view);
            read = *before;
            match self.kind(last) {
                Kind::Up if self.climbs => seek(view.parent()),
                Kind::Empty | Kind::Here | Kind::Up => seek(&view.path),
                Kind::Name => {
                    view.push(last.trimmed_name());
                    let found = seek(&view.path);
                    view.pop();
                    found
                }
            }
        })
    }

    /// Writes `segments` to `view`. Where none of them is `..`, as `climbs` tells, it ends when the view is full.
    fn read(&self, segments: &[Segment<'_>], climbs: bool, view: &mut View) {
        let may_climb = self.climbs && climbs;
        for segment in segments {
            if view.is_full() && !may_climb {
                break;
            }
            match self.kind(segment) {
                Kind::Empty if !self.merges_slashes => view.push(""),
                Kind::Up if self.climbs => view.pop(),
                Kind::Empty | Kind::Here | Kind::Up => {}
                Kind::Name if view.is_full() => view.push(""),
                Kind::Name => view.push(segment.trimmed_name()),
            }
        }
    }

    fn kind(&self, segment: &Segment<'_>) -> Kind {
        if self.cuts_parameters {
            segment.bare
        } else {
            segment.whole
        }
    }
}

/// A path as one server reads it.
struct View {
    /// `/segment/segment`, as far as it matters.
    path: String,
    /// How long `path` was before each segment, so that `..` can take it back.
    starts: Vec<usize>,
    /// A path that is longer than this is full: the segments that follow are only counted.
    limit: usize,
}

impl View {
    fn new(limit: usize) -> Self {
        Self {
            path: String::with_capacity(2 * limit),
            starts: Vec::new(),
            limit,
        }
    }

    fn clear(&mut self) {
        self.path.clear();
        self.starts.clear();
    }

    fn is_full(&self) -> bool {
        self.path.len() > self.limit
    }

    fn push(&mut self, name: &str) {
        self.starts.push(self.path.len());
        if !name.is_empty() {
            self.path.push('/');
            self.path.push_str(name);
        }
    }

    /// Above the root there is only the root (RFC 3986 section 5.2.4).
    fn pop(&mut self) {
        self.path.truncate(self.starts.pop().unwrap_or(0));
    }

    fn parent(&self) -> &str {
        let length = self.starts.last().copied().unwrap_or(0);
        self.path.get(..length).unwrap_or_default()
    }
}

/// Characters that compatibility normalisation (NFKC, Unicode annex 15) makes ASCII, as far as they can spell a path: first,
/// last, the ASCII character that the first stands for, and after how many characters the row begins anew.
const LOOKALIKES: [(char, char, u8, u32); 8] = [
    ('\u{ff01}', '\u{ff5e}', b'!', 94),   // full-width ASCII
    ('\u{24b6}', '\u{24e9}', b'a', 26),   // circled letters
    ('\u{1d400}', '\u{1d6a3}', b'a', 26), // mathematical letters
    ('\u{1d7ce}', '\u{1d7ff}', b'0', 10), // mathematical digits
    ('\u{2024}', '\u{2024}', b'.', 1),    // one dot leader
    ('\u{210e}', '\u{210e}', b'h', 1),    // Planck constant, the gap in the italic letters
    ('\u{017f}', '\u{017f}', b's', 1),    // long s
    ('\u{0130}', '\u{0131}', b'i', 1),    // the Turkish pair
];

fn lookalike(c: char) -> char {
    let row = LOOKALIKES
        .iter()
        .find(|(first, last, ..)| (*first..=*last).contains(&c));
    row.map_or(c, |(first, _, ascii, period)| {
        let offset = (u32::from(c) - u32::from(*first)) % period;
        char::from_u32(u32::from(*ascii) + offset).unwrap_or(c)
    })
}

/// `text` in lower case and plain width.
fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let plain = text.chars().map(|c| if c.is_ascii() { c } else { lookalike(c) });
    plain.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_is_one_that_nobody_can_read_twice() {
        let cases = [
            ("/", true),
            ("/a/b", true),
            ("/A.b/.well-known/", true),
            ("", false),
            ("a", false),
            ("//", false),
            ("/a//b", false),
            ("/.", false),
            ("/a./b", false),
            ("/../b", false),
            ("/a%62", false),
            ("/a;b", false),
            ("/a\\b", false),
            ("/a b", false),
            ("/\u{e9}", false),
        ];
        for (path, expected) in cases {
            assert_eq!(is_plain(path), expected, "{path}");
        }
    }

    #[test]
    fn lookalikes_are_folded() {
        let folded = fold("\u{ff28}\u{24d4}\u{1d400}\u{1d68a}\u{1d7d9}\u{212a}\u{17f}\u{130}\\\u{ff3c}\u{4e2d}");
        assert_eq!(folded, "heaa1ksi\\\\\u{4e2d}");
    }
}
