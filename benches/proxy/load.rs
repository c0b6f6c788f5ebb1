//! The loads: clients that keep their connections and send the same request again as soon as it is answered.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::{Instant, timeout};

use crate::origin;

const CLIENTS: usize = 16;
/// A request that is not answered within this time has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A load by name, and the bytes of its request.
pub(crate) type Load = (&'static str, fn() -> Vec<u8>);

/// Which loads run is chosen by a part of their names; the first one is the usual one.
pub(crate) const LOADS: [Load; 4] = [
    ("small GET", small),
    ("uploads of 1 MiB with a Content-Length", length),
    ("uploads of 1 MiB in chunks of 16 KiB", || chunked(1 << 20, 16 << 10)),
    ("uploads of 256 KiB in chunks of 1 KiB", || chunked(256 << 10, 1 << 10)),
];

fn small() -> Vec<u8> {
    b"GET /v1/parameters?user=bench HTTP/1.1\r\nHost: dify.example\r\n\r\n".to_vec()
}

fn head(length: usize, framing: &str) -> Vec<u8> {
    let name = origin::LENGTH;
    let text = format!(
        "POST /v1/files/upload HTTP/1.1\r\nHost: dify.example\r\nContent-Type: application/octet-stream\r\n{name}: {length}\r\n{framing}\r\n\r\n"
    );
    text.into_bytes()
}

fn length() -> Vec<u8> {
    let length = 1 << 20;
    let mut request = head(length, &format!("Content-Length: {length}"));
    request.resize(request.len() + length, b'x');
    request
}

fn chunked(length: usize, chunk: usize) -> Vec<u8> {
    let mut request = head(length, "Transfer-Encoding: chunked");
    for _ in 0..length / chunk {
        request.extend(format!("{chunk:x}\r\n").bytes());
        request.resize(request.len() + chunk, b'x');
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    request
}

/// What became of the requests of a round.
#[derive(Default)]
pub(crate) struct Tally {
    /// Answered with 200, so the origin got the whole body.
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// Why one of them failed.
    pub(crate) failure: Option<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
    }
}

/// Sends as fast as the answers come. Every request that was begun within `time` is finished, so that its cost and its answer are both counted.
pub(crate) async fn run(address: SocketAddr, request: &Bytes, time: Duration) -> Tally {
    let until = Instant::now() + time;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(address, request.clone(), until)))
        .collect();
    let mut tally = Tally::default();
    for client in clients {
        tally.add(client.await.expect("a client"));
    }
    tally
}

async fn client(address: SocketAddr, request: Bytes, until: Instant) -> Tally {
    let (mut tally, mut kept) = (Tally::default(), None);
    while Instant::now() < until {
        let asked = timeout(PATIENCE, ask(address, kept.take(), &request)).await;
        match asked.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                tally.answered += 1;
                kept = Some(stream);
            }
            Err(e) => {
                tally.failed += 1;
                tally.failure = Some(e.to_string());
            }
        }
    }
    tally
}

/// Sends a request over a kept connection or a new one, which can be kept after that.
async fn ask(address: SocketAddr, kept: Option<TcpStream>, request: &[u8]) -> io::Result<TcpStream> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(address).await?,
    };
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    let mut is_sent = false;
    tokio::select! {
        biased;
        Err(e) = async { to.write_all(request).await.inspect(|()| is_sent = true) } => return Err(e),
        answer = answer(&mut from) => answer?,
    }
    if !is_sent {
        return Err(io::Error::other("it was answered before it was sent"));
    }
    Ok(stream)
}

/// Reads an answer, which must be a small 200.
async fn answer(from: &mut ReadHalf<'_>) -> io::Result<()> {
    const WELL: &[u8] = b"HTTP/1.1 200";
    let (mut buffer, mut read) = ([0; 8192], 0);
    while !buffer[..read].ends_with(b"}") {
        match from.read(&mut buffer[read..]).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            more => read += more,
        }
        if read >= WELL.len() && !buffer.starts_with(WELL) {
            return Err(io::Error::other(String::from_utf8_lossy(&buffer[..read])));
        }
    }
    Ok(())
}
