//! Sends one probe: resolves, connects, asks and reads, all within one absolute deadline, on a connection of its own.
//!
//! A connection of its own finds what a kept one hides: a full accept queue, a firewall, a name that moved. A fault on our side
//! (no descriptors, no ports, no name service) is no evidence against the endpoint and says so.

mod bounded;
pub mod judge;
pub mod spec;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::gate::health::{FailureClass, Outcome};
use crate::gate::keeper::{Phases, ProbeReport};
use crate::gate::names::Address;
use crate::http1::{Connection, WireError};
use crate::probe::bounded::Bounded;
use crate::probe::judge::{Judgement, MAX_BODY, judge};
use crate::probe::spec::ProbeSpec;
use crate::tls::{Authorities, TlsTerms, Unsecured};

/// The most that is read for one probe: head, interim answers, body and its framing.
const MAX_ANSWER: usize = 4 * MAX_BODY;

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
        // Closed without a farewell, the connection leaves no port in TIME-WAIT here, of which thousands of probes a minute would need many; the
        // answer is read by then (HAProxy does so after its checks).
        let _ = stream.set_zero_linger();
        course.phases.connected = Some(self.clock.now() - course.start);
        match &spec.tls {
            None => self.converse(stream, address, spec, course).await,
            // Its own allocation, so that a probe in cleartext does not move about what only a handshake needs.
            Some(terms) => Box::pin(self.secured(stream, terms, address, spec, course)).await,
        }
    }

    async fn secured(
        &self,
        stream: TcpStream,
        terms: &TlsTerms,
        address: &Address,
        spec: &ProbeSpec,
        course: &mut Course,
    ) -> Result<Judgement, Failed> {
        let secured = self.authorities.secure(stream, address.host(), terms).await;
        let stream = secured.map_err(|e| insecure(&e))?;
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
        let mut connection = Connection::over(Bounded::new(stream, MAX_ANSWER));
        let sent = connection.send(&request(address, spec)).await;
        sent.map_err(|e| wire_failed(e.into()))?;
        let mut head = connection
            .head(spec.method == Method::HEAD)
            .await
            .map_err(wire_failed)?;
        while head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            head = connection
                .head(spec.method == Method::HEAD)
                .await
                .map_err(wire_failed)?;
        }
        course.phases.headers = Some(self.clock.now() - course.start);
        course.status = Some(head.status.as_u16());
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(failed(FailureClass::Protocol, "status 101, which was not asked for"));
        }
        let body = read(&mut connection).await?;
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

fn request(address: &Address, spec: &ProbeSpec) -> Vec<u8> {
    let host = spec.host.as_deref().unwrap_or(address.as_str());
    let mut request = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: difygate/{} (probe)\r\nConnection: close\r\n",
        spec.method,
        spec.path,
        env!("CARGO_PKG_VERSION"),
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
async fn read<S>(connection: &mut Connection<S>) -> Result<Option<Vec<u8>>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
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
