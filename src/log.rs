//! The log of events, on standard error: a thread of its own writes it, and what clients can cause again and again is limited. Libraries log by
//! the same way, by `tracing` or by `log`.

mod limit;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Debug;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use prometheus::IntCounter;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber, error, info, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::Clock;
use crate::lines::{Lines, Output, Writer, write_some};
use crate::log::limit::{Cause, Limiter, Place, Suppressed, Verdict};

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
/// The most of a suppressed line's text that its summary repeats, in characters.
const LIKE: usize = 160;

tokio::task_local! {
    /// The client that a task serves.
    static CLIENT: IpAddr;
}

/// Runs `future`, whose lines count as caused by `client`.
pub fn on_behalf_of<F: Future>(client: IpAddr, future: F) -> impl Future<Output = F::Output> {
    CLIENT.scope(client, future)
}

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
    limit: Limit,
}

/// Starts the log of this process, with events of `level` and above.
///
/// # Errors
/// There is a log already, or there is no room for a descriptor or a thread.
pub fn start(level: LevelFilter, format: Format) -> anyhow::Result<Log> {
    let limit = Limit::default();
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
    let output = Stderr(stderr.into(), limit.clone());
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
    let registry = tracing_subscriber::registry().with(filter).with(limit.clone());
    match format {
        Format::Json => registry.with(log.json().flatten_event(true)).try_init()?,
        Format::Text => registry.with(log).try_init()?,
    }
    std::panic::set_hook(Box::new(tell_panic));
    Ok(Log { lines, limit })
}

impl Drop for Log {
    fn drop(&mut self) {
        self.limit.report(true);
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
struct Stderr(File, Limit);

impl Output for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_some(&self.0, bytes)
    }

    fn dropped(&mut self, lines: u64) {
        error!(lines, "{lines} log lines were dropped");
    }

    fn tick(&mut self) {
        self.1.report(false);
    }
}

/// Lets a line pass, or counts it. Levels below `info` are for whoever looks for a fault, and are not limited.
#[derive(Clone, Debug)]
struct Limit {
    limiter: Arc<Mutex<Limiter>>,
    clock: Clock,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            limiter: Arc::default(),
            clock: Clock::start(),
        }
    }
}

impl Limit {
    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what was left out in windows that are over, or in all of them.
    fn report(&self, all: bool) {
        let now = (!all).then(|| self.clock.now());
        let reports = self.limiter().report(now);
        for Suppressed {
            level,
            lines,
            like,
            client,
        } in reports
        {
            let client = client.map(tracing::field::display);
            match level {
                Level::ERROR => error!(lines, client, like, "{lines} similar lines were suppressed"),
                Level::WARN => warn!(lines, client, like, "{lines} similar lines were suppressed"),
                _ => info!(lines, client, like, "{lines} similar lines were suppressed"),
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let level = *metadata.level();
        if level > Level::INFO {
            return true;
        }
        let mut line = Line::default();
        let own = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
        let record = metadata.target() == "log";
        if own || record {
            event.record(&mut line);
        }
        let place = if record {
            Place::Record(line.place.finish())
        } else {
            Place::Callsite(metadata.callsite())
        };
        let client = line.client.or_else(|| CLIENT.try_get().ok());
        let cause = match client {
            Some(client) => Cause::Client(client),
            None if own => Cause::Own(line.all.finish()),
            None => Cause::Unknown,
        };
        let now = self.clock.now();
        let verdict = self.limiter().admit(place.clone(), &cause, level, now);
        if verdict == Verdict::Describe {
            // Not under the lock: what makes the text may log as well.
            let mut text = Text::default();
            event.record(&mut text);
            self.limiter().describe(&place, text.0);
        }
        verdict == Verdict::Write
    }
}

/// What tells a line from others.
#[derive(Default)]
struct Line {
    /// The client that it names.
    client: Option<IpAddr>,
    /// Where a `log` record comes from.
    place: DefaultHasher,
    /// All that it says.
    all: DefaultHasher,
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "log.line" {
            value.hash(&mut self.place);
        }
        value.hash(&mut self.all);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "log.file" | "log.target" => value.hash(&mut self.place),
            "client" => self.client = value.parse().ok(),
            _ => {}
        }
        value.hash(&mut self.all);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Those of libraries are not needed, and take long to write.
        if !field.name().starts_with("log.") && field.name() != "message" {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

/// The text of a line, cut.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(LIKE).collect();
        }
    }
}
