//! Tunnels are full duplex: neither direction waits for the other, and every byte arrives.

use difygate::server::Gate;
use ring::digest::{Context, Digest, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};

use crate::authority::Authority;
use crate::endpoints_http2::secured;
use crate::support::{Arrived, Upstream, dify_upstream, edge, gate, gate_before, until_idle};
use crate::tls::listener;

/// More than the buffers of all sockets on the way hold.
const LENGTH: usize = 64 << 20;
const PIECE: usize = 64 << 10;

/// A slow machine has so long for all of it.
const DEADLINE: Duration = Duration::from_secs(60);

const UPGRADE: &str = "GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// When a side reads.
#[derive(Clone, Copy, Debug)]
enum Reads {
    /// While it writes.
    Meanwhile,
    /// Once it has written everything.
    Afterwards,
}

/// Writes one binary frame of random bytes, and returns the hash of all that was written.
async fn write(mut to: impl AsyncWrite + Unpin, seed: u64) -> Digest {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut written = Context::new(&SHA256);
    let mut piece = vec![0x82, 0x7f];
    piece.extend((LENGTH as u64).to_be_bytes());
    for _ in 0..LENGTH / PIECE {
        let begun = piece.len();
        piece.resize(begun + PIECE, 0);
        random.fill(&mut piece[begun..]);
        written.update(&piece);
        to.write_all(&piece).await.unwrap();
        piece.clear();
    }
    to.flush().await.unwrap();
    written.finish()
}

/// Reads as much as the other side writes, and returns its hash.
async fn read(mut from: impl AsyncRead + Unpin) -> Digest {
    let mut read = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    let mut left = LENGTH + 10;
    while left > 0 {
        let room = PIECE.min(left);
        let length = from.read(&mut piece[..room]).await.unwrap();
        assert!(length > 0, "the tunnel ended {left} bytes too early");
        read.update(&piece[..length]);
        left -= length;
    }
    read.finish()
}

/// What one side wrote and read.
async fn both(stream: impl AsyncRead + AsyncWrite, seed: u64, reads: Reads) -> [Digest; 2] {
    let (from, to) = split(stream);
    match reads {
        Reads::Meanwhile => {
            let (written, read) = tokio::join!(write(to, seed), read(from));
            [written, read]
        }
        Reads::Afterwards => [write(to, seed).await, read(from).await],
    }
}

/// An endpoint that writes and reads through a tunnel, and tells the hashes of both.
async fn endpoint(reads: Reads) -> (Upstream, mpsc::UnboundedReceiver<[Digest; 2]>) {
    let (tell, told) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut arrived: Arrived| {
        let tell = tell.clone();
        async move {
            arrived.send(SWITCHED).await;
            tell.send(both(&mut arrived.stream, 1, reads).await).unwrap();
            arrived.closed().await;
        }
    })
    .await;
    (upstream, told)
}

/// Opens a tunnel through `stream`, and returns what the client wrote and read.
async fn client(mut stream: impl AsyncRead + AsyncWrite + Unpin, reads: Reads) -> [Digest; 2] {
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    both(stream, 2, reads).await
}

async fn agree(
    gate: &Gate,
    client: impl Future<Output = [Digest; 2]>,
    mut told: mpsc::UnboundedReceiver<[Digest; 2]>,
    case: &str,
) {
    let all = async { (client.await, told.recv().await.unwrap()) };
    let Ok((client, endpoint)) = timeout(DEADLINE, all).await else {
        panic!("{case}: the tunnel stalled");
    };
    assert_eq!(client[0].as_ref(), endpoint[1].as_ref(), "{case}: to the endpoint");
    assert_eq!(endpoint[0].as_ref(), client[1].as_ref(), "{case}: to the client");
    until_idle(gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_reads_only_once_it_has_written_holds_nothing_up() {
    for (at_client, at_endpoint) in [
        (Reads::Meanwhile, Reads::Meanwhile),
        (Reads::Afterwards, Reads::Meanwhile),
        (Reads::Meanwhile, Reads::Afterwards),
    ] {
        let (upstream, told) = endpoint(at_endpoint).await;
        let gate = gate_before(&[upstream.address], "").await;
        let stream = TcpStream::connect(edge(&gate)).await.unwrap();
        let case = format!("the client reads {at_client:?}, the endpoint {at_endpoint:?}");
        agree(&gate, client(stream, at_client), told, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_within_tls() {
    let (upstream, told) = endpoint(Reads::Meanwhile).await;
    let authority = Authority::new();
    let certificate = authority.shown("gate", &["dify.example.com"]);
    let text = format!(
        "{}{}",
        listener(&certificate, ""),
        dify_upstream(&[upstream.address], "")
    );
    let gate = gate(&text).await;
    let stream = secured(edge(&gate), &authority, "http/1.1").await;
    agree(&gate, client(stream, Reads::Afterwards), told, "within TLS").await;
}
