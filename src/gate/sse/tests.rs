//! Streams as Dify and others send them, whole and in pieces.

use proptest::prelude::*;

use super::*;

fn read(stream: &str) -> Reader {
    let mut reader = Reader::default();
    reader.feed(stream.as_bytes());
    reader
}

#[test]
fn a_good_stream_of_dify_ends_with_its_last_event() {
    for last in [
        r#"data: {"event": "message_end", "task_id": "t", "metadata": {}}"#,
        r#"data: {"event":"workflow_finished"}"#,
        r#"data:{"answer": "long", "event" : "workflow_paused"}"#,
        r#"data: {"a": [1, {"b": "c"}], "event": "human_input_required"}"#,
        r#"data: {"event": "error", "status": 429}"#,
        "event: error",
        "event:message_end",
        "data: [DONE]",
    ] {
        let before = "event: ping\n\ndata: {\"event\": \"message\", \"answer\": \"a\"}\n\n";
        for end in ["\n", "\r\n"] {
            let stream = format!("{before}{last}\n\n").replace('\n', end);
            assert!(!read(before).is_over());
            assert!(read(&stream).is_over(), "{last}");
            assert!(read(&stream).is_between_events(), "{last}");
        }
    }
}

#[test]
fn what_is_only_told_of_is_no_last_event() {
    for line in [
        r#"data: {"event": "message", "answer": "\"event\": \"error\""}"#,
        r#"data: {"event": "message", "data": {"event": "error"}}"#,
        r#"data: {"event": ["error"], "x": "error"}"#,
        r#"data: {"answer": "event", "other": "message_end"}"#,
        r#"data: {"event": "node_finished", "error": "error"}"#,
        r#"data: {"event": "message_end_of_something"}"#,
        r#"data: {"answer": "\\", "x": "event"}"#,
        r#"data: see {"event": "error"}"#,
        r#": {"event": "error"}"#,
        "retry: error",
        "data: message_end",
        "data: the end [DONE]",
        "event: errors",
        r#"data: ["event", "error"]"#,
    ] {
        assert!(!read(&format!("{line}\n\n")).is_over(), "{line}");
    }
}

#[test]
fn the_first_task_is_kept_if_it_is_a_plain_word() {
    let task = |stream: &str| read(stream).task().map(str::to_owned);
    let id = "00000001-0000-4000-8000-000000000001";
    let first = format!("data: {{\"answer\": \"x\", \"task_id\": \"{id}\"}}\n\ndata: {{\"task_id\": \"other\"}}\n\n");
    assert_eq!(task(&first).as_deref(), Some(id));
    for none in [
        "event: ping\n\n".to_owned(),
        "data: {\"task_id\": \"\"}\n\n".to_owned(),
        "data: {\"task_id\": \"a\\\"b\"}\n\n".to_owned(),
        "data: {\"task_id\": \"a b\"}\n\n".to_owned(),
        "data: {\"task_id\": 7}\n\n".to_owned(),
        format!("data: {{\"task_id\": \"{}\"}}\n\n", "a".repeat(65)),
        "data: {\"data\": {\"task_id\": \"inner\"}}\n\n".to_owned(),
    ] {
        assert_eq!(task(&none), None, "{none}");
    }
    assert_eq!(
        task(&format!(
            "{}data: {{\"task_id\": \"t\"}}\n\n",
            "data: {\"task_id\": 7}\n\n"
        ))
        .as_deref(),
        Some("t")
    );
}

#[test]
fn whose_clients_read_a_stream_is_told_by_its_first_data() {
    use Dialect::{Completions, Dify, Other, Silent, Typed};
    let piece = r#"data: {"id": "c", "object": "chat.completion.chunk", "choices": [{"delta": {}}]}"#;
    for (stream, dialect) in [
        ("", Silent),
        (": a comment\n\nevent: ping\n\nretry: 5000\n\n", Silent),
        ("data: {\"even", Silent),
        (r#"data: {"event": "message"}"#, Dify),
        ("event: ping\n\ndata: {\"event\":\"workflow_started\"}\n\n", Dify),
        (piece, Completions),
        ("data: [DONE]\n\n", Completions),
        ("event: message_start\ndata: {\"type\": \"message_start\"}\n\n", Typed),
        (
            "event: response.created\r\ndata: {\"type\":\"response.created\"}\r\n\r\n",
            Typed,
        ),
        // A type alone is said by many.
        ("data: {\"type\": \"text-delta\"}\n\n", Other),
        ("event: x\ndata: 1\n\ndata: {\"type\": \"y\"}\n\n", Other),
        ("data: hello\n\n", Other),
        ("data: {\"answer\": \"event\", \"x\": {\"choices\": []}}\n\n", Other),
        (
            "data: {\"jsonrpc\": \"2.0\"}\n\ndata: {\"choices\": []}\n\n",
            Completions,
        ),
        ("data: {\"event\": \"message\"}\n\ndata: {\"choices\": []}\n\n", Dify),
    ] {
        assert_eq!(read(stream).dialect(), dialect, "{stream:?}");
    }
    for last in ["message_stop", "response.completed", "response.failed", "error"] {
        assert!(read(&format!("event: {last}\ndata: {{\"type\": \"{last}\"}}\n\n")).is_over());
        assert!(!read(&format!("data: {{\"type\": \"{last}\"}}\n\n")).is_over());
    }
}

#[test]
fn between_events_is_where_an_empty_line_was() {
    for (stream, between) in [
        ("", true),
        ("d", false),
        ("data: 1", false),
        ("data: 1\n", false),
        ("data: 1\n\n", true),
        ("data: 1\r\n\r", false),
        ("data: 1\r\n\r\n", true),
        ("data: 1\r\n\r\nd", false),
        (": a comment\n", true),
        (": a comment", false),
        ("data: 1\n: a comment\n", false),
        ("data: 1\n\n\n", true),
        ("data", false),
        ("data\n", false),
        ("event: ping\n\n", true),
    ] {
        assert_eq!(read(stream).is_between_events(), between, "{stream:?}");
    }
}

#[test]
fn the_first_boundary_is_found() {
    let mut reader = read("data: {\"answer\": \"beg");
    assert_eq!(reader.feed_to_boundary(b"un\"}"), None);
    assert_eq!(reader.feed_to_boundary(b"\n\ndata: next\n\n"), Some(2));
    let mut reader = read("data: 1\r\n");
    assert_eq!(reader.feed_to_boundary(b"\r\ndata: 2\r\n\r\n"), Some(2));
}

/// Anything that may come on a stream, told and untold, whole and broken.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("data: ".to_owned()),
        Just("event: ".to_owned()),
        Just("{\"event\": \"message_end\"".to_owned()),
        Just("\"task_id\": \"t-1\"".to_owned()),
        Just("\"answer\": \"a \\\"b\\\\\"".to_owned()),
        Just("error".to_owned()),
        Just("[DONE]".to_owned()),
        Just("\"choices\": []".to_owned()),
        Just("\"type\": \"message_stop\"".to_owned()),
        Just("\n".to_owned()),
        Just("\n\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("\r".to_owned()),
        "[a-z{}\\[\\],:\"\\\\ \n\r]{0,8}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn how_a_stream_is_cut_makes_no_difference(stream in streams(), cuts in proptest::collection::vec(0_usize..64, 0..16)) {
        let mut whole = Reader::default();
        whole.feed(&stream);
        let mut pieces = Reader::default();
        let mut rest = stream.as_slice();
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            pieces.feed(piece);
            rest = behind;
        }
        pieces.feed(rest);
        prop_assert_eq!(&whole, &pieces);
        let mut single = Reader::default();
        stream.iter().for_each(|byte| single.feed(&[*byte]));
        prop_assert_eq!(&whole, &single);
    }

    #[test]
    fn a_boundary_is_where_reading_up_to_it_says_so(stream in streams()) {
        let mut reader = Reader::default();
        if let Some(at) = reader.feed_to_boundary(&stream) {
            let mut again = Reader::default();
            again.feed(&stream[..at]);
            prop_assert!(again.is_between_events());
            prop_assert_eq!(again, reader);
        } else {
            prop_assert!(stream.is_empty() || !reader.is_between_events());
        }
    }
}
