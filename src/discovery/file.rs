//! Endpoints in a file: an address on each line, perhaps with its weight. Whoever writes it needs no word to the gate.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{Found, Look};
use crate::gate::names::Address;

/// A file and what was seen of it last.
pub(super) struct Watched {
    path: PathBuf,
    seen: Option<Result<Stamp, String>>,
}

type Stamp = (SystemTime, u64);

impl Watched {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// What it says, if it has changed.
    pub(super) fn look(&mut self) -> Option<Result<Look, String>> {
        let stamp = std::fs::metadata(&self.path).and_then(|found| Ok((found.modified()?, found.len())));
        let stamp = stamp.map_err(|e| format!("{}: {e}", self.path.display()));
        if self.seen.as_ref() == Some(&stamp) {
            return None;
        }
        let looked = stamp.clone().and_then(|_| self.read());
        self.seen = Some(stamp);
        Some(looked)
    }

    fn read(&self) -> Result<Look, String> {
        let place = self.path.display();
        let text = std::fs::read_to_string(&self.path).map_err(|e| format!("{place}: {e}"))?;
        let lines = text.lines().enumerate().filter_map(|(index, line)| {
            let line = line.split('#').next().unwrap_or_default().trim();
            (!line.is_empty()).then(|| endpoint(line).map_err(|why| format!("{place}:{}: {why}", index + 1)))
        });
        let found = lines.collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            // It may be in the middle of being written.
            return Err(format!("{place}: it names no endpoint"));
        }
        Ok(Look {
            found,
            lasts: Duration::ZERO,
        })
    }
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
}
