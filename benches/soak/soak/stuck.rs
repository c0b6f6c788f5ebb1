//! Answers within TLS to clients that begin to read late, or read slowly: what the gate has written must be sent without anybody asking again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::ledger::Ledger;
use super::origin::Origins;
use super::plan::Plan;
use super::stage::Stage;

/// So many answers are under way at a time.
const AT_ONCE: usize = 32;
/// An answer of which nothing comes for so long is stuck; the gate itself gives up after 75 s.
const STUCK: Duration = Duration::from_secs(8);

/// What became of the answers.
#[derive(Debug, Default)]
pub(crate) struct Stuck {
    pub(crate) answers: usize,
    pub(crate) stuck: usize,
    /// Bytes that did not come, of those that are stuck.
    pub(crate) missing: Vec<usize>,
    /// Answers that ended in another way than they should.
    pub(crate) broken: usize,
    pub(crate) took: Duration,
}

/// How a client reads.
#[derive(Clone, Copy, Debug)]
struct Reads {
    begins: Duration,
    /// So many bytes at a time, with this rest between.
    at_a_time: usize,
    rest: Duration,
}

/// Asks for so many answers.
pub(crate) async fn stuck(answers: usize, seed: u64) -> Stuck {
    let origins = Origins::start(seed, Arc::new(Ledger::default())).await;
    let stage = Arc::new(Stage::set(&origins).await);
    let (room, start) = (Arc::new(Semaphore::new(AT_ONCE)), Instant::now());
    let mut asking = JoinSet::new();
    for number in 0..answers {
        let (stage, permit) = (stage.clone(), room.clone().acquire_owned().await.unwrap());
        asking.spawn(async move {
            let missing = ask(&stage, seed, number as u64).await;
            drop(permit);
            missing
        });
    }
    let mut all = Stuck {
        answers,
        ..Stuck::default()
    };
    for (missing, was_silent) in asking.join_all().await {
        all.stuck += usize::from(was_silent);
        all.broken += usize::from(missing > 0 && !was_silent);
        all.missing.extend(Some(missing).filter(|_| was_silent));
    }
    all.took = start.elapsed();
    all
}

/// Asks for one answer; tells how many of its bytes did not come, and whether nothing came for long.
async fn ask(stage: &Stage, seed: u64, number: u64) -> (usize, bool) {
    let mut rng = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(7919));
    let length = rng.usize(300_000..8_000_000);
    let steps = rng.usize(20..400);
    let reads = Reads {
        begins: Duration::from_millis(rng.u64(0..300)),
        at_a_time: length / steps + 1,
        rest: Duration::from_millis(if rng.bool() { 0 } else { rng.u64(0..4) }),
    };
    let window = [64 << 10, 1 << 20, 16 << 20, 16 << 20][rng.usize(..4)];
    let room = Some([4_096, 16_384, 65_536, 212_992][rng.usize(..4)]);
    let http2 = number.is_multiple_of(2);
    let target = Plan::download(number, length).target();
    let Ok(stream) = stage.secure(http2, room).await else {
        return (length, false);
    };
    let read = if http2 {
        by_http2(stream, &target, window, reads, length).await
    } else {
        by_http1(stream, &target, reads, length).await
    };
    match read {
        Ok(read) => (length - read.min(length), false),
        Err(read) => (length - read.min(length), true),
    }
}

/// The bytes of an answer that came; an error where nothing more came for long.
async fn by_http1<S>(mut stream: S, target: &str, reads: Reads, length: usize) -> Result<usize, usize>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!("GET {target} HTTP/1.1\r\nHost: soak\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    if sent.is_err() || stream.flush().await.is_err() {
        return Ok(0);
    }
    sleep(reads.begins).await;
    let mut room = vec![0; reads.at_a_time.max(512)];
    let (mut head, mut read, mut in_head) = (Vec::new(), 0, true);
    while read < length {
        let Ok(come) = timeout(STUCK, stream.read(&mut room)).await else {
            return Err(read);
        };
        let Some(come) = come.ok().filter(|come| *come > 0) else {
            return Ok(read);
        };
        if in_head {
            head.extend_from_slice(&room[..come]);
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                (in_head, read) = (false, head.len() - end - 4);
            }
        } else {
            read += come;
        }
        if !reads.rest.is_zero() {
            sleep(reads.rest).await;
        }
    }
    Ok(read)
}

async fn by_http2<S>(stream: S, target: &str, window: u32, reads: Reads, length: usize) -> Result<usize, usize>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(window * 2);
    let Ok(Ok((client, connection))) = timeout(STUCK, builder.handshake::<_, Bytes>(stream)).await else {
        return Ok(0);
    };
    let driving = tokio::spawn(connection);
    let read = async {
        let mut client = client.ready().await.map_err(|_| 0_usize)?;
        let request = http::Request::get(format!("https://soak{target}")).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).map_err(|_| 0_usize)?;
        let Ok(answer) = timeout(STUCK, answer).await else {
            return Err(0);
        };
        let Ok(answer) = answer else {
            return Ok(0);
        };
        let (mut body, mut read) = (answer.into_body(), 0);
        sleep(reads.begins).await;
        while read < length {
            let Ok(part) = timeout(STUCK, body.data()).await else {
                return Err(read);
            };
            let Some(Ok(part)) = part else {
                return Ok(read);
            };
            read += part.len();
            if !reads.rest.is_zero() {
                sleep(reads.rest).await;
            }
            let _ = body.flow_control().release_capacity(part.len());
        }
        Ok(read)
    };
    let read = read.await;
    driving.abort();
    read
}
