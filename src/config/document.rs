//! The file as a tree in which everything knows where it stands, so that every error can point at its line.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde_json::{Number, Value};

use super::Environment;
use super::check::article;
use super::error::{ConfigError, Mark};
use super::secrets::Secrets;
use crate::files::text_without_mark;

/// One value of the file, and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) content: Content,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A text whose environment variable is not set, which has been told of.
    Unset,
    Scalar(Value),
    List(Vec<Node>),
    /// Keys in the order of the file.
    Map(Vec<(String, Mark, Node)>),
}

/// Aliases may not make a file larger than this many nodes ("a billion laughs").
const MAX_NODES: usize = 200_000;

/// Depth beyond which a file is refused.
const MAX_DEPTH: usize = 32;

/// Reads a YAML text (YAML 1.2, core schema) and puts the environment into its `${NAME}`s. Errors of content do not end the reading.
pub(super) fn read(
    text: &str,
    environment: Environment<'_>,
    secrets: &mut Secrets,
    errors: &mut Vec<ConfigError>,
) -> Option<Node> {
    let mut reader = Reader {
        events: Parser::new_from_str(text_without_mark(text)),
        environment,
        secrets,
        anchors: BTreeMap::new(),
        nodes: 0,
        errors,
    };
    match reader.document() {
        Ok(node) => node,
        Err(error) => {
            errors.push(error);
            None
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    environment: Environment<'a>,
    secrets: &'a mut Secrets,
    anchors: BTreeMap<usize, Anchored>,
    nodes: usize,
    errors: &'a mut Vec<ConfigError>,
}

/// A node that aliases stand for, and how large and how deep it is.
struct Anchored {
    node: Node,
    nodes: usize,
    depth: usize,
}

/// The key that merges other maps into its own (YAML's merge key, as docker compose and GitLab know it).
const MERGE: &str = "<<";

fn mark(marker: Marker) -> Mark {
    Mark {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // of a parser's events each place wants a few
impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        match self.events.next() {
            Some(Ok(found)) => Ok(found),
            Some(Err(e)) => Err(ConfigError::at(
                mark(*e.marker()),
                "",
                format!("this is not YAML: {}", e.info()),
            )),
            None => Err(ConfigError::nowhere("the file ends too early")),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, ConfigError> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd => {
                    return Err(ConfigError::nowhere(
                        "the file is empty; conf/minimal.yaml shows the least that runs",
                    ));
                }
                event => {
                    let node = self.node(event, span, 0)?;
                    return self.end().map(|()| Some(node));
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), ConfigError> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), span) => {
                    return Err(ConfigError::at(
                        mark(span.start),
                        "",
                        "a second document begins here; one file is one configuration",
                    ));
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, ConfigError> {
        let mark = mark(span.start);
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            return Err(ConfigError::at(mark, "", "the file is too large or too deep"));
        }
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (self.scalar(&text, style, mark), anchor),
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => (self.alias(anchor, mark, depth)?, 0),
            _ => return Err(ConfigError::at(mark, "", "this is not YAML")),
        };
        let node = Node { mark, content };
        if anchor != 0 {
            let (nodes, depth) = measure(&node.content);
            let node = node.clone();
            self.anchors.insert(anchor, Anchored { node, nodes, depth });
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Content, ConfigError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Content, ConfigError> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        let mut first: BTreeMap<String, Mark> = BTreeMap::new();
        loop {
            let (event, span) = self.next()?;
            let at = mark(span.start);
            let (key, merges) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, _, tag) => {
                    let merges = text == MERGE && style == ScalarStyle::Plain && tag.is_none();
                    (text.into_owned(), merges)
                }
                _ => return Err(ConfigError::at(at, "", "a key must be a plain text")),
            };
            if let Some(first) = first.get(&key) {
                let instead = if merges { "; write `<<: [*ONE, *OTHER]`" } else { "" };
                let message = format!(
                    "the key `{key}` stands twice here; first on line {}{instead}",
                    first.line
                );
                self.errors.push(ConfigError::at(at, &key, message));
            } else {
                first.insert(key.clone(), at);
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if merges {
                self.merge(value, &mut merged);
            } else {
                entries.push((key, at, value));
            }
        }
        // The map's own keys come first, and of two maps the one that is named first.
        for (key, at, value) in merged {
            if !first.contains_key(&key) {
                first.insert(key.clone(), at);
                entries.push((key, at, value));
            }
        }
        Ok(Content::Map(entries))
    }

    /// Takes the entries of a map, or of each map in a list. They keep their places in the file, for errors to point at.
    fn merge(&mut self, value: Node, merged: &mut Vec<(String, Mark, Node)>) {
        let maps = match value.content {
            Content::List(maps) => maps,
            Content::Unset | Content::Scalar(_) | Content::Map(_) => vec![value],
        };
        for map in maps {
            match map.content {
                Content::Map(entries) => merged.extend(entries),
                Content::Unset => {}
                Content::Scalar(_) | Content::List(_) => {
                    let is = match map.kind() {
                        "null" => "has no value",
                        kind => &format!("is {}", article(kind)),
                    };
                    let message = format!(
                        "{is}, but a group of keys, or a list of such groups, is merged here: `<<: *NAME` or `<<: [*ONE, *OTHER]`"
                    );
                    self.errors.push(ConfigError::at(map.mark, MERGE, message));
                }
            }
        }
    }

    fn alias(&mut self, anchor: usize, at: Mark, depth: usize) -> Result<Content, ConfigError> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(ConfigError::at(at, "", "an alias must not stand within what it names"));
        };
        self.nodes += anchored.nodes;
        if self.nodes > MAX_NODES {
            return Err(ConfigError::at(at, "", "aliases make the file too large"));
        }
        if depth + anchored.depth > MAX_DEPTH {
            return Err(ConfigError::at(at, "", "aliases make the file too deep"));
        }
        Ok(anchored.node.content.clone())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: Mark) -> Content {
        match self.substituted(text) {
            Ok(text) if style == ScalarStyle::Plain => Content::Scalar(typed(&text)),
            Ok(text) => Content::Scalar(Value::String(text.into_owned())),
            Err(message) => {
                self.errors.push(ConfigError::at(at, "", message));
                Content::Unset
            }
        }
    }

    /// Puts the environment into `${NAME}`, and files into `${file:PATH}`; `$${` stands for `${`.
    fn substituted<'t>(&mut self, text: &'t str) -> Result<Cow<'t, str>, String> {
        let mut whole = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            rest = after;
            if let Some(literal) = before.strip_suffix('$') {
                whole.push_str(literal);
                whole.push_str("${");
                continue;
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!(
                    "`{text}` has a `${{` without its `}}`; write `$${{` for a plain one"
                ));
            };
            rest = after;
            whole.push_str(before);
            let value = (self.environment)(name)?;
            self.secrets.note(name, &value);
            whole.push_str(&value);
        }
        if whole.is_empty() && rest.len() == text.len() {
            return Ok(Cow::Borrowed(text));
        }
        whole.push_str(rest);
        Ok(Cow::Owned(whole))
    }
}

/// How many nodes there are, and how many levels below the first one.
fn measure(content: &Content) -> (usize, usize) {
    let all = |nodes: &mut dyn Iterator<Item = &Node>| {
        let below = nodes.map(|node| measure(&node.content));
        below.fold((1, 0), |(nodes, depth), below| {
            (nodes + below.0, depth.max(below.1 + 1))
        })
    };
    match content {
        Content::Unset | Content::Scalar(_) => (1, 0),
        Content::List(items) => all(&mut items.iter()),
        Content::Map(entries) => all(&mut entries.iter().map(|(_, _, value)| value)),
    }
}

/// The core schema of YAML 1.2 (section 10.3.2), without octal and hexadecimal numbers, which no key wants.
fn typed(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let number = text.parse::<i64>().ok().map(Number::from);
            let looks_decimal = || {
                text.bytes()
                    .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
            };
            let number = number.or_else(|| {
                text.parse::<f64>()
                    .ok()
                    .filter(|_| looks_decimal())
                    .and_then(Number::from_f64)
            });
            number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
        }
    }
}

impl Node {
    /// The value without its marks, and without the keys at the paths `strays`, so that the rest can still be judged.
    pub(super) fn value(&self, strays: &BTreeSet<String>) -> Value {
        self.value_at("", strays)
    }

    fn value_at(&self, path: &str, strays: &BTreeSet<String>) -> Value {
        match &self.content {
            Content::Unset => Value::Null,
            Content::Scalar(value) => value.clone(),
            Content::List(items) => {
                let items = items.iter().enumerate();
                items
                    .map(|(index, item)| item.value_at(&format!("{path}[{index}]"), strays))
                    .collect()
            }
            Content::Map(entries) => {
                let entries = entries.iter().map(|(key, _, value)| (key, join(path, key), value));
                let known = entries.filter(|(_, path, _)| !strays.contains(path));
                known
                    .map(|(key, path, value)| (key.clone(), value.value_at(&path, strays)))
                    .collect()
            }
        }
    }

    /// What it is, in a word.
    pub(super) fn kind(&self) -> &'static str {
        match &self.content {
            Content::Unset | Content::Scalar(Value::Null) => "null",
            Content::Scalar(Value::Bool(_)) => "boolean",
            Content::Scalar(Value::Number(number)) if number.is_i64() || number.is_u64() => "integer",
            Content::Scalar(Value::Number(_)) => "number",
            Content::Scalar(_) => "string",
            Content::List(_) => "array",
            Content::Map(_) => "object",
        }
    }

    /// Where each key path stands.
    pub(super) fn marks(&self) -> BTreeMap<String, Mark> {
        let mut marks = BTreeMap::new();
        self.mark_below("", &mut marks);
        marks
    }

    fn mark_below(&self, path: &str, marks: &mut BTreeMap<String, Mark>) {
        match &self.content {
            Content::Unset | Content::Scalar(_) => {}
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    marks.insert(path.clone(), item.mark);
                    item.mark_below(&path, marks);
                }
            }
            Content::Map(entries) => {
                for (key, mark, value) in entries {
                    let path = join(path, key);
                    marks.insert(path.clone(), *mark);
                    value.mark_below(&path, marks);
                }
            }
        }
    }
}

/// The path of `key` below `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
