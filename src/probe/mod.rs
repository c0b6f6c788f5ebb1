//! Sends one probe: resolves, connects, asks and reads, all within one absolute deadline, on a connection of its own.
//!
//! A connection of its own finds what a kept one hides: a full accept queue, a firewall, a name that moved. A fault on our side
//! (no descriptors, no ports, no name service) is no evidence against the endpoint and says so.

mod bounded;
pub mod judge;
pub mod spec;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::gate::health::{FailureClass, Outcome};
use crate::gate::keeper::{Phases, ProbeReport};
use crate::gate::names::Address;
use crate::probe::bounded::Bounded;
use crate::probe::judge::{Judgement, MAX_BODY, judge};
use crate::probe::spec::ProbeSpec;
use crate::probe::tls::Authorities;

/// The most that is read for one probe: head, interim answers, body and its framing.
const MAX_ANSWER: usize = 4 * MAX_BODY;

/// Sends probes. One serves all endpoints.
#[derive(Debug)]
pub struct Prober {
    clock: Clock,
    authorities: Authorities,
}

/// Why a probe came to no answer.
type Failed = Outcome;

/// What a probe has found so far; it outlives the deadline, so that a timeout can tell how far it came.
#[derive(Debug)]
struct Course {
    start: Instant,
    phases: Phases,
    asked: Option<SocketAddr>,
    status: Option<u16>,
}

impl Prober {
    /// A prober that reads time from `clock`.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            authorities: Authorities::default(),
        }
    }

    /// Asks the endpoint at `address` what `spec` says. It always comes back, at the deadline at the latest.
    pub async fn probe(&self, address: &Address, spec: &ProbeSpec) -> ProbeReport {
        let mut course = Course {
            start: self.clock.now(),
            phases: Phases::default(),
            asked: None,
            status: None,
        };
        let asking = self.ask(address, spec, &mut course);
        let answered = tokio::time::timeout(spec.plan.timeout, asking).await;
        let judgement = match answered {
            Ok(Ok(judgement)) => judgement,
            Ok(Err(failed)) => Judgement::of(failed),
            Err(_) => Judgement::of(course.overdue(spec.plan.timeout)),
        };
        course.phases.total = self.clock.now() - course.start;
        ProbeReport {
            outcome: judgement.outcome,
            status: course.status,
            components: judgement.components,
            version: judgement.version,
            asked: course.asked,
            phases: course.phases,
        }
    }

    async fn ask(&self, address: &Address, spec: &ProbeSpec, course: &mut Course) -> Result<Judgement, Failed> {
        let at = resolve(address, spec.port.unwrap_or(address.port())).await?;
        course.asked = Some(at);
        course.phases.resolved = Some(self.clock.now() - course.start);
        let stream = TcpStream::connect(at).await.map_err(|e| connect_failed(&e))?;
        course.phases.connected = Some(self.clock.now() - course.start);
        // Without it the request waits for the acknowledgement of the handshake on some systems; failing to set it harms nothing.
        let _ = stream.set_nodelay(true);
        let Some(terms) = &spec.tls else {
            return self.converse(stream, address, spec, course).await;
        };
        let stream = self.authorities.secure(stream, address, terms).await?;
        course.phases.secured = Some(self.clock.now() - course.start);
        self.converse(stream, address, spec, course).await
    }

    async fn converse<S>(
        &self,
        stream: S,
        address: &Address,
        spec: &ProbeSpec,
        course: &mut Course,
    ) -> Result<Judgement, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_BODY);
        let (mut sender, connection) = builder
            .handshake(TokioIo::new(Bounded::new(stream, MAX_ANSWER)))
            .await
            .map_err(|e| http_failed(&e))?;
        let request = request(address, spec)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| http_failed(&e))?;
            let (head, body) = response.into_parts();
            course.phases.headers = Some(self.clock.now() - course.start);
            course.status = Some(head.status.as_u16());
            if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
                return Err(failed(FailureClass::Protocol, "status 101, which was not asked for"));
            }
            let body = read(body).await?;
            Ok(judge(spec, &head, body.as_deref()))
        };
        drive(connection, exchange).await
    }
}

impl Course {
    fn overdue(&self, deadline: Duration) -> Failed {
        let phases = &self.phases;
        let missing = match (phases.headers, phases.connected, phases.resolved) {
            (Some(_), ..) => "the end of the body",
            (_, Some(_), _) => "an answer; the connection was accepted",
            (.., Some(_)) => "a connection",
            (None, None, None) => {
                return Outcome::Unknown {
                    detail: format!("the name did not resolve within {deadline:?}"),
                };
            }
        };
        failed(FailureClass::Timeout, &format!("{deadline:?} passed without {missing}"))
    }
}

impl Judgement {
    fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            components: Default::default(),
            version: None,
        }
    }
}

fn failed(class: FailureClass, detail: &str) -> Failed {
    Outcome::Fail {
        class,
        detail: detail.to_owned(),
    }
}

async fn resolve(address: &Address, port: u16) -> Result<SocketAddr, Failed> {
    if let Some(literal) = address.literal() {
        return Ok(SocketAddr::new(literal.ip(), port));
    }
    let name = address.host();
    let unknown = |why: String| Outcome::Unknown {
        detail: format!("the name `{name}` does not resolve: {why}"),
    };
    let mut found = tokio::net::lookup_host((name, port))
        .await
        .map_err(|e| unknown(e.to_string()))?;
    found.next().ok_or_else(|| unknown("it has no address".to_owned()))
}

fn request(address: &Address, spec: &ProbeSpec) -> Result<http::Request<Empty<Bytes>>, Failed> {
    let host = spec.host.as_deref().unwrap_or(address.as_str());
    let mut request = http::Request::builder()
        .method(spec.method.clone())
        .uri(&spec.path)
        .header(http::header::HOST, host)
        .header(
            http::header::USER_AGENT,
            concat!("difygate/", env!("CARGO_PKG_VERSION"), " (probe)"),
        )
        .header(http::header::CONNECTION, "close");
    for (name, value) in &spec.headers {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|e| Outcome::Unknown {
        detail: format!("the probe request cannot be written: {e}"),
    })
}

/// The body, or `None` if it is too large.
async fn read(mut body: Incoming) -> Result<Option<Vec<u8>>, Failed> {
    let mut whole = Vec::new();
    if body.is_end_stream() {
        return Ok(Some(whole));
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| http_failed(&e))?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > MAX_BODY {
                return Ok(None);
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(Some(whole))
}

/// Runs `exchange` while `connection` moves its bytes, on this task.
async fn drive<C: Future, T>(connection: C, exchange: impl Future<Output = T>) -> T {
    let connection = async {
        connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        biased;
        done = exchange => done,
        never = connection => match never {},
    }
}

fn connect_failed(e: &io::Error) -> Failed {
    if is_own_fault(e) {
        return Outcome::Unknown {
            detail: format!("no connection could be made from here: {e}"),
        };
    }
    failed(FailureClass::Connect, &e.to_string())
}

fn http_failed(e: &hyper::Error) -> Failed {
    use std::error::Error as _;
    let io = e.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        Some(e) if is_own_fault(e) => connect_failed(e),
        Some(e) if e.kind() == io::ErrorKind::ConnectionReset || e.kind() == io::ErrorKind::BrokenPipe => {
            failed(FailureClass::Connect, "the connection was reset before the answer")
        }
        Some(e) => failed(FailureClass::Protocol, &e.to_string()),
        None if e.is_incomplete_message() => failed(
            FailureClass::Protocol,
            "the connection was closed before the end of the answer",
        ),
        None => failed(FailureClass::Protocol, &e.to_string()),
    }
}

/// Whether an error is about this machine and not about the endpoint: EMFILE, ENFILE, ENOMEM, ENOBUFS, EADDRNOTAVAIL.
pub(crate) fn is_own_fault(e: &io::Error) -> bool {
    const OURS: [i32; 5] = [24, 23, 12, 105, 99];
    e.raw_os_error().is_some_and(|code| OURS.contains(&code)) || e.kind() == io::ErrorKind::AddrNotAvailable
}
