//! The writer before an output that takes exactly what a test says.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// What an output saw, in order.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Bytes(String),
    Failed,
    Recovered,
    Dropped(u64),
}

/// Takes each write only when the test says how: so many bytes, or an error.
struct Told(Receiver<io::Result<usize>>, Sender<Seen>);

impl Told {
    fn say(&self, seen: Seen) {
        self.1.send(seen).unwrap();
    }
}

impl Output for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Once the test is over, everything is taken.
        let taken = self.0.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
        // The test may have seen enough.
        let _ = self
            .1
            .send(Seen::Bytes(String::from_utf8_lossy(&bytes[..taken]).into_owned()));
        Ok(taken)
    }

    fn failed(&mut self, _: &io::Error) {
        self.say(Seen::Failed);
    }

    fn recovered(&mut self) {
        self.say(Seen::Recovered);
    }

    fn dropped(&mut self, lines: u64) {
        self.say(Seen::Dropped(lines));
    }
}

fn writer(limit: usize) -> Writer {
    Writer {
        name: "test",
        limit,
        gather: Duration::ZERO,
        dropped: IntCounter::new("dropped", "dropped").unwrap(),
    }
}

struct Scene {
    lines: Lines,
    dropped: IntCounter,
    tell: Sender<io::Result<usize>>,
    seen: Receiver<Seen>,
}

fn scene(limit: usize) -> Scene {
    let ((tell, told), (sender, seen), writer) = (channel(), channel(), writer(limit));
    let dropped = writer.dropped.clone();
    let lines = Lines::start(writer, Told(told, sender)).unwrap();
    Scene {
        lines,
        dropped,
        tell,
        seen,
    }
}

impl Scene {
    /// Waits until the writer has taken what waits, and stands in a write.
    fn stands(&self) {
        while self.lines.0.queue().writing == 0 {
            std::thread::yield_now();
        }
    }

    fn saw(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).unwrap()
    }
}

#[test]
fn beyond_the_limit_lines_are_dropped_counted_and_reported_once_it_writes_again() {
    let scene = scene(30);
    scene.lines.push(b"0123456789\n");
    scene.stands();
    for _ in 0..5 {
        scene.lines.push(b"abcdefgh\n");
    }
    assert_eq!(scene.dropped.get(), 3, "two of nine bytes fit beside one of eleven");
    scene.tell.send(Ok(usize::MAX)).unwrap();
    scene.tell.send(Ok(usize::MAX)).unwrap();
    assert_eq!(scene.saw(), Seen::Bytes("0123456789\n".into()));
    assert_eq!(scene.saw(), Seen::Bytes("abcdefgh\n".repeat(2)));
    assert_eq!(scene.saw(), Seen::Dropped(3));
}

#[test]
fn a_flush_waits_for_what_was_accepted_and_gives_up_where_nobody_reads() {
    let scene = scene(1_000);
    scene.lines.push(b"first\n");
    scene.stands();
    // The write does not end, and neither must the flush wait for it without end.
    scene.lines.flush();
    assert!(scene.lines.0.queue().finished == 0);
    scene.lines.push(b"second\n");
    scene.tell.send(Ok(usize::MAX)).unwrap();
    scene.tell.send(Ok(usize::MAX)).unwrap();
    while scene.lines.0.queue().finished < 13 {
        scene.lines.flush();
    }
}

#[test]
fn a_line_that_was_cut_by_an_error_ends_before_the_next_one() {
    let scene = scene(1_000);
    scene.lines.push(b"cut\n");
    scene.tell.send(Ok(2)).unwrap();
    scene.tell.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    assert_eq!(scene.saw(), Seen::Bytes("cu".into()));
    assert_eq!(scene.saw(), Seen::Failed);
    assert_eq!(scene.dropped.get(), 1);
    scene.lines.push(b"lost\n");
    scene.tell.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    while scene.dropped.get() < 2 {
        std::thread::yield_now();
    }
    scene.lines.push(b"whole\n");
    scene.tell.send(Ok(usize::MAX)).unwrap();
    scene.tell.send(Ok(usize::MAX)).unwrap();
    assert_eq!(scene.saw(), Seen::Bytes("\n".into()));
    assert_eq!(scene.saw(), Seen::Bytes("whole\n".into()));
    assert_eq!(scene.saw(), Seen::Recovered);
    assert_eq!(scene.saw(), Seen::Dropped(2));
}

#[test]
fn when_it_is_dropped_what_was_accepted_is_written() {
    let Scene { lines, tell, seen, .. } = scene(1_000);
    lines.push(b"last\n");
    drop((lines, tell));
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Bytes("last\n".into()));
    assert!(seen.recv_timeout(PATIENCE).is_err(), "the thread has ended");
}

#[test]
fn a_pipe_that_is_not_blocking_is_waited_for() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let file = File::from(std::os::fd::OwnedFd::from(writer));
    let writing = std::thread::spawn(move || {
        let mut left = 1_000_000;
        while left > 0 {
            left -= write_some(&file, &vec![b'x'; left]).unwrap();
        }
    });
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    writing.join().unwrap();
    assert_eq!(read.len(), 1_000_000);
}
