//! Writes lines from a thread of its own, so that no task waits for whoever reads a pipe or for a disk. What waits is bounded in bytes; a line
//! beyond that is dropped and counted.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use rustix::event::{PollFd, PollFlags, poll};

use crate::clock::Clock;

/// Where lines are written. Every method runs on the writer's thread.
pub trait Output: Send + 'static {
    /// Writes a part of `bytes` and returns its length. It may block.
    ///
    /// # Errors
    /// Nothing can be written, for now or for good: the whole lines that are left are dropped.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Reports the first of a series of writes that fail.
    fn failed(&mut self, _error: &io::Error) {}

    /// Reports the first write that succeeds after [`Output::failed`].
    fn recovered(&mut self) {}

    /// Reports lines that were dropped since the last report. It is called after a write that succeeded, at most once a second.
    fn dropped(&mut self, lines: u64);

    /// Is called about once a second while no write is under way.
    fn tick(&mut self) {}
}

/// What a writer is made of, beside its [`Output`].
#[derive(Debug)]
pub struct Writer {
    /// The thread's name, at most 15 bytes of which the system keeps.
    pub name: &'static str,
    /// Bytes that may wait, those of the write under way included.
    pub limit: usize,
    /// How long the first line of a batch waits for others, so that they share a system call.
    pub gather: Duration,
    /// Counts lines that were dropped.
    pub dropped: IntCounter,
}

/// A writer that runs. It writes what it has accepted and ends when this is dropped.
#[derive(Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes those who wait for the end of a batch.
    done: Condvar,
    limit: usize,
    gather: Duration,
    dropped: IntCounter,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Queue {
    /// Lines that wait for the next write.
    waiting: Vec<u8>,
    /// Bytes of the batch that is being written.
    writing: usize,
    /// When the output took something of it last, or the write began.
    since: Option<Instant>,
    /// Bytes accepted, and bytes written or given up, since the start.
    accepted: u64,
    finished: u64,
    /// Lines that were dropped and not reported yet.
    lost: u64,
    /// Whether somebody waits for what was accepted.
    hurried: bool,
    closed: bool,
}

/// How often [`Output::tick`] is called, and dropped lines are reported.
const TICK: Duration = Duration::from_secs(1);
/// How long [`Lines::flush`] waits. A process that is told to end must end, also if nobody reads its lines.
const FLUSH: Duration = Duration::from_secs(1);
/// Bytes that one write takes at most, as a pipe does: a reader that reads slowly is told from one that does not read.
const PART: usize = 64 * 1024;
/// Memory that a writer keeps for its next batch.
const KEPT: usize = 64 * 1024;

thread_local! {
    /// Whether this thread writes lines. Its own few lines, which report drops, are accepted beyond the limit.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

impl Lines {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn start(writer: Writer, output: impl Output) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            limit: writer.limit,
            gather: writer.gather,
            dropped: writer.dropped,
            clock: Clock::start(),
        });
        let own = shared.clone();
        std::thread::Builder::new()
            .name(writer.name.into())
            .spawn(move || Thread::new(own, output).run())?;
        Ok(Self(shared))
    }

    /// Queues `line`, which ends with its newline, or drops it. It never waits for the output.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.0.queue();
        let full = queue.waiting.len() + queue.writing + line.len() > self.0.limit;
        if full && !WRITES.get() {
            queue.lost += 1;
            drop(queue);
            return self.0.dropped.inc();
        }
        let first = queue.waiting.is_empty();
        queue.waiting.extend_from_slice(line);
        queue.accepted += line.len() as u64;
        drop(queue);
        if first {
            self.0.work.notify_one();
        }
    }

    /// Waits until everything accepted so far is written or given up, but no longer than a second, less the time for which the write under way has
    /// already waited: a reader that has not read for a second will not read now.
    pub fn flush(&self) {
        let mut queue = self.0.queue();
        let (target, now) = (queue.accepted, self.0.clock.now());
        let end = queue.since.unwrap_or(now) + FLUSH;
        queue.hurried = true;
        self.0.work.notify_one();
        let is_left = |queue: &mut Queue| queue.finished < target;
        let waited = self
            .0
            .done
            .wait_timeout_while(queue, end.saturating_duration_since(now), is_left);
        waited.unwrap_or_else(PoisonError::into_inner).0.hurried = false;
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.work.notify_one();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the writer's thread holds.
struct Thread<O> {
    shared: Arc<Shared>,
    output: O,
    batch: Vec<u8>,
    /// Whether the last write failed.
    fails: bool,
    /// Whether the output ends within a line.
    torn: bool,
    ticked: Instant,
}

impl<O: Output> Thread<O> {
    fn new(shared: Arc<Shared>, output: O) -> Self {
        Self {
            ticked: shared.clock.now(),
            shared,
            output,
            batch: Vec::new(),
            fails: false,
            torn: false,
        }
    }

    fn run(mut self) {
        WRITES.set(true);
        while self.next() {
            if !self.batch.is_empty() {
                self.write();
            }
            let now = self.shared.clock.now();
            if now.saturating_duration_since(self.ticked) >= TICK {
                self.ticked = now;
                self.output.tick();
                self.report();
            }
        }
    }

    /// Takes the next batch, which is empty after a second without lines. False when there will be none.
    fn next(&mut self) -> bool {
        let shared = self.shared.clone();
        let wait = |queue, time, idle: fn(&mut Queue) -> bool| {
            let waited = shared.work.wait_timeout_while(queue, time, idle);
            waited.unwrap_or_else(PoisonError::into_inner).0
        };
        let mut queue = wait(shared.queue(), TICK, |queue| queue.waiting.is_empty() && !queue.closed);
        if queue.waiting.is_empty() {
            return !queue.closed;
        }
        if !shared.gather.is_zero() {
            queue = wait(queue, shared.gather, |queue| !queue.hurried && !queue.closed);
        }
        std::mem::swap(&mut self.batch, &mut queue.waiting);
        queue.writing = self.batch.len();
        queue.since = Some(shared.clock.now());
        true
    }

    fn write(&mut self) {
        let written = self.write_batch();
        let lost = written.as_ref().err().map_or(0, |(_, lost)| *lost);
        self.shared.dropped.inc_by(lost);
        let finished = self.batch.len() as u64;
        self.batch.clear();
        if self.batch.capacity() > KEPT {
            self.batch = Vec::new();
        }
        let mut queue = self.shared.queue();
        (queue.writing, queue.since) = (0, None);
        queue.finished += finished;
        queue.lost += lost;
        drop(queue);
        self.shared.done.notify_all();
        let failed = std::mem::replace(&mut self.fails, written.is_err());
        match written {
            Err((e, _)) if !failed => self.output.failed(&e),
            Ok(()) if failed => {
                self.output.recovered();
                self.report();
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Writes the batch; on an error tells how many of its lines were not written as a whole.
    fn write_batch(&mut self) -> Result<(), (io::Error, u64)> {
        let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        if self.torn {
            let all = |e| (e, lines(&self.batch));
            self.output.write(b"\n").map_err(all)?;
            self.torn = false;
        }
        let mut left = self.batch.as_slice();
        while !left.is_empty() {
            match self.output.write(left.get(..PART).unwrap_or(left)) {
                Ok(written) if written > 0 => left = left.get(written..).unwrap_or_default(),
                Ok(_) => return Err((io::ErrorKind::WriteZero.into(), lines(left))),
                Err(e) => {
                    let sent = self.batch.len() - left.len();
                    let last = sent.checked_sub(1).and_then(|last| self.batch.get(last));
                    self.torn = last.is_some_and(|last| *last != b'\n');
                    return Err((e, lines(left)));
                }
            }
            self.shared.queue().since = Some(self.shared.clock.now());
        }
        Ok(())
    }

    /// Reports what was dropped, unless the output fails: then there is more to come.
    fn report(&mut self) {
        if self.fails {
            return;
        }
        let lost = std::mem::take(&mut self.shared.queue().lost);
        if lost > 0 {
            self.output.dropped(lost);
        }
    }
}

/// Writes a part of `bytes` to `file` and waits where it is full. A pipe that another process has made non-blocking is waited for as any other.
///
/// # Errors
/// The file cannot be written to.
pub fn write_some(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let mut writable = [PollFd::new(file, PollFlags::OUT)];
                match poll(&mut writable, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            written => return written,
        }
    }
}

#[cfg(test)]
mod tests;
