//! One JSON line a request. Writing never makes a request wait: lines go to a thread, and are dropped and counted when it cannot
//! keep up, or the disk is full. A file that was moved away is opened anew at its path, so logs are rotated without a word to the gate.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use prometheus::IntCounter;
use serde::Serialize;
use tracing::{info, warn};

/// What is told of a request.
#[derive(Debug, Serialize)]
pub struct AccessRecord<'a> {
    /// When its answer ended, RFC 3339.
    pub time: String,
    /// The id that it bore through the gate.
    pub request_id: &'a str,
    /// The listener that it came to.
    pub listener: &'a str,
    /// The client's address, or nothing where it cannot be told.
    pub client: Option<std::net::IpAddr>,
    /// The method.
    pub method: &'a str,
    /// The `Host`.
    pub host: &'a str,
    /// The path without its query, which may hold signatures; at most 512 bytes.
    pub path: &'a str,
    /// The status that the client got; 499 if it went away first.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: usize,
    /// Where it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// The pool of the last endpoint that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<&'a str>,
    /// The last endpoint that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'a str>,
    /// Endpoints that were tried.
    pub attempts: u32,
    /// From the request to the end of its answer.
    pub duration_ms: f64,
    /// From the request to the first byte of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<f64>,
    /// How it ended.
    pub end: &'static str,
    /// Why the gate itself refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<&'static str>,
}

/// Where records go.
#[derive(Clone, Debug)]
pub struct AccessLog {
    sender: Option<SyncSender<Entry>>,
    sample: f64,
    dropped: IntCounter,
}

/// What goes to the writer.
#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Everything before it is to be written, and this told then.
    Flush(SyncSender<()>),
}

/// Lines that may wait for the writer.
const WAITING: usize = 16 * 1024;
/// How long a line may wait for others to be written with it.
const GATHER: Duration = Duration::from_millis(50);

impl AccessLog {
    /// A log that forgets everything.
    pub fn off(dropped: IntCounter) -> Self {
        Self {
            sender: None,
            sample: 0.0,
            dropped,
        }
    }

    /// A log to standard output, with the share `sample` of unremarkable lines. Lines that are not written count in `dropped`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn stdout(sample: f64, dropped: IntCounter) -> io::Result<Self> {
        Self::to(Output::Stdout, sample, dropped)
    }

    /// A log appended to the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub fn file(path: &Path, sample: f64, dropped: IntCounter) -> io::Result<Self> {
        Self::to(Output::File(path.to_owned(), open(path)?), sample, dropped)
    }

    fn to(output: Output, sample: f64, dropped: IntCounter) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let lost = dropped.clone();
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(output, &receiver, &lost))?;
        Ok(Self {
            sender: Some(sender),
            sample,
            dropped,
        })
    }

    /// Whether a record is wanted; `remarkable` ones always are.
    pub fn wants(&self, remarkable: bool) -> bool {
        self.sender.is_some() && (remarkable || self.sample >= 1.0 || fastrand::f64() < self.sample)
    }

    /// Writes a record, or counts it as dropped.
    pub fn record(&self, record: &AccessRecord<'_>) {
        let Some(sender) = &self.sender else {
            return;
        };
        let mut line = Vec::with_capacity(384);
        let written = serde_json::to_writer(&mut line, record);
        line.push(b'\n');
        if written.is_err() || sender.try_send(Entry::Line(line)).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until everything recorded so far is written, but no longer than a second.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if let Some(sender) = &self.sender
            && sender.send(Entry::Flush(done)).is_ok()
        {
            // A writer that is stuck must not keep the process from ending.
            let _ = written.recv_timeout(Duration::from_secs(1));
        }
    }
}

/// Where lines are written.
enum Output {
    Stdout,
    File(PathBuf, File),
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Output {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout();
                stdout.write_all(lines).and_then(|()| stdout.flush())
            }
            Self::File(path, file) => {
                if has_moved(path, file) {
                    *file = open(path)?;
                    info!(path = %path.display(), "the access log was moved away, and goes on in a new file");
                }
                file.write_all(lines)
            }
        }
    }
}

/// Whether another file, or none, is where this one was opened.
fn has_moved(path: &Path, file: &File) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let there = std::fs::metadata(path).map(identity).ok();
    there != file.metadata().map(identity).ok()
}

/// Writes what comes, many lines at once. An output that fails is tried again with the next lines: a full disk may be
/// emptied. It is told of when it begins to fail and when it is over.
fn write(mut output: Output, receiver: &Receiver<Entry>, dropped: &IntCounter) {
    let mut lines = Vec::new();
    let mut waiting = Vec::new();
    let mut fails = false;
    while let Ok(first) = receiver.recv() {
        if matches!(first, Entry::Line(_)) {
            std::thread::sleep(GATHER);
        }
        for entry in std::iter::once(first).chain(receiver.try_iter()) {
            match entry {
                Entry::Line(line) => lines.extend(line),
                Entry::Flush(done) => waiting.push(done),
            }
        }
        if !lines.is_empty() {
            let written = output.write(&lines);
            if let Err(e) = &written {
                dropped.inc_by(lines.iter().filter(|byte| **byte == b'\n').count() as u64);
                if !fails {
                    warn!(error = %e, "access lines cannot be written, and are dropped");
                }
            } else if fails {
                info!("access lines are written again");
            }
            fails = written.is_err();
        }
        lines.clear();
        for done in waiting.drain(..) {
            // Whoever waited may have given up.
            let _ = done.try_send(());
        }
    }
}
