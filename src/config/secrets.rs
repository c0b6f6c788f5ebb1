//! What came into a configuration from elsewhere and must not be seen in what the gate says about it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::files::text_without_mark;

/// How a name of the environment begins that means a file.
pub const FILE: &str = "file:";

/// A secret file has at most so many bytes, so that no device is read without end.
const MOST: u64 = 64 * 1024;

/// Shorter values would be found everywhere by chance.
const LEAST: usize = 4;

/// Where values came from, and those that are secret: the content of files, and of variables that are named for a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    names: Vec<String>,
    /// The longest first, for one may be a part of another.
    hidden: Vec<String>,
}

/// The values themselves are nobody's business.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.names).finish()
    }
}

impl Secrets {
    pub(super) fn note(&mut self, name: &str, value: &str) {
        self.names.push(name.to_owned());
        if is_secret(name) && value.len() >= LEAST {
            // As it is, and as it stands in JSON.
            let quoted = serde_json::Value::from(value).to_string();
            let within = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            self.hidden.push(value.to_owned());
            self.hidden.extend(within.map(str::to_owned));
            self.hidden.sort_by_key(|hidden| std::cmp::Reverse(hidden.len()));
        }
    }

    /// Whether the configuration has a value from there.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// `text` without what is secret.
    pub fn hide(&self, text: &str) -> String {
        let hidden = self.hidden.iter();
        hidden.fold(text.to_owned(), |text, secret| text.replace(secret, "(not shown)"))
    }
}

/// The text of a file, without the byte order mark that some editors put before it and the end of its last line.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(io::Error::other(format!("it has more than {} KiB", MOST / 1024)));
    }
    Ok(text_without_mark(&text).trim_end_matches(['\r', '\n']).to_owned())
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let signs = ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL"];
    name.starts_with(&FILE.to_ascii_uppercase()) || signs.iter().any(|sign| name.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_begins_after_its_byte_order_mark_and_ends_before_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "\u{feff}hush\r\n").unwrap();
        assert_eq!(read(&path).unwrap(), "hush");
    }

    #[test]
    fn files_and_variables_named_for_a_secret_are_hidden_wherever_they_stand() {
        let mut secrets = Secrets::default();
        for (name, value) in [
            ("file:/run/secrets/probe", "s3cret-of-a-file"),
            ("API_TOKEN", "token-value"),
            ("DIFY_HOST", "10.0.0.9"),
            ("SHORT_KEY", "abc"),
        ] {
            secrets.note(name, value);
        }
        let shown = secrets.hide("Bearer s3cret-of-a-file token-value 10.0.0.9 abc");
        assert_eq!(shown, "Bearer (not shown) (not shown) 10.0.0.9 abc");
        for (name, value) in [("KEY_PART", "hush"), ("KEY_WHOLE", "hush-hush \"now\"")] {
            secrets.note(name, value);
        }
        let in_json = serde_json::json!({"key": "hush-hush \"now\""}).to_string();
        assert_eq!(secrets.hide(&in_json), r#"{"key":"(not shown)"}"#);
        assert!(secrets.has("DIFY_HOST") && !secrets.has("OTHER"));
        assert!(!format!("{secrets:?}").contains("s3cret"));
    }
}
