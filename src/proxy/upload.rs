//! A request body that is sent on as it comes: it is too large to be held, or its length is not known, or the endpoint is asked before it is sent.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::EXPECT;
use http::{Method, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::sleep;

use crate::gate::hygiene;
use crate::gate::pace::Pace;
use crate::gate::retry::AttemptFailure;
use crate::http1::{self, Connection, Head, Outgoing, Step, WireError};
use crate::proxy::Gateway;
use crate::proxy::answer::Answer;
use crate::proxy::context::Exchange;
use crate::proxy::direct::{Called, Lost, Waits, gone, hold, lost};
use crate::proxy::request::{conn, content_length};
use crate::upstream::Endpoint;

/// So much of a body is kept for another attempt, in bytes.
const REPLAY: u64 = 64 * 1024;

/// What is known of a body that is sent on as it comes.
pub(crate) struct Upload {
    is_chunked: bool,
    /// What the endpoint is to get next.
    outgoing: Outgoing,
    /// Whether the client has sent all of it.
    is_received: bool,
    /// Whether the end of it was handed to the endpoint's connection.
    is_ended: bool,
    /// Whether the endpoint takes nothing more.
    is_refused: bool,
    /// What came so far, for another attempt; nothing once that is too much.
    replay: Option<Vec<Bytes>>,
    replayed: usize,
    /// Bytes that came from the client.
    received: u64,
    /// How the client keeps up.
    pace: Pace,
}

impl Upload {
    pub(super) fn new(is_chunked: bool, pace: Pace) -> Self {
        Self {
            is_chunked,
            outgoing: http1::plain(Bytes::new()),
            is_received: false,
            is_ended: false,
            is_refused: false,
            replay: Some(Vec::new()),
            replayed: 0,
            received: 0,
            pace,
        }
    }

    /// Whether its length is not known, so that it is sent in chunks.
    pub(super) fn is_chunked(&self) -> bool {
        self.is_chunked
    }

    /// Whether it can be sent from its beginning once more.
    pub(super) fn is_replayable(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether the endpoint has got all of it.
    pub(super) fn is_sent(&self) -> bool {
        self.is_ended && !self.outgoing.has_remaining() && !self.is_refused
    }

    /// Begins anew for another attempt.
    fn begin(&mut self) {
        (self.outgoing, self.replayed) = (http1::plain(Bytes::new()), 0);
        (self.is_ended, self.is_refused) = (false, false);
    }

    /// Whether more is to be read from the client.
    fn wants_more(&self) -> bool {
        !self.is_received && !self.is_refused && !self.outgoing.has_remaining()
    }

    /// Takes a part from the client.
    fn take(&mut self, part: Bytes) {
        self.received += part.len() as u64;
        match &mut self.replay {
            Some(replay) if self.received <= REPLAY => replay.push(part),
            replay => {
                // What came before was handed on already.
                *replay = None;
                self.outgoing = self.framed(part);
            }
        }
    }

    fn framed(&self, part: Bytes) -> Outgoing {
        if self.is_chunked {
            http1::chunk(part)
        } else {
            http1::plain(part)
        }
    }

    /// Hands the next part to the endpoint's connection, or the end.
    fn go_on(&mut self, session: &Session) {
        if self.outgoing.has_remaining() || self.is_refused || self.is_ended {
            return;
        }
        let next = self
            .replay
            .as_ref()
            .and_then(|replay| replay.get(self.replayed).cloned());
        if let Some(part) = next {
            self.replayed += 1;
            self.outgoing = self.framed(part);
        } else if self.is_received {
            self.is_ended = true;
            if self.is_chunked {
                let trailers = conn(session).map(|conn| passed_trailers(conn.trailers()));
                self.outgoing = http1::last_chunk(&trailers.unwrap_or_default());
            }
        }
    }

    /// Notes what became of an attempt to send or receive; tells what came.
    pub(super) fn note<T>(&mut self, step: Step<T>) -> Option<T> {
        match step {
            Step::Sent => None,
            Step::Refused => {
                (self.is_refused, self.outgoing) = (true, http1::plain(Bytes::new()));
                None
            }
            Step::Came(what) => Some(what),
        }
    }
}

/// Why a body is sent no further.
enum Stop {
    Lost(Lost),
    /// It is larger than it may be.
    TooLarge,
    /// The client sends it too slowly.
    TooSlow,
}

/// What happened while a body is sent on.
enum Event {
    Called(Called),
    Endpoint(Result<Step<Head>, WireError>),
    Client(pingora::Result<Option<Bytes>>),
    Gone(Box<Error>),
    Late,
}

impl Event {
    /// Why nothing more is sent after it; `reads` tells that the client was waited for.
    fn stop(self, reads: bool) -> Stop {
        let timed_out = || io::Error::from(io::ErrorKind::TimedOut).into();
        Stop::Lost(match self {
            Self::Late if reads => return Stop::TooSlow,
            Self::Late | Self::Endpoint(Ok(_)) => lost(AttemptFailure::Timeout, timed_out()),
            Self::Endpoint(Err(e)) => lost(AttemptFailure::Reset, e),
            Self::Called(Called::Severed(why)) => Lost::Severed(why),
            Self::Called(Called::Lacking(components)) => Lost::Lacking(components),
            Self::Called(Called::Down) => lost(AttemptFailure::Rescued, WireError::Closed),
            Self::Client(Err(e)) => e.into_down().into(),
            Self::Client(Ok(_)) => Error::new_down(ErrorType::ConnectionClosed).into(),
            Self::Gone(e) => e.into(),
        })
    }
}

impl Gateway {
    /// The body of a request that is to be sent on as it comes; `None` where it is small, or there is none.
    pub(super) fn upload(&self, session: &mut Session, small: u64) -> Option<Box<Upload>> {
        if session.is_body_empty() {
            return None;
        }
        let request = session.req_header();
        let length = content_length(request);
        let waits = request.headers.contains_key(EXPECT);
        let is_small = length.is_some_and(|length| length <= small);
        (waits || !is_small).then(|| Box::new(Upload::new(length.is_none(), self.pace())))
    }

    /// Sends the body of a request on until the head of its answer is there.
    pub(super) async fn send_until_head(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        endpoint: &Arc<Endpoint>,
        connection: &mut Connection,
        upload: &mut Upload,
    ) -> Result<Head, Lost> {
        let Some(course) = &exchange.course else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a route").into());
        };
        let (first_byte, limit) = (course.timeouts.first_byte, course.body_limit);
        let to_head = session.req_header().method == Method::HEAD;
        upload.begin();
        let mut waiting = None;
        let sent = {
            let mut called = pin!(self.called(exchange, endpoint, Waits::Bound));
            loop {
                upload.go_on(session);
                if upload.is_sent() && waiting.is_none() {
                    waiting = Some(endpoint.pulse.ask(self.clock.millis(self.clock.now())));
                }
                let reads = upload.wants_more();
                let patience = if reads { upload.pace.left() } else { Some(first_byte) };
                let since = self.clock.now();
                let event = tokio::select! {
                    biased;
                    called = &mut called => Event::Called(called),
                    step = connection.head_while_sending(to_head, &mut upload.outgoing) => Event::Endpoint(step),
                    event = client(session, reads) => event,
                    () = late(patience) => Event::Late,
                };
                match event {
                    Event::Endpoint(Ok(step)) => match upload.note(step) {
                        Some(head) if head.status == StatusCode::CONTINUE => go_ahead(session).await?,
                        Some(head) if head.status.is_informational() && !is_switch(&head) => {}
                        Some(head) => break Ok(head),
                        None => {}
                    },
                    Event::Client(Ok(Some(part))) => {
                        upload.pace.step(part.len() as u64, self.clock.now() - since);
                        upload.take(part);
                        if upload.received > limit {
                            break Err(Stop::TooLarge);
                        }
                    }
                    Event::Client(Ok(None)) => upload.is_received = true,
                    end @ (Event::Called(_) | Event::Endpoint(_) | Event::Client(_) | Event::Gone(_) | Event::Late) => {
                        break Err(end.stop(reads));
                    }
                }
            }
        };
        exchange.received = upload.received;
        match sent {
            Ok(head) if is_switch(&head) => Err(lost(
                AttemptFailure::Reset,
                WireError::Malformed("it switches protocols unasked"),
            )),
            Ok(head) => Ok(head),
            Err(Stop::Lost(lost)) => Err(lost),
            Err(Stop::TooLarge) => Err(self.too_large(exchange, limit).into()),
            Err(Stop::TooSlow) => Err(self.too_slow(exchange).into()),
        }
    }

    /// The next part of an answer that began before its request was sent. The rest of the request is sent meanwhile; what becomes of it decides nothing
    /// any more.
    pub(super) async fn part_while_sending(
        &self,
        session: &mut Session,
        connection: &mut Connection,
        upload: &mut Upload,
    ) -> Result<Option<Bytes>, WireError> {
        loop {
            upload.go_on(session);
            let reads = upload.wants_more();
            let event = tokio::select! {
                biased;
                step = connection.part_while_sending(&mut upload.outgoing) => match upload.note(step?) {
                    Some(part) => return Ok(part),
                    None => continue,
                },
                event = client(session, true), if reads => event,
                () = late(upload.pace.left()), if reads => Event::Late,
            };
            match event {
                Event::Client(Ok(Some(part))) => upload.take(part),
                Event::Client(Ok(None)) => upload.is_received = true,
                // A client that is slow or gone ends its upload; whether it takes the answer is found out by that.
                Event::Client(Err(_)) | Event::Late | Event::Gone(_) | Event::Called(_) | Event::Endpoint(_) => {
                    upload.is_refused = true;
                }
            }
        }
    }

    fn too_large(&self, exchange: &mut Exchange, limit: u64) -> Box<Error> {
        self.door.limit("too_large");
        exchange.refuse(Answer::too_large(limit), "too_large");
        Error::new_down(ErrorType::HTTPStatus(413))
    }
}

/// The lines of a trailer section that go on. Some servers take trailers for headers, so what frames a message, logs somebody in or tells who the client is
/// does not (RFC 9110 section 6.5.1).
fn passed_trailers(section: &[u8]) -> Vec<u8> {
    const KEPT_BACK: [&str; 9] = [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let passes = |line: &&[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        !KEPT_BACK.contains(&name.as_str()) && !hygiene::is_dropped(&name) && !hygiene::is_claim(&name)
    };
    let lines = section.split_inclusive(|byte| *byte == b'\n');
    lines.filter(passes).collect::<Vec<_>>().concat()
}

fn is_switch(head: &Head) -> bool {
    head.status == StatusCode::SWITCHING_PROTOCOLS
}

/// What the client does next: it sends more, or goes.
async fn client(session: &mut Session, reads: bool) -> Event {
    if reads {
        hold(session, false);
        Event::Client(session.as_downstream_mut().read_request_body().await)
    } else {
        Event::Gone(gone(session).await)
    }
}

async fn late(patience: Option<Duration>) {
    match patience {
        Some(patience) => sleep(patience).await,
        None => std::future::pending().await,
    }
}

/// Tells the client to send its body, since the endpoint wants it (RFC 9110 section 10.1.1). The framework takes any answer before the end of the body
/// for the last one on its connection, which this is not.
pub(super) async fn go_ahead(session: &mut Session) -> pingora::Result<()> {
    let asked = session.req_header().version == Version::HTTP_11 && session.req_header().headers.contains_key(EXPECT);
    if !asked {
        return Ok(());
    }
    let downstream = session.as_downstream_mut();
    downstream.set_close_on_response_before_downstream_finish(false);
    let told = downstream
        .write_response_header(Box::new(ResponseHeader::build(StatusCode::CONTINUE, Some(0))?))
        .await;
    downstream.set_close_on_response_before_downstream_finish(true);
    told.map_err(|e| e.into_down())
}
