//! A TCP relay that delays every byte by the same time each way. It limits no bandwidth, and holds a bounded number of bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

/// The most that one direction of a connection holds, in bytes. At 50 ms it lets 640 MiB a second pass, more than a sender here sends.
const HELD: usize = 32 << 20;
const PIECE: usize = 64 << 10;

/// A relay before one address.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    /// Bytes that came from clients.
    sent: Arc<AtomicU64>,
}

impl Relay {
    /// A relay that delays each way by `delay`.
    pub(crate) async fn before(target: SocketAddr, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, sent) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let count = sent.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, target, delay, count.clone()));
            }
        });
        Ok(Self { address, sent })
    }

    /// How many bytes clients have sent so far, on all connections.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

async fn relay(client: TcpStream, target: SocketAddr, delay: Duration, count: Arc<AtomicU64>) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::spawn(carry(from_server, to_client, delay, Arc::default()));
    carry(from_client, to_server, delay, count).await
}

/// Bytes, when they are due, and the room that they take; no bytes at the end.
type Piece = (Bytes, Instant, Option<OwnedSemaphorePermit>);

async fn carry(
    mut from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
    count: Arc<AtomicU64>,
) -> io::Result<()> {
    let (pieces, due) = mpsc::unbounded_channel();
    tokio::spawn(deliver(to, due));
    let room = Arc::new(Semaphore::new(HELD));
    let mut buffer = vec![0; PIECE];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let came = Instant::now();
        count.fetch_add(read as u64, Ordering::Relaxed);
        let permit = match read {
            0 => None,
            read => Some(room.clone().acquire_many_owned(read as u32).await.expect("a semaphore")),
        };
        let piece: Piece = (Bytes::copy_from_slice(&buffer[..read]), came + delay, permit);
        if pieces.send(piece).is_err() || read == 0 {
            return Ok(());
        }
    }
}

async fn deliver(mut to: impl AsyncWrite + Unpin, mut due: mpsc::UnboundedReceiver<Piece>) -> io::Result<()> {
    while let Some((bytes, at, _room)) = due.recv().await {
        sleep_until(at).await;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&bytes).await?;
    }
    Ok(())
}
