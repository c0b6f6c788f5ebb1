//! The recording origin, in HTTP/1.1: it keeps every byte that arrives, and answers as the table says.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::ledger::{Arrival, Ledger, Reply, Then, When, echo, hash};
use crate::message::{Rendered, trial_of};
use crate::reader::{Fault, Framed, Head, Reader};
use crate::split;

/// An origin; dropped, it ends every connection.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Origin {
    pub(crate) async fn start(ledger: Arc<Ledger>, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let number = ledger.connection();
                let rng = fastrand::Rng::with_seed(seed ^ number);
                connections.spawn(serve(stream, ledger.clone(), rng));
            }
        });
        Self::serving(address, serving)
    }

    pub(crate) fn serving(address: SocketAddr, serving: JoinSet<()>) -> Self {
        Self {
            address,
            _serving: serving,
        }
    }
}

async fn serve(stream: TcpStream, ledger: Arc<Ledger>, mut rng: fastrand::Rng) {
    let (reader, mut writer) = stream.into_split();
    let (mut reader, mut before) = (Reader::new(reader), String::new());
    loop {
        let head = match reader.head().await {
            Ok(head) => head,
            Err(Fault::Malformed(why)) => {
                return ledger.record(unreadable(&why, &before));
            }
            Err(_) => return,
        };
        let line = head.start.clone();
        let target = head.target.clone();
        let reply = ledger.reply(&target);
        let early = reply.as_ref().filter(|reply| reply.when == When::Early);
        let mut then = Then::Keep;
        if let Some(reply) = early {
            then = answer(&mut writer, reply, &target, &mut rng).await;
        } else if head.says("expect", "100-continue") && !offer(&mut writer).await {
            return;
        }
        let is_early = early.is_some();
        if then == Then::Keep {
            let Some(arrival) = read(&mut reader, head, &before, &ledger).await else {
                return;
            };
            then = match &reply {
                Some(_) if is_early => Then::Keep,
                Some(reply) => answer(&mut writer, reply, &target, &mut rng).await,
                None => tell(&mut writer, &arrival).await,
            };
        }
        match then {
            Then::Keep => before = line,
            // Closed with bytes unread, the socket would be reset, and what was sent lost with it.
            Then::Close => return drop(reader.end().await),
            Then::Reset => return writer.forget(),
        }
    }
}

async fn offer(writer: &mut OwnedWriteHalf) -> bool {
    writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok()
}

fn unreadable(why: &str, before: &str) -> Arrival {
    Arrival {
        http2: false,
        before: before.to_owned(),
        line: String::new(),
        method: String::new(),
        target: Vec::new(),
        fields: Vec::new(),
        length: 0,
        hash: String::new(),
        trailers: Vec::new(),
        fault: Some(Fault::Malformed(why.to_owned())),
    }
}

/// Reads the rest of a request and records it; none where it did not come as a whole.
async fn read(reader: &mut Reader<OwnedReadHalf>, head: Head, before: &str, ledger: &Ledger) -> Option<Arrival> {
    let method = head.start.split(' ').next().unwrap_or_default();
    let mut arrival = unreadable("", before);
    (arrival.method, arrival.fault) = (method.to_owned(), None);
    arrival.target.clone_from(&head.target);
    arrival.line = head.start.clone();
    match head.framing(Framed::None) {
        Err(fault) => arrival.fault = Some(fault),
        Ok(framed) => {
            let body = reader.body(framed).await;
            (arrival.length, arrival.hash) = (body.body.len(), hash(&body.body));
            (arrival.trailers, arrival.fault) = (body.trailers, body.fault);
        }
    }
    arrival.fields = head.fields;
    if arrival.target != b"/healthz" {
        ledger.record(arrival.clone());
    }
    arrival.fault.is_none().then_some(arrival)
}

/// Answers with what arrived.
async fn tell(writer: &mut OwnedWriteHalf, arrival: &Arrival) -> Then {
    let body = echo(arrival);
    let trial = trial_of(&arrival.target).map_or(String::new(), |trial| format!("X-Trial: {trial}\r\n"));
    let head = format!("HTTP/1.1 200 OK\r\n{trial}Content-Length: {}\r\n\r\n", body.len());
    let body = if arrival.method == "HEAD" { "" } else { &body };
    match writer.write_all((head + body).as_bytes()).await {
        Ok(()) => Then::Keep,
        Err(_) => Then::Reset,
    }
}

/// Sends what was planned.
async fn answer(writer: &mut OwnedWriteHalf, reply: &Reply, target: &[u8], rng: &mut fastrand::Rng) -> Then {
    let trial = trial_of(target).unwrap_or_default();
    let mut all = Rendered::default();
    for interim in &reply.interim {
        all.bytes.extend(interim.render(trial).bytes);
        all.marks.push(all.bytes.len());
    }
    let last = reply.last.render(trial);
    let start = all.bytes.len();
    all.body = start + last.body;
    all.marks.extend(last.marks.iter().map(|mark| start + mark));
    all.bytes.extend(&last.bytes[..last.bytes.len() - reply.cut]);
    all.marks.retain(|mark| *mark < all.bytes.len());
    let mut segments = split::cut(&all, reply.split, rng);
    // What comes behind the end comes with it: later it would be taken for the answer to the next request by everyone.
    match segments.last_mut() {
        Some(last) => last.extend_from_slice(&reply.more),
        None => segments.push(reply.more.clone()),
    }
    if split::write(writer, &segments).await.is_err() {
        return Then::Reset;
    }
    match reply.then {
        Then::Keep => {}
        Then::Close => drop(writer.shutdown().await),
        Then::Reset => {
            // What was sent is to arrive first.
            split::apart().await;
            let _ = writer.as_ref().set_zero_linger();
        }
    }
    reply.then
}
