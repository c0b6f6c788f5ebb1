//! Tunnels: after `101 Switching Protocols` bytes pass both ways until one side ends (RFC 9110 section 7.8).

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::{CONNECTION, UPGRADE};
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::{Instant, timeout, timeout_at};

use crate::gate::websocket::{self, Frames};
use crate::http1::{Passed, Tunnel, members};
use crate::proxy::Gateway;
use crate::proxy::context::Exchange;
use crate::proxy::direct::upstream_error;
use crate::proxy::relay::Teller;
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

/// What passes in a tunnel.
struct Passing {
    tunnel: Tunnel,
    /// What the client sent and the endpoint has not got yet.
    outgoing: Bytes,
    /// From the client.
    asked: Frames,
    /// From the endpoint.
    answered: Frames,
}

/// After it was told that the tunnel ends, a client has so long to say that it knows.
const FAREWELL: Duration = Duration::from_secs(1);

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
        let teller = Teller::Stream(listed.clone());
        let mut passing = Passing {
            tunnel,
            outgoing: Bytes::new(),
            asked: Frames::default(),
            answered: Frames::default(),
        };
        loop {
            if let Some(why) = listed.ends() {
                return self.hang_up(session, exchange, passing, &teller, why).await;
            }
            let step = tokio::select! {
                step = timeout(idle, passing.step(session)) => step,
                () = listed.told() => continue,
            };
            let Ok(step) = step else {
                exchange.overdue = true;
                return Err(Error::new_up(ErrorType::ReadTimedout));
            };
            match step {
                Step::Upstream(Ok(Passed::Sent)) => {}
                Step::Upstream(Ok(Passed::Received(mut part))) => {
                    listed.move_on();
                    passing.read(&mut part, listed.ends().is_some());
                    self.give_unless(session, exchange, Some(part), false, &teller).await?;
                }
                Step::Upstream(Ok(Passed::Ended)) => return Ok(()),
                Step::Upstream(Err(e)) => return Err(upstream_error(e.into())),
                Step::Client(Ok(Some(part))) => {
                    listed.move_on();
                    exchange.received += part.len() as u64;
                    passing.asked.feed(&part);
                    passing.outgoing = part;
                }
                Step::Client(Ok(None)) => return Ok(()),
                Step::Client(Err(e)) => return Err(e.into_down()),
            }
        }
    }

    /// Ends a tunnel: tells both sides so once no frame is under way. One that does not end in time is broken off.
    async fn hang_up(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        mut passing: Passing,
        teller: &Teller<'_>,
        why: Why,
    ) -> pingora::Result<()> {
        let until = Instant::from_std(self.clock.now()) + PATIENCE;
        while !passing.answered.is_between_frames() {
            let Ok(Ok(passed)) = timeout_at(until, passing.tunnel.pass(&mut passing.outgoing)).await else {
                return Err(self.cut(exchange, why));
            };
            // What comes without a pause would never be late otherwise.
            if self.clock.now() >= until.into_std() {
                return Err(self.cut(exchange, why));
            }
            match passed {
                Passed::Sent => {}
                Passed::Received(mut part) => {
                    passing.read(&mut part, true);
                    self.give_unless(session, exchange, Some(part), false, teller).await?;
                }
                Passed::Ended => return Ok(()),
            }
        }
        exchange.cut = Some(why);
        let goodbye = Bytes::from(websocket::close(websocket::SERVICE_RESTART, "out of service", None));
        self.give_unless(session, exchange, Some(goodbye), false, teller)
            .await?;
        let farewell = async {
            passing.say_goodbye().await;
            // Bytes that nobody reads would reset the connection, and what was sent be lost with it.
            while let Ok(Some(_)) = session.as_downstream_mut().read_request_body().await {}
        };
        // Who is not gone by then has been told.
        let _ = timeout(FAREWELL, farewell).await;
        Ok(())
    }
}

impl Passing {
    /// Reads what came from the endpoint, and where the tunnel is to end, leaves of it what comes before the end of a frame.
    fn read(&mut self, part: &mut Bytes, ends: bool) {
        if ends {
            let length = self.answered.feed_to_boundary(part);
            part.truncate(length.unwrap_or(part.len()));
        } else {
            self.answered.feed(part);
        }
    }

    async fn step(&mut self, session: &mut Session) -> Step {
        let is_free = self.outgoing.is_empty();
        tokio::select! {
            passed = self.tunnel.pass(&mut self.outgoing) => Step::Upstream(passed),
            read = session.as_downstream_mut().read_request_body(), if is_free => Step::Client(read),
        }
    }

    /// Tells the endpoint that its client is gone, if no frame is under way to it. It sees the connection end either way.
    async fn say_goodbye(&mut self) {
        if !self.asked.is_between_frames() {
            return;
        }
        let goodbye = websocket::close(websocket::GOING_AWAY, "", Some(fastrand::u32(..).to_be_bytes()));
        self.outgoing = [self.outgoing.as_ref(), &goodbye].concat().into();
        while !self.outgoing.is_empty() {
            match self.tunnel.pass(&mut self.outgoing).await {
                Ok(Passed::Sent | Passed::Received(_)) => {}
                Ok(Passed::Ended) | Err(_) => return,
            }
        }
        // What TLS holds back is sent with a further pass.
        let _ = timeout(Duration::ZERO, self.tunnel.pass(&mut self.outgoing)).await;
    }
}

/// What happened in a tunnel.
enum Step {
    Upstream(io::Result<Passed>),
    Client(pingora::Result<Option<Bytes>>),
}
