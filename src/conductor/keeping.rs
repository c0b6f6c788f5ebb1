//! What is kept of cutovers: one file a name, so that one that is damaged takes no other with it.
//!
//! A file is written beside, synced and renamed; the five before it stay as copies. It holds its own checksum, and the audit entry of the change that
//! led to it. **A gate never begins with nothing where something was kept that cannot be read**: it would send users to the wrong pool.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tracing::error;

use crate::audit::{AuditEntry, AuditLog, sha256};
use crate::clock::Clock;
use crate::cutover::DeploymentSettings;
use crate::cutover::document::RecordDoc;
use crate::gate::cutover::Record;
use crate::store::Store;

/// Copies that are kept.
const COPIES: u32 = 5;

/// The form of the file.
const SCHEMA: u32 = 1;

/// Why a record cannot be had.
#[derive(Debug, Error)]
#[error(
    "{path} cannot be read, nor any of its copies ({why}): the gate would not know which pool of `{name}` is active. Bring a copy back, or move the file away to begin with the pool that the configuration names"
)]
pub struct Unreadable {
    name: String,
    path: String,
    why: String,
}

/// The file.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    schema: u32,
    /// SHA-256 over `content` as it is written without white space.
    checksum: String,
    content: Value,
}

#[derive(Debug, Deserialize, Serialize)]
struct Content {
    /// What moved.
    upstreams: Vec<String>,
    record: RecordDoc,
    audit: AuditEntry,
}

/// Where records are kept.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(super) store: Store,
    audit: AuditLog,
    clock: Clock,
}

fn file(name: &str) -> String {
    format!("cutover-{name}.json")
}

impl Archive {
    /// The archive in a store.
    pub fn within(store: Store, audit: AuditLog, clock: Clock) -> Self {
        Self { store, audit, clock }
    }

    /// The audit trail beside it.
    pub fn audit(&self) -> AuditLog {
        self.audit.clone()
    }

    /// The record of a name, if anything was kept of it.
    ///
    /// # Errors
    /// Something was kept, and neither it nor a copy of it can be read.
    pub fn load(&self, name: &str) -> Result<Option<Record>, Unreadable> {
        let file = file(name);
        let first = self.read(&file);
        let why = match first {
            Ok(None) if !self.has_copies(&file) => return Ok(None),
            Ok(Some(kept)) => return Ok(Some(kept)),
            Ok(None) => "it is gone".to_owned(),
            Err(why) => why,
        };
        let path = self.store.path().join(&file).display().to_string();
        for copy in (1..=COPIES).map(|number| format!("{file}.{number}")) {
            if let Ok(Some(kept)) = self.read(&copy) {
                // The change that cannot be read is lost; what was before it is known to be whole.
                let aside = self.store.set_aside(&file).map(|path| path.display().to_string());
                error!(
                    path,
                    why,
                    copy,
                    aside = aside.unwrap_or_default(),
                    "what is kept of a cutover cannot be read: a copy of what was before counts"
                );
                return Ok(Some(kept));
            }
        }
        Err(Unreadable {
            name: name.to_owned(),
            path,
            why,
        })
    }

    /// The epoch that is kept, which another process may have written.
    pub fn epoch(&self, name: &str) -> Option<u64> {
        let kept = self.content(&file(name)).ok().flatten();
        kept.map(|content| content.record.epoch)
    }

    /// What is kept of names that are not among these: the name, what moved, and the pool that it is in. What cannot be read is nobody's.
    pub fn others(&self, deployments: &[DeploymentSettings]) -> Vec<(String, Vec<String>, String)> {
        let files = std::fs::read_dir(self.store.path()).into_iter().flatten().flatten();
        let names = files.filter_map(|file| {
            let file = file.file_name().into_string().ok()?;
            Some(file.strip_prefix("cutover-")?.strip_suffix(".json")?.to_owned())
        });
        let strange = names.filter(|name| deployments.iter().all(|deployment| deployment.name != *name));
        let kept = strange.filter_map(|name| {
            let content = self.content(&file(&name)).ok()??;
            Some((name, content.upstreams, content.record.active))
        });
        kept.collect()
    }

    /// Keeps a record in place of the one before, together with the entry that says why. It waits for the disk.
    ///
    /// # Errors
    /// It cannot be kept; what was kept stays.
    pub fn save(&self, deployment: &DeploymentSettings, record: &Record, entry: AuditEntry) -> io::Result<()> {
        let file = file(&deployment.name);
        let upstreams: Vec<String> = deployment.upstreams.iter().map(ToString::to_string).collect();
        self.audit.record(entry, |entry| {
            let content = serde_json::to_value(Content {
                upstreams: upstreams.clone(),
                record: RecordDoc::of(record, &self.clock),
                audit: entry.clone(),
            })?;
            let kept = Kept {
                schema: SCHEMA,
                checksum: sha256(content.to_string().as_bytes()),
                content,
            };
            self.store.copy(&file, COPIES)?;
            self.store.write(&file, &kept)
        })
    }

    fn has_copies(&self, file: &str) -> bool {
        (1..=COPIES).any(|number| matches!(self.store.text(&format!("{file}.{number}")), Ok(Some(_)) | Err(_)))
    }

    fn read(&self, file: &str) -> Result<Option<Record>, String> {
        let Some(content) = self.content(file)? else {
            return Ok(None);
        };
        let record = content.record.read(&self.clock)?;
        if let Err(e) = self.audit.repair(&content.audit) {
            error!(error = %e, "the audit trail cannot be read");
        }
        Ok(Some(record))
    }

    fn content(&self, file: &str) -> Result<Option<Content>, String> {
        let Some(text) = self.store.text(file).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let kept: Kept = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        if kept.schema != SCHEMA {
            return Err(format!("it has form {}, and this version reads {SCHEMA}", kept.schema));
        }
        if kept.checksum != sha256(kept.content.to_string().as_bytes()) {
            return Err("its checksum is wrong".to_owned());
        }
        serde_json::from_value(kept.content)
            .map(Some)
            .map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::gate::cutover::{Plan, Seen, Start, Verb};
    use crate::gate::names::{PoolName, UpstreamName};

    fn deployment() -> DeploymentSettings {
        DeploymentSettings {
            name: "dify".to_owned(),
            upstreams: vec![UpstreamName::new("api"), UpstreamName::new("web")],
        }
    }

    fn archive(folder: &Path) -> Archive {
        Archive::within(Store::open(folder).unwrap(), AuditLog::within(folder), Clock::start())
    }

    fn started(epochs: u64) -> Record {
        let start = Verb::Start(Box::new(Start {
            to: PoolName::new("green"),
            plan: Plan::default(),
            supersede: false,
        }));
        let mut record = Record::new(PoolName::new("blue"));
        let now = Instant::now();
        for epoch in 0..epochs {
            let verb = if epoch % 2 == 0 { &start } else { &Verb::Abort };
            let at = now + Duration::from_secs(epoch);
            record = record.command(verb, "ann", "release", &Seen::default(), at).unwrap();
        }
        if let Some(cutover) = &mut record.cutover {
            (cutover.baseline.requests, cutover.baseline.first_byte[5]) = (7, 7);
        }
        record.remembering("key", "asked")
    }

    #[test]
    fn what_is_kept_is_read_again_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive(folder.path());
        assert!(archive.load("dify").unwrap().is_none());
        let record = started(3);
        archive.save(&deployment(), &record, AuditEntry::default()).unwrap();
        let again = archive.load("dify").unwrap().unwrap();
        assert_eq!(
            RecordDoc::of(&again, &archive.clock),
            RecordDoc::of(&record, &archive.clock)
        );
        assert_eq!(again.cutover.unwrap().baseline, record.cutover.unwrap().baseline);
        assert_eq!(archive.epoch("dify"), Some(3));
        assert_eq!(archive.audit.tail(9).unwrap().len(), 1);
        assert!(archive.others(&[deployment()]).is_empty());
        let strange = (
            "dify".to_owned(),
            vec!["api".to_owned(), "web".to_owned()],
            "blue".to_owned(),
        );
        assert_eq!(archive.others(&[]), [strange]);
    }

    #[test]
    fn a_damaged_file_gives_way_to_the_copy_before_it_and_to_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive(folder.path());
        for epoch in 1..=8 {
            archive
                .save(&deployment(), &started(epoch), AuditEntry::default())
                .unwrap();
        }
        let path = folder.path().join("cutover-dify.json");
        let whole = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            whole.get(..whole.len() / 2).unwrap().to_owned(),
            whole.replace("blue", "bleu"),
            String::new(),
            whole.replace("\"schema\": 1", "\"schema\": 2"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(archive.load("dify").unwrap().unwrap().epoch, 7);
            assert!(folder.path().join("cutover-dify.json.unreadable").exists());
        }
        for number in 1..=COPIES {
            std::fs::write(folder.path().join(format!("cutover-dify.json.{number}")), "{").unwrap();
        }
        let refused = archive.load("dify").unwrap_err().to_string();
        assert!(
            refused.contains("cutover-dify.json") && refused.contains("which pool of `dify`"),
            "{refused}"
        );
        assert!(!folder.path().join("cutover-dify.json.6").exists());
    }
}
