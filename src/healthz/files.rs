//! Files that must be there: not smaller than they should be, and where asked for with the checksum that they should have. A checksum is read once,
//! from the start on, and again only after the file has changed: a model of ten gigabytes is not read by every probe.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest::SHA256_OUTPUT_LEN;
use tokio::task::spawn_blocking;

use super::check::Tools;
use crate::files::{Stamp, digest};

/// A file that must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Where.
    pub path: PathBuf,
    /// At least so many bytes.
    pub min_size: u64,
    /// What it holds.
    pub sha256: Option<Sha256>,
}

/// A checksum (FIPS 180-4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    fn of(path: &Path) -> io::Result<Self> {
        let digest = digest(path)?;
        let mut sum = [0; SHA256_OUTPUT_LEN];
        sum.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Ok(Self(sum))
    }
}

impl FromStr for Sha256 {
    type Err = ();

    /// Reads 64 hexadecimal digits, as `sha256sum` prints them.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(());
        }
        for (byte, start) in bytes.iter_mut().zip((0..64).step_by(2)) {
            let pair = text.get(start..start + 2).ok_or(())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The checksums of files as they were when they were read; none while one is being read.
type Known = BTreeMap<PathBuf, Option<(Stamp, Sha256)>>;

/// What is known of files.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    known: Mutex<Known>,
    /// The checks whose files are being looked at, by where each keeps its list.
    looking: Mutex<BTreeSet<usize>>,
}

impl Checksums {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looking(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The checksum of a file. It takes as long as the file is long, and goes on where nobody waits any more.
    fn of(&self, path: &Path) -> Result<Sha256, String> {
        let before = look(path)?;
        let mut known = self.known();
        match known.get(path) {
            Some(Some((then, sum))) if *then == Stamp::of(&before) => return Ok(*sum),
            Some(None) => return Err(format!("{}: its checksum is still being read", path.display())),
            Some(Some(_)) | None => known.insert(path.to_owned(), None),
        };
        drop(known);
        let read = Sha256::of(path);
        let mut known = self.known();
        known.remove(path);
        let sum = read.map_err(|e| format!("{}: {e}", path.display()))?;
        // One that grows while it is read is read again.
        known.insert(path.to_owned(), Some((Stamp::of(&before), sum)));
        Ok(sum)
    }
}

fn look(path: &Path) -> Result<Metadata, String> {
    std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// A disk that hangs holds a thread of its own, and not the answer; and one thread, however often somebody asks.
pub(super) async fn files(needed: &[Needed], tools: &Tools) -> Result<(), String> {
    let own = needed.as_ptr().addr();
    if !tools.checksums.looking().insert(own) {
        return Err("the last look at them has not come back".to_owned());
    }
    let (needed, checksums) = (needed.to_vec(), tools.checksums.clone());
    let looked = spawn_blocking(move || {
        let found = needed.iter().try_for_each(|file| file.look(&checksums));
        checksums.looking().remove(&own);
        found
    });
    looked.await.map_err(|e| e.to_string())?
}

impl Needed {
    fn look(&self, checksums: &Checksums) -> Result<(), String> {
        let path = self.path.display();
        let found = look(&self.path)?;
        if found.len() < self.min_size {
            let (has, wanted) = (found.len(), self.min_size);
            return Err(format!("{path}: {has} bytes, fewer than {wanted}"));
        }
        match self.sha256 {
            Some(wanted) if checksums.of(&self.path)? != wanted => Err(format!("{path}: its SHA-256 is another one")),
            Some(_) | None => Ok(()),
        }
    }

    /// Begins to read its checksum, where one is wanted, so that it is known when somebody asks.
    pub(super) fn begin(&self, checksums: &Arc<Checksums>) {
        if self.sha256.is_some() {
            let (this, checksums) = (self.clone(), checksums.clone());
            drop(spawn_blocking(move || this.look(&checksums)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_read_once_and_again_when_the_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let needed = Needed {
            path: path.clone(),
            min_size: 1,
            sha256: Some(abc.parse().unwrap()),
        };
        assert_eq!(format!("{:?}", needed.sha256.unwrap()), abc);
        let checksums = Checksums::default();
        assert_eq!(needed.look(&checksums), Ok(()));
        // What is known of the same file is believed: it is not read again.
        let stale = Stamp::at(&path).unwrap();
        let other = Sha256([0; 32]);
        checksums.known().insert(path.clone(), Some((stale, other)));
        assert!(
            needed
                .look(&checksums)
                .unwrap_err()
                .ends_with("its SHA-256 is another one")
        );
        std::fs::write(&path, "abcd").unwrap();
        assert!(
            needed
                .look(&checksums)
                .unwrap_err()
                .ends_with("its SHA-256 is another one")
        );
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(needed.look(&checksums), Ok(()));
        checksums.known().insert(path, None);
        assert!(needed.look(&checksums).unwrap_err().ends_with("still being read"));
    }

    #[test]
    fn only_whole_checksums_are_read() {
        for text in ["", "abc", &"g".repeat(64), &"+1".repeat(32), &"ä".repeat(32)] {
            assert_eq!(text.parse::<Sha256>(), Err(()), "{text}");
        }
    }
}
