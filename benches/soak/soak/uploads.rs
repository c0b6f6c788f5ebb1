//! Uploads in chunks, in every segmentation: none may be shorter at the endpoint than it was, and answered all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::LONGEST;
use super::bytes::{Body, Which};
use super::ledger::{Ledger, Seen};
use super::origin::Origins;
use super::plan::Plan;
use super::stage::{Stage, connect};
use crate::reader::{Framed, Reader};

/// So many uploads are under way at a time.
const AT_ONCE: usize = 32;

/// Sends so many uploads; the figures of the ledgers, and how long it took.
pub(crate) async fn uploads(count: usize, seed: u64) -> (super::ledger::Figures, Duration) {
    let ledger = Arc::new(Ledger::default());
    let origins = Origins::start(seed, ledger.clone()).await;
    let stage = Arc::new(Stage::set(&origins).await);
    let (room, start) = (Arc::new(Semaphore::new(AT_ONCE)), Instant::now());
    let mut sending = JoinSet::new();
    for id in 1..=count as u64 {
        let (stage, ledger, permit) = (
            stage.clone(),
            ledger.clone(),
            room.clone().acquire_owned().await.unwrap(),
        );
        sending.spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed ^ id.wrapping_mul(104_729));
            let plan = Plan::upload(seed, id);
            let seen = timeout(LONGEST, upload(&stage, &plan, &mut rng)).await;
            ledger.seen(plan, seen.unwrap_or_else(|_| Seen::Broken("stuck".to_owned())));
            drop(permit);
        });
    }
    while let Some(ended) = sending.join_next().await {
        ended.unwrap();
    }
    (ledger.compare(), start.elapsed())
}

/// The message as it goes over the wire: chunks of some sizes, with extensions and trailers now and then.
fn written(plan: &Plan, rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = format!(
        "POST {} HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n",
        plan.target()
    )
    .into_bytes();
    let mut body = Body::of(plan.id, Which::Up, plan.up.unwrap_or(0));
    let most = [1, 5, 16, 1_024, 1_448, 65_536][rng.usize(..6)].max(body.left() / 2_000);
    let even = rng.bool();
    while body.left() > 0 {
        let part = body.next(if even { most } else { rng.usize(1..=most) });
        let extension = match rng.u8(..20) {
            0 => ";a=b",
            1 => ";a=\"b c\";d",
            _ => "",
        };
        let zeros = "0".repeat(usize::from(rng.u8(..8) == 0) * 3);
        let line = if rng.bool() {
            format!("{zeros}{:x}{extension}\r\n", part.len())
        } else {
            format!("{zeros}{:X}{extension}\r\n", part.len())
        };
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(if rng.u8(..8) == 0 {
        b"0\r\nX-Trailer: a\r\n\r\n"
    } else {
        b"0\r\n\r\n"
    });
    bytes
}

/// Sends a message in segments of one kind.
async fn segments<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8], rng: &mut fastrand::Rng) -> std::io::Result<()> {
    let size = match rng.u8(..6) {
        0 if bytes.len() < 2_000 => 1,
        1 => 7.max(bytes.len() / 300),
        2 => 1_448,
        3 => bytes.len().max(1),
        // Any number of random segments.
        _ => 0,
    };
    let (mut rest, most) = (bytes, bytes.len() / rng.usize(1..60) + 2);
    while !rest.is_empty() {
        let part = if size == 0 { rng.usize(1..=most) } else { size };
        let (now, later) = rest.split_at(part.min(rest.len()));
        writer.write_all(now).await?;
        writer.flush().await?;
        rest = later;
        // Segments that are all sent at once are read at once.
        if rng.u8(..3) == 0 {
            tokio::time::sleep(Duration::from_micros(300)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn upload(stage: &Stage, plan: &Plan, rng: &mut fastrand::Rng) -> Seen {
    let bytes = written(plan, rng);
    let connected = if rng.bool() {
        connect(stage.clear, None)
            .await
            .map(|stream| Box::new(stream) as Box<dyn Stream>)
    } else {
        let secured = stage.secure(false, None).await;
        secured.map(|stream| Box::new(stream) as Box<dyn Stream>)
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(e) => return Seen::Broken(format!("no connection: {e}")),
    };
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Reader::new(reader);
    let sending = async {
        let _ = segments(&mut writer, &bytes, rng).await;
        std::future::pending::<()>().await;
    };
    let reading = async {
        let head = match reader.head().await {
            Ok(head) => head,
            Err(fault) => return Seen::Broken(format!("no answer: {fault:?}")),
        };
        let mut hash = super::bytes::Hashing::default();
        let framed = head.framing(Framed::UntilClose).unwrap_or(Framed::UntilClose);
        let body = reader.stream(framed, &mut |part| hash.add(part)).await;
        if let Some(fault) = body.fault {
            return Seen::Broken(format!("the answer broke off: {fault:?}"));
        }
        let id = head
            .one("x-id")
            .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        Seen::Whole(head.status(), id, hash.end())
    };
    tokio::select! {
        () = sending => Seen::Left,
        seen = reading => seen,
    }
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
