//! Who changed what, when and why: one line of JSON for each change, each with the hash of the line before, so that a line that is changed or
//! removed later is noticed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The file's name.
const NAME: &str = "audit.jsonl";

/// The hash before the first line.
const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The most of the file that is read for its last lines.
const TAIL: u64 = 4 * 1024 * 1024;

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct AuditEntry {
    /// When, RFC 3339.
    pub time: String,
    /// The deployment or upstream that it is about.
    pub name: String,
    /// What was said, or `advance` where the gate acted by itself.
    pub verb: String,
    /// Who.
    pub actor: String,
    /// How it is known who that is.
    pub authenticated: String,
    /// Why.
    pub reason: String,
    /// The key that the command came with.
    pub key: Option<String>,
    /// The epoch before.
    pub from_epoch: u64,
    /// The epoch after.
    pub epoch: u64,
    /// The phase before.
    pub from_phase: String,
    /// The phase after.
    pub phase: String,
    /// The new pool's share of new requests after it.
    pub percent: u32,
    /// What was measured, in words.
    pub evidence: Vec<String>,
    /// The hash of the line before.
    pub previous: String,
    /// SHA-256 over this entry without this field, in hexadecimal.
    pub hash: String,
}

impl AuditEntry {
    fn digest(&self) -> io::Result<String> {
        let bare = Self {
            hash: String::new(),
            ..self.clone()
        };
        Ok(sha256(&serde_json::to_vec(&bare)?))
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file, shared by all who write to it.
#[derive(Clone, Debug)]
pub struct AuditLog(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// The hash of the last line; none before it was looked for.
    last: Option<String>,
    /// Lines that could not be written yet.
    pending: Vec<AuditEntry>,
}

impl AuditLog {
    /// The log in a folder.
    pub fn within(folder: &Path) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            path: folder.join(NAME),
            last: None,
            pending: Vec::new(),
        })))
    }

    /// Lets `keep` store a change with its entry, and writes the entry. Nobody else writes meanwhile, so that at most the last line is missing after
    /// a crash, and whoever stored it can bring it back by [`AuditLog::repair`].
    ///
    /// # Errors
    /// Nothing was stored. An entry that cannot be written after its change was stored waits for the next one.
    pub fn record(&self, mut entry: AuditEntry, keep: impl FnOnce(&AuditEntry) -> io::Result<()>) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entry.previous = match inner.pending.last() {
            Some(pending) => pending.hash.clone(),
            None => inner.last()?,
        };
        entry.hash = entry.digest()?;
        keep(&entry)?;
        inner.pending.push(entry);
        inner.flush();
        Ok(())
    }

    /// Writes an entry that was stored with its change, unless it is there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn repair(&self, entry: &AuditEntry) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.tail(usize::MAX)?;
        if known.iter().any(|other| other.hash == entry.hash) {
            return Ok(());
        }
        // An older one is further up in a long file; only the last one can be missing.
        let last = known.last().map_or(FIRST, |entry| &entry.hash);
        if entry.previous == last {
            inner.pending.push(entry.clone());
            inner.flush();
        }
        Ok(())
    }

    /// The last entries, oldest first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn tail(&self, most: usize) -> io::Result<Vec<AuditEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tail(most)
    }
}

/// The first entry that does not follow from the one before it, or was changed: its position.
pub fn broken(entries: &[AuditEntry]) -> Option<usize> {
    let changed = |entry: &AuditEntry| entry.digest().ok().as_ref() != Some(&entry.hash);
    (0..entries.len()).find(|index| {
        let entry = entries.get(*index);
        let before = index.checked_sub(1).and_then(|before| entries.get(before));
        entry.is_some_and(|entry| changed(entry) || before.is_some_and(|before| before.hash != entry.previous))
    })
}

impl Inner {
    fn last(&mut self) -> io::Result<String> {
        if let Some(last) = &self.last {
            return Ok(last.clone());
        }
        let last = self.tail(1)?.pop().map_or_else(|| FIRST.to_owned(), |entry| entry.hash);
        self.last = Some(last.clone());
        Ok(last)
    }

    fn tail(&self, most: usize) -> io::Result<Vec<AuditEntry>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let skipped = file.metadata()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(skipped))?;
        let mut lines = BufReader::new(file).lines();
        if skipped > 0 {
            // The first one is not whole.
            lines.next();
        }
        let mut entries = Vec::new();
        for line in lines {
            // A line that a crash left unfinished is none; its change brings it back.
            entries.extend(serde_json::from_str::<AuditEntry>(&line?));
        }
        let from = entries.len().saturating_sub(most);
        Ok(entries.split_off(from))
    }

    fn flush(&mut self) {
        while let Some(entry) = self.pending.first() {
            if let Err(e) = self.append(entry) {
                tracing::error!(error = %e, path = %self.path.display(), "the audit trail cannot be written; it is tried again with the next change");
                return;
            }
            self.last = Some(self.pending.remove(0).hash);
        }
    }

    fn append(&self, entry: &AuditEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(0o600)
            .open(&self.path)?;
        let length = file.metadata()?.len();
        if length > 0 {
            let mut last = [0];
            io::Read::read_exact(&mut at(&file, length - 1)?, &mut last)?;
            if last != *b"\n" {
                line.insert(0, b'\n');
            }
        }
        if let Err(e) = file.write_all(&line).and_then(|()| file.sync_data()) {
            // Half a line would be taken for the beginning of the next one.
            let _ = file.set_len(length);
            return Err(e);
        }
        Ok(())
    }
}

fn at(file: &File, position: u64) -> io::Result<File> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(position))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(epoch: u64) -> AuditEntry {
        AuditEntry {
            name: "dify".to_owned(),
            verb: "promote".to_owned(),
            epoch,
            ..AuditEntry::default()
        }
    }

    #[test]
    fn each_line_holds_the_hash_of_the_one_before_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        for epoch in 1..=3 {
            AuditLog::within(folder.path())
                .record(entry(epoch), |_| Ok(()))
                .unwrap();
        }
        let mut entries = AuditLog::within(folder.path()).tail(10).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0].previous, FIRST);
        assert_eq!(broken(&entries), None);
        entries[1].reason = "another one".to_owned();
        assert_eq!(broken(&entries), Some(1));
        entries.remove(1);
        assert_eq!(broken(&entries), Some(1));
    }

    #[test]
    fn what_was_not_stored_is_not_told_and_what_was_is_brought_back() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::within(folder.path());
        let refused = log.record(entry(1), |_| Err(io::ErrorKind::StorageFull.into()));
        assert!(refused.is_err() && log.tail(10).unwrap().is_empty());
        let mut stored = None;
        log.record(entry(2), |entry| {
            stored = Some(entry.clone());
            Ok(())
        })
        .unwrap();
        std::fs::write(folder.path().join(NAME), "{\"time\": \"half a li").unwrap();
        let again = AuditLog::within(folder.path());
        again.repair(&stored.unwrap()).unwrap();
        again.repair(&again.tail(1).unwrap()[0]).unwrap();
        let entries = again.tail(10).unwrap();
        assert_eq!((entries.len(), entries[0].epoch), (1, 2));
    }
}
