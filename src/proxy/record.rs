//! The end of a request: one access line, and its counts.

use pingora::proxy::Session;
use pingora::{Error, ErrorSource};

use crate::access_log::AccessRecord;
use crate::clock::wall_now;
use crate::proxy::Gateway;
use crate::proxy::context::Exchange;
use crate::proxy::failure::has_answered;
use crate::proxy::headers::{host, target};

/// The status of a request whose client went away before an answer, as nginx logs it.
const CLIENT_GONE: u16 = 499;
/// The longest path that is told, in bytes.
const MAX_PATH: usize = 512;

impl Gateway {
    /// Tells of a request and counts it. Returns whether its client has a whole answer.
    pub(super) fn tell(&self, session: &Session, e: Option<&Error>, exchange: &mut Exchange) -> bool {
        let took = self.clock.now() - exchange.start;
        let written = session.response_written().filter(|_| has_answered(session));
        let written = written.map(|header| header.status.as_u16());
        let status = written.unwrap_or(CLIENT_GONE);
        let end = end(e, exchange, written.is_some());
        if let Some(course) = &exchange.course {
            let upstream = course.upstream.owner();
            upstream.times.duration.observe(took.as_secs_f64());
            if let Some(first_byte) = exchange.first_byte {
                upstream.times.first_byte.observe(first_byte.as_secs_f64());
            }
            if let Some(attempt) = &course.attempt {
                attempt.endpoint.owner().count(status);
            }
            if exchange.stream.is_some() {
                let labels = [upstream.settings.name.as_str(), end];
                self.metrics.stream_end.with_label_values(&labels).inc();
            }
            if let (Some(why), Some(attempt)) = (exchange.cut, &course.attempt) {
                let pool = attempt.endpoint.owner().id.pool.as_str();
                let labels = [upstream.settings.name.as_str(), pool, why.as_str()];
                self.metrics.streams_cut.with_label_values(&labels).inc();
            }
        }
        let attempt = exchange.course.as_mut().and_then(|course| course.attempt.as_mut());
        if let Some(pass) = attempt
            .filter(|_| end == "complete")
            .and_then(|attempt| attempt.pass.as_mut())
        {
            pass.end(self.clock.now());
        }
        self.stream_ended(exchange, end);
        let gave_up = matches!(end, "client" | "cut" | "timeout");
        if let Some((_, attempt)) = exchange.attempt().filter(|_| gave_up) {
            attempt.endpoint.owner().pulse.leave();
        }
        let remarkable = status >= 500 || exchange.refused.is_some() || exchange.cut.is_some();
        if self.access.wants(remarkable) {
            self.access.record(&record(
                &self.door.name,
                session,
                exchange,
                status,
                end,
                took.as_secs_f64(),
            ));
        }
        written.is_some() && (e.is_none() || exchange.answer_sent)
    }
}

fn record<'a>(
    listener: &'a str,
    session: &'a Session,
    exchange: &'a Exchange,
    status: u16,
    end: &'static str,
    took: f64,
) -> AccessRecord<'a> {
    let request = session.req_header();
    let course = exchange.course.as_ref();
    let tried = course.and_then(|course| match &course.attempt {
        Some(attempt) => Some(&attempt.endpoint.owner().id),
        None => course.tried.last().map(|endpoint| &endpoint.id),
    });
    AccessRecord {
        time: wall_now(),
        request_id: exchange.request_id.as_str(),
        listener,
        client: exchange.client.and_then(|client| client.address),
        method: request.method.as_str(),
        host: host(request),
        path: path(target(request)),
        status,
        bytes: session.body_bytes_sent(),
        upstream: course.map(|course| course.upstream.owner().settings.name.as_str()),
        pool: tried.map(|id| id.pool.as_str()),
        endpoint: tried.map(|id| id.address.as_str()),
        attempts: course.map_or(0, |course| course.made),
        duration_ms: took * 1_000.0,
        first_byte_ms: exchange.first_byte.map(|time| time.as_secs_f64() * 1_000.0),
        end,
        guard: exchange.refused,
    }
}

/// A path without its query, and no longer than is told.
pub(super) fn path(raw: &[u8]) -> &str {
    let path = raw.split(|b| *b == b'?').next().unwrap_or_default();
    let cut = path.get(..MAX_PATH).unwrap_or(path);
    match std::str::from_utf8(cut) {
        Ok(text) => text,
        Err(e) => cut
            .get(..e.valid_up_to())
            .and_then(|valid| std::str::from_utf8(valid).ok())
            .unwrap_or_default(),
    }
}

/// How it ended, in a word: `complete`, `refused` by the gate, `cut` by the gate, `client` gone, `timeout`, cut by the `upstream`, or a fault of the `gate`.
fn end(e: Option<&Error>, exchange: &Exchange, answered: bool) -> &'static str {
    match e.map(Error::esource) {
        _ if exchange.cut.is_some() => "cut",
        _ if exchange.refused.is_some() => "refused",
        None if answered => "complete",
        None => "client",
        Some(_) if exchange.is_overdue() => "timeout",
        Some(ErrorSource::Upstream) => "upstream",
        Some(ErrorSource::Downstream) => "client",
        Some(ErrorSource::Internal | ErrorSource::Unset) => "gate",
    }
}
