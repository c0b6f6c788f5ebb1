//! One JSON line a request. Writing never makes a request wait: lines go to a thread, and are dropped and counted when it cannot
//! keep up.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::Serialize;

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
    dropped: Arc<AtomicU64>,
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
    pub fn off() -> Self {
        Self {
            sender: None,
            sample: 0.0,
            dropped: Arc::default(),
        }
    }

    /// A log to standard output, with the share `sample` of unremarkable lines.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn stdout(sample: f64) -> io::Result<Self> {
        Self::to(Box::new(io::stdout()), sample)
    }

    /// A log appended to the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub fn file(path: &std::path::Path, sample: f64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Self::to(Box::new(file), sample)
    }

    fn to(output: Box<dyn Write + Send>, sample: f64) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(output, &receiver))?;
        Ok(Self {
            sender: Some(sender),
            sample,
            dropped: Arc::default(),
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
            self.dropped.fetch_add(1, Ordering::Relaxed);
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

    /// Records that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Writes what comes, many lines at once. An output that fails is tried again with the next lines: a full disk may be
/// emptied.
fn write(mut output: Box<dyn Write + Send>, receiver: &Receiver<Entry>) {
    let mut lines = Vec::new();
    let mut waiting = Vec::new();
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
        let _ = output.write_all(&lines).and_then(|()| output.flush());
        lines.clear();
        for done in waiting.drain(..) {
            // Whoever waited may have given up.
            let _ = done.try_send(());
        }
    }
}
