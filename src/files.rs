//! Files that change while the gate runs. What tells one version of a file from another is decided here alone, for certificates, authorities,
//! endpoint files, checksums and logs alike.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::digest::{Context, Digest, SHA256};

use crate::clock;

/// A file whose change time is younger, in seconds, may be written again without another stamp: ext4 and XFS count in steps of 4 ms, some network
/// file systems in seconds.
const UNSETTLED: i64 = 2;

/// The byte order mark that some editors put before UTF-8 (RFC 3629 section 6).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What the metadata of a file tell of its version. Modification time and length alone are not enough: `cp -p` and `rsync -t` keep both. No program
/// sets the change time, and a link that is switched leads to another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of the file at `path`, links followed.
    ///
    /// # Errors
    /// There is no such file, or it may not be looked at.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|found| Self::of(&found))
    }

    /// The stamp that metadata tell.
    pub fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether both are stamps of one file, whatever it holds.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Files that are to be read again when one of them has changed.
#[derive(Debug)]
pub struct Followed(Vec<(PathBuf, Option<Version>)>);

impl Followed {
    /// Follows `paths`, of which none has been read yet.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (path, None)).collect())
    }

    /// Calls `read`. The versions of the files are noted before, so that a change which comes while they are read is found by the next look.
    pub fn read<T>(&mut self, read: impl FnOnce() -> T) -> T {
        self.note();
        let found = read();
        for (path, noted) in &mut self.0 {
            let differs = |before: &Version| Version::at(path, Some(before)).differs(before);
            if noted.as_ref().is_some_and(differs) {
                *noted = None;
            }
        }
        found
    }

    /// Calls `read` if a file has changed since it was called last.
    pub fn read_if_changed<T>(&mut self, read: impl FnOnce() -> T) -> Option<T> {
        self.note().then(|| self.read(read))
    }

    /// Notes the version of each file, and tells whether one is another than before.
    fn note(&mut self) -> bool {
        let mut changed = false;
        for (path, noted) in &mut self.0 {
            let version = Version::at(path, noted.as_ref());
            changed |= noted.as_ref().is_none_or(|before| version.differs(before));
            *noted = Some(version);
        }
        changed
    }
}

/// One version of a file.
#[derive(Clone, Copy, Debug)]
struct Version {
    /// None where there is no file.
    stamp: Option<Stamp>,
    /// What it holds; none where it cannot be read, or is no regular file.
    content: Option<Digest>,
    /// Whether another content would have another stamp.
    settled: bool,
}

impl Version {
    /// The version at `path`. Its content is read only where the stamp does not tell whether it is still the version `before`.
    fn at(path: &Path, before: Option<&Self>) -> Self {
        let found = std::fs::metadata(path).ok();
        let stamp = found.as_ref().map(Stamp::of);
        if let Some(before) = before.filter(|before| before.settled && before.stamp == stamp) {
            return *before;
        }
        // To read a pipe would take from it what it is there for.
        let regular = found.is_some_and(|found| found.is_file());
        let content = regular.then(|| digest(path).ok()).flatten();
        let old = |stamp: Stamp| clock::wall_seconds().saturating_sub(stamp.changed.0) >= UNSETTLED;
        Self {
            stamp,
            content,
            settled: !regular || (content.is_some() && stamp.is_some_and(old)),
        }
    }

    /// Whether it is another version than `other`. Where both contents are known they decide: a file that was merely touched is the same, and so is
    /// one on a file system that gives it another inode each time.
    fn differs(&self, other: &Self) -> bool {
        match (self.content, other.content) {
            (Some(own), Some(its)) => own.as_ref() != its.as_ref(),
            (own, its) => own.is_some() != its.is_some() || self.stamp != other.stamp,
        }
    }
}

/// The SHA-256 checksum (FIPS 180-4) of a file. It takes as long as the file is long.
///
/// # Errors
/// The file cannot be read.
pub fn digest(path: &Path) -> io::Result<Digest> {
    let (mut file, mut hash) = (File::open(path)?, Context::new(&SHA256));
    let mut part = vec![0; 64 * 1024];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hash.finish()),
            length => hash.update(part.get(..length).unwrap_or_default()),
        }
    }
}

/// `content` without the byte order mark that it may begin with.
pub fn without_mark(content: &[u8]) -> &[u8] {
    content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content)
}

/// `text` without the byte order mark that it may begin with.
pub fn text_without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Writes a file whose modification time is always the same.
    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
    }

    /// Waits until the change time of a file is old enough for its stamp to be believed.
    fn settle(followed: &mut Followed) {
        let settled = |followed: &Followed| followed.0.iter().all(|(_, one)| one.is_some_and(|one| one.settled));
        while !settled(followed) {
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert_eq!(followed.read_if_changed(|| ()), None);
        }
    }

    #[test]
    fn a_file_that_keeps_its_length_and_its_time_has_changed_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, "one");
        let read = || fs::read_to_string(&path).unwrap();
        let mut followed = Followed::new([path.clone()]);
        assert_eq!(followed.read_if_changed(read).as_deref(), Some("one"));
        assert_eq!(followed.read_if_changed(read), None);
        write(&path, "two");
        assert_eq!(followed.read_if_changed(read).as_deref(), Some("two"), "at once");
        settle(&mut followed);
        write(&path, "six");
        assert_eq!(followed.read_if_changed(read).as_deref(), Some("six"), "much later");
        assert_eq!(followed.read_if_changed(read), None);
    }

    #[test]
    fn a_link_that_is_switched_is_a_change_and_a_touch_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(at(version)).unwrap();
            write(&at(version).join("file"), text);
        }
        // As the kubelet writes volumes: what is read is a link into a folder that is itself a link.
        symlink("..1", at("..data")).unwrap();
        symlink("..data/file", at("file")).unwrap();
        let read = || fs::read_to_string(at("file")).unwrap();
        let mut followed = Followed::new([at("file")]);
        assert_eq!(followed.read(read), "one");
        settle(&mut followed);
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(followed.read_if_changed(read).as_deref(), Some("two"));
        let file = File::options().write(true).open(at("file")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1))
            .unwrap();
        assert_eq!(followed.read_if_changed(read), None, "it holds the same");
    }

    #[test]
    fn what_changes_while_it_is_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, "one");
        let mut followed = Followed::new([path.clone(), folder.path().join("other")]);
        let text = followed.read(|| {
            let text = fs::read_to_string(&path).unwrap();
            write(&path, "two");
            text
        });
        assert_eq!(text, "one");
        let read = || fs::read_to_string(&path).unwrap();
        assert_eq!(followed.read_if_changed(read).as_deref(), Some("two"));
        assert_eq!(followed.read_if_changed(read), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(followed.read_if_changed(|| ()), Some(()), "it is gone");
        assert_eq!(followed.read_if_changed(|| ()), None);
        write(&folder.path().join("other"), "");
        assert_eq!(followed.read_if_changed(|| ()), Some(()), "one of several");
    }

    #[test]
    fn a_pipe_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let mut followed = Followed::new([path]);
        assert_eq!(followed.read_if_changed(|| ()), Some(()));
        assert_eq!(followed.read_if_changed(|| ()), None);
    }
}
