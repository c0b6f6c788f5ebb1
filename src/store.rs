//! A folder for what is to outlive the process: JSON documents, each written anew as a whole, so that after a crash or on a full disk the last good
//! one is still there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::files::Stamp;

/// Why a folder cannot be used.
#[derive(Debug, Error)]
#[error("{} cannot be used: {why}", path.display())]
pub struct StoreError {
    path: PathBuf,
    why: String,
}

impl StoreError {
    fn at(path: &Path, why: String) -> Self {
        Self {
            path: path.to_owned(),
            why,
        }
    }
}

/// A folder that documents can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store(PathBuf);

impl Store {
    /// The store in a folder. One that is not there yet is made when something is to be kept, so only where that would fail is an error now.
    ///
    /// # Errors
    /// It is no folder, or nothing can be written there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let refused = |why| StoreError::at(path, why);
        let whole = std::path::absolute(path).map_err(|e| refused(e.to_string()))?;
        // Where the folder is to be made: below the first one that is there.
        let there = whole.ancestors().find(|folder| fs::symlink_metadata(folder).is_ok());
        let there = there.unwrap_or(Path::new("/"));
        if !there.is_dir() {
            return Err(refused(format!("{} is no folder", there.display())));
        }
        match access(there, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Ok(Self(whole)),
            Err(e) => Err(refused(format!("nothing can be written to {} ({e})", there.display()))),
        }
    }

    /// The same store once it has been written to.
    ///
    /// # Errors
    /// It cannot be.
    pub fn prepared(self) -> Result<Self, StoreError> {
        let tried = self
            .write(".difygate", &())
            .and_then(|()| fs::remove_file(self.0.join(".difygate")));
        match tried {
            Ok(()) => Ok(self),
            Err(e) => Err(StoreError::at(&self.0, format!("nothing can be written there ({e})"))),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What was kept under a name, if anything.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let text = self.text(name)?;
        text.map(|text| Ok(serde_json::from_slice(&text)?)).transpose()
    }

    /// The text that was kept under a name, if any.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn text(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Leaves what is kept under a name there as the first of `most` copies, `name.1`, `name.2` and so on; the oldest goes.
    ///
    /// # Errors
    /// A file cannot be renamed or linked. The document itself stays as it is.
    pub fn copy(&self, name: &str, most: u32) -> io::Result<()> {
        let at = |number: u32| self.0.join(format!("{name}.{number}"));
        let there = |result: io::Result<()>| match result {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let (last, own) = (Stamp::at(&at(1)), Stamp::at(&self.0.join(name)));
        if last.is_ok_and(|last| own.is_ok_and(|own| own.is_same_file(&last))) {
            // It is there already: what was to take its place could not be written.
            return Ok(());
        }
        for number in (1..most).rev() {
            there(fs::rename(at(number), at(number + 1)))?;
        }
        there(fs::hard_link(self.0.join(name), at(1)))
    }

    /// Puts something that cannot be read aside, for whoever wants to know what it was.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn set_aside(&self, name: &str) -> io::Result<PathBuf> {
        let aside = self.0.join(format!("{name}.unreadable"));
        fs::rename(self.0.join(name), &aside)?;
        Ok(aside)
    }

    /// Keeps something under a name, where only the gate's own user reads it. It takes the place of what was kept there at once or not at all, and
    /// lasts once this has returned. It waits for the disk.
    ///
    /// # Errors
    /// The disk is full, or nothing can be written there; what was kept stays.
    pub fn write(&self, name: &str, document: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(document)?;
        text.push(b'\n');
        self.keep(name, &text)
    }

    /// Keeps a text as [`Store::write`] keeps a document.
    ///
    /// # Errors
    /// As there.
    pub fn keep(&self, name: &str, text: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let (new, path) = (self.0.join(format!("{name}.new")), self.0.join(name));
        let written = write_whole(&new, text).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            // What is left of it takes room on a disk that may be full.
            let _ = fs::remove_file(&new);
        }
        written?;
        File::open(&self.0)?.sync_all()
    }
}

fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_document_is_copied_once_however_often_its_successor_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let there = |number: u32| folder.path().join(format!("a.{number}")).exists();
        store.copy("a", 2).unwrap();
        assert!(!there(1), "there is nothing to copy");
        for text in ["1", "2", "3"] {
            store.copy("a", 2).unwrap();
            store.copy("a", 2).unwrap();
            store.keep("a", text.as_bytes()).unwrap();
        }
        assert_eq!(store.text("a.1").unwrap().unwrap(), b"2");
        assert_eq!(store.text("a.2").unwrap().unwrap(), b"1");
        assert!(!there(3));
    }

    #[test]
    fn what_is_written_is_there_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let store = Store::open(&path).unwrap();
        assert!(!path.exists(), "nothing is kept yet");
        assert_eq!(store.read::<Vec<u32>>("list.json").unwrap(), None);
        for list in [vec![1, 2], vec![3]] {
            store.write("list.json", &list).unwrap();
            assert_eq!(store.read("list.json").unwrap(), Some(list));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("list.json"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_can_be_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fs::write(folder.path().join("list.json"), "[1, 2").unwrap();
        assert!(store.read::<Vec<u32>>("list.json").is_err());
        let aside = store.set_aside("list.json").unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), "[1, 2");
        assert_eq!(store.read::<Vec<u32>>("list.json").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.write("list.json", &[1]).unwrap();
        // A folder stands where the new one is to be written, also for root.
        fs::create_dir(folder.path().join("list.json.new")).unwrap();
        assert!(store.write("list.json", &[2]).is_err());
        assert_eq!(store.read("list.json").unwrap(), Some(vec![1]));
        // Nothing can be written to a device that is full.
        assert!(write_whole(Path::new("/dev/full"), b"x").is_err());
    }

    #[test]
    fn a_folder_that_cannot_be_had_is_an_error_that_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let below = Store::open(&file.join("state")).unwrap_err().to_string();
        assert!(
            below.contains("file/state") && below.contains("is no folder"),
            "{below}"
        );
        assert!(Store::open(&file).is_err());
        // Nobody writes there, root included, whom the system allows everything.
        let system = Store::open(Path::new("/proc/state")).and_then(Store::prepared);
        let system = system.unwrap_err().to_string();
        assert!(system.contains("nothing can be written"), "{system}");
        let own = Store::open(&folder.path().join("state")).unwrap().prepared().unwrap();
        assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0);
    }
}
