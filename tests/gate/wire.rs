//! A client that writes bytes and reads answers, and hides nothing: every test sees what was on the wire.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::soon;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The status line and the headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its end.
    pub(crate) whole: bool,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.head, self.text()))
    }

    /// The name of the simulated instance that answered.
    pub(crate) fn instance(&self) -> &str {
        self.header("x-instance").unwrap_or("none")
    }

    /// The code of an error that the gate itself gave, in the shape of Dify's own.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        assert_eq!(body["status"], self.status, "{body}");
        assert!(
            body["message"].as_str().is_some_and(|message| !message.is_empty()),
            "{body}"
        );
        body["code"].as_str().unwrap().to_owned()
    }
}

/// One connection.
pub(crate) struct Wire(BufReader<TcpStream>);

impl Wire {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("bytes to be taken", self.0.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// Sends bytes, and tells whether the peer still takes them.
    pub(crate) async fn offer(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        soon("bytes to be taken or refused", self.0.write_all(bytes.as_ref()))
            .await
            .is_ok()
    }

    /// Reads a head, or nothing where the connection ends first.
    pub(crate) async fn try_head(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = soon("a head", self.0.read_until(b'\n', &mut head)).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("{head}"));
        Some(Answer {
            status,
            head,
            body: Vec::new(),
            whole: true,
        })
    }

    pub(crate) async fn head(&mut self) -> Answer {
        self.try_head()
            .await
            .unwrap_or_else(|| panic!("the connection ended before an answer"))
    }

    /// Reads an answer with its body.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await.unwrap_or_else(|| {
                answer.whole = false;
                None
            }) {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.header("content-length").map(|length| length.parse().unwrap()) {
            answer.body = vec![0; length];
            answer.whole = soon("a body", self.0.read_exact(&mut answer.body)).await.is_ok();
        } else if answer.status >= 200 && answer.status != 204 && answer.status != 304 {
            answer.whole = soon("a body", self.0.read_to_end(&mut answer.body)).await.is_ok();
        }
        answer
    }

    /// Reads one chunk: `Some(None)` is the last one, with the trailers behind it; `None` a connection that broke off.
    pub(crate) async fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let mut line = String::new();
        soon("a chunk", self.0.read_line(&mut line)).await.ok()?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        while size == 0 && line != "\r\n" {
            line.clear();
            let read = soon("trailers", self.0.read_line(&mut line)).await.ok()?;
            (read > 0).then_some(())?;
        }
        if size == 0 {
            return Some(None);
        }
        let mut data = vec![0; size + 2];
        soon("the rest of a chunk", self.0.read_exact(&mut data)).await.ok()?;
        data.truncate(size);
        Some(Some(data))
    }

    /// The next `data:` line of an event stream, through its chunks; nothing at the stream's end.
    pub(crate) async fn event(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if soon("an event", self.0.read_line(&mut line)).await.ok()? == 0 || line == "0\r\n" {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.trim_end().to_owned());
            }
        }
    }

    /// Reads so many bytes, or nothing where the connection ends first.
    pub(crate) async fn try_read(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        soon("bytes", self.0.read_exact(&mut bytes)).await.ok()?;
        Some(bytes)
    }

    pub(crate) async fn read(&mut self, length: usize) -> Vec<u8> {
        self.try_read(length)
            .await
            .unwrap_or_else(|| panic!("the connection ended too early"))
    }

    /// Says that nothing more is sent, waits until the peer ends the connection, and returns what it sent before.
    pub(crate) async fn end(&mut self) -> Vec<u8> {
        // The peer may have ended it already.
        let _ = self.0.shutdown().await;
        self.ended().await
    }

    /// Waits until the peer ends the connection, and returns what it sent before.
    pub(crate) async fn ended(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = soon("the end of the connection", self.0.read_to_end(&mut rest)).await;
        rest
    }
}

/// Sends one request on a connection of its own; `request` is a method and a target.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> Answer {
    ask_with(address, request, "", "").await
}

/// Sends one request with further header lines and a body.
pub(crate) async fn ask_with(address: SocketAddr, request: &str, headers: &str, body: &str) -> Answer {
    let mut wire = Wire::to(address).await;
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    wire.send(format!(
        "{request} HTTP/1.1\r\nHost: dify.example\r\nConnection: close\r\n{length}{headers}\r\n{body}"
    ))
    .await;
    wire.answer().await
}

/// The body of a chat request with so many events, so far apart.
pub(crate) fn chat(mode: &str, events: u64, gap_ms: u64) -> String {
    serde_json::json!({"inputs": {"events": events, "gap_ms": gap_ms}, "query": "hello", "user": "u", "response_mode": mode})
        .to_string()
}

/// A chat request as it stands on the wire.
pub(crate) fn chat_request(mode: &str, events: u64, gap_ms: u64) -> String {
    let body = chat(mode, events, gap_ms);
    let length = body.len();
    format!(
        "POST /v1/chat-messages HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
