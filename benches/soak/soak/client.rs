//! The clients of the soak: each keeps its connection for as long as it may, and writes into the ledger what it saw.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::LONGEST;
use super::bytes::{Body, Hashing, Which};
use super::ledger::{Ledger, Seen};
use super::origin::{begin, read_http2, send, step, write};
use super::plan::{Fault, Plan};
use crate::patience;
use crate::reader::{self, Framed, Head, Reader};

/// A connection that can be reset.
pub(crate) trait Resets: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Lets its end be a reset.
    fn reset_at_end(&self);
}

/// Carries exchanges out over one connection, one after the other, until it ends or all are done.
pub(crate) async fn one_by_one<S: Resets>(stream: S, plans: Vec<Plan>, ledger: &Ledger) {
    let resets = plans
        .last()
        .is_some_and(|plan| matches!(plan.fault, Fault::ClientResets(_)));
    if resets {
        stream.reset_at_end();
    }
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Reader::new(reader);
    // An answer may be awaited while its request is still sent.
    reader.patience = LONGEST;
    for plan in plans {
        let (seen, goes_on) = timeout(LONGEST, exchange(&mut reader, &mut writer, &plan))
            .await
            .unwrap_or((Seen::Broken("stuck".to_owned()), false));
        ledger.seen(plan, seen);
        if !goes_on {
            return;
        }
    }
}

/// Sends all requests at once and reads the answers in their order.
pub(crate) async fn pipelined<S: Resets>(stream: S, plans: Vec<Plan>, ledger: &Ledger) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Reader::new(reader);
    // An answer may be awaited while its request is still sent.
    reader.patience = LONGEST;
    let sending = async {
        for plan in &plans {
            if upload(&mut writer, plan).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut ended = None;
        for plan in &plans {
            let seen = if let Some(why) = ended {
                Seen::Broken(format!("behind a pipelined one after which the connection {why}"))
            } else {
                let answered = timeout(LONGEST, answer(&mut reader, plan)).await;
                let (seen, goes_on) = answered.unwrap_or_else(|_| (Seen::Broken("stuck".to_owned()), false));
                ended = (!goes_on).then_some("ended");
                seen
            };
            ledger.seen(*plan, seen);
        }
    };
    tokio::select! {
        () = sending => {}
        () = reading => {}
    }
}

async fn exchange<S: Resets>(reader: &mut Reader<ReadHalf<S>>, writer: &mut WriteHalf<S>, plan: &Plan) -> (Seen, bool) {
    if let Fault::ClientResets(_) = plan.fault {
        let _ = upload(writer, plan).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        return (Seen::Left, false);
    }
    let sending = async {
        // A gate that has given up takes no more, and has said why.
        let sent = upload(writer, plan).await;
        if plan.fault == Fault::ClientHalfCloses && sent.is_ok() {
            let _ = writer.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sending => (Seen::Left, false),
        seen = answer(reader, plan) => seen,
    }
}

/// Sends a request, or a part of it where its client gives up.
async fn upload<S: Resets>(writer: &mut WriteHalf<S>, plan: &Plan) -> std::io::Result<()> {
    let framing = match plan.up {
        None => String::new(),
        Some(_) if plan.chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Some(up) => format!("Content-Length: {up}\r\n"),
    };
    let method = if plan.up.is_some() { "POST" } else { "GET" };
    let head = format!("{method} {} HTTP/1.1\r\nHost: soak\r\n{framing}\r\n", plan.target());
    writer.write_all(head.as_bytes()).await?;
    begin(plan.writes).await;
    let Some(up) = plan.up else {
        return writer.flush().await;
    };
    let most = match plan.fault {
        Fault::ClientResets(at) => Some(at),
        _ => None,
    };
    let body = Body::of(plan.id, Which::Up, up);
    write(writer, body, most, plan.chunked, plan.writes, &mut plan.rng(2)).await
}

/// Reads an answer; tells whether the connection goes on.
async fn answer<S: Resets>(reader: &mut Reader<ReadHalf<S>>, plan: &Plan) -> (Seen, bool) {
    begin(plan.reads).await;
    (reader.at_most, reader.rest) = step(plan.reads);
    let broken = |what: &str, fault: &reader::Fault| (Seen::Broken(format!("{what} {fault:?}")), false);
    let head = match head(reader).await {
        Ok(head) => head,
        Err(fault) => return broken("no answer:", &fault),
    };
    let framed = match head.framing(Framed::UntilClose) {
        Ok(framed) => framed,
        Err(fault) => return broken("no framing:", &fault),
    };
    let (mut hash, mut read) = (Hashing::default(), 0);
    if let Fault::ClientLeaves(at) = plan.fault
        && plan.down > at
    {
        // A part is read, and the rest is left.
        let mut show = |part: &[u8]| read += part.len();
        let _ = timeout(
            Duration::from_millis(at as u64 / 1_000),
            reader.stream(framed, &mut show),
        )
        .await;
        return (Seen::Left, false);
    }
    let body = reader.stream(framed, &mut |part| hash.add(part)).await;
    (reader.at_most, reader.rest) = step(super::plan::Pace::Fast);
    let hash = hash.end();
    if let Some(fault) = body.fault {
        return broken(&format!("{} of {} bytes:", hash.0, plan.down), &fault);
    }
    let id = head
        .one("x-id")
        .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
    let goes_on = framed != Framed::UntilClose && !head.says("connection", "close");
    let goes_on = goes_on && plan.fault != Fault::ClientHalfCloses;
    (Seen::Whole(head.status(), id, hash), goes_on)
}

async fn head<R: AsyncRead + Unpin>(reader: &mut Reader<R>) -> Result<Head, reader::Fault> {
    loop {
        let head = reader.head().await?;
        if head.status() >= 200 {
            return Ok(head);
        }
    }
}

/// Carries exchanges out over one connection of HTTP/2, several at a time.
pub(crate) async fn at_once<S: Resets>(stream: S, plans: Vec<Plan>, window: u32, ledger: &Arc<Ledger>) {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(window.max(65_535).saturating_mul(2))
        .data_frame_budget(1 << 30)
        .enable_push(false);
    let Ok(Ok((client, connection))) = timeout(patience(), builder.handshake::<_, Bytes>(stream)).await else {
        for plan in plans {
            ledger.seen(plan, Seen::Broken("no handshake".to_owned()));
        }
        return;
    };
    let driving = tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for plan in plans {
        let (client, ledger) = (client.clone(), ledger.clone());
        streams.spawn(async move {
            let seen = timeout(LONGEST, one_http2(client, &plan)).await;
            ledger.seen(plan, seen.unwrap_or_else(|_| Seen::Broken("stuck".to_owned())));
        });
    }
    while streams.join_next().await.is_some() {}
    driving.abort();
}

async fn one_http2(client: SendRequest<Bytes>, plan: &Plan) -> Seen {
    let broken = |what: &str, e: h2::Error| Seen::Broken(format!("{what} {e}"));
    let mut head = Request::builder()
        .method(if plan.up.is_some() { "POST" } else { "GET" })
        .uri(format!("https://soak{}", plan.target()));
    if let (Some(up), false) = (plan.up, plan.chunked) {
        head = head.header("content-length", up);
    }
    let mut client = match client.ready().await {
        Ok(client) => client,
        Err(e) => return broken("not ready:", e),
    };
    let (answer, mut out) = match client.send_request(head.body(()).unwrap(), plan.up.is_none()) {
        Ok(sent) => sent,
        Err(e) => return broken("not sent:", e),
    };
    let uploading = async {
        begin(plan.writes).await;
        if let Some(up) = plan.up {
            let most = match plan.fault {
                Fault::ClientResets(at) => Some(at),
                _ => None,
            };
            let body = Body::of(plan.id, Which::Up, up);
            let sent = send(&mut out, body, most, plan.writes, &mut plan.rng(2)).await;
            if sent.is_some() && most.is_some() {
                out.send_reset(Reason::CANCEL);
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        let (parts, mut body) = match answer.await {
            Ok(answer) => answer.into_parts(),
            Err(e) => return broken("no answer:", e),
        };
        begin(plan.reads).await;
        let id = parts.headers.get("x-id").and_then(|id| id.to_str().ok()?.parse().ok());
        if let Fault::ClientLeaves(at) = plan.fault
            && at < plan.down
        {
            let _ = read_http2(&mut body, plan.reads, at.max(1)).await;
            return Seen::Left;
        }
        match read_http2(&mut body, plan.reads, usize::MAX).await {
            Some(hash) => Seen::Whole(parts.status.as_u16(), id, hash.end()),
            None => Seen::Broken("the answer broke off".to_owned()),
        }
    };
    tokio::select! {
        () = uploading => Seen::Left,
        seen = reading => if matches!(plan.fault, Fault::ClientResets(_)) { Seen::Left } else { seen },
    }
}
