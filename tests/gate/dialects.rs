//! The last event of a stream that the gate ends is told in the stream's own dialect.

use serde_json::{Value, json};

use crate::severing::{ASK, CHUNKED, SSE, in_two_parts};
use crate::support::{Upstream, blue_green, edge, gate, sever, streams, until};
use crate::wire::Wire;

/// What follows on a stream after it has shown `first` and is ended, and whether it ends cleanly.
async fn ended(first: &'static str, request: &str) -> (String, bool) {
    let (blue, _go_on) = in_two_parts(SSE, first, "never").await;
    let green = Upstream::echo().await;
    let gate = gate(&blue_green(&[blue.address], &[green.address], "")).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(request).await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(wire.chunk().await, Some(Some(first.into())));
    until("the stream to be listed", async || streams(&gate).list().len() == 1).await;
    sever(&gate, "blue");
    let mut rest = Vec::new();
    loop {
        match wire.chunk().await {
            Some(Some(chunk)) => rest.extend(chunk),
            end => return (String::from_utf8(rest).unwrap(), end.is_some()),
        }
    }
}

/// The lines of the one event in `text`: its name, if it has one, and its data.
fn event(text: &str) -> (Option<&str>, Value) {
    let text = text.strip_suffix("\n\n").unwrap_or_else(|| panic!("{text:?}"));
    let (name, data) = match text.split_once('\n') {
        Some((name, data)) => (Some(name.strip_prefix("event: ").unwrap()), data),
        None => (None, text),
    };
    let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("{text:?}"));
    (name, serde_json::from_str(data).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_dialect_has_an_error_of_its_own() {
    for (first, name, keys) in [
        (
            "data: {\"event\": \"message\", \"task_id\": \"t-1\"}\n\n",
            None,
            json!({"event": "error", "status": 503, "task_id": "t-1"}),
        ),
        (
            "data: {\"id\": \"c\", \"choices\": [{\"delta\": {\"content\": \"a\"}}]}\n\n",
            None,
            json!({}),
        ),
        (
            "event: message_start\ndata: {\"type\": \"message_start\"}\n\n",
            Some("error"),
            json!({"type": "error"}),
        ),
        // Nothing has come yet that tells.
        (
            ": hello\n\nevent: ping\n\n",
            Some("error"),
            json!({"event": "error", "status": 503, "type": "error"}),
        ),
    ] {
        let (rest, clean) = ended(first, ASK).await;
        assert!(clean, "{first:?}");
        let (named, data) = event(&rest);
        assert_eq!(named, name, "{first:?}");
        for (key, value) in keys.as_object().unwrap() {
            assert_eq!(&data[key], value, "{first:?}: {data}");
        }
        let is_dify = first.contains("\"event\"");
        let at = if is_dify { &data } else { &data["error"] };
        assert_eq!(at["code"], "gateway_drained", "{first:?}: {data}");
        assert!(at["message"].is_string(), "{first:?}: {data}");
        assert!(data["choices"].is_null(), "it is no piece of the answer: {data}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_unknown_kind_is_broken_off() {
    for first in [
        "data: hello\n\n",
        "data: {\"candidates\": []}\n\n",
        "data: {\"type\": \"text-delta\"}\n\n",
    ] {
        for request in [ASK, CHUNKED] {
            assert_eq!(ended(first, request).await, (String::new(), false), "{first:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_said_its_last_gets_no_error() {
    for first in [
        "data: {\"choices\": []}\n\ndata: [DONE]\n\n",
        "event: message_stop\ndata: {\"type\": \"message_stop\"}\n\n",
        "event: response.completed\ndata: {\"type\": \"response.completed\"}\n\n",
    ] {
        assert_eq!(ended(first, ASK).await, (String::new(), true), "{first:?}");
    }
}
