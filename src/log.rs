//! The log of events, on standard error: a thread of its own writes it. Libraries log by the same way, by `tracing` or by `log`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use prometheus::IntCounter;
use tracing::error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::lines::{Lines, Output, Writer, write_some};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Bytes of lines that may wait for the writer.
const WAITING: usize = 1024 * 1024;
/// Counts lines of this process that were not written.
///
/// # Errors
/// It has no valid name: a fault of this file.
pub fn dropped() -> prometheus::Result<IntCounter> {
    static DROPPED: OnceLock<IntCounter> = OnceLock::new();
    if let Some(dropped) = DROPPED.get() {
        return Ok(dropped.clone());
    }
    let fresh = IntCounter::new("log_lines_dropped_total", "Lines of the log that were not written.")?;
    Ok(DROPPED.get_or_init(|| fresh).clone())
}

/// The log of this process. When it is dropped, what waits is written, for at most a second.
#[derive(Debug)]
pub struct Log {
    lines: Arc<Lines>,
}

/// Starts the log of this process, with events of `level` and above.
///
/// # Errors
/// There is a log already, or there is no room for a descriptor or a thread.
pub fn start(level: LevelFilter, format: Format) -> anyhow::Result<Log> {
    let writer = Writer {
        name: "log",
        limit: WAITING,
        gather: Duration::ZERO,
        dropped: dropped()?,
    };
    let stderr = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot write a log")?;
    let output = Stderr(stderr.into());
    let lines = Arc::new(Lines::start(writer, output).context("cannot write a log")?);
    // The framework's own lines repeat what ours tell, without the cause, so only its errors are let through.
    let filter = Targets::new()
        .with_default(level)
        .with_target("pingora", LevelFilter::ERROR.min(level));
    let log = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(Queue(lines.clone()));
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Json => registry.with(log.json().flatten_event(true)).try_init()?,
        Format::Text => registry.with(log).try_init()?,
    }
    std::panic::set_hook(Box::new(tell_panic));
    Ok(Log { lines })
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

/// Logs a panic as any other event. The standard library would write to standard error itself, and wait there for whoever reads it.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        error!(%backtrace, "{panic}");
    } else {
        error!("{panic}");
    }
}

/// Hands lines to the writer.
struct Queue(Arc<Lines>);

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl io::Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the log is written.
struct Stderr(File);

impl Output for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_some(&self.0, bytes)
    }

    fn dropped(&mut self, lines: u64) {
        error!(lines, "{lines} log lines were dropped");
    }
}
