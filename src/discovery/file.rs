//! Endpoints in a file: an address on each line, perhaps with its weight. Whoever writes it needs no word to the gate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Found, Look};
use crate::files::{Followed, text_without_mark};
use crate::gate::names::Address;

/// A file of endpoints that is read again when it has changed.
pub(super) struct Watched {
    path: PathBuf,
    followed: Followed,
}

impl Watched {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            followed: Followed::new([path.clone()]),
            path,
        }
    }

    /// What it says, if it has changed.
    pub(super) fn look(&mut self) -> Option<Result<Look, String>> {
        self.followed.read_if_changed(|| read(&self.path))
    }
}

fn read(path: &Path) -> Result<Look, String> {
    let place = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("{place}: {e}"))?;
    let lines = text_without_mark(&text).lines().enumerate();
    let found = lines.filter_map(|(index, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (!line.is_empty()).then(|| endpoint(line).map_err(|why| format!("{place}:{}: {why}", index + 1)))
    });
    let found = found.collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() {
        // It may be in the middle of being written.
        return Err(format!("{place}: it names no endpoint"));
    }
    Ok(Look {
        found,
        lasts: Duration::ZERO,
        stale: None,
    })
}

/// An endpoint of one line: `10.0.0.11:80` or `10.0.0.11:80 weight=2`.
fn endpoint(line: &str) -> Result<Found, String> {
    let mut words = line.split_whitespace();
    let text = words.next().unwrap_or_default();
    let address = Address::parse(text).map_err(|why| format!("`{text}`: {why}"))?;
    let weight = match words.next() {
        None => 1,
        Some(word) => word
            .strip_prefix("weight=")
            .and_then(|weight| weight.parse().ok())
            .filter(|weight| (1..=1_000).contains(weight))
            .ok_or_else(|| format!("`{word}` is no weight; write `weight=2`, from 1 to 1000"))?,
    };
    match words.next() {
        None => Ok(Found { address, weight }),
        Some(word) => Err(format!(
            "`{word}` means nothing here; a line is an address and perhaps `weight=2`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_address_and_perhaps_a_weight() {
        assert_eq!(endpoint("10.0.0.1:80").unwrap().weight, 1);
        assert_eq!(endpoint("dify-1:5001   weight=3").unwrap().weight, 3);
        for wrong in [
            "10.0.0.1",
            "10.0.0.1:80 weight=0",
            "10.0.0.1:80 2",
            "10.0.0.1:80 weight=2 x",
            "http://a:80",
        ] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_is_read_when_it_changes_and_an_error_names_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints");
        let mut watched = Watched::new(path.clone());
        assert!(watched.look().unwrap().is_err(), "it is not there yet");
        assert!(watched.look().is_none());
        std::fs::write(&path, "# ours\n10.0.0.1:80\n\n10.0.0.2:80 weight=2 # the large one\n").unwrap();
        assert_eq!(watched.look().unwrap().unwrap_or_else(|e| panic!("{e}")).found.len(), 2);
        assert!(watched.look().is_none());
        std::fs::write(&path, "10.0.0.1:80\nnonsense\n").unwrap();
        let Some(Err(why)) = watched.look() else {
            panic!("it was believed")
        };
        assert!(why.contains("endpoints:2: `nonsense`"), "{why}");
        std::fs::write(&path, "").unwrap();
        assert!(watched.look().unwrap().is_err());
    }

    #[test]
    fn a_file_of_the_same_length_and_time_is_read_again_and_its_byte_order_mark_is_no_endpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints");
        let mut watched = Watched::new(path.clone());
        for text in ["\u{feff}10.0.0.1:80\n", "\u{feff}10.0.0.2:80\n"] {
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            let found = watched.look().unwrap().unwrap_or_else(|e| panic!("{e}")).found;
            assert!(text.contains(found[0].address.as_str()), "{text}: {found:?}");
        }
        assert!(watched.look().is_none());
    }
}
