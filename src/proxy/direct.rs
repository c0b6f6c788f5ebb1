//! Requests to endpoints that speak HTTP/1.1: the gate sends them itself and relays the answer.
//!
//! Most are whole before they are sent, a head and perhaps a small body of known length. Then there is one thing to wait for at a time, so a request
//! costs about half of what it costs on the framework's way, waits with exact deadlines, is taken back the moment its endpoint goes down, and can be
//! sent again byte for byte. Other bodies are sent on as they come, by `upload`.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::gate::retry::{AttemptFailure, RetryClass};
use crate::http1::{Connection, Head, WireError};
use crate::probe::is_own_fault;
use crate::proxy::Gateway;
use crate::proxy::context::{Attempt, Course, Exchange};
use crate::proxy::request::conn;
use crate::proxy::tunnel;
use crate::proxy::witness;
use crate::tls::Unsecured;
use crate::upstream::Endpoint;
use crate::upstream::idle::Kept;
use crate::upstream::settings::Timeouts;
use crate::upstream::snapshot::Routable;
use crate::upstream::streams::Why;
use crate::wire::Wire;

/// A body up to this many bytes is received before the request is sent on; that of a prompt is far below it.
const SMALL: u64 = 64 * 1024;

/// Whether a request is sent this way: its endpoint speaks HTTP/1.1, as for a tunnel every endpoint does.
pub(super) fn is_for(session: &Session, exchange: &Exchange) -> bool {
    let course = exchange.course.as_ref();
    let http2 = course.is_some_and(|course| course.upstream.owner().settings.http2);
    !http2 || tunnel::is_asked_for(session.req_header())
}

/// Why an attempt came to nothing.
pub(super) enum Lost {
    /// The endpoint failed it.
    Endpoint(AttemptFailure, Box<Error>),
    /// The client went away, or the gate has nowhere to send it.
    Request(Box<Error>),
    /// All is to end that the endpoint serves.
    Severed(Why),
    /// The endpoint lacks these components, as its whole pool does.
    Lacking(Arc<str>),
}

impl From<Box<Error>> for Lost {
    fn from(e: Box<Error>) -> Self {
        Self::Request(e)
    }
}

/// An answer of which the head has come.
pub(super) struct Answered {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) connection: Connection,
    pub(super) head: Head,
    pub(super) timeouts: Timeouts,
}

/// Why a request waits no longer for an answer.
pub(super) enum Called {
    /// Its endpoint is known to be down.
    Down,
    /// All is to end that its endpoint serves.
    Severed(Why),
    /// Its endpoint lacks these components, as its whole pool does, and it may go nowhere else.
    Lacking(Arc<str>),
}

/// What may become of a request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// It may be running: it waits until its endpoint ends it.
    Bound,
    /// It may be sent again, but has been sent as often as it may.
    Spent,
    /// It may go elsewhere.
    Free,
}

impl Gateway {
    /// Has a request answered by an endpoint, and relays the answer.
    pub(super) async fn exchange(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<()> {
        exchange.upload = self.upload(session, SMALL);
        let mut request = self.head(session, exchange)?;
        if exchange.upload.is_none() && !session.is_body_empty() {
            self.receive(session, exchange, &mut request).await?;
        }
        self.hold(session, exchange).await?;
        loop {
            let attempt = self.attempt(session, exchange, &request).await;
            if let Ok(answered) = &attempt {
                self.hear(exchange, answered.head.status.as_u16());
            }
            let (failure, e) = match attempt {
                Ok(answered) if answered.head.status != StatusCode::SERVICE_UNAVAILABLE => {
                    let answered = self.seek(session, exchange, &request, answered).await?;
                    return self.relay(session, exchange, answered).await;
                }
                Ok(refused) => {
                    if !self.retry(session, exchange, AttemptFailure::Refused) {
                        return self.relay(session, exchange, refused).await;
                    }
                    refused
                        .endpoint
                        .idle
                        .keep(refused.connection, refused.timeouts.pool_idle);
                    continue;
                }
                Err(Lost::Endpoint(failure, e)) => (failure, e),
                Err(Lost::Request(e)) => return Err(e),
                Err(Lost::Severed(why)) => return Err(self.cut(exchange, why)),
                Err(Lost::Lacking(components)) => {
                    witness::note(exchange, AttemptFailure::Rescued);
                    return Err(self.dependency_failed(exchange, &components));
                }
            };
            if !self.retry(session, exchange, failure) {
                exchange.overdue = failure == AttemptFailure::Timeout;
                return Err(e);
            }
        }
    }

    /// One attempt, until the head of its answer.
    pub(super) async fn attempt(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        request: &[u8],
    ) -> Result<Answered, Lost> {
        let socket = self.choose(session, exchange).await?;
        let Some((course, attempt)) = exchange.attempt() else {
            return Err(Error::explain(ErrorType::InternalError, "no attempt was made").into());
        };
        let (endpoint, timeouts) = (attempt.endpoint.owner().clone(), course.timeouts);
        let harmless = course.class == RetryClass::Idempotent;
        // What cannot be sent again is not sent on a connection that may be closed at this moment.
        let mut kept = if exchange.upload.is_none() {
            endpoint.idle.take()
        } else {
            None
        };
        loop {
            let was_kept = kept.is_some();
            let (mut connection, brisk) = match kept.take() {
                Some(Kept { connection, brisk }) => (connection, brisk),
                None => (self.connect(socket, exchange, timeouts.connect).await?, false),
            };
            let sent = timeout(timeouts.first_byte, connection.send(request)).await;
            match sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(()) => {}
                // It was closed while it was kept.
                Err(_) if was_kept && !connection.has_sent() => continue,
                Err(e) => return Err(lost(unwritten(&e, connection.has_sent()), WireError::Broken(e))),
            }
            let head = match exchange.upload.take() {
                None => self.await_head(session, exchange, &endpoint, &mut connection).await,
                Some(mut upload) => {
                    let sending = self.send_until_head(session, exchange, &endpoint, &mut connection, &mut upload);
                    let head = sending.await;
                    exchange.upload = Some(upload);
                    head
                }
            };
            match head {
                // It was closed while the request was on its way, as a connection that has rested may be. One that has not is dropped for a
                // reason, and then another endpoint is asked.
                Err(Lost::Endpoint(AttemptFailure::Reset, _))
                    if was_kept && harmless && connection.is_silent() && !(brisk && self.is_elsewhere(exchange)) => {}
                Err(e) => return Err(e),
                Ok(head) => {
                    return Ok(Answered {
                        endpoint,
                        connection,
                        head,
                        timeouts,
                    });
                }
            }
        }
    }

    /// Connects to the endpoint of the attempt under way, within TLS where its upstream says so.
    async fn connect(&self, socket: SocketAddr, exchange: &Exchange, within: Duration) -> Result<Connection, Lost> {
        let Some((course, attempt)) = exchange.attempt() else {
            return Err(Error::explain(ErrorType::InternalError, "no attempt was made").into());
        };
        let connecting = async {
            let stream = TcpStream::connect(socket).await?;
            // A small request must not wait for the acknowledgement of the last one.
            stream.set_nodelay(true)?;
            let Some(terms) = &course.upstream.owner().settings.tls else {
                return Ok(Wire::Clear(stream));
            };
            let host = attempt.endpoint.owner().id.address.host();
            let stream = self.authorities.secure(stream, host, terms).await?;
            Ok(Wire::Tls(Box::new(stream.into())))
        };
        let connected = timeout(within, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        connected.map(Connection::over).map_err(|e| unreached(socket, e))
    }

    /// Waits for the head of the answer, while the client stays, the endpoint is not known to be down, and time is left.
    async fn await_head(
        &self,
        session: &mut Session,
        exchange: &Exchange,
        endpoint: &Arc<Endpoint>,
        connection: &mut Connection,
    ) -> Result<Head, Lost> {
        let Some(course) = &exchange.course else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a route").into());
        };
        // One that tries endpoints which lack a dependency has a deadline of its own.
        let tries = course.attempt.as_ref().is_some_and(|attempt| attempt.pass.is_some());
        let may_go = course.made <= course.upstream.owner().settings.retry.attempts;
        let waits = match course.class {
            RetryClass::Idempotent if tries => Waits::Bound,
            RetryClass::Idempotent if may_go => Waits::Free,
            RetryClass::Idempotent => Waits::Spent,
            RetryClass::Effects | RetryClass::Unsafe => Waits::Bound,
        };
        let called = self.called(exchange, endpoint, waits);
        let to_head = session.req_header().method == Method::HEAD;
        let upgrades = tunnel::is_asked_for(session.req_header());
        let wait = endpoint.pulse.ask(self.clock.millis(self.clock.now()));
        let head = tokio::select! {
            biased;
            // First, so that a verdict between the choice and the wait is not missed.
            called = called => return Err(match called {
                Called::Down => lost(AttemptFailure::Rescued, WireError::Closed),
                Called::Severed(why) => Lost::Severed(why),
                Called::Lacking(components) => Lost::Lacking(components),
            }),
            head = timeout(course.patience(), final_head(connection, to_head, upgrades)) => head,
            gone = gone(session) => return Err(gone.into()),
        };
        drop(wait);
        match head {
            Ok(Ok(head)) => Ok(head),
            Ok(Err(e)) => Err(lost(AttemptFailure::Reset, e)),
            Err(_) => Err(lost(
                AttemptFailure::Timeout,
                io::Error::from(io::ErrorKind::TimedOut).into(),
            )),
        }
    }

    /// Ready once there is nothing to wait for: the endpoint is known to be down and the request may go elsewhere, or is to end.
    pub(super) async fn called(&self, exchange: &Exchange, endpoint: &Arc<Endpoint>, waits: Waits) -> Called {
        let recallable = waits == Waits::Free;
        let _waiting = recallable.then(|| endpoint.recall.wait());
        let mut knows = recallable;
        let calls = endpoint.recall.calls();
        loop {
            let mut called = pin!(endpoint.recall.called());
            called.as_mut().enable();
            if let Some(why) = exchange.severed() {
                return Called::Severed(why);
            }
            if waits == Waits::Spent
                && let Some(components) = lacks(exchange, endpoint)
            {
                return Called::Lacking(components);
            }
            if std::mem::take(&mut knows) && (!self.still_serves(exchange, endpoint) || waits_in_vain(exchange)) {
                return Called::Down;
            }
            if recallable && endpoint.recall.calls() != calls {
                return Called::Down;
            }
            // A cut wakes everybody, those who came after it as well.
            called.await;
        }
    }

    /// Whether an endpoint is still among those that may serve.
    pub(super) fn still_serves(&self, exchange: &Exchange, endpoint: &Arc<Endpoint>) -> bool {
        let Some(course) = &exchange.course else {
            return false;
        };
        let world = course.upstream.owner().flow.world.load();
        // New requests may go to another pool by now; this one stays where it is.
        let mut all = world.sides().flat_map(|side| side.routable.all());
        Arc::ptr_eq(&world, &course.world) || all.any(|candidate| Arc::ptr_eq(&candidate.endpoint, endpoint))
    }
}

/// Whether a request that may be sent again waits on an endpoint that lacks a dependency, and is none of those that try.
fn waits_in_vain(exchange: &Exchange) -> bool {
    let waits = |(course, attempt): (&Course, &Attempt)| attempt.pass.is_none() && course.outage().is_some();
    exchange.attempt().is_some_and(waits)
}

/// What every endpoint of this one's pool lacks, where few are to be sent there for that.
fn lacks(exchange: &Exchange, endpoint: &Arc<Endpoint>) -> Option<Arc<str>> {
    let world = exchange.course.as_ref()?.upstream.owner().flow.world.load();
    let is_here = |routable: &Routable| routable.all().any(|one| Arc::ptr_eq(&one.endpoint, endpoint));
    let mut sides = world.sides().map(|side| &side.routable);
    sides.find(|routable| is_here(routable))?.outage.clone()
}

/// What a connection that did not come about says.
fn unreached(socket: SocketAddr, e: Unsecured) -> Lost {
    match e {
        Unsecured::Ours(e) => Lost::Request(Error::because(ErrorType::InvalidCert, "reading what TLS needs", e)),
        Unsecured::Theirs(e) => {
            let kind = if e.kind() == io::ErrorKind::ConnectionRefused {
                ErrorType::ConnectRefused
            } else if e.kind() == io::ErrorKind::TimedOut {
                ErrorType::ConnectTimedout
            } else {
                ErrorType::ConnectError
            };
            Lost::Endpoint(unconnected(&e), Error::because(kind, socket.to_string(), e).into_up())
        }
    }
}

/// What a connection that did not come about says. Where the gate itself lacks descriptors or ports, the endpoint is not to blame.
pub(super) fn unconnected(e: &io::Error) -> AttemptFailure {
    if is_own_fault(e) {
        AttemptFailure::Unsent
    } else {
        AttemptFailure::Connect
    }
}

/// What a request that could not be written says of an attempt.
fn unwritten(e: &io::Error, has_sent: bool) -> AttemptFailure {
    match (has_sent, e.kind()) {
        (false, _) => unconnected(e),
        (true, io::ErrorKind::TimedOut) => AttemptFailure::Timeout,
        (true, _) => AttemptFailure::Reset,
    }
}

pub(super) fn lost(failure: AttemptFailure, e: WireError) -> Lost {
    Lost::Endpoint(failure, upstream_error(e))
}

/// The head of the answer itself; interim ones mean nothing to a request that is whole (RFC 9110 section 15.2).
async fn final_head(connection: &mut Connection, to_head: bool, upgrades: bool) -> Result<Head, WireError> {
    loop {
        let head = connection.head(to_head).await?;
        match (
            head.status.is_informational(),
            head.status == StatusCode::SWITCHING_PROTOCOLS,
        ) {
            (false, _) => return Ok(head),
            (true, true) if upgrades => return Ok(head),
            (true, true) => return Err(WireError::Malformed("it switches protocols unasked")),
            (true, false) => {}
        }
    }
}

/// Waits for something before anything of a request was sent, while its client stays.
pub(super) async fn while_there<T>(session: &mut Session, what: impl Future<Output = T>) -> pingora::Result<T> {
    let watch = |session: &Session, strict| {
        if let Some(conn) = conn(session) {
            conn.watch(strict);
        }
    };
    watch(session, true);
    let outcome = tokio::select! {
        biased;
        outcome = what => Ok(outcome),
        gone = gone(session) => Err(gone),
    };
    watch(session, false);
    hold(session, false);
    outcome
}

/// Has the client's connection keep what comes, or give it again.
pub(super) fn hold(session: &Session, held: bool) {
    if let Some(conn) = conn(session) {
        conn.hold(held);
    }
}

/// Ready once the client is gone. What it sends meanwhile is kept.
pub(super) async fn gone(session: &mut Session) -> Box<Error> {
    hold(session, true);
    match session.as_downstream_mut().read_body_or_idle(true).await {
        Err(e) if *e.etype() == ErrorType::ConnectError => {
            session.set_keepalive(None);
            std::future::pending().await
        }
        Err(e) => e.into_down(),
        Ok(_) => Error::new_down(ErrorType::ConnectionClosed),
    }
}

pub(super) fn upstream_error(e: WireError) -> Box<Error> {
    let kind = match &e {
        WireError::Broken(_) => ErrorType::ReadError,
        WireError::Closed => ErrorType::ConnectionClosed,
        WireError::Malformed(_) => ErrorType::InvalidHTTPHeader,
    };
    Error::because(kind, "reading an answer", e).into_up()
}
