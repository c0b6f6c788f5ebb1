//! Tunnels: after `101 Switching Protocols` bytes pass both ways until one side ends (RFC 9110 section 7.8).
//!
//! The two directions are independent: a client that writes and does not read yet is read all the same, and so is an endpoint. Each direction holds
//! one part of at most 64 KiB beside what the kernel holds; the next one is read once that has been written.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use http::header::{CONNECTION, UPGRADE};
use pingora::http::RequestHeader;
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::{timeout, timeout_at};

use crate::gate::websocket::{self, Frames};
use crate::http1::{Tunnel, WireError, members};
use crate::proxy::Gateway;
use crate::proxy::context::Exchange;
use crate::proxy::direct::upstream_error;
use crate::proxy::request::conn;
use crate::upstream::streams::{PATIENCE, Why};

/// Whether a request asks for a WebSocket. Other upgrades are not passed on, and then the request is an ordinary one: `h2c` would open a
/// connection on which nobody guards anything.
pub(super) fn is_asked_for(request: &RequestHeader) -> bool {
    let says =
        |name, word: &str| members(request.headers.get_all(name).iter()).any(|given| given.eq_ignore_ascii_case(word));
    request.version == Version::HTTP_11
        && request.headers.contains_key(UPGRADE)
        && says(UPGRADE, "websocket")
        && says(CONNECTION, "upgrade")
}

/// After a tunnel has ended, its client has so long to close the connection. What it sends meanwhile is read: unread bytes would make the kernel
/// reset the connection, and the client could lose what was sent last.
const LINGER: Duration = Duration::from_secs(1);

/// A tunnel that the gate has ended is closed so long after its client was told, and up to [`SPREAD`] later, unless the client closes it. Clients wait for
/// that (RFC 6455 section 7.1.1) before they connect again, some at once and whatever close code they were told (websockets 17.4), and many may have
/// been ended at the same moment.
const HOLD: Duration = Duration::from_secs(1);
const SPREAD: Duration = Duration::from_secs(1);

impl Gateway {
    /// Carries bytes both ways until one side ends, nothing passes for `idle`, or the gate is to end it.
    pub(super) async fn carry(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        tunnel: Tunnel,
        idle: Duration,
    ) -> pingora::Result<()> {
        let Some(listed) = exchange.stream.as_ref().map(|stream| stream.listed.clone()) else {
            return Error::e_explain(ErrorType::InternalError, "a tunnel that is not listed");
        };
        let mut duplex = Duplex::over(tunnel, session);
        loop {
            if let Some(why) = listed.ends() {
                return self.hang_up(session, exchange, duplex, why).await;
            }
            let step = tokio::select! {
                step = self.step(session, exchange, &mut duplex, idle) => step?,
                () = listed.told() => continue,
            };
            match step {
                Step::Asked(length) => {
                    listed.move_on();
                    exchange.received += length;
                }
                Step::Answered(mut part) => {
                    listed.move_on();
                    duplex.read(&mut part, listed.ends().is_some());
                    duplex.give(session, part, self.clock.now()).await?;
                }
                Step::Left => {
                    linger(session).await;
                    return Ok(());
                }
                Step::Ended(e) => return self.left_by_endpoint(session, duplex, e).await,
                Step::Sent | Step::Given => {}
            }
        }
    }

    /// Ends a tunnel whose endpoint has ended it. Without a close frame of either side that is a failure: the client is told by a close frame, where it
    /// stands between two frames, and the error says whose failure it was.
    async fn left_by_endpoint(
        &self,
        session: &mut Session,
        mut duplex: Duplex,
        e: Option<Box<Error>>,
    ) -> pingora::Result<()> {
        if duplex.answered.closes() || duplex.asked.closes() {
            linger(session).await;
            return Ok(());
        }
        if duplex.answered.is_between_frames() {
            let goodbye = websocket::close(websocket::INTERNAL_ERROR, "upstream ended", None);
            duplex.give(session, Bytes::from(goodbye), self.clock.now()).await?;
            // Who takes nothing is not told.
            if let Ok(given) = timeout(PATIENCE, session.write_downstream_proxy_tasks()).await {
                given.map_err(|e| e.into_down())?;
                linger(session).await;
            }
        }
        Err(e.unwrap_or_else(|| upstream_error(WireError::Closed)))
    }

    /// The next step of a tunnel, for which nobody is waited longer than allowed.
    async fn step(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        duplex: &mut Duplex,
        idle: Duration,
    ) -> pingora::Result<Step> {
        let due = duplex.due;
        let waited = due.map(|(since, _)| self.clock.now() - since).unwrap_or_default();
        let pace = exchange.taking.left().filter(|_| due.is_some());
        let pace = pace.map(|left| left.saturating_sub(waited));
        let patience = pace.map_or(idle, |pace| pace.min(idle));
        match timeout(patience, duplex.step(session)).await {
            Ok(step) => {
                if let (Ok(Step::Given), Some((since, length))) = (&step, due) {
                    exchange.taking.step(length, self.clock.now() - since);
                }
                step
            }
            Err(_) if pace.is_some_and(|pace| pace <= idle) => Err(self.takes_too_slowly(exchange)),
            Err(_) if due.is_some() => Err(Error::new_down(ErrorType::WriteTimedout)),
            Err(_) => {
                exchange.overdue = true;
                Err(Error::new_up(ErrorType::ReadTimedout))
            }
        }
    }

    /// Ends a tunnel: tells both sides so once no frame is under way. One that does not end in time is broken off.
    async fn hang_up(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        mut duplex: Duplex,
        why: Why,
    ) -> pingora::Result<()> {
        let until = self.clock.now() + PATIENCE;
        while duplex.due.is_some() || !duplex.answered.is_between_frames() {
            let step = timeout_at(until.into(), duplex.step(session)).await;
            // What comes without a pause would never be late otherwise.
            let step = step.ok().filter(|_| self.clock.now() < until);
            match step.ok_or_else(|| self.cut(exchange, why))?? {
                Step::Answered(mut part) => {
                    duplex.read(&mut part, true);
                    duplex.give(session, part, self.clock.now()).await?;
                }
                Step::Asked(length) => exchange.received += length,
                Step::Left => {
                    linger(session).await;
                    return Ok(());
                }
                Step::Ended(e) => return self.left_by_endpoint(session, duplex, e).await,
                Step::Sent | Step::Given => {}
            }
        }
        exchange.cut = Some(why);
        let goodbye = Bytes::from(websocket::close(websocket::SERVICE_RESTART, "out of service", None));
        duplex.give(session, goodbye, self.clock.now()).await?;
        while duplex.due.is_some() {
            let step = timeout_at(until.into(), duplex.step(session)).await;
            step.map_err(|_| self.cut(exchange, why))??;
        }
        let farewell = async {
            duplex.say_goodbye().await;
            drain(session).await;
        };
        // Who is not gone by then has been told.
        let _ = timeout(HOLD + SPREAD.mul_f32(fastrand::f32()), farewell).await;
        Ok(())
    }
}

/// A tunnel under way.
struct Duplex {
    tunnel: Tunnel,
    /// What the client sent and the endpoint has not got yet.
    outgoing: Bytes,
    /// Since when the client is being given a part, and the part's length.
    due: Option<(Instant, u64)>,
    /// From the client.
    asked: Frames,
    /// From the endpoint.
    answered: Frames,
    /// Whether the endpoint takes nothing more; what it has sent is read to its end all the same.
    is_deaf: bool,
    /// Which direction is looked at first; they take turns, so that neither starves the other.
    client_first: bool,
}

/// What happened in a tunnel.
enum Step {
    /// So many bytes came from the client.
    Asked(u64),
    /// A part of what came from the client was sent to the endpoint.
    Sent,
    /// This came from the endpoint.
    Answered(Bytes),
    /// The client has been given what came from the endpoint.
    Given,
    /// The client has ended it.
    Left,
    /// The endpoint has ended it, or its connection broke.
    Ended(Option<Box<Error>>),
}

impl Duplex {
    fn over(tunnel: Tunnel, session: &mut Session) -> Self {
        // A write that goes on with the next poll, where that of a whole part would have to be waited for.
        session.set_proxy_tasks_enabled(true);
        Self {
            tunnel,
            outgoing: Bytes::new(),
            due: None,
            asked: Frames::default(),
            answered: Frames::default(),
            is_deaf: false,
            client_first: false,
        }
    }

    /// Reads what came from the endpoint, and where the tunnel is to end, leaves of it what comes before the end of a frame.
    fn read(&mut self, part: &mut Bytes, ends: bool) {
        if ends {
            let length = self.answered.feed_to_boundary(part);
            part.truncate(length.unwrap_or(part.len()));
        } else {
            self.answered.feed(part);
        }
    }

    /// Gives a part to the client, which the next steps write.
    async fn give(&mut self, session: &mut Session, part: Bytes, now: Instant) -> pingora::Result<()> {
        self.due = Some((now, part.len() as u64));
        let task = HttpTask::UpgradedBody(Some(part), false);
        session.send_downstream_proxy_task(task).await
    }

    /// The next step of either direction. It may be dropped and called again.
    async fn step(&mut self, session: &mut Session) -> pingora::Result<Step> {
        self.client_first = !self.client_first;
        poll_fn(|cx| {
            let step = if self.client_first {
                self.poll_asked(session, cx)
            } else {
                self.poll_answered(session, cx)
            };
            if step.is_ready() {
                return step;
            }
            if self.client_first {
                self.poll_answered(session, cx)
            } else {
                self.poll_asked(session, cx)
            }
        })
        .await
    }

    /// From the client to the endpoint.
    fn poll_asked(&mut self, session: &mut Session, cx: &mut Context<'_>) -> Poll<pingora::Result<Step>> {
        if self.is_deaf {
            return Poll::Pending;
        }
        let before = self.outgoing.len();
        let sent = self.tunnel.poll_send(cx, &mut self.outgoing);
        if sent.is_pending() && self.outgoing.len() < before {
            return Poll::Ready(Ok(Step::Sent));
        }
        if ready!(sent).is_err() {
            // A last frame of its own may have come before its connection broke.
            self.is_deaf = true;
            return Poll::Pending;
        }
        // Nothing is lost with a read that is dropped before it is ready.
        let reading = pin!(session.as_downstream_mut().read_request_body());
        let Some(part) = ready!(reading.poll(cx)).map_err(|e| e.into_down())? else {
            return Poll::Ready(Ok(Step::Left));
        };
        self.asked.feed(&part);
        self.outgoing = part;
        Poll::Ready(Ok(Step::Asked(self.outgoing.len() as u64)))
    }

    /// From the endpoint to the client.
    fn poll_answered(&mut self, session: &mut Session, cx: &mut Context<'_>) -> Poll<pingora::Result<Step>> {
        if self.due.is_some() {
            // The session keeps what is left of a write that is dropped before it is ready.
            let writing = pin!(session.write_downstream_proxy_tasks());
            ready!(writing.poll(cx)).map_err(|e| e.into_down())?;
            self.due = None;
            return Poll::Ready(Ok(Step::Given));
        }
        let part = ready!(self.tunnel.poll_receive(cx));
        Poll::Ready(Ok(match part {
            Ok(Some(part)) => Step::Answered(part),
            Ok(None) => Step::Ended(None),
            Err(e) => Step::Ended(Some(upstream_error(e.into()))),
        }))
    }

    /// Tells the endpoint that its client is gone, if no frame is under way to it. It sees the connection end either way.
    async fn say_goodbye(&mut self) {
        if !self.asked.is_between_frames() {
            return;
        }
        let goodbye = websocket::close(websocket::GOING_AWAY, "", Some(fastrand::u32(..).to_be_bytes()));
        self.outgoing = [self.outgoing.as_ref(), &goodbye].concat().into();
        poll_fn(|cx| {
            // An endpoint that is not read might not read either.
            while let Poll::Ready(received) = self.tunnel.poll_receive(cx) {
                if !matches!(received, Ok(Some(_))) {
                    return Poll::Ready(());
                }
            }
            self.tunnel.poll_send(cx, &mut self.outgoing).map(drop)
        })
        .await;
    }
}

/// Ends a client's connection, and reads on until the client has ended it too.
async fn linger(session: &mut Session) {
    if let Some(conn) = conn(session) {
        conn.rest(true);
    }
    let ending = async {
        session.as_downstream_mut().shutdown().await;
        drain(session).await;
    };
    let _ = timeout(LINGER, ending).await;
}

/// Reads until the client ends its connection.
async fn drain(session: &mut Session) {
    while let Ok(Some(_)) = session.as_downstream_mut().read_request_body().await {}
}
