//! A stream under way through the gate: it is listed while it lasts, read as it passes, and told of when it ends.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use prometheus::IntGauge;
use tokio::time::timeout;

use crate::gate::sse::{Dialect, Reader};
use crate::proxy::Gateway;
use crate::proxy::context::Exchange;
use crate::proxy::events::{self, LastEvent};
use crate::proxy::headers::target;
use crate::proxy::record::path;
use crate::proxy::response;
use crate::upstream::streams::{About, Kind, Open, PATIENCE, Why};
use crate::upstream::tally::StreamEnd;

/// What an answer that streams carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streaming {
    kind: Kind,
    /// Whether its events can be read, and one be added.
    open_text: bool,
}

impl Streaming {
    /// What an answer streams, if it does.
    pub(crate) fn of(response: &ResponseHeader) -> Option<Self> {
        let kind = match response.status {
            StatusCode::SWITCHING_PROTOCOLS => Kind::Websocket,
            _ if response::is_event_stream(response) => Kind::Sse,
            _ => return None,
        };
        let open_text = kind == Kind::Sse && response::is_open_text(response);
        Some(Self { kind, open_text })
    }
}

/// An event stream or a tunnel under way.
pub(crate) struct OpenStream {
    gauge: IntGauge,
    /// Its place in the list of those under way.
    pub(crate) listed: Open,
    /// What reads its events, where they can be read.
    pub(crate) reader: Option<Reader>,
    /// Whether it was silent for long.
    pub(crate) was_silent: bool,
    /// Whether its client takes nothing but event streams.
    standard: bool,
    /// Whether the gate has sent the last event.
    pub(crate) said_last: bool,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl OpenStream {
    /// Reads what passes.
    pub(crate) fn read(&mut self, part: &[u8]) {
        self.listed.move_on();
        if let Some(reader) = &mut self.reader {
            reader.feed(part);
            if let Some(task) = reader.task().filter(|_| self.listed.task().is_none()) {
                self.listed.name_task(task);
            }
        }
    }

    /// Whether it stands where it can be ended well.
    pub(crate) fn may_end(&self) -> bool {
        self.reader.as_ref().is_some_and(Reader::is_between_events)
    }

    /// How the gate ends it, where it may.
    pub(crate) fn last_event(&self, why: Why) -> LastEvent {
        let reader = self.reader.as_ref();
        reader.map_or(LastEvent::Unknown, |reader| LastEvent::of(reader, why, self.standard))
    }

    /// Reads a part up to the end of an event, and leaves of it what comes before that.
    pub(crate) fn read_to_boundary(&mut self, part: &mut Bytes) {
        self.listed.move_on();
        let length = self.reader.as_mut().and_then(|reader| reader.feed_to_boundary(part));
        part.truncate(length.unwrap_or(part.len()));
    }

    /// Whether it broke off or ended before its last event.
    fn is_aborted(&self, end: &str) -> bool {
        let over = self.reader.as_ref().map(Reader::is_over);
        let has_last = |reader: &Reader| reader.dialect() != Dialect::Other;
        match end {
            // Of a stream of an unknown kind nobody knows what its last event is.
            "complete" => over == Some(false) && self.reader.as_ref().is_some_and(has_last),
            "upstream" | "timeout" => over != Some(true),
            _ => false,
        }
    }
}

impl Gateway {
    /// Lists a stream that begins.
    pub(super) fn open(&self, session: &Session, exchange: &Exchange, streaming: Streaming) -> Option<OpenStream> {
        let (course, attempt) = exchange.attempt()?;
        let upstream = course.upstream.owner();
        let request = session.req_header();
        let listed = upstream.flow.streams.begin(About {
            request_id: exchange.request_id.as_str().to_owned(),
            client: exchange.client.and_then(|client| client.address),
            method: request.method.as_str().to_owned(),
            path: path(target(request)).to_owned(),
            endpoint: attempt.endpoint.owner().id.clone(),
            kind: streaming.kind,
            since: exchange.start,
        });
        // All may have been ended between the answer and this.
        if let Some(why) = attempt.severed() {
            listed.end(why);
        }
        let gauge = upstream.times.streams_open.clone();
        gauge.inc();
        Some(OpenStream {
            gauge,
            listed,
            reader: streaming.open_text.then(Reader::default),
            was_silent: false,
            standard: events::are_asked_for(request),
            said_last: false,
        })
    }

    /// Lets a part of an answer pass that the framework relays; tells whether the gate is about to end it. The framework ends an answer only with its
    /// endpoint: a stream gets its last event here, its endpoint's connection is ended then, and [`Gateway::conclude`] ends the answer.
    pub(super) fn pass(
        &self,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> pingora::Result<bool> {
        let ends = match &exchange.stream {
            Some(stream) => stream.listed.ends(),
            None => exchange.severed(),
        };
        let Some(why) = ends.filter(|_| !end_of_stream) else {
            let silence = exchange.silence();
            let silent = exchange.stream.as_ref().map(|stream| stream.listed.silent_for());
            if silence.zip(silent).is_some_and(|(most, silent)| silent >= most) {
                self.silent(exchange);
            }
            if let (Some(stream), Some(part)) = (&mut exchange.stream, body) {
                stream.read(part);
            }
            return Ok(false);
        };
        let stream = exchange.stream.as_mut();
        let Some(stream) = stream.filter(|stream| stream.reader.is_some() && !stream.said_last) else {
            return Err(self.cut(exchange, why));
        };
        let mut part = body.take().unwrap_or_default();
        if stream.may_end() {
            part.clear();
        } else {
            stream.read_to_boundary(&mut part);
        }
        if stream.may_end() {
            match stream.last_event(why) {
                LastEvent::Is(last) => part = [part, last].concat().into(),
                LastEvent::HasCome => {}
                LastEvent::Unknown => return Err(self.cut(exchange, why)),
            }
            stream.said_last = true;
            exchange.cut = Some(why);
            if let Some(line) = exchange.line() {
                line.expect_byte(Duration::ZERO);
            }
        }
        *body = Some(part).filter(|part| !part.is_empty());
        Ok(true)
    }

    /// Ends the stream of a request that the framework has given up because the gate ends it: with its last event, unless that has been sent.
    pub(super) async fn conclude(&self, session: &mut Session, exchange: &mut Exchange) {
        let framework = exchange.line().is_some();
        let (Some(stream), Some(why)) = (&exchange.stream, exchange.cut) else {
            return;
        };
        let last = match stream.last_event(why) {
            _ if stream.said_last => None,
            LastEvent::Is(last) if framework && stream.may_end() => Some(last),
            LastEvent::HasCome if framework && stream.may_end() => None,
            LastEvent::Is(_) | LastEvent::HasCome | LastEvent::Unknown => return,
        };
        let given = timeout(PATIENCE, self.give(session, exchange, last, true)).await;
        exchange.answer_sent = matches!(given, Ok(Ok(())));
    }

    /// Adds the end of an event stream to what its endpoint's traffic came to.
    pub(super) fn stream_ended(&self, exchange: &Exchange, end: &str) {
        let stream = exchange.stream.as_ref();
        let stream = stream.filter(|stream| stream.listed.about.kind == Kind::Sse);
        let (Some(stream), Some((_, attempt))) = (stream, exchange.attempt()) else {
            return;
        };
        let how = if stream.is_aborted(end) {
            StreamEnd::Aborted
        } else {
            StreamEnd::Orderly
        };
        attempt.endpoint.owner().sums.ended(how);
    }
}
