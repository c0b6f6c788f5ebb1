//! Event streams (HTML standard, server-sent events) as they pass, part by part: whether one stands between two events, whether its last event
//! has come, which task it tells of, and which API's clients read it.
//!
//! Nothing is copied but a word of at most 64 bytes. How a stream is cut into parts makes no difference.
//!
//! Dify names an event within its data, `data: {"event": "message_end", "task_id": "..."}`, at the top of the object and in any place there, so
//! the object's own keys are followed; what is said inside of an answer, or deeper in the object, counts as nothing. The same keys tell the dialects
//! apart.

/// The longest word that is looked at; a task is a UUID.
const WORD: usize = 64;

/// Events after which a good stream ends.
const LAST: [&[u8]; 5] = [
    b"message_end",
    b"workflow_finished",
    b"workflow_paused",
    b"human_input_required",
    b"error",
];

/// The same where events have types: Anthropic's messages, OpenAI's responses.
const LAST_TYPED: [&[u8]; 5] = [
    b"message_stop",
    b"response.completed",
    b"response.failed",
    b"response.incomplete",
    b"error",
];

/// What an OpenAI-like stream ends with.
const DONE: &[u8] = b"[DONE]";

/// Whose clients read a stream, by what it has shown so far. It decides how an error is told there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// It has shown no data yet.
    #[default]
    Silent,
    /// Dify's: `data: {"event": "message", ...}`.
    Dify,
    /// OpenAI's completions, and of the many servers like it: `data: {"choices": [...], ...}`, `data: [DONE]`.
    Completions,
    /// Events that have a name and a type, as Anthropic's messages and OpenAI's responses: `event: ping`, `data: {"type": "ping"}`.
    Typed,
    /// None of these.
    Other,
}

/// The reader of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    place: Place,
    /// Whether the event that is under way has a line.
    pending: bool,
    /// Whether the last byte was a carriage return, to which a line feed may belong.
    returned: bool,
    word: Word,
    object: Object,
    over: bool,
    task: Word,
    dialect: Dialect,
    /// Whether the event that is under way has a name.
    named: bool,
    /// Whether it has data.
    data: bool,
}

/// Where in a line the stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Name,
    /// Behind the colon, where one space is no part of the value.
    Colon(Field),
    Value(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Data,
    Event,
    Other,
}

/// A short text; one that is too long is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    bytes: [u8; WORD],
    length: usize,
}

impl Default for Word {
    fn default() -> Self {
        Self {
            bytes: [0; WORD],
            length: 0,
        }
    }
}

impl Word {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    /// What was said; nothing where that was too long.
    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn clear(&mut self) {
        self.length = 0;
    }

    fn spoil(&mut self) {
        self.length = usize::MAX;
    }
}

/// The data of one event, as far as it is a JSON object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Object {
    depth: u32,
    text: Text,
    escaped: bool,
    key: Key,
    /// Whether the next text is a key.
    expects_key: bool,
    begun: bool,
}

/// What a text is that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    /// There is none.
    #[default]
    None,
    Key,
    Value,
    /// One that means nothing here.
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Event,
    Task,
    Type,
}

impl Reader {
    /// Reads what passes.
    pub fn feed(&mut self, part: &[u8]) {
        let mut rest = part;
        while let Some((byte, behind)) = rest.split_first() {
            self.step(*byte);
            rest = behind.get(self.dull(behind)..).unwrap_or_default();
        }
    }

    /// Reads until the stream stands between two events, and tells how much that was; all of it is read where that does not come.
    pub fn feed_to_boundary(&mut self, part: &[u8]) -> Option<usize> {
        for (at, byte) in part.iter().enumerate() {
            self.step(*byte);
            if self.is_between_events() {
                return Some(at + 1);
            }
        }
        None
    }

    /// Whether what may come next is a new event, so that another one may be put in its place.
    pub fn is_between_events(&self) -> bool {
        self.place == Place::Start && !self.pending && !self.returned
    }

    /// Whether an event has come after which a good stream ends.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whose clients read it.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The task that the stream tells of.
    pub fn task(&self) -> Option<&str> {
        std::str::from_utf8(self.task.get())
            .ok()
            .filter(|task| !task.is_empty())
    }

    /// How many of these bytes change nothing: they are within a text that means nothing here.
    fn dull(&self, bytes: &[u8]) -> usize {
        let within = self.place == Place::Value(Field::Data) && self.object.text == Text::Other;
        if !within || self.object.escaped {
            return 0;
        }
        let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | b'\n' | b'\r');
        bytes.iter().position(ends).unwrap_or(bytes.len())
    }

    fn step(&mut self, byte: u8) {
        let returned = std::mem::replace(&mut self.returned, byte == b'\r');
        match byte {
            b'\n' if returned => {}
            b'\n' | b'\r' => self.end_line(),
            byte => self.step_in_line(byte),
        }
    }

    fn step_in_line(&mut self, byte: u8) {
        match self.place {
            Place::Start | Place::Name if byte == b':' => {
                // A line that begins with a colon is a comment, and no part of an event.
                self.pending |= self.place == Place::Name;
                let field = match self.word.get() {
                    b"data" if self.place == Place::Name => Field::Data,
                    b"event" if self.place == Place::Name => Field::Event,
                    _ => Field::Other,
                };
                self.word.clear();
                self.place = Place::Colon(field);
            }
            Place::Start => {
                self.word.clear();
                self.word.push(byte);
                self.place = Place::Name;
            }
            Place::Name => self.word.push(byte),
            Place::Colon(field) => {
                self.place = Place::Value(field);
                if byte != b' ' {
                    self.step_in_value(field, byte);
                }
            }
            Place::Value(field) => self.step_in_value(field, byte),
        }
    }

    fn step_in_value(&mut self, field: Field, byte: u8) {
        match field {
            Field::Other => {}
            Field::Event => self.word.push(byte),
            Field::Data if self.object.begun => self.step_in_object(byte),
            // What another text precedes is no object.
            Field::Data if self.word.length == 0 && byte == b'{' => self.step_in_object(byte),
            Field::Data if self.word.length == 0 && byte.is_ascii_whitespace() => {}
            Field::Data => self.word.push(byte),
        }
    }

    fn step_in_object(&mut self, byte: u8) {
        let object = &mut self.object;
        match (object.text, byte) {
            (Text::None, b'{' | b'[') => {
                object.begun = true;
                object.depth = object.depth.saturating_add(1);
                object.expects_key = object.depth == 1;
            }
            (Text::None, b'}' | b']') => object.depth = object.depth.saturating_sub(1),
            (Text::None, b',') => (object.expects_key, object.key) = (true, Key::Other),
            (Text::None, b':') => object.expects_key = false,
            (Text::None, b'"') => {
                self.word.clear();
                object.text = match object.key {
                    _ if object.depth != 1 => Text::Other,
                    _ if object.expects_key => Text::Key,
                    Key::Event | Key::Task | Key::Type => Text::Value,
                    Key::Other => Text::Other,
                };
            }
            (Text::None, _) => {}
            (_, _) if object.escaped => {
                object.escaped = false;
                // Neither a key nor a value that means something here has anything to escape.
                self.word.spoil();
            }
            (_, b'\\') => object.escaped = true,
            (text, b'"') => {
                object.text = Text::None;
                self.end_text(text);
            }
            (Text::Key | Text::Value, byte) => self.word.push(byte),
            (Text::Other, _) => {}
        }
    }

    fn end_text(&mut self, text: Text) {
        let word = self.word.get();
        let told = match (text, self.object.key) {
            (Text::Key, _) => {
                self.object.key = match word {
                    b"event" => Key::Event,
                    b"task_id" => Key::Task,
                    b"type" => Key::Type,
                    _ => Key::Other,
                };
                (word == b"choices").then_some(Dialect::Completions)
            }
            (Text::Value, Key::Event) => {
                self.over |= LAST.contains(&word);
                Some(Dialect::Dify)
            }
            (Text::Value, Key::Type) if self.named => {
                self.over |= LAST_TYPED.contains(&word);
                Some(Dialect::Typed)
            }
            (Text::Value, Key::Task) if self.task.length == 0 && is_name(word) => {
                self.task = self.word;
                None
            }
            (Text::Value | Text::Other | Text::None, _) => None,
        };
        if let Some(dialect) = told {
            self.speaks(dialect);
        }
    }

    fn end_line(&mut self) {
        match self.place {
            // An empty line ends the event.
            Place::Start => {
                if self.data {
                    self.speaks(Dialect::Other);
                }
                (self.pending, self.named, self.data) = (false, false, false);
                self.object = Object::default();
            }
            Place::Value(Field::Event) => {
                self.over |= LAST.contains(&self.word.get());
                self.named = true;
            }
            Place::Value(Field::Data) if !self.object.begun => {
                self.data = true;
                if self.word.get().trim_ascii() == DONE {
                    self.over = true;
                    self.speaks(Dialect::Completions);
                }
            }
            Place::Value(Field::Data) => self.data = true,
            Place::Name => self.pending = true,
            Place::Colon(_) | Place::Value(Field::Other) => {}
        }
        self.place = Place::Start;
    }

    /// Notes a dialect; the first that is known stays.
    fn speaks(&mut self, dialect: Dialect) {
        if matches!(self.dialect, Dialect::Silent | Dialect::Other) {
            self.dialect = dialect;
        }
    }
}

/// Whether a text can be told in a log and in an event as it is.
fn is_name(text: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.iter().all(plain)
}

#[cfg(test)]
mod tests;
