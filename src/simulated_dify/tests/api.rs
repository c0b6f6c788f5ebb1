//! The API as its clients use it, alone and across a cluster.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ask, content, ended_well, field, get, is_silent, one, post, read_until, rest, send, status, streaming};
use crate::simulated_dify::{Cluster, SimulatedDify};

#[tokio::test]
async fn a_chat_streams_a_ping_its_parts_in_order_and_its_end() {
    let dify = one().await;
    let stream = ask(&dify, &post("/v1/chat-messages", &streaming(3, 1))).await;
    assert!(stream.contains("content-type: text/event-stream; charset=utf-8\r\n"));
    let marks = [
        "event: ping\n\n",
        "workflow_started",
        "part 0 ",
        "part 1 ",
        "part 2 ",
        "message_end",
        "workflow_finished",
    ];
    let places: Vec<usize> = marks.iter().map(|mark| stream.find(mark).unwrap()).collect();
    assert!(places.is_sorted() && ended_well(&stream));
}

#[tokio::test]
async fn silence_in_a_stream_is_filled_with_pings() {
    let dify = one().await;
    dify.set(|switches| switches.ping_every = Duration::from_millis(50));
    let stream = ask(&dify, &post("/v1/completion-messages", &streaming(1, 400))).await;
    assert!(stream.matches("event: ping\n\n").count() >= 3);
    assert!(stream.contains("message_end") && !stream.contains("workflow_finished"));
}

#[tokio::test]
async fn a_run_that_no_worker_takes_is_one_ping_and_then_silence() {
    let dify = one().await;
    dify.set(|switches| (switches.workers, switches.ping_every) = (false, Duration::from_millis(20)));
    let mut stream = send(&dify, &post("/v1/chat-messages", &streaming(2, 1))).await;
    read_until(&mut stream, "event: ping\n\n").await;
    assert!(is_silent(&mut stream).await);
    dify.set(|switches| switches.workers = true);
    let text = rest(stream).await;
    assert!(text.contains("part 1 ") && ended_well(&text), "{text}");
}

#[tokio::test]
async fn blocking_answers_have_the_shape_that_clients_read() {
    let dify = one().await;
    let request = json!({"inputs": {"events": 2}, "response_mode": "blocking", "conversation_id": "c-7"});
    let chat = content(&ask(&dify, &post("/v1/chat-messages", &request)).await);
    assert_eq!(
        (&chat["answer"], &chat["conversation_id"]),
        (&"part 0 part 1 ".into(), &"c-7".into())
    );
    let run = content(&ask(&dify, &post("/v1/workflows/run", &request)).await);
    assert_eq!(run["data"]["status"], "succeeded");
    let id = run["workflow_run_id"].as_str().unwrap();
    assert_eq!(
        content(&ask(&dify, &get(&format!("/v1/workflows/run/{id}"))).await)["id"],
        id
    );
    assert_eq!(status(&ask(&dify, &post("/v1/chat-messages", &json!([]))).await), 400);
    assert_eq!(dify.tally().executed(), 2);
}

#[tokio::test]
async fn another_instance_of_the_cluster_stops_a_run() {
    let cluster = Cluster::new();
    let first = SimulatedDify::start(&cluster, "dify-1").await.unwrap();
    let second = SimulatedDify::start(&cluster, "dify-2").await.unwrap();
    let mut stream = send(&first, &post("/v1/chat-messages", &streaming(100_000, 10))).await;
    let task = field(&read_until(&mut stream, "task_id").await, "task_id");
    let stop = post(&format!("/v1/chat-messages/{task}/stop"), &json!({"user": "u"}));
    assert_eq!(content(&ask(&second, &stop).await), json!({"result": "success"}));
    let end = rest(stream).await;
    assert!(end.contains("\"status\":\"stopped\"") && ended_well(&end));
}

#[tokio::test]
async fn a_cut_stream_goes_on_at_another_instance_without_a_second_run() {
    let cluster = Cluster::new();
    let first = SimulatedDify::start(&cluster, "dify-1").await.unwrap();
    let second = SimulatedDify::start(&cluster, "dify-2").await.unwrap();
    let mut stream = send(&first, &post("/v1/workflows/run", &streaming(60, 10))).await;
    let id = field(&read_until(&mut stream, "workflow_run_id").await, "workflow_run_id");
    first.kill().await;
    let again = ask(
        &second,
        &get(&format!("/v1/workflow/{id}/events?user=u&include_state_snapshot=true")),
    )
    .await;
    assert!((0..60).all(|part| again.matches(&format!("\"part {part} \"")).count() == 1));
    assert!(again.contains("x-instance: dify-2") && again.contains("workflow_finished") && ended_well(&again));
    assert_eq!(cluster.started(), 1);
}

#[tokio::test]
async fn the_tally_keeps_paths_as_they_were_received() {
    let dify = one().await;
    for path in ["/v1/parameters", "/v1/%70arameters?x=1", "//healthz", "/apps"] {
        ask(&dify, &get(path)).await;
    }
    let tally = dify.tally();
    assert_eq!(
        (tally.requests("/v1/%70arameters"), tally.requests("//healthz")),
        (1, 1)
    );
    assert_eq!((tally.total(), tally.probes()), (4, 0));
    ask(&dify, "this is no HTTP\r\n\r\n").await;
    tally.until(|counts| counts.malformed == 1).await;
}

#[tokio::test]
async fn the_other_routes_answer_as_dify_does() {
    let dify = one().await;
    for (path, expected, content_type) in [
        ("/v1/messages", 200, "application/json"),
        ("/api/conversations", 200, "application/json"),
        ("/v1/nothing", 404, "application/json"),
        ("/console/api/ping", 200, "application/json"),
        ("/console/api/setup", 200, "application/json"),
        ("/signin", 200, "text/html"),
        ("/socket.io", 200, "text/html"),
    ] {
        let answer = ask(&dify, &get(path)).await;
        assert!(
            status(&answer) == expected && answer.contains(content_type),
            "{path}: {answer}"
        );
    }
    assert_eq!(dify.tally().executed(), 0);
    ask(&dify, &get("/triggers/webhook/w1")).await;
    assert_eq!(dify.tally().executed(), 1);
}

#[tokio::test]
async fn an_upload_is_received_whole_before_it_is_refused() {
    let dify = one().await;
    for (size, expected) in [(1_000, 201), (16_000_000, 413)] {
        let head =
            format!("POST /v1/files/upload HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n");
        let mut socket = send(&dify, &head).await;
        socket.write_all(&vec![b'u'; size]).await.unwrap();
        let answer = rest(socket).await;
        assert_eq!(status(&answer), expected);
        assert_eq!(answer.contains("file_too_large"), expected == 413);
    }
    assert_eq!(dify.tally().counts().uploaded_bytes, 16_001_000);
}

#[tokio::test]
async fn a_file_has_the_size_that_was_asked_for() {
    let dify = one().await;
    let answer = ask(&dify, &get("/files/size/3000000")).await;
    assert!(answer.contains("content-length: 3000000\r\n"));
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 3_000_000);
}

#[tokio::test]
async fn a_websocket_is_500_on_an_api_and_an_echo_on_api_websocket() {
    let dify = one().await;
    let upgrade = "GET /socket.io/ HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut refused = send(&dify, upgrade).await;
    assert_eq!(status(&read_until(&mut refused, "\r\n\r\n").await), 500);

    dify.set(|switches| switches.websocket = true);
    let mut socket = send(&dify, upgrade).await;
    let answer = read_until(&mut socket, "\r\n\r\n").await;
    // The key and its answer are the example of RFC 6455 section 1.3.
    assert!(status(&answer) == 101 && answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let mask = [1, 2, 3, 4];
    let masked: Vec<u8> = b"Hello"
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, key)| byte ^ key)
        .collect();
    socket
        .write_all(&[&[0x81, 0x85], &mask[..], &masked].concat())
        .await
        .unwrap();
    let mut echo = [0; 7];
    socket.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"\x81\x05Hello");
    socket.write_all(&[0x88, 0x80, 1, 2, 3, 4]).await.unwrap();
    let mut end = Vec::new();
    socket.read_to_end(&mut end).await.unwrap();
    assert_eq!(end, [0x88, 0x00]);
    dify.tally().until(|counts| counts.connections == 1).await;
}
