//! Sends one probe: resolves, connects, asks and reads, all within one absolute deadline, on a connection of its own unless told to keep one.
//!
//! A connection of its own finds what a kept one hides: a full accept queue, a firewall, a name that moved. A fault on our side
//! (no descriptors, no ports, no name service) is no evidence against the endpoint and says so.

mod bounded;
pub mod judge;
mod kept;
pub mod spec;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::gate::health::{FailureClass, Outcome};
use crate::gate::keeper::{Phases, ProbeReport};
use crate::gate::names::Address;
use crate::http1::{Connection, WireError};
use crate::probe::bounded::Bounded;
use crate::probe::judge::{Judgement, MAX_BODY, judge};
pub use crate::probe::kept::Kept;
use crate::probe::kept::Line;
use crate::probe::spec::ProbeSpec;
use crate::tls::{Authorities, Unsecured};
use crate::wire::Wire;

/// Sends probes. One serves all endpoints.
#[derive(Debug)]
pub struct Prober {
    clock: Clock,
    authorities: Arc<Authorities>,
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
    /// A prober that reads time from `clock` and trusts `authorities`.
    pub fn new(clock: Clock, authorities: Arc<Authorities>) -> Self {
        Self { clock, authorities }
    }

    /// Asks the endpoint at `address` what `spec` says, over the connection that was `kept` where it may be used again. It always comes back, at
    /// the deadline at the latest.
    pub async fn probe(&self, address: &Address, spec: &ProbeSpec, kept: &Kept) -> ProbeReport {
        let mut course = Course {
            start: self.clock.now(),
            phases: Phases::default(),
            asked: None,
            status: None,
        };
        let asking = self.ask(address, spec, kept, &mut course);
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
            failed: judgement.failed,
            version: judgement.version,
            asked: course.asked,
            phases: course.phases,
        }
    }

    async fn ask(
        &self,
        address: &Address,
        spec: &ProbeSpec,
        kept: &Kept,
        course: &mut Course,
    ) -> Result<Judgement, Failed> {
        let at = resolve(address, spec.port.unwrap_or(address.port())).await?;
        course.asked = Some(at);
        course.phases.resolved = Some(self.clock.now() - course.start);
        if let Some(mut line) = kept.take(at) {
            course.phases.connected = course.phases.resolved;
            let answer = self.converse(&mut line, address, spec, course).await;
            // Closed while the question was on its way, as servers close whom they have not heard for a while: no word about the endpoint.
            let unheard = course.status.is_none() && line.connection.is_silent();
            if !unheard {
                return answer.inspect(|_| kept.keep(line));
            }
            course.phases.connected = None;
        }
        let mut line = Line::new(self.connect(at, address, spec, course).await?, at, spec.reuse);
        let answer = self.converse(&mut line, address, spec, course).await;
        answer.inspect(|_| kept.keep(line))
    }

    async fn connect(
        &self,
        at: SocketAddr,
        address: &Address,
        spec: &ProbeSpec,
        course: &mut Course,
    ) -> Result<Wire, Failed> {
        let stream = TcpStream::connect(at).await.map_err(|e| connect_failed(&e))?;
        // Closed without a farewell, the connection leaves no port in TIME-WAIT here, of which thousands of probes a minute would need many; the
        // answer is read by then (HAProxy does so after its checks).
        let _ = stream.set_zero_linger();
        course.phases.connected = Some(self.clock.now() - course.start);
        let Some(terms) = &spec.tls else {
            return Ok(Wire::Clear(stream));
        };
        // Its own allocation, so that a probe in cleartext does not move about what only a handshake needs.
        let secured = Box::pin(self.authorities.secure(stream, address.host(), terms)).await;
        let stream = secured.map_err(|e| insecure(&e))?;
        course.phases.secured = Some(self.clock.now() - course.start);
        Ok(Wire::Tls(Box::new(stream.into())))
    }

    /// Asks over a connection and reads the answer.
    async fn converse(
        &self,
        line: &mut Line,
        address: &Address,
        spec: &ProbeSpec,
        course: &mut Course,
    ) -> Result<Judgement, Failed> {
        let request = request(address, spec, line.begin());
        let connection = &mut line.connection;
        connection.send(&request).await.map_err(|e| wire_failed(e.into()))?;
        let to_head = spec.method == Method::HEAD;
        let mut head = connection.head(to_head).await.map_err(wire_failed)?;
        while head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            head = connection.head(to_head).await.map_err(wire_failed)?;
        }
        course.phases.headers = Some(self.clock.now() - course.start);
        course.status = Some(head.status.as_u16());
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(failed(FailureClass::Protocol, "status 101, which was not asked for"));
        }
        let body = read(connection).await?;
        Ok(judge(spec, &head, body.as_deref()))
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
            failed: Vec::new(),
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

/// `last` asks for an end of the connection after the answer.
fn request(address: &Address, spec: &ProbeSpec, last: bool) -> Vec<u8> {
    let host = spec.host.as_deref().map_or_else(|| address.without_dot(), Into::into);
    let mut request = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: difygate/{} (probe)\r\n{}",
        spec.method,
        spec.path,
        env!("CARGO_PKG_VERSION"),
        if last { "Connection: close\r\n" } else { "" },
    )
    .into_bytes();
    for (name, value) in &spec.headers {
        request.extend_from_slice(name.as_str().as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// The body, or `None` if it is too large.
async fn read(connection: &mut Connection<Bounded<Wire>>) -> Result<Option<Vec<u8>>, Failed> {
    let mut whole = Vec::new();
    while let Some(part) = connection.part().await.map_err(wire_failed)? {
        if whole.len() + part.len() > MAX_BODY {
            return Ok(None);
        }
        whole.extend_from_slice(&part);
    }
    Ok(Some(whole))
}

fn insecure(e: &Unsecured) -> Failed {
    match e {
        Unsecured::Ours(e) => Outcome::Unknown { detail: e.to_string() },
        Unsecured::Theirs(e) => failed(FailureClass::Tls, &e.to_string()),
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

fn wire_failed(e: WireError) -> Failed {
    match e {
        WireError::Broken(e) if is_own_fault(&e) => connect_failed(&e),
        WireError::Broken(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            failed(FailureClass::Connect, "the connection was reset before the answer")
        }
        WireError::Broken(e) => failed(FailureClass::Protocol, &e.to_string()),
        e @ (WireError::Closed | WireError::Malformed(_)) => failed(FailureClass::Protocol, &e.to_string()),
    }
}

/// Whether an error is about this machine and not about the endpoint: EMFILE, ENFILE, ENOMEM, ENOBUFS, EADDRNOTAVAIL.
pub(crate) fn is_own_fault(e: &io::Error) -> bool {
    const OURS: [i32; 5] = [24, 23, 12, 105, 99];
    e.raw_os_error().is_some_and(|code| OURS.contains(&code)) || e.kind() == io::ErrorKind::AddrNotAvailable
}
