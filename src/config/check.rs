//! Checks a file's shape against the schema, all of it at once: unknown keys, wrong types, values that cannot be read. What passes can be
//! deserialised.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::document::{Content, Node, join};
use super::error::{ConfigError, Mark};
use super::scalars::check_format;

/// Keys and values that a later version will know; `*` stands for a name.
const LATER: &[&str] = &[
    "admin.tokens_file",
    "admin.allow",
    "upstreams.*.pools.*.kubernetes",
    "fleet",
    "notify",
];

/// Where the check stands: the key's path for people, and its pattern for [`LATER`].
#[derive(Clone, Default)]
struct Place {
    path: String,
    pattern: String,
}

impl Place {
    fn key(&self, key: &str, pattern: &str) -> Self {
        Self {
            path: join(&self.path, key),
            pattern: join(&self.pattern, pattern),
        }
    }

    fn item(&self, index: usize) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            pattern: format!("{}[]", self.pattern),
        }
    }
}

/// Checks `node` against `schema`, and returns the paths of keys that mean nothing here.
pub(super) fn check(node: &Node, schema: &Value, errors: &mut Vec<ConfigError>) -> BTreeSet<String> {
    let mut walk = Walk {
        definitions: schema.get("$defs"),
        errors,
        strays: BTreeSet::new(),
    };
    walk.value(node, node.mark, schema, &Place::default());
    walk.strays
}

struct Walk<'a> {
    definitions: Option<&'a Value>,
    errors: &'a mut Vec<ConfigError>,
    strays: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    fn error(&mut self, mark: Mark, place: &Place, message: impl Into<String>) {
        self.errors.push(ConfigError::at(mark, &place.path, message));
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let name = reference.and_then(|reference| reference.strip_prefix("#/$defs/"));
        name.and_then(|name| self.definitions?.get(name)).unwrap_or(schema)
    }

    fn value(&mut self, node: &Node, mark: Mark, schema: &'a Value, place: &Place) {
        let schema = self.resolve(schema);
        if matches!(node.content, Content::Unset) {
            return;
        }
        if node.kind() == "null" {
            return self.error(mark, place, "has no value; give it one or remove it");
        }
        if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            return self.any_of(node, mark, choices, place);
        }
        if let Some(words) = words(schema) {
            return self.word(node, mark, &words, place);
        }
        if !fits(node, schema) {
            let message = format!(
                "is {}, but {} is wanted here{}",
                article(node.kind()),
                kinds(schema),
                hint(node, schema)
            );
            return self.error(mark, place, message);
        }
        match &node.content {
            Content::Unset => {}
            Content::Scalar(value) => self.scalar(value, mark, schema, place),
            Content::List(items) => {
                let Some(of) = schema.get("items") else { return };
                for (index, item) in items.iter().enumerate() {
                    self.value(item, item.mark, of, &place.item(index));
                }
            }
            Content::Map(entries) => self.map(entries, mark, schema, place),
        }
    }

    fn any_of(&mut self, node: &Node, mark: Mark, choices: &'a [Value], place: &Place) {
        let choices: Vec<&Value> = choices.iter().map(|choice| self.resolve(choice)).collect();
        let real: Vec<&&Value> = choices
            .iter()
            .filter(|choice| choice.get("type").and_then(Value::as_str) != Some("null"))
            .collect();
        // Any text fits what has no words of its own; where only words are wanted, it is one of them or wrong.
        let plain = real.iter().find(|choice| fits(node, choice) && words(choice).is_none());
        let fitting = plain.or_else(|| real.iter().find(|choice| fits(node, choice)));
        match (fitting, real.as_slice()) {
            (Some(choice), _) => self.value(node, mark, choice, place),
            (None, [only]) => self.value(node, mark, only, place),
            (None, several) => {
                let wanted: Vec<String> = several.iter().map(|choice| kinds(choice)).collect();
                let message = format!(
                    "is {}, but {} is wanted here",
                    article(node.kind()),
                    wanted.join(" or ")
                );
                self.error(mark, place, message);
            }
        }
    }

    fn word(&mut self, node: &Node, mark: Mark, words: &[&str], place: &Place) {
        let found = match &node.content {
            Content::Scalar(Value::String(text)) => text.clone(),
            Content::Scalar(value) => value.to_string(),
            Content::Unset | Content::List(_) | Content::Map(_) => node.kind().to_owned(),
        };
        if words.contains(&found.as_str()) {
            return;
        }
        if LATER.contains(&format!("{}={found}", place.pattern).as_str()) {
            return self.error(mark, place, later(&format!("`{found}`")));
        }
        let message = format!("`{found}` is not one of: {}{}", words.join(", "), meant(&found, words));
        self.error(mark, place, message);
    }

    fn scalar(&mut self, value: &Value, mark: Mark, schema: &Value, place: &Place) {
        if let Some(format) = schema.get("format").and_then(Value::as_str) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if let Err(message) = check_format(format, &text) {
                self.error(mark, place, message);
            }
        }
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let Some(number) = value.as_f64() else { return };
        if let Some(least) = bound("minimum").filter(|least| number < *least) {
            self.error(mark, place, format!("is {number}; the least is {least}"));
        }
        // Schemas bound the smaller types by value and this one by its name.
        let is_u32 = schema.get("format").and_then(Value::as_str) == Some("uint32");
        let most = bound("maximum").or(is_u32.then_some(f64::from(u32::MAX)));
        if let Some(most) = most.filter(|most| number > *most) {
            self.error(mark, place, format!("is {number}; the most is {most}"));
        }
    }

    fn map(&mut self, entries: &[(String, Mark, Node)], mark: Mark, schema: &'a Value, place: &Place) {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties").filter(|others| !others.is_boolean());
        for (key, at, node) in entries {
            match (properties.and_then(|properties| properties.get(key)), others) {
                (Some(schema), _) => self.value(node, value_mark(node, *at), schema, &place.key(key, key)),
                (None, Some(schema)) => self.value(node, value_mark(node, *at), schema, &place.key(key, "*")),
                (None, None) if schema.get("additionalProperties") == Some(&Value::Bool(true)) => {}
                (None, None) => self.unknown(key, *at, properties.unwrap_or(&empty), place),
            }
        }
        // What a later key would have said is not missing as well.
        if entries
            .iter()
            .any(|(key, ..)| LATER.contains(&place.key(key, key).pattern.as_str()))
        {
            return;
        }
        let required = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        for key in required.filter(|key| !entries.iter().any(|(name, ..)| name == key)) {
            let hint = if place.path.is_empty() { missing(key) } else { "" };
            let message = format!("the key `{key}` is missing{hint}");
            self.error(mark, place, message);
        }
    }

    fn unknown(&mut self, key: &str, at: Mark, properties: &Map<String, Value>, place: &Place) {
        let here = place.key(key, key);
        self.strays.insert(here.path.clone());
        if LATER.contains(&here.pattern.as_str()) {
            return self.error(at, &here, later("this key"));
        }
        let known: Vec<&str> = properties.keys().map(String::as_str).collect();
        let message = match meant(key, &known) {
            meant if meant.is_empty() => format!("no such key; known here are: {}", known.join(", ")),
            meant => format!("no such key{meant}"),
        };
        self.error(at, &here, message);
    }
}

/// A scalar's own place; for what is nested the key says more.
fn value_mark(node: &Node, key: Mark) -> Mark {
    match node.content {
        Content::Scalar(Value::Null) | Content::List(_) | Content::Map(_) => key,
        Content::Unset | Content::Scalar(_) => node.mark,
    }
}

fn later(what: &str) -> String {
    format!("{what} is not available yet in difygate {}", env!("CARGO_PKG_VERSION"))
}

fn missing(key: &str) -> &'static str {
    match key {
        "listeners" => "; the gate must listen somewhere: `listeners: [{address: \"0.0.0.0:8080\"}]`",
        "upstreams" => {
            "; name a service and its endpoints: `upstreams: {dify: {pools: {main: {endpoints: [\"10.0.0.11:80\"]}}}}`"
        }
        _ => "",
    }
}

/// The words of an enumeration.
fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return Some(words.iter().filter_map(Value::as_str).collect());
    }
    let choices = schema.get("oneOf").and_then(Value::as_array)?;
    Some(
        choices
            .iter()
            .filter_map(|choice| choice.get("const").and_then(Value::as_str))
            .collect(),
    )
}

fn types(schema: &Value) -> Vec<&str> {
    let named = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind.as_str()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    };
    named.into_iter().filter(|kind| *kind != "null").collect()
}

fn fits(node: &Node, schema: &Value) -> bool {
    let types = types(schema);
    let kind = node.kind();
    types.is_empty() || types.contains(&kind) || (kind == "integer" && types.contains(&"number"))
}

pub(super) fn article(kind: &str) -> &'static str {
    match kind {
        "boolean" => "true or false",
        "integer" | "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        _ => "a group of keys",
    }
}

fn kinds(schema: &Value) -> String {
    match schema.get("format").and_then(Value::as_str) {
        Some("time") => return "a time such as 500ms or 2s".to_owned(),
        Some("endpoint") => return "an address such as \"10.0.0.11:80\"".to_owned(),
        Some(_) | None => {}
    }
    let mut kinds: Vec<&str> = types(schema).into_iter().map(article).collect();
    kinds.dedup();
    kinds.join(" or ")
}

fn hint(node: &Node, schema: &Value) -> String {
    match (&node.content, schema.get("format").and_then(Value::as_str)) {
        (Content::Scalar(Value::Number(number)), Some("time")) => format!("; write {number}s for seconds"),
        (Content::Scalar(value), _) if types(schema).contains(&"string") => format!("; write \"{value}\" in quotes"),
        (Content::Unset | Content::Scalar(_) | Content::List(_) | Content::Map(_), _) => String::new(),
    }
}

/// The word that was probably meant.
pub(super) fn meant(found: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(found, word), word));
    let best = near.filter(|(distance, _)| *distance <= 2.max(found.len() / 4)).min();
    best.map(|(_, word)| format!("; did you mean `{word}`?"))
        .unwrap_or_default()
}
