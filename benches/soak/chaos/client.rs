//! The clients: each sends its exchanges one after the other and writes down what came of them. None sends anything a second time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use difygate::simulated_dify::content;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ledger::{End, Kind, Ledger, Seen, who};
use super::socket;
use crate::reader::{Fault, Framed, Head, Reader};

/// So many clients of each kind.
const CLIENTS: [(Kind, usize); 6] = [
    (Kind::Get, 8),
    (Kind::Download, 2),
    (Kind::Prompt, 4),
    (Kind::Stream, 10),
    (Kind::Upload, 3),
    (Kind::Socket, 4),
];

/// A connection to the gate.
pub(super) struct Wire {
    pub(super) reader: Reader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
}

impl Wire {
    async fn to(edge: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(edge).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            reader: Reader::new(reader),
            writer,
        })
    }
}

/// An exchange under way.
pub(super) struct Exchange {
    pub(super) id: u64,
    kind: Kind,
    sent: Instant,
    pub(super) began: Option<Instant>,
    status: Option<u16>,
    request: String,
    by: Option<usize>,
    sum: [u8; 20],
}

/// What a client needs.
#[derive(Clone)]
struct Client {
    edge: SocketAddr,
    ledger: Arc<Ledger>,
    next: Arc<AtomicU64>,
    until: Instant,
}

/// Clients of every kind, until a moment.
pub(crate) fn start(edge: SocketAddr, ledger: &Arc<Ledger>, seed: u64, until: Instant) -> JoinSet<()> {
    let client = Client {
        edge,
        ledger: ledger.clone(),
        next: Arc::new(AtomicU64::new(1)),
        until,
    };
    let mut clients = JoinSet::new();
    let kinds = CLIENTS
        .into_iter()
        .flat_map(|(kind, count)| std::iter::repeat_n(kind, count));
    for (number, kind) in kinds.enumerate() {
        let rng = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
        clients.spawn(client.clone().go_on(kind, rng));
    }
    clients
}

impl Client {
    /// Exchanges of one kind, over a connection that is kept for as long as the gate keeps it.
    async fn go_on(self, kind: Kind, mut rng: fastrand::Rng) {
        let mut kept: Option<Wire> = None;
        while Instant::now() < self.until {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let mut exchange = Exchange {
                id,
                kind,
                sent: Instant::now(),
                began: None,
                status: None,
                request: String::new(),
                by: None,
                sum: [0; 20],
            };
            let wire = match kept.take() {
                Some(wire) => Ok(wire),
                None => Wire::to(self.edge).await,
            };
            let end = match wire {
                Err(e) => End::Unconnected(e.kind().to_string()),
                Ok(mut wire) => {
                    let (end, keeps) = talk(&mut wire, &mut exchange, &mut rng).await;
                    kept = keeps.then_some(wire);
                    end
                }
            };
            self.ledger.seen(Seen {
                id,
                kind,
                sent: exchange.sent,
                began: exchange.began,
                status: exchange.status,
                request: exchange.request,
                ended: Instant::now(),
                by: exchange.by,
                end,
                sum: exchange.sum,
            });
            // Who was refused comes back a little later.
            let refused = kept.is_none() && kind != Kind::Socket;
            sleep(Duration::from_millis(rng.u64(20..200) + if refused { 300 } else { 0 })).await;
            if rng.u8(..8) == 0 {
                kept = None;
            }
        }
    }
}

/// One exchange: how it ended, and whether the connection is kept.
async fn talk(wire: &mut Wire, exchange: &mut Exchange, rng: &mut fastrand::Rng) -> (End, bool) {
    if exchange.kind == Kind::Socket {
        return (socket::talk(wire, exchange, rng).await, false);
    }
    let request = Request::of(exchange, rng);
    exchange.sent = Instant::now();
    // An answer may come before all of the request was sent, and stands whatever became of the rest.
    let written = write(&mut wire.writer, &request, rng).await;
    let head = match wire.reader.head().await {
        Ok(head) => head,
        Err(fault) => return (broke(&fault, written.is_err()), false),
    };
    exchange.heard(&head);
    let framed = match head.framing(Framed::UntilClose) {
        Ok(framed) => framed,
        Err(fault) => return (broke(&fault, false), false),
    };
    let read = wire.reader.body(framed).await;
    let keeps = !head.says("connection", "close") && framed != Framed::UntilClose && written.is_ok();
    match read.fault {
        Some(Fault::Stuck) => (End::Late, false),
        Some(fault) => (broke(&fault, false), false),
        None => (request.judge(exchange, &head, &read.body), keeps),
    }
}

/// How an exchange is called that ended so.
pub(super) fn broke(fault: &Fault, while_sending: bool) -> End {
    match fault {
        Fault::Stuck => End::Late,
        Fault::Malformed(what) => End::Wrong(what.clone()),
        Fault::Closed | Fault::NoGoodbye => End::Broke {
            how: "ended".to_owned(),
        },
        Fault::Reset if while_sending => End::Broke {
            how: "reset while it was sent".to_owned(),
        },
        Fault::Reset => End::Broke {
            how: "reset".to_owned(),
        },
    }
}

/// Writes the head, and the body in parts.
async fn write(writer: &mut OwnedWriteHalf, request: &Request, rng: &mut fastrand::Rng) -> std::io::Result<()> {
    writer.write_all(request.head.as_bytes()).await?;
    let part = rng.usize(4_096..200_000);
    for part in request.body.chunks(part) {
        writer.write_all(part).await?;
        if rng.u8(..4) == 0 {
            sleep(Duration::from_millis(rng.u64(..20))).await;
        }
    }
    Ok(())
}

impl Exchange {
    /// Notes the head of an answer.
    pub(super) fn heard(&mut self, head: &Head) {
        (self.began, self.status) = (Some(Instant::now()), Some(head.status()));
        let said = |name| head.one(name).and_then(|value| std::str::from_utf8(value).ok());
        self.by = said("x-instance").and_then(who);
        self.request = said("x-request-id").unwrap_or_default().to_owned();
    }
}

/// A request, and what its answer is to be.
struct Request {
    head: String,
    body: Vec<u8>,
    /// Bytes of a download, or parts of an answer.
    size: u64,
}

impl Request {
    fn of(exchange: &mut Exchange, rng: &mut fastrand::Rng) -> Self {
        let id = exchange.id;
        let (line, kind, body, size) = match exchange.kind {
            Kind::Get | Kind::Socket => ("GET /v1/parameters".to_owned(), "", Vec::new(), 0),
            Kind::Download => {
                let size = rng.u64(10_000..1_000_000);
                (format!("GET /files/size/{size}"), "", Vec::new(), size)
            }
            Kind::Prompt => {
                let parts = rng.u64(1..6);
                let body = prompt(id, "blocking", parts, rng.u64(1..80));
                ("POST /v1/chat-messages".to_owned(), "application/json", body, parts)
            }
            Kind::Stream => {
                let parts = rng.u64(5..50);
                let body = prompt(id, "streaming", parts, rng.u64(20..120));
                ("POST /v1/chat-messages".to_owned(), "application/json", body, parts)
            }
            Kind::Upload => {
                let mut body = vec![0; rng.usize(10_000..600_000)];
                content(id, 0, &mut body);
                exchange.sum = sha1_smol::Sha1::from(&body).digest().bytes();
                let size = body.len() as u64;
                (
                    "POST /v1/files/upload".to_owned(),
                    "application/octet-stream",
                    body,
                    size,
                )
            }
        };
        let mut head = format!("{line} HTTP/1.1\r\nHost: soak\r\nX-Exchange: {id}\r\n");
        if !kind.is_empty() {
            head += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        Self { head, body, size }
    }

    /// What a whole answer came to.
    fn judge(&self, exchange: &Exchange, head: &Head, body: &[u8]) -> End {
        let status = head.status();
        let named = head.one("x-exchange").map(<[u8]>::to_vec);
        if named.is_some_and(|named| named != exchange.id.to_string().as_bytes()) {
            return End::Wrong("the answer to another request".to_owned());
        }
        if status >= 400 {
            let said: Option<Value> = serde_json::from_slice(body).ok();
            let code = said.and_then(|said| said["code"].as_str().map(str::to_owned));
            return End::Refused {
                status,
                code: code.unwrap_or_default(),
            };
        }
        match exchange.kind {
            Kind::Get | Kind::Socket if body.windows(16).any(|part| part == b"\"file_size_limit") => End::Whole,
            Kind::Get | Kind::Socket => End::Wrong(format!("{status}, and another page")),
            Kind::Download => {
                let mut expected = vec![0; usize::try_from(self.size).unwrap()];
                content(exchange.id, 0, &mut expected);
                whole(body == expected, "other bytes")
            }
            Kind::Upload => {
                let said: Value = serde_json::from_slice(body).unwrap_or_default();
                whole(said["size"] == self.size, "another size")
            }
            Kind::Prompt => {
                let said: Value = serde_json::from_slice(body).unwrap_or_default();
                let expected: String = (0..self.size).map(|part| format!("part {part} ")).collect();
                let is_right = said["answer"] == expected && said["conversation_id"] == conversation(exchange.id);
                whole(is_right, "another answer")
            }
            Kind::Stream => events(exchange.id, self.size, &String::from_utf8_lossy(body)),
        }
    }
}

fn whole(is_right: bool, otherwise: &str) -> End {
    if is_right {
        End::Whole
    } else {
        End::Wrong(otherwise.to_owned())
    }
}

fn conversation(id: u64) -> String {
    format!("exchange-{id}")
}

fn prompt(id: u64, mode: &str, parts: u64, gap: u64) -> Vec<u8> {
    let body = json!({
        "inputs": {"events": parts, "gap_ms": gap}, "query": "q", "user": "soak", "response_mode": mode,
        "conversation_id": conversation(id),
    });
    body.to_string().into_bytes()
}

/// What an event stream with a clean end came to: its parts in their order, each once, and its last event.
pub(crate) fn events(id: u64, parts: u64, text: &str) -> End {
    let (mut next, mut ended) = (0, false);
    for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let Ok(event) = serde_json::from_str::<Value>(data) else {
            return End::Wrong("half an event".to_owned());
        };
        if event["event"] == "error" {
            return End::Told(event["code"].as_str().unwrap_or_default().to_owned());
        }
        if event["conversation_id"] != conversation(id) {
            return End::Wrong("an event of another stream".to_owned());
        }
        if event["event"] == "message" {
            if event["answer"] != format!("part {next} ") {
                return End::Wrong(format!("{} instead of part {next}", event["answer"]));
            }
            next += 1;
        }
        ended |= event["event"] == "workflow_finished";
    }
    match (ended, next == parts) {
        (true, true) => End::Whole,
        (true, false) => End::Wrong(format!("{next} of {parts} parts, and an end")),
        (false, _) => End::Short,
    }
}
