//! The endpoints of the soak, in HTTP/1.1 and HTTP/2: they read and answer as each exchange's plan says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::LONGEST;
use super::bytes::{Body, Hashing, Which};
use super::ledger::Ledger;
use super::plan::{Ends, Fault, Pace, Plan};
use crate::reader::{Framed, Reader};

/// The endpoints; dropped, they end every connection.
pub(crate) struct Origins {
    pub(crate) http1: SocketAddr,
    pub(crate) http2: SocketAddr,
    _serving: JoinSet<()>,
}

impl Origins {
    pub(crate) async fn start(seed: u64, ledger: Arc<Ledger>) -> Self {
        let (one, two) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let (http1, http2) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let mut serving = JoinSet::new();
        let other = ledger.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = one.accept().await {
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream, seed, ledger.clone()));
            }
        });
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = two.accept().await {
                let _ = stream.set_nodelay(true);
                connections.spawn(serve_http2(stream, seed, other.clone()));
            }
        });
        Self {
            http1,
            http2,
            _serving: serving,
        }
    }
}

/// How many bytes are written at a time, and how long is waited between.
pub(crate) fn step(pace: Pace) -> (usize, Duration) {
    match pace {
        Pace::Fast | Pace::Late(_) => (64 << 10, Duration::ZERO),
        Pace::Slow(bytes, rest) => (bytes, rest),
    }
}

/// Waits as a pace says before anything is done.
pub(crate) async fn begin(pace: Pace) {
    if let Pace::Late(late) = pace {
        tokio::time::sleep(late).await;
    }
}

async fn serve(stream: TcpStream, seed: u64, ledger: Arc<Ledger>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = Reader::new(reader);
    reader.patience = LONGEST;
    while let Ok(head) = reader.head().await {
        let target = head.start.split(' ').nth(1).unwrap_or_default();
        let Some(plan) = Plan::asked(seed, target) else {
            let ok = writer
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                .await;
            if ok.is_err() {
                return;
            }
            continue;
        };
        let Ok(framed) = head.framing(Framed::None) else {
            return;
        };
        // The endpoint's own pace follows from the exchange as well, and is not its client's.
        let pace = if plan.rng(3).u8(..8) == 0 {
            plan.writes
        } else {
            Pace::Fast
        };
        (reader.at_most, reader.rest) = step(pace);
        let mut hash = Hashing::default();
        let read = reader.stream(framed, &mut |part| hash.add(part)).await;
        if read.fault.is_some() {
            return;
        }
        (reader.at_most, reader.rest) = step(Pace::Fast);
        ledger.arrived(plan.id, hash.end());
        if answer(&mut writer, &plan).await.is_err() {
            return;
        }
        match plan.fault {
            Fault::OriginResets(_) => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let _ = writer.as_ref().set_zero_linger();
                return writer.forget();
            }
            Fault::OriginCuts(_) => return,
            _ if plan.ends == Ends::Close => return,
            _ => {}
        }
    }
}

async fn answer(writer: &mut OwnedWriteHalf, plan: &Plan) -> std::io::Result<()> {
    let framing = match plan.ends {
        Ends::Length => format!("Content-Length: {}\r\n", plan.down),
        Ends::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Ends::Close => "Connection: close\r\n".to_owned(),
    };
    let head = format!("HTTP/1.1 200 OK\r\nX-Id: {}\r\n{framing}\r\n", plan.id);
    writer.write_all(head.as_bytes()).await?;
    let body = Body::of(plan.id, Which::Down, plan.down);
    let most = match plan.fault {
        Fault::OriginCuts(at) | Fault::OriginResets(at) => Some(at),
        _ => None,
    };
    write(
        writer,
        body,
        most,
        plan.ends == Ends::Chunked,
        plan.reads,
        &mut plan.rng(1),
    )
    .await
}

/// Writes a body, or so many bytes of it, in parts of any size.
pub(crate) async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut body: Body,
    most: Option<usize>,
    chunked: bool,
    pace: Pace,
    rng: &mut fastrand::Rng,
) -> std::io::Result<()> {
    let (at_a_time, rest) = step(pace);
    let (cut, mut left, mut unrested) = (most.is_some(), most.unwrap_or(body.left()), 0);
    // Of a large body few parts are small, or it would take all day.
    let small = at_a_time.min((body.left() / 500).max(1));
    while left > 0 {
        let most = if rng.u8(..4) == 0 { small } else { at_a_time };
        let part = body.next(left.min(rng.usize(1..=most)));
        left -= part.len();
        if chunked {
            let size = format!("{:x}{}\r\n", part.len(), if rng.u8(..9) == 0 { ";a=\"b\"" } else { "" });
            let line = [size.as_bytes(), part, b"\r\n"].concat();
            // A size line that is cut anywhere is a size line all the same.
            let cut = rng.usize(..line.len());
            writer.write_all(&line[..cut]).await?;
            if rng.u8(..3) == 0 {
                writer.flush().await?;
            }
            writer.write_all(&line[cut..]).await?;
        } else {
            writer.write_all(part).await?;
        }
        if rng.u8(..3) == 0 {
            writer.flush().await?;
        }
        unrested += part.len();
        if unrested >= at_a_time && !rest.is_zero() {
            unrested = 0;
            writer.flush().await?;
            tokio::time::sleep(rest).await;
        }
    }
    if chunked && !cut {
        writer.write_all(b"0\r\n").await?;
        writer.flush().await?;
        writer.write_all(b"\r\n").await?;
    }
    writer.flush().await
}

async fn serve_http2(stream: TcpStream, seed: u64, ledger: Arc<Ledger>) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .data_frame_budget(1 << 30);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.spawn(one_http2(request, respond, seed, ledger.clone()));
    }
}

async fn one_http2(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    seed: u64,
    ledger: Arc<Ledger>,
) -> Option<()> {
    let (parts, mut body) = request.into_parts();
    let plan = Plan::asked(seed, parts.uri.path())?;
    let hash = read_http2(&mut body, Pace::Fast, usize::MAX).await?;
    ledger.arrived(plan.id, hash.end());
    let head = Response::builder().header("x-id", plan.id);
    let head = if plan.ends == Ends::Length {
        head.header("content-length", plan.down)
    } else {
        head
    };
    let mut out = respond.send_response(head.body(()).unwrap(), false).ok()?;
    let body = Body::of(plan.id, Which::Down, plan.down);
    let most = match plan.fault {
        Fault::OriginCuts(at) | Fault::OriginResets(at) => Some(at),
        _ => None,
    };
    send(&mut out, body, most, plan.reads, &mut plan.rng(1)).await?;
    if most.is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        out.send_reset(Reason::INTERNAL_ERROR);
    }
    Some(())
}

/// Reads a body, or so many bytes of it; none where it breaks off.
pub(crate) async fn read_http2(body: &mut RecvStream, pace: Pace, most: usize) -> Option<Hashing> {
    let (at_a_time, rest) = step(pace);
    let (mut hash, mut read, mut unrested) = (Hashing::default(), 0, 0);
    while let Some(part) = body.data().await {
        let part = part.ok()?;
        hash.add(&part);
        read += part.len();
        if read >= most {
            return Some(hash);
        }
        unrested += part.len();
        if unrested >= at_a_time && !rest.is_zero() {
            unrested = 0;
            tokio::time::sleep(rest).await;
        }
        let _ = body.flow_control().release_capacity(part.len());
    }
    Some(hash)
}

/// Sends a body and its end, or so many bytes of it.
pub(crate) async fn send(
    out: &mut SendStream<Bytes>,
    mut body: Body,
    most: Option<usize>,
    pace: Pace,
    rng: &mut fastrand::Rng,
) -> Option<()> {
    let (at_a_time, rest) = step(pace);
    let (mut left, mut unrested) = (most.unwrap_or(body.left()), 0);
    while left > 0 {
        out.reserve_capacity(left.min(at_a_time));
        while out.capacity() == 0 {
            std::future::poll_fn(|cx| out.poll_capacity(cx)).await?.ok()?;
        }
        let most = rng.usize(1..=at_a_time);
        let part = body.next(left.min(out.capacity()).min(most));
        left -= part.len();
        out.send_data(Bytes::from_static(part), false).ok()?;
        unrested += part.len();
        if unrested >= at_a_time && !rest.is_zero() {
            unrested = 0;
            tokio::time::sleep(rest).await;
        }
    }
    if most.is_none() {
        out.send_data(Bytes::new(), true).ok()?;
    }
    Some(())
}
