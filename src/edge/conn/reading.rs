//! What the framework is given of a request: bytes that need no look go into its own buffer, the others through the reader of requests.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::Conn;
use crate::edge::framing::{Direct, SIZE_LINE, size_line};

/// What is read at once where the reader must see it.
const READ: usize = 16 * 1024;
/// The same of chunks.
const READ_CHUNKS: usize = 64 * 1024;

impl Conn {
    /// Gives the framework the next bytes of the request under way, or none at the end of the connection.
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.strict.load(Ordering::Relaxed) || self.held.load(Ordering::Relaxed) {
            return self.poll_gone(cx);
        }
        loop {
            let output = self.framer.output();
            if !output.is_empty() {
                let given = output.split_to(output.len().min(buf.remaining()));
                buf.put_slice(&given);
                return Poll::Ready(Ok(()));
            }
            if self.framer.is_over() && !self.goes_on() {
                return self.poll_gone(cx);
            }
            // What came before the fault is given first: an answer to it can tell of the fault.
            if let Err(malformed) = self.framer.advance()
                && self.framer.output().is_empty()
            {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, malformed)));
            }
            if !self.framer.output().is_empty() || self.framer.is_over() {
                continue;
            }
            let read = match self.framer.direct() {
                Some(Direct::Plain(left)) => return self.poll_plain(cx, buf, left),
                Some(Direct::Chunk(left)) if buf.remaining() > 2 * SIZE_LINE => return self.poll_chunk(cx, buf, left),
                None if self.framer.is_between() => match ready!(self.poll_head(cx, buf))? {
                    Some(read) => read,
                    None => return Poll::Ready(Ok(())),
                },
                Some(_) | None => ready!(self.poll_input(cx))?,
            };
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether bytes pass after the end of the request under way: those of the next one, or of a tunnel.
    fn goes_on(&mut self) -> bool {
        if self.switched.load(Ordering::Relaxed) {
            self.framer.tunnel();
            return true;
        }
        if !self.answered.swap(false, Ordering::Relaxed) {
            return false;
        }
        self.has_begun = false;
        self.framer.next();
        if !self.framer.is_between() {
            self.received(0);
        }
        true
    }

    /// Reads what needs no look into the framework's buffer.
    fn poll_plain(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, left: u64) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let mut limited = (&mut self.stream).take(left);
        ready!(Pin::new(&mut limited).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.framer.passed(read as u64);
        self.received(read);
        Poll::Ready(Ok(()))
    }

    /// Reads a part of a chunk into the framework's buffer, as a chunk of its own.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, left: u64) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let most = left.min((buf.remaining() - SIZE_LINE - 2) as u64);
        buf.put_slice(&size_line(0));
        let mut limited = (&mut self.stream).take(most);
        let polled = Pin::new(&mut limited).poll_read(cx, buf);
        let read = buf.filled().len() - before - SIZE_LINE;
        if read == 0 {
            buf.set_filled(before);
            return polled;
        }
        if let Some(line) = buf.filled_mut().get_mut(before..before + SIZE_LINE) {
            line.copy_from_slice(&size_line(read));
        }
        buf.put_slice(b"\r\n");
        self.framer.passed(read as u64);
        Poll::Ready(Ok(()))
    }

    /// Reads a head into the framework's buffer, where it stays if it is a whole one. `None` tells so; else how many bytes came.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Option<usize>>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let came = buf.filled_mut().get_mut(before..).unwrap_or_default();
        let read = came.len();
        let kept = self.framer.head_in_place(came);
        buf.set_filled(before + kept.unwrap_or(0));
        if read > 0 {
            self.received(read);
        }
        Poll::Ready(Ok(if kept.is_some() { None } else { Some(read) }))
    }

    /// Reads what the reader of requests must see.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = if self.framer.gathers() { READ_CHUNKS } else { READ };
        let input = self.framer.input();
        input.reserve(room);
        let read = ready!(pin!(self.stream.read_buf(input)).poll(cx))?;
        if read > 0 {
            self.received(read);
        }
        Poll::Ready(Ok(read))
    }
}
