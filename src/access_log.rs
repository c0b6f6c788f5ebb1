//! One JSON line a request. Writing never makes a request wait: lines go to a thread, and are dropped and counted when it cannot
//! keep up, or the disk is full. A file that was moved away is opened anew at its path, so logs are rotated without a word to the gate.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use serde::Serialize;
use tracing::{info, warn};

use crate::files::Stamp;
use crate::lines::{Lines, Output, Writer, write_some};

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
    lines: Option<Arc<Lines>>,
    sample: f64,
    dropped: IntCounter,
}

/// Bytes of lines that may wait for the writer: about 10,000 lines.
const WAITING: usize = 4 * 1024 * 1024;
/// How long a line may wait for others to be written with it.
const GATHER: Duration = Duration::from_millis(50);

impl AccessLog {
    /// A log that forgets everything.
    pub fn off(dropped: IntCounter) -> Self {
        Self {
            lines: None,
            sample: 0.0,
            dropped,
        }
    }

    /// A log to standard output, with the share `sample` of unremarkable lines. Lines that are not written count in `dropped`.
    ///
    /// # Errors
    /// There is no descriptor left, or no thread can be started.
    pub fn stdout(sample: f64, dropped: IntCounter) -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Self::to(Sink::Stdout(stdout.into()), sample, dropped)
    }

    /// A log appended to the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub fn file(path: &Path, sample: f64, dropped: IntCounter) -> io::Result<Self> {
        Self::to(Sink::File(path.to_owned(), open(path)?), sample, dropped)
    }

    fn to(sink: Sink, sample: f64, dropped: IntCounter) -> io::Result<Self> {
        let writer = Writer {
            name: "access-log",
            limit: WAITING,
            gather: GATHER,
            dropped: dropped.clone(),
        };
        Ok(Self {
            lines: Some(Arc::new(Lines::start(writer, sink)?)),
            sample,
            dropped,
        })
    }

    /// Whether a record is wanted; `remarkable` ones always are.
    pub fn wants(&self, remarkable: bool) -> bool {
        self.lines.is_some() && (remarkable || self.sample >= 1.0 || fastrand::f64() < self.sample)
    }

    /// Writes a record, or counts it as dropped.
    pub fn record(&self, record: &AccessRecord<'_>) {
        let Some(lines) = &self.lines else {
            return;
        };
        let mut line = Vec::with_capacity(384);
        if serde_json::to_writer(&mut line, record).is_err() {
            return self.dropped.inc();
        }
        line.push(b'\n');
        lines.push(&line);
    }

    /// Waits until everything recorded so far is written, but no longer than a second.
    pub fn flush(&self) {
        if let Some(lines) = &self.lines {
            lines.flush();
        }
    }
}

/// Where lines are written.
enum Sink {
    Stdout(File),
    File(PathBuf, File),
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// An output that fails is tried again with the next lines: a full disk may be emptied.
impl Output for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => write_some(stdout, bytes),
            Self::File(path, file) => {
                if has_moved(path, file) {
                    *file = open(path)?;
                    info!(path = %path.display(), "the access log was moved away, and goes on in a new file");
                }
                write_some(file, bytes)
            }
        }
    }

    fn failed(&mut self, error: &io::Error) {
        warn!(%error, "access lines cannot be written, and are dropped");
    }

    fn recovered(&mut self) {
        info!("access lines are written again");
    }

    fn dropped(&mut self, lines: u64) {
        warn!(lines, "{lines} access lines were dropped");
    }
}

/// Whether another file, or none, is where this one was opened.
fn has_moved(path: &Path, file: &File) -> bool {
    let open = file.metadata().map(|found| Stamp::of(&found));
    match (Stamp::at(path), open) {
        (Ok(there), Ok(open)) => !there.is_same_file(&open),
        // What cannot be opened anew either is told of then.
        (Err(_), _) | (_, Err(_)) => true,
    }
}
