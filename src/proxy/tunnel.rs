//! Tunnels: after `101 Switching Protocols` bytes pass both ways until one side ends (RFC 9110 section 7.8).

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::{CONNECTION, UPGRADE};
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::timeout;

use crate::http1::{Passed, Tunnel, members};
use crate::proxy::Gateway;
use crate::proxy::context::Exchange;
use crate::proxy::direct::upstream_error;

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

impl Gateway {
    /// Carries bytes both ways until one side ends, or nothing passes for `idle`.
    pub(super) async fn carry(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        mut tunnel: Tunnel,
        idle: Duration,
    ) -> pingora::Result<()> {
        let mut outgoing = Bytes::new();
        loop {
            let step = async {
                let is_free = outgoing.is_empty();
                tokio::select! {
                    passed = tunnel.pass(&mut outgoing) => Step::Upstream(passed),
                    read = session.as_downstream_mut().read_request_body(), if is_free => Step::Client(read),
                }
            };
            let Ok(step) = timeout(idle, step).await else {
                exchange.overdue = true;
                return Err(Error::new_up(ErrorType::ReadTimedout));
            };
            match step {
                Step::Upstream(Ok(Passed::Sent)) => {}
                Step::Upstream(Ok(Passed::Received(part))) => {
                    self.give(session, exchange, Some(part), false).await?;
                }
                Step::Upstream(Ok(Passed::Ended)) => return Ok(()),
                Step::Upstream(Err(e)) => return Err(upstream_error(e.into())),
                Step::Client(Ok(Some(part))) => {
                    exchange.received += part.len() as u64;
                    outgoing = part;
                }
                Step::Client(Ok(None)) => return Ok(()),
                Step::Client(Err(e)) => return Err(e.into_down()),
            }
        }
    }
}

/// What happened in a tunnel.
enum Step {
    Upstream(io::Result<Passed>),
    Client(pingora::Result<Option<Bytes>>),
}
