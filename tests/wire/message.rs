//! One message, a request or an answer, and how it is written in HTTP/1.1: a table row says what is sent, this says the bytes.

use std::sync::LazyLock;

/// A name and a value, as they are written.
pub(crate) type Field = (Vec<u8>, Vec<u8>);

/// The longest body of the tables, in bytes.
const LONGEST: usize = 3 << 20;
/// Bodies begin at so many places of the block that they are cut from.
const STARTS: u64 = 100_003;

/// The bytes that all bodies are cut from. Two places of it never look alike, so a gap, a shift and another message's bytes change the hash.
static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut block = vec![0; LONGEST + STARTS as usize];
    fastrand::Rng::with_seed(20).fill(&mut block);
    block
});

/// The body of so many bytes that belongs to `trial`.
pub(crate) fn body_of(trial: u64, length: usize) -> &'static [u8] {
    let start = (trial.wrapping_mul(7919) % STARTS) as usize;
    &BLOCK[start..start + length]
}

/// How the chunks of a body are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunks {
    pub(crate) sizes: Vec<usize>,
    pub(crate) upper: bool,
    pub(crate) zeros: usize,
    /// What follows each size on its line.
    pub(crate) extension: String,
}

/// What follows a head.
#[derive(Clone, Debug)]
pub(crate) enum Framing {
    /// Nothing, and no field speaks of a body.
    None,
    /// So many bytes, which `Content-Length` tells.
    Length(usize),
    Chunked(Chunks),
    /// So many bytes, and then the connection ends.
    UntilClose(usize),
}

/// The first line, or what takes its place.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    Request {
        method: &'static str,
        target: Vec<u8>,
        version: &'static str,
    },
    Answer {
        status: u16,
        line: String,
    },
    /// The message is nothing but its bytes; `{t}` stands for the trial's path, `{x}` for its field.
    Raw(Vec<u8>),
}

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) start: Start,
    pub(crate) fields: Vec<Field>,
    pub(crate) framing: Framing,
    pub(crate) trailers: Vec<Field>,
}

/// A message as it goes over the wire, and the places where a segment is most likely to be misread.
#[derive(Debug, Default)]
pub(crate) struct Rendered {
    pub(crate) bytes: Vec<u8>,
    pub(crate) marks: Vec<usize>,
    /// Where the body begins.
    pub(crate) body: usize,
}

/// A request for `target`, behind the trial's own prefix.
pub(crate) fn request(method: &'static str, target: impl AsRef<[u8]>) -> Message {
    let start = Start::Request {
        method,
        target: target.as_ref().to_vec(),
        version: "HTTP/1.1",
    };
    Message::from(start).field("Host", "h")
}

pub(crate) fn get(target: impl AsRef<[u8]>) -> Message {
    request("GET", target)
}

pub(crate) fn post(target: impl AsRef<[u8]>) -> Message {
    request("POST", target)
}

/// Bytes as they stand, but for `{t}`, the trial's path, and `{x}`, a field that names the trial.
pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Message {
    Start::Raw(bytes.as_ref().to_vec()).into()
}

/// An answer that names its trial.
pub(crate) fn answer(status: u16) -> Message {
    answer_line(status, &format!("HTTP/1.1 {status} Status"))
}

/// The same with a status line as it stands.
pub(crate) fn answer_line(status: u16, line: &str) -> Message {
    let line = line.to_owned();
    Message::from(Start::Answer { status, line })
}

impl From<Start> for Message {
    fn from(start: Start) -> Self {
        Self {
            start,
            fields: Vec::new(),
            framing: Framing::None,
            trailers: Vec::new(),
        }
    }
}

impl Message {
    pub(crate) fn field(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields
            .retain(|(own, _)| !own.eq_ignore_ascii_case(name.as_bytes()));
        self
    }

    /// With another `Host`.
    pub(crate) fn host(self, host: &str) -> Self {
        self.without("host").field("Host", host)
    }

    pub(crate) fn version(mut self, given: &'static str) -> Self {
        if let Start::Request { version, .. } = &mut self.start {
            *version = given;
        }
        self
    }

    pub(crate) fn length(mut self, length: usize) -> Self {
        self.framing = Framing::Length(length);
        self
    }

    pub(crate) fn until_close(mut self, length: usize) -> Self {
        self.framing = Framing::UntilClose(length);
        self
    }

    /// With chunks of these sizes, and the last one.
    pub(crate) fn chunked(self, sizes: &[usize]) -> Self {
        let sizes = sizes.to_vec();
        self.chunks(Chunks {
            sizes,
            ..Chunks::default()
        })
    }

    pub(crate) fn chunks(mut self, chunks: Chunks) -> Self {
        self.framing = Framing::Chunked(chunks);
        self
    }

    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.into(), value.into()));
        self
    }

    /// The values of a field.
    pub(crate) fn all<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m [u8]> {
        values(&self.fields, name)
    }

    pub(crate) fn says(&self, name: &str, word: &str) -> bool {
        says(&self.fields, name, word)
    }

    pub(crate) fn method(&self) -> &str {
        match &self.start {
            Start::Request { method, .. } => method,
            Start::Answer { .. } => "",
            Start::Raw(bytes) => {
                let line = bytes.trim_ascii_start();
                let word = line.split(|byte| *byte == b' ').next().unwrap_or_default();
                std::str::from_utf8(word).unwrap_or_default()
            }
        }
    }

    pub(crate) fn is_http_1_0(&self) -> bool {
        match &self.start {
            Start::Request { version, .. } => *version == "HTTP/1.0",
            Start::Raw(bytes) => {
                let line = bytes.trim_ascii_start();
                let line = line.split(|byte| *byte == b'\r').next().unwrap_or_default();
                line.ends_with(b"HTTP/1.0")
            }
            Start::Answer { line, .. } => line.starts_with("HTTP/1.0"),
        }
    }

    /// The target that a trial asks for.
    pub(crate) fn target(&self, trial: u64) -> Vec<u8> {
        match &self.start {
            Start::Request { target, .. } => [path_of(trial).as_bytes(), target].concat(),
            Start::Answer { .. } | Start::Raw(_) => path_of(trial).into_bytes(),
        }
    }

    /// How many bytes its body has.
    pub(crate) fn body_length(&self) -> usize {
        match &self.framing {
            Framing::None => 0,
            Framing::Length(length) | Framing::UntilClose(length) => *length,
            Framing::Chunked(chunks) => chunks.sizes.iter().sum(),
        }
    }

    pub(crate) fn body(&self, trial: u64) -> &'static [u8] {
        body_of(trial, self.body_length())
    }

    /// Writes it for a trial.
    pub(crate) fn render(&self, trial: u64) -> Rendered {
        let mut out = Rendered::default();
        match &self.start {
            Start::Raw(bytes) => {
                out.bytes = fill(bytes, trial);
                let end = out.bytes.windows(4).position(|four| four == b"\r\n\r\n");
                out.body = end.map_or(out.bytes.len(), |end| end + 4);
                out.marks = (1..out.bytes.len())
                    .filter(|at| matches!(out.bytes[at - 1], b'\r' | b'\n'))
                    .collect();
                return out;
            }
            Start::Request { method, version, .. } => {
                out.push(&[method.as_bytes(), b" ", &self.target(trial), b" ", version.as_bytes()]);
            }
            Start::Answer { line, .. } => out.push(&[line.as_bytes()]),
        }
        out.end_line();
        for (name, value) in &self.fields {
            out.push(&[name, b": ", &fill(value, trial)]);
            out.end_line();
        }
        if matches!(self.start, Start::Answer { .. }) {
            out.push(&[format!("X-Trial: {trial}").as_bytes()]);
            out.end_line();
        }
        self.write_body(&mut out, trial);
        out
    }

    fn write_body(&self, out: &mut Rendered, trial: u64) {
        let body = self.body(trial);
        match &self.framing {
            Framing::None | Framing::UntilClose(_) => {}
            Framing::Length(length) => {
                out.push(&[format!("Content-Length: {length}").as_bytes()]);
                out.end_line();
            }
            Framing::Chunked(_) => {
                out.push(&[b"Transfer-Encoding: chunked"]);
                out.end_line();
            }
        }
        out.end_line();
        out.body = out.bytes.len();
        let Framing::Chunked(chunks) = &self.framing else {
            return out.push(&[body]);
        };
        let mut rest = body;
        for size in &chunks.sizes {
            let part;
            (part, rest) = rest.split_at(*size);
            out.size_line(chunks, *size);
            out.push(&[part]);
            out.mark();
            out.end_line();
        }
        out.size_line(chunks, 0);
        for (name, value) in &self.trailers {
            out.push(&[name, b": ", value]);
            out.end_line();
        }
        out.end_line();
    }
}

impl Rendered {
    fn push(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
    }

    fn mark(&mut self) {
        self.marks.push(self.bytes.len());
    }

    /// Ends a line, with a mark between its two bytes and one behind them.
    fn end_line(&mut self) {
        self.bytes.push(b'\r');
        self.mark();
        self.bytes.push(b'\n');
        self.mark();
    }

    fn size_line(&mut self, chunks: &Chunks, size: usize) {
        let digits = if chunks.upper {
            format!("{size:X}")
        } else {
            format!("{size:x}")
        };
        let digits = "0".repeat(chunks.zeros) + &digits;
        self.push(&[&digits.as_bytes()[..1]]);
        self.mark();
        self.push(&[&digits.as_bytes()[1..]]);
        self.mark();
        self.push(&[chunks.extension.as_bytes()]);
        self.mark();
        self.end_line();
    }
}

/// The path that everything of a trial stands below.
pub(crate) fn path_of(trial: u64) -> String {
    format!("/t{trial}")
}

/// The trial that a target names.
pub(crate) fn trial_of(target: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(b"/t")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit());
    std::str::from_utf8(&digits[..end.unwrap_or(digits.len())])
        .ok()?
        .parse()
        .ok()
}

fn fill(template: &[u8], trial: u64) -> Vec<u8> {
    let named = replace(template, b"{t}", path_of(trial).as_bytes());
    replace(&named, b"{x}", format!("X-Trial: {trial}\r\n").as_bytes())
}

fn replace(text: &[u8], place: &[u8], with: &[u8]) -> Vec<u8> {
    let (mut replaced, mut rest) = (Vec::with_capacity(text.len() + 16), text);
    while let Some(at) = rest.windows(place.len()).position(|part| part == place) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(with);
        rest = &rest[at + place.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// The values of a field, without the spaces around them.
pub(crate) fn values<'f>(fields: &'f [Field], name: &'f str) -> impl Iterator<Item = &'f [u8]> {
    let own = fields
        .iter()
        .filter(move |(own, _)| own.eq_ignore_ascii_case(name.as_bytes()));
    own.map(|(_, value)| value.trim_ascii())
}

/// Whether a list field has a member.
pub(crate) fn says(fields: &[Field], name: &str, word: &str) -> bool {
    let mut members = values(fields, name).flat_map(|value| value.split(|byte| *byte == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}
