//! What distinguishes two configurations, key by key, as an operator would say it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Config;
use crate::gate::names::Address;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Change {
    /// Where, as the file writes it. Of a list the element's own name stands in brackets: an address, or a route's host and path.
    pub key: String,
    /// What stands there in the one that is in force.
    pub from: Option<String>,
    /// What stands there in the other.
    pub to: Option<String>,
    /// Whether a running gate goes on by what it started with.
    pub needs_restart: bool,
}

/// What a running gate cannot change: sockets that it has bound, threads that it has started, logs that it has opened.
const FIXED: &[&str] = &[
    "listeners",
    "admin",
    "server.threads",
    "server.upgrade_socket",
    "server.state_dir",
    "log",
];

/// Values below these keys may be secrets and are not told.
const SECRET: &[&str] = &["headers", "body", "webhook"];

/// What is shown of a long value.
const SHOWN: usize = 80;

/// What taking `to` for `from` would change, in the order of the keys in `from` and then of those that are new.
pub fn changes(from: &Config, to: &Config) -> Vec<Change> {
    let mut found = Vec::new();
    walk("", Some(&from.document), Some(&to.document), &mut found);
    let hide = |text: &str| to.secrets.hide(&from.secrets.hide(text));
    for change in &mut found {
        change.key = hide(&change.key);
        // Before it is cut short, or the beginning of a long secret would be taken for something else.
        change.from = change.from.as_deref().map(|text| brief(&hide(text)));
        change.to = change.to.as_deref().map(|text| brief(&hide(text)));
    }
    found
}

fn walk(key: &str, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<Change>) {
    match (from, to) {
        (from, to) if from == to => {}
        (Some(Value::Object(from)), Some(Value::Object(to))) => {
            let new = to.keys().filter(|name| !from.contains_key(*name));
            for name in from.keys().chain(new) {
                walk(&join(key, name), from.get(name), to.get(name), found);
            }
        }
        (Some(Value::Array(from)), Some(Value::Array(to))) => elements(key, from, to, found),
        (from, to) => found.push(Change {
            key: key.to_owned(),
            from: from.map(|value| shown(key, value)),
            to: to.map(|value| shown(key, value)),
            needs_restart: FIXED.iter().any(|fixed| is_below(key, fixed)),
        }),
    }
}

/// Elements are the same by their names, wherever they stand.
fn elements(key: &str, from: &[Value], to: &[Value], found: &mut Vec<Change>) {
    let before = found.len();
    let named = |list: &[Value], name: &str| list.iter().find(|element| element_name(element) == name).cloned();
    let mut names = BTreeSet::new();
    for element in from.iter().chain(to) {
        let name = element_name(element);
        if names.insert(name.clone()) {
            walk(
                &format!("{key}[{name}]"),
                named(from, &name).as_ref(),
                named(to, &name).as_ref(),
                found,
            );
        }
    }
    if found.len() == before {
        let order = |list: &[Value]| Value::from(list.iter().map(element_name).collect::<Vec<_>>());
        walk(
            &format!("{key} (order)"),
            Some(&order(from).to_string().into()),
            Some(&order(to).to_string().into()),
            found,
        );
    }
}

/// What an element of a list is called: its address in the spelling of all its spellings, its host and path, or itself.
fn element_name(element: &Value) -> String {
    let Value::Object(map) = element else {
        let text = element.as_str().map_or_else(|| element.to_string(), str::to_owned);
        return Address::parse(&text).map_or(text, |address| address.to_string());
    };
    let text = |key: &str| match map.get(key) {
        Some(Value::Array(several)) => several.iter().map(element_name).collect::<Vec<_>>().join(","),
        Some(value) => element_name(value),
        None => String::new(),
    };
    match text("address") {
        address if address.is_empty() => format!("{}{}", text("host"), text("path")),
        address => address,
    }
}

fn join(key: &str, name: &str) -> String {
    if key.is_empty() {
        name.to_owned()
    } else {
        format!("{key}.{name}")
    }
}

fn is_below(key: &str, above: &str) -> bool {
    key.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', ' ']))
}

fn shown(key: &str, value: &Value) -> String {
    if SECRET.iter().any(|secret| key.split('.').any(|part| part == *secret)) {
        return "(not shown)".to_owned();
    }
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "~ {}: {from} -> {to}", self.key)?,
            (Some(_), None) if self.key.ends_with(']') => write!(f, "- {}", self.key)?,
            (Some(from), None) => write!(f, "- {}: {from}", self.key)?,
            (None, Some(_)) if self.key.ends_with(']') => write!(f, "+ {}", self.key)?,
            (None, to) => write!(f, "+ {}: {}", self.key, to.as_deref().unwrap_or_default())?,
        }
        if self.needs_restart {
            f.write_str(" (takes effect after a restart)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn told(from: &str, to: &str) -> Vec<String> {
        let config = |text: &str| super::super::parse(text, Path::new("test.yaml"), &super::super::unset).unwrap();
        changes(&config(from), &config(to))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    const BEFORE: &str = "listeners: [{address: \"127.0.0.1:8080\"}]\nupstreams: {dify: {pools: {main: {endpoints: [\"10.0.0.1:80\", \"10.0.0.2:80\"]}}}}\n";

    #[test]
    fn nothing_is_told_of_the_same_in_another_writing() {
        let other = BEFORE.replace(
            "listeners: [{address: \"127.0.0.1:8080\"}]",
            "listeners:\n  - address: 127.0.0.1:8080",
        );
        assert!(told(BEFORE, &other).is_empty());
    }

    #[test]
    fn endpoints_are_told_by_their_addresses() {
        let after = BEFORE.replace(
            "\"10.0.0.1:80\", \"10.0.0.2:80\"",
            "{address: \"10.0.0.2:80\", weight: 2}, \"10.0.0.3:80\"",
        );
        assert_eq!(
            told(BEFORE, &after),
            [
                "- upstreams.dify.pools.main.endpoints[10.0.0.1:80]",
                "~ upstreams.dify.pools.main.endpoints[10.0.0.2:80]: 10.0.0.2:80 -> {\"address\":\"10.0.0.2:80\",\"weight\":2}",
                "+ upstreams.dify.pools.main.endpoints[10.0.0.3:80]",
            ]
        );
    }

    #[test]
    fn an_endpoint_in_another_spelling_is_the_same() {
        let before = BEFORE.replace("10.0.0.1:80", "localhost:80");
        let after = BEFORE.replace("10.0.0.1:80", "LOCALHOST:080");
        assert_eq!(
            told(&before, &after),
            ["~ upstreams.dify.pools.main.endpoints[localhost:80]: localhost:80 -> LOCALHOST:080"]
        );
    }

    #[test]
    fn what_needs_a_restart_says_so_and_secrets_are_not_told() {
        let after = BEFORE.replace("127.0.0.1:8080", "127.0.0.1:8081");
        assert_eq!(
            told(BEFORE, &after),
            [
                "- listeners[127.0.0.1:8080] (takes effect after a restart)",
                "+ listeners[127.0.0.1:8081] (takes effect after a restart)",
            ]
        );
        let secret = |value: &str| {
            BEFORE.replace(
                "{dify: {",
                &format!("{{dify: {{probe: {{headers: {{authorization: {value}}}}}, "),
            )
        };
        assert_eq!(
            told(&secret("one"), &secret("two")),
            ["~ upstreams.dify.probe.headers.authorization: (not shown) -> (not shown)"]
        );
    }

    #[test]
    fn a_secret_from_elsewhere_is_not_told_whatever_key_it_stands_under() {
        let with = |value: &str| {
            let text = BEFORE.replace(
                "{dify: {",
                "{dify: {probe: {host: \"${VIRTUAL_HOST_TOKEN}.internal\"}, ",
            );
            super::super::parse(&text, Path::new("test.yaml"), &|_| Ok(value.to_owned())).unwrap()
        };
        for second in ["second-token", &"long".repeat(40)] {
            let told = changes(&with("first-token"), &with(second));
            assert_eq!(told.len(), 1);
            assert_eq!(told[0].from.as_deref(), Some("(not shown).internal"));
            assert_eq!(told[0].to.as_deref(), Some("(not shown).internal"));
        }
    }

    #[test]
    fn another_order_is_a_change() {
        let after = BEFORE.replace("\"10.0.0.1:80\", \"10.0.0.2:80\"", "\"10.0.0.2:80\", \"10.0.0.1:80\"");
        let told = told(BEFORE, &after);
        assert!(
            told[0].starts_with("~ upstreams.dify.pools.main.endpoints (order): "),
            "{told:?}"
        );
    }
}
