//! The reader of answers: heads, lengths and chunks of HTTP/1.1.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{at_once, cut, with_cuts};
use crate::http1::Connection;

/// An endpoint that has sent all that it will.
struct Sent<'b>(Vec<&'b [u8]>);

impl AsyncRead for Sent<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(part) = self.0.first_mut() {
            let (now, later) = part.split_at(part.len().min(buf.remaining()));
            buf.put_slice(now);
            *part = later;
            if later.is_empty() {
                self.0.remove(0);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sent<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An answer as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: Option<StatusCode>,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    /// Why it is not whole.
    fault: Option<String>,
    reusable: bool,
}

fn read(parts: Vec<&[u8]>, to_head: bool) -> Read {
    let mut connection = Connection::over(Sent(parts));
    let mut read = Read {
        status: None,
        fields: Vec::new(),
        body: Vec::new(),
        fault: None,
        reusable: false,
    };
    let head = match at_once(connection.head(to_head)) {
        Ok(head) => head,
        Err(e) => {
            read.fault = Some(e.to_string());
            return read;
        }
    };
    read.status = Some(head.status);
    let fields = head.headers.iter();
    read.fields = fields
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    loop {
        match at_once(connection.part()) {
            Ok(Some(part)) => read.body.extend_from_slice(&part),
            Ok(None) => break,
            Err(e) => {
                read.fault = Some(e.to_string());
                return read;
            }
        }
    }
    read.reusable = connection.is_reusable();
    read
}

/// The body of chunks that are written as RFC 9112 section 7.1 says, and where they end.
pub(super) fn plain_chunks(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let line = bytes.get(..bytes.windows(2).position(|pair| pair == b"\r\n")?)?;
        bytes = bytes.get(line.len() + 2..)?;
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            return None;
        }
        let digits = line.split(|byte| *byte == b';').next()?.trim_ascii_end();
        let digits = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| !digits.starts_with('+'))?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let line = bytes.get(..bytes.windows(2).position(|pair| pair == b"\r\n")?)?;
        bytes = bytes.get(line.len() + 2..)?;
        if line.is_empty() {
            return Some((body, bytes));
        }
    }
}

/// However an answer is cut, it is the same; and the end of chunks is where a plain reading of them has it.
pub fn answers(data: &[u8]) {
    let (cuts, bytes) = with_cuts(data);
    let to_head = data.first().is_some_and(|first| first & 8 != 0);
    let whole = read(vec![bytes], to_head);
    let parted = read(cut(bytes, cuts), to_head);
    // A line that is too long is noticed sooner or later, and so is one that has no end: both are errors either way.
    assert_eq!(
        whole.fault.is_some(),
        parted.fault.is_some(),
        "{whole:?} and {parted:?}"
    );
    if whole.fault.is_none() {
        assert_eq!(whole.body, parted.body);
        assert_eq!((&whole.status, &whole.fields), (&parted.status, &parted.fields));
    }
    let chunked = whole.fields.iter().any(|(name, _)| name == "transfer-encoding");
    let has_body = !to_head
        && whole
            .status
            .is_some_and(|status| !matches!(status.as_u16(), 100..200 | 204 | 304));
    if whole.fault.is_none() && chunked && has_body {
        let head = BytesMut::from(bytes);
        let mut room = [httparse::EMPTY_HEADER; 128];
        let length = httparse::Response::new(&mut room).parse(&head).unwrap().unwrap();
        let plain = plain_chunks(bytes.get(length..).unwrap_or_default());
        let (body, rest) = plain.unwrap_or_else(|| panic!("chunks that are none were taken: {whole:?}"));
        assert_eq!(body, whole.body);
        assert!(
            rest.is_empty() || !whole.reusable,
            "bytes behind the end, and it is reused"
        );
    }
}
