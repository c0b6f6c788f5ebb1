//! Requests written byte by byte, since an HTTP library would tidy up just what is tested, and answers read as far as they go.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than any server here takes to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request for the host `h`.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a [u8],
    pub(crate) version: &'a str,
    /// Whole lines, each with its end.
    pub(crate) headers: &'a str,
}

impl<'a> Message<'a> {
    /// An ordinary request on a connection that ends with it.
    pub(crate) fn get(target: &'a [u8]) -> Self {
        Self {
            method: "GET",
            target,
            version: "HTTP/1.1",
            headers: "Host: h\r\nConnection: close\r\n",
        }
    }

    /// The same with other headers.
    pub(crate) fn with(self, headers: &'a str) -> Self {
        Self { headers, ..self }
    }

    /// Sends it on a new connection and reads the answer.
    pub(crate) fn send(self, address: SocketAddr) -> Answer {
        self.send_on(&mut connect(address))
    }

    /// Sends it on a connection that may have carried others, and reads the answer.
    pub(crate) fn send_on(self, stream: &mut (impl Read + Write)) -> Answer {
        let line = [self.method.as_bytes(), self.target, self.version.as_bytes()].join(&b' ');
        let message = [&line, self.headers.as_bytes(), b""].join(&b"\r\n"[..]);
        stream.write_all(&message).unwrap();
        read(stream, self.method == "HEAD")
    }
}

/// What came back.
pub(crate) struct Answer(Vec<u8>);

impl Answer {
    /// The status; `None` where there was no status line, as from servers that talk HTTP/0.9 to bad requests.
    pub(crate) fn status(&self) -> Option<u16> {
        let line = self.0.strip_prefix(b"HTTP/1.")?;
        std::str::from_utf8(line.get(2..5)?).ok()?.parse().ok()
    }

    /// Whether the gate refused it: it says why, or that there is nothing, or that it cannot read it.
    pub(crate) fn is_refusal(&self) -> bool {
        self.status().is_some_and(|status| (400..500).contains(&status))
    }

    pub(crate) fn head(&self) -> String {
        String::from_utf8_lossy(&self.0[..self.head_length().unwrap_or(self.0.len())]).to_lowercase()
    }

    pub(crate) fn json(&self) -> Value {
        let body = &self.0[self.head_length().unwrap_or(0)..];
        serde_json::from_slice(body).unwrap_or_else(|e| panic!("{e} in {}", String::from_utf8_lossy(&self.0)))
    }

    fn head_length(&self) -> Option<usize> {
        self.0.windows(4).position(|end| end == b"\r\n\r\n").map(|end| end + 4)
    }

    /// Whether all is there that was announced; without a length only the end of the connection tells.
    fn is_whole(&self, is_head: bool) -> bool {
        let Some(start) = self.head_length() else { return false };
        let head = self.head();
        let length = head
            .split("\r\n")
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        is_head || self.status() == Some(101) || length.is_some_and(|length| self.0.len() >= start + length)
    }
}

/// A connection that no silent server can hold for ever.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads one answer, or what there is of it when the server closes.
fn read(stream: &mut impl Read, is_head: bool) -> Answer {
    let mut answer = Answer(Vec::new());
    let mut piece = [0; 4096];
    while !answer.is_whole(is_head) {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.0.extend_from_slice(&piece[..length]),
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => break,
            Err(e) => panic!("{e} after {:?}", String::from_utf8_lossy(&answer.0)),
        }
    }
    answer
}

/// Sends `bytes` and reads everything until the server closes: the answers to all requests that it saw in them.
pub(crate) fn send_all(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(bytes).unwrap();
    let mut answers = Vec::new();
    // A reset ends the answers like a close does.
    let _ = stream.read_to_end(&mut answers);
    String::from_utf8_lossy(&answers).into_owned()
}
