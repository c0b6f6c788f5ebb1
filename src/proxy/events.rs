//! What clients of event streams are told: the last event of a stream that the gate ends, and the gate's own answers where nothing but an event stream
//! is asked for. What the clients do about it stands in docs/clients.md.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderName, Method};
use pingora::http::RequestHeader;
use serde_json::{Value, json};

use crate::gate::sse::{Dialect, Reader};
use crate::http1::members;
use crate::upstream::streams::Why;

/// The code of what was cut when its pool, or the gate, had drained for long enough.
pub(crate) const DRAINED: &str = "gateway_drained";

/// The type of an event stream.
pub(crate) const EVENTS: &str = "text/event-stream";

/// An `EventSource` that the gate cannot serve asks again after so many milliseconds, and up to [`SPREAD`] more: many may have been cut at once.
const RETRY: u32 = 4_000;
const SPREAD: u32 = 2_000;

/// Whether a client takes an event stream and nothing else. One that does reads events as the standard says, so a named one is no piece of an answer.
pub(crate) fn are_asked_for(request: &RequestHeader) -> bool {
    let mut accepted = values(request, ACCEPT);
    accepted.next().is_some_and(is_events) && accepted.all(is_events)
}

fn is_events(member: &str) -> bool {
    let kind = member.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case(EVENTS)
}

/// Whether a client is an `EventSource`: it asks for nothing but an event stream, and past every cache (HTML standard, section 9.2.2; Fetch standard,
/// HTTP-network-or-cache fetch, cache mode `no-store`). A page's `fetch` names no cache unless it is told to.
fn is_event_source(request: &RequestHeader) -> bool {
    let uncached = |value: &str| value.eq_ignore_ascii_case("no-cache") || value.eq_ignore_ascii_case("no-store");
    request.method == Method::GET && are_asked_for(request) && values(request, CACHE_CONTROL).any(uncached)
}

fn values(request: &RequestHeader, name: HeaderName) -> impl Iterator<Item = &str> {
    members(request.headers.get_all(name).iter()).filter(|value| !value.is_empty())
}

/// An answer of the gate's own as an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Streamed {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Streamed {
    /// The answer to a client that takes an event stream and nothing else.
    ///
    /// An `EventSource` that may come again is told when. Any error would close it for good (HTML standard, section 9.2.3), so this is no error: a
    /// stream that has nothing to tell yet. Everybody else gets the status, and the error as an event.
    pub(crate) fn of(request: &RequestHeader, status: u16, code: &str, message: &str) -> Option<Self> {
        if matches!(status, 429 | 502 | 503 | 504) && is_event_source(request) {
            let retry = RETRY + fastrand::u32(..SPREAD);
            let why = json!({"code": code, "message": message, "status": status});
            return Some(Self {
                status: 200,
                body: format!("retry: {retry}\n\n: {why}\n\n"),
            });
        }
        are_asked_for(request).then(|| Self {
            status,
            body: named(&anybodys(status, code, message)),
        })
    }
}

/// How the gate ends a stream that stands between two events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LastEvent {
    /// Its own last event has come.
    HasCome,
    /// This is the last one.
    Is(Bytes),
    /// Nobody knows what its clients would take for an error, and they are to notice that it is cut: it is broken off.
    Unknown,
}

impl LastEvent {
    /// The one that tells the clients of a stream that it is cut; `standard` tells that they read events as the standard says.
    ///
    /// The clients of Dify look for its `event` key; OpenAI's SDK raises an `APIError` for an `error` object and takes any other object for a piece of
    /// the answer; Anthropic's goes by the event's name.
    pub(crate) fn of(reader: &Reader, why: Why, standard: bool) -> Self {
        if reader.is_over() {
            return Self::HasCome;
        }
        let message = match why {
            Why::Drained | Why::Operator => {
                "The instance that streamed this is taken out of service. The run may still be going on."
            }
            Why::Shutdown => "The gateway that carried this is stopped or replaced. The run may still be going on.",
        };
        let text = match reader.dialect() {
            Dialect::Dify => {
                let mut event = json!({"event": "error", "status": 503, "code": DRAINED, "message": message});
                if let Some(task) = reader.task() {
                    event["task_id"] = task.into();
                }
                unnamed(&event)
            }
            Dialect::Completions => unnamed(&json!({"error": error(DRAINED, message)})),
            Dialect::Typed => {
                let error = error(DRAINED, message);
                named(&json!({"type": "error", "code": DRAINED, "message": message, "error": error}))
            }
            Dialect::Other if !standard => return Self::Unknown,
            Dialect::Other | Dialect::Silent => named(&anybodys(503, DRAINED, message)),
        };
        Self::Is(text.into())
    }
}

/// An error in the shape of OpenAI's.
fn error(code: &str, message: &str) -> Value {
    json!({"message": message, "type": "server_error", "param": null, "code": code})
}

/// An error that the clients of every dialect understand.
fn anybodys(status: u16, code: &str, message: &str) -> Value {
    let error = error(code, message);
    json!({"event": "error", "type": "error", "status": status, "code": code, "message": message, "error": error})
}

fn unnamed(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn named(data: &Value) -> String {
    format!("event: error\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header((*name).to_owned(), *value).unwrap();
        }
        request
    }

    #[test]
    fn who_takes_anything_else_gets_no_event_stream() {
        for (accept, asked) in [
            (&["text/event-stream"][..], true),
            (&["Text/Event-Stream; charset=utf-8"], true),
            (&["text/event-stream", "text/event-stream;q=0.5"], true),
            (&["application/json, text/event-stream"], false),
            (&["text/event-stream, */*"], false),
            (&["text/event-stream", "application/json"], false),
            (&["text/event-streams"], false),
            (&[""], false),
            (&[], false),
        ] {
            let headers: Vec<(&str, &str)> = accept.iter().map(|value| ("accept", *value)).collect();
            assert_eq!(are_asked_for(&request("POST", &headers)), asked, "{accept:?}");
        }
    }

    #[test]
    fn an_event_source_that_may_come_again_is_told_when_and_nobody_else_is_told_200() {
        let events = ("accept", EVENTS);
        let source = request("GET", &[events, ("cache-control", "no-cache")]);
        for status in [429, 502, 503, 504] {
            let answer = Streamed::of(&source, status, "code", "Why.").unwrap();
            assert_eq!(answer.status, 200);
            let (retry, why) = answer.body.split_once("\n\n").unwrap();
            let retry: u32 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
            assert!((RETRY..RETRY + SPREAD).contains(&retry));
            assert!(why.starts_with(": {") && why.ends_with("}\n\n"), "{why}");
        }
        for (request, status) in [
            (request("POST", &[events, ("cache-control", "no-cache")]), 503),
            (request("GET", &[events]), 503),
            (request("GET", &[events, ("cache-control", "max-age=0")]), 503),
            (source, 404),
        ] {
            let answer = Streamed::of(&request, status, "code", "Why.").unwrap();
            assert_eq!(answer.status, status);
            let data = answer.body.strip_prefix("event: error\ndata: ").unwrap();
            let data: Value = serde_json::from_str(data.trim_end()).unwrap();
            assert_eq!(
                (&data["status"], &data["error"]["code"]),
                (&status.into(), &"code".into())
            );
        }
        let page = request("GET", &[("accept", "text/html"), ("cache-control", "no-cache")]);
        assert_eq!(Streamed::of(&page, 503, "code", "Why."), None);
    }

    #[test]
    fn a_stream_of_an_unknown_kind_is_ended_only_for_those_who_read_the_standard() {
        let mut reader = Reader::default();
        reader.feed(b"data: hello\n\n");
        assert_eq!(LastEvent::of(&reader, Why::Drained, false), LastEvent::Unknown);
        let LastEvent::Is(last) = LastEvent::of(&reader, Why::Drained, true) else {
            panic!("an event");
        };
        assert!(
            last.starts_with(b"event: error\ndata: {\"event\":\"error\""),
            "{last:?}"
        );
    }
}
