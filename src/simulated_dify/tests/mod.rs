//! Each behaviour, asked for over a bare socket as a gate or a client would.

mod api;
mod console;
mod faults;
mod journal;
mod probes;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Cluster, SimulatedDify};

/// Long enough to be sure that nothing comes, on a machine that is not stalled.
const SILENCE: Duration = Duration::from_millis(150);
/// Nothing here takes longer, except on a machine that is hung.
const PATIENCE: Duration = Duration::from_secs(60);

async fn one() -> SimulatedDify {
    SimulatedDify::start(&Cluster::new(), "dify-1").await.unwrap()
}

async fn send(dify: &SimulatedDify, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(dify.address()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: dify\r\nConnection: close\r\n\r\n")
}

fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: dify\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn streaming(events: u64, gap_ms: u64) -> Value {
    json!({"inputs": {"events": events, "gap_ms": gap_ms}, "query": "hi", "response_mode": "streaming", "user": "u"})
}

/// Everything until the end of the connection, orderly or not.
async fn rest(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask(dify: &SimulatedDify, request: &str) -> String {
    rest(send(dify, request).await).await
}

/// Reads until `wanted` has come, and returns what came so far.
async fn read_until(socket: &mut TcpStream, wanted: &str) -> String {
    let mut answer = String::new();
    while !answer.contains(wanted) {
        let mut piece = [0; 4096];
        let length = timeout(PATIENCE, socket.read(&mut piece)).await.unwrap().unwrap();
        assert!(length > 0, "{wanted:?} never came, only {answer:?}");
        answer.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
    answer
}

async fn is_silent(socket: &mut TcpStream) -> bool {
    timeout(SILENCE, socket.read_u8()).await.is_err()
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn content(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The value of the first `"key":"value"` in a stream.
fn field(stream: &str, key: &str) -> String {
    let start = stream.split_once(&format!("\"{key}\":\"")).unwrap().1;
    start.split('"').next().unwrap().to_owned()
}

fn ended_well(answer: &str) -> bool {
    answer.ends_with("0\r\n\r\n")
}
