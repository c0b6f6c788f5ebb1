//! The recording origin, in HTTP/2 with prior knowledge, as gRPC servers speak it.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::ledger::{Arrival, Ledger, Reply, Then, When, echo, hash};
use crate::message::{Field, Framing, Message, Start, trial_of};
use crate::origin::Origin;
use crate::patience;
use crate::reader::Fault;
use crate::split;

impl Origin {
    pub(crate) async fn start_http2(ledger: Arc<Ledger>, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let number = ledger.connection();
                connections.spawn(serve(stream, ledger.clone(), seed ^ number));
            }
        });
        Self::serving(address, serving)
    }
}

async fn serve(stream: TcpStream, ledger: Arc<Ledger>, seed: u64) {
    let mut builder = h2::server::Builder::new();
    // Answers of the tables are as large as the client lets them be.
    builder
        .max_send_buffer_size(4 << 20)
        .max_header_list_size(256 << 10)
        .data_frame_budget(1 << 30);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let rng = fastrand::Rng::with_seed(seed ^ u64::from(respond.stream_id().as_u32()));
        streams.spawn(one(request, respond, ledger.clone(), rng));
    }
}

async fn one(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    ledger: Arc<Ledger>,
    mut rng: fastrand::Rng,
) {
    let (parts, mut body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let mut fields = fields(&parts.headers);
    if let Some(authority) = parts.uri.authority() {
        fields.push((b":authority".to_vec(), authority.as_str().into()));
    }
    let mut arrival = Arrival {
        http2: true,
        before: String::new(),
        line: String::new(),
        method: parts.method.to_string(),
        target: target.into(),
        fields,
        length: 0,
        hash: String::new(),
        trailers: Vec::new(),
        fault: None,
    };
    let reply = ledger.reply(&arrival.target);
    let early = reply.as_ref().filter(|reply| reply.when == When::Early);
    if let Some(reply) = early {
        let _ = answer(respond, reply, trial_of(&arrival.target).unwrap_or_default(), &mut rng).await;
        read(&mut body, &mut arrival).await;
        return ledger.record(arrival);
    }
    let expects = parts.headers.get("expect").is_some_and(|value| value == "100-continue");
    if expects {
        let interim = Response::builder().status(100).body(()).unwrap();
        let _ = respond.send_informational(interim);
    }
    read(&mut body, &mut arrival).await;
    ledger.record(arrival.clone());
    if arrival.fault.is_some() {
        return respond.send_reset(Reason::PROTOCOL_ERROR);
    }
    let trial = trial_of(&arrival.target).unwrap_or_default();
    let _ = match &reply {
        Some(reply) => answer(respond, reply, trial, &mut rng).await,
        None => tell(respond, &arrival, trial),
    };
}

async fn read(body: &mut h2::RecvStream, arrival: &mut Arrival) {
    let mut bytes = Vec::new();
    loop {
        match timeout(patience(), body.data()).await {
            Err(_) => arrival.fault = Some(Fault::Stuck),
            Ok(None) => break,
            Ok(Some(Ok(part))) => {
                let _ = body.flow_control().release_capacity(part.len());
                bytes.extend_from_slice(&part);
                continue;
            }
            Ok(Some(Err(e))) => arrival.fault = Some(Fault::Malformed(e.to_string())),
        }
        return;
    }
    (arrival.length, arrival.hash) = (bytes.len(), hash(&bytes));
    match timeout(patience(), body.trailers()).await {
        Err(_) => arrival.fault = Some(Fault::Stuck),
        Ok(Ok(trailers)) => arrival.trailers = trailers.as_ref().map(fields).unwrap_or_default(),
        Ok(Err(e)) => arrival.fault = Some(Fault::Malformed(e.to_string())),
    }
}

pub(crate) fn fields(headers: &HeaderMap) -> Vec<Field> {
    let fields = headers.iter();
    fields
        .map(|(name, value)| (name.as_str().into(), value.as_bytes().to_vec()))
        .collect()
}

fn tell(mut respond: SendResponse<Bytes>, arrival: &Arrival, trial: u64) -> Option<()> {
    let body = echo(arrival);
    let head = Response::builder()
        .header("x-trial", trial)
        .header("content-length", body.len())
        .body(())
        .unwrap();
    let is_head = arrival.method == "HEAD";
    let mut out = respond.send_response(head, is_head).ok()?;
    if is_head {
        return Some(());
    }
    out.send_data(body.into(), true).ok()
}

/// The fields of a message that HTTP/2 may have, and those that the table wants it to have.
pub(crate) fn headers(all: &[Field]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        let name = HeaderName::from_bytes(name).unwrap();
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

fn head(message: &Message, trial: u64) -> Response<()> {
    let Start::Answer { status, .. } = message.start else {
        panic!("HTTP/2 has no such answer: {message:?}");
    };
    let mut head = Response::builder().status(status).body(()).unwrap();
    *head.headers_mut() = headers(&message.fields);
    head.headers_mut().insert("x-trial", trial.into());
    if let Framing::Length(length) = message.framing {
        head.headers_mut().insert("content-length", (length as u64).into());
    }
    head
}

async fn answer(mut respond: SendResponse<Bytes>, reply: &Reply, trial: u64, rng: &mut fastrand::Rng) -> Option<()> {
    for interim in &reply.interim {
        respond.send_informational(head(interim, trial)).ok()?;
    }
    let body = reply.last.body(trial);
    let body = &body[..body.len().saturating_sub(reply.cut)];
    let ends = reply.then != Then::Reset && reply.cut == 0;
    let last = reply.last.trailers.is_empty();
    let mut out = respond
        .send_response(head(&reply.last, trial), ends && last && body.is_empty())
        .ok()?;
    send(&mut out, body, ends && last, rng).await?;
    if !ends {
        split::apart().await;
        out.send_reset(Reason::INTERNAL_ERROR);
    } else if !last {
        out.send_trailers(headers(&reply.last.trailers)).ok()?;
    }
    Some(())
}

/// Sends a body in parts of any size, as fast as the other side takes it.
pub(crate) async fn send(
    out: &mut SendStream<Bytes>,
    mut body: &'static [u8],
    ends: bool,
    rng: &mut fastrand::Rng,
) -> Option<()> {
    let most = [1, 100, 16 << 10, 1 << 20][rng.usize(..4)];
    let most = most.max(body.len() / 64);
    while !body.is_empty() {
        let part = body.len().min(rng.usize(1..=most));
        let mut left = part;
        while left > 0 {
            out.reserve_capacity(left);
            while out.capacity() == 0 {
                let granted = timeout(patience(), std::future::poll_fn(|cx| out.poll_capacity(cx))).await;
                granted.ok()??.ok()?;
            }
            let granted = out.capacity().min(left);
            let now;
            (now, body) = body.split_at(granted);
            left -= granted;
            out.send_data(Bytes::from_static(now), ends && body.is_empty()).ok()?;
        }
        if rng.u8(..4) == 0 {
            split::apart().await;
        }
    }
    Some(())
}
