//! Whether a client is still there while its request is worked on.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::Conn;

/// So much of the next request is taken from a client that does not wait for its answer, in bytes.
const AHEAD: usize = 16 * 1024;

/// A client that ends its direction may wait for its answer all the same (RFC 9112 section 9.6), or have closed its connection, and only something
/// that is sent to it tells which: an interim answer, which a client must expect (RFC 9110 section 15.2), and which a closed connection resets. Most
/// answers begin before this many milliseconds, and tell as well.
const HALF_CLOSED: u64 = 250;
/// Within an answer what is sent of it finds that out. A client is taken to have gone once nothing was sent for so many milliseconds.
const QUIET: u64 = 1_000;
/// How often it is looked whether the connection was reset.
const LOOK: Duration = Duration::from_millis(50);
const INTERIM: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";

/// The end of what a client sends.
#[derive(Debug)]
pub(super) struct Ended {
    /// Whether the answer to the request under way had begun.
    in_answer: bool,
    /// When it came, or when something was sent after it, in milliseconds after the connection's start.
    at: u64,
    /// Whether an interim answer was sent after it.
    asked: bool,
}

impl Conn {
    /// Ready once the client has gone. What it sends meanwhile is kept, of the body under way or of the next request.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ended.is_none() {
            if self.framer.input().len() >= AHEAD {
                if !self.strict.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                ready!(self.poll_read_closed(cx));
                continue;
            }
            let mut room = [MaybeUninit::uninit(); 2 * 1024];
            let mut part = ReadBuf::uninit(&mut room);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part)) {
                Ok(()) if part.filled().is_empty() => self.note_end(),
                Ok(()) => self.framer.input().extend_from_slice(part.filled()),
                // A client may end its direction without the alert of TLS.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => self.note_end(),
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        self.poll_closed(cx)
    }

    /// Ready once a client has ended its direction behind what is not read yet.
    #[allow(clippy::disallowed_methods)]
    fn poll_read_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
        loop {
            if self.stream.is_read_closed() {
                self.note_end();
                return Poll::Ready(());
            }
            ready!(look.as_mut().poll(cx));
            look.as_mut().reset(Instant::now() + LOOK);
        }
    }

    /// Notes that something is sent to a client that has ended its direction.
    pub(super) fn note_write(&mut self) {
        let now = self.ended.is_some().then(|| self.now());
        if let (Some(ended), Some(now)) = (&mut self.ended, now) {
            ended.at = now;
        }
    }

    fn note_end(&mut self) {
        self.ended = Some(Ended {
            at: self.now(),
            in_answer: self.has_begun,
            asked: false,
        });
    }

    /// Ready once a client that has ended its direction is known to take no answer.
    #[allow(clippy::disallowed_methods)]
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let strict = self.strict.load(Ordering::Relaxed);
        let takes_interim = self.framer.takes_interim();
        loop {
            let now = self.now();
            if let Some(e) = self.stream.take_error()? {
                return Poll::Ready(Err(e));
            }
            let Some(ended) = &mut self.ended else {
                return Poll::Pending;
            };
            let has_gone = if ended.in_answer {
                now >= ended.at + QUIET
            } else {
                strict && !takes_interim
            };
            if has_gone {
                return Poll::Ready(Ok(()));
            }
            // What is written of the answer finds out as well.
            if !ended.in_answer && (!takes_interim || self.has_begun && !ended.asked) {
                return Poll::Pending;
            }
            if !ended.in_answer && !ended.asked && (strict || now >= ended.at + HALF_CLOSED) {
                ended.asked = true;
                self.gathered.extend_from_slice(INTERIM);
                if let Poll::Ready(Err(e)) = self.poll_send_all(cx) {
                    return Poll::Ready(Err(e));
                }
            }
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            ready!(look.as_mut().poll(cx));
            look.as_mut().reset(Instant::now() + LOOK);
        }
    }
}
