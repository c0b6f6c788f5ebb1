//! Signals, full slots, and dependencies that are gone.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{PATIENCE, SILENCE, ask, ended_well, get, is_silent, one, post, read_until, rest, send, status, streaming};
use crate::simulated_dify::{Switches, Traffic};

#[tokio::test]
async fn a_frozen_instance_accepts_and_answers_all_when_it_is_thawed() {
    let dify = one().await;
    dify.freeze();
    let mut probe = send(&dify, &get("/healthz")).await;
    let abandoned = send(&dify, &post("/v1/chat-messages", &json!({"response_mode": "blocking"}))).await;
    assert!(is_silent(&mut probe).await);
    assert_eq!(dify.tally().total(), 0);
    drop(abandoned);
    dify.thaw();
    assert_eq!(status(&rest(probe).await), 200);
    dify.tally().until(|counts| counts.executed == 1).await;
}

#[tokio::test]
async fn a_frozen_instance_interrupts_its_streams_and_goes_on_with_them() {
    let dify = one().await;
    let mut stream = send(&dify, &post("/v1/chat-messages", &streaming(30, 10))).await;
    read_until(&mut stream, "part 2 ").await;
    dify.freeze();
    while timeout(SILENCE, stream.read(&mut [0; 4096])).await.is_ok() {}
    dify.thaw();
    let end = rest(stream).await;
    assert!(end.contains("workflow_finished") && ended_well(&end));
}

#[tokio::test]
async fn a_booting_instance_is_silent_and_then_executes_what_queued_up() {
    let dify = one().await;
    dify.set(|switches| switches.boot = Duration::from_secs(3));
    dify.restart().await.unwrap();
    let mut waiting = send(&dify, &post("/v1/chat-messages", &json!({"response_mode": "blocking"}))).await;
    assert!(is_silent(&mut waiting).await);
    assert_eq!(status(&rest(waiting).await), 200);
}

#[tokio::test]
async fn kill_cuts_streams_and_closes_the_port_until_the_restart() {
    let dify = one().await;
    let mut stream = send(&dify, &post("/v1/chat-messages", &streaming(1_000, 10))).await;
    read_until(&mut stream, "part 1 ").await;
    dify.kill().await;
    assert!(TcpStream::connect(dify.address()).await.is_err());
    assert!(!ended_well(&rest(stream).await));
    let counts = dify.tally().counts();
    assert_eq!((counts.connections, counts.streams), (0, 0));
    dify.restart().await.unwrap();
    assert_eq!(status(&ask(&dify, &get("/healthz")).await), 200);
}

#[tokio::test]
async fn a_killed_worker_leaves_the_port_open() {
    let dify = one().await;
    let mut stream = send(&dify, &post("/v1/chat-messages", &streaming(1_000, 10))).await;
    read_until(&mut stream, "part 1 ").await;
    dify.kill_worker(Duration::from_secs(3)).await;
    let mut probe = send(&dify, &get("/healthz")).await;
    assert!(!ended_well(&rest(stream).await));
    assert!(is_silent(&mut probe).await);
    assert_eq!(status(&rest(probe).await), 200);
}

#[tokio::test]
async fn stop_accepts_a_last_time_finishes_short_streams_and_cuts_long_ones() {
    let dify = one().await;
    dify.set(|switches| {
        switches.last_call = Duration::from_secs(2);
        switches.grace = Duration::from_secs(5);
    });
    let mut long = send(&dify, &post("/v1/chat-messages", &streaming(10_000, 10))).await;
    read_until(&mut long, "part 1 ").await;
    let client = async {
        let probe = ask(&dify, &get("/healthz")).await;
        let short = ask(&dify, &post("/v1/chat-messages", &streaming(30, 20))).await;
        while TcpStream::connect(dify.address()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (status(&probe), ended_well(&short))
    };
    let (cut, answers) = tokio::join!(dify.stop(), timeout(PATIENCE, client));
    assert_eq!(answers.expect("nobody to be let in at last"), (200, true));
    assert_eq!(cut, 1);
    assert!(!ended_well(&rest(long).await));
}

#[tokio::test]
async fn a_grey_failure_answers_503_while_health_passes() {
    let dify = one().await;
    dify.set(|switches| switches.traffic = Traffic::Status(503));
    assert_eq!(status(&ask(&dify, &get("/v1/parameters")).await), 503);
    assert_eq!(status(&ask(&dify, &get("/healthz")).await), 200);
}

#[tokio::test]
async fn without_its_database_the_api_is_500_while_pages_and_health_are_200() {
    let dify = one().await;
    dify.set(|switches| switches.traffic = Traffic::DatabaseDown);
    for (path, expected) in [
        ("/v1/parameters", 500),
        ("/console/api/setup", 500),
        ("/console/api/ping", 200),
        ("/apps", 200),
        ("/health", 200),
    ] {
        assert_eq!(status(&ask(&dify, &get(path)).await), expected, "{path}");
    }
}

#[tokio::test]
async fn without_redis_the_api_is_slow_and_a_stream_is_one_ping() {
    let dify = one().await;
    let delay = Duration::from_millis(200);
    dify.set(|switches| switches.traffic = Traffic::RedisDown(delay));
    let start = Instant::now();
    assert_eq!(status(&ask(&dify, &get("/v1/parameters")).await), 200);
    assert!(start.elapsed() >= delay);
    let stream = ask(&dify, &post("/v1/chat-messages", &streaming(5, 0))).await;
    assert!(stream.contains("event: ping\n\n") && !stream.contains("data:") && ended_well(&stream));
    assert_eq!(dify.tally().executed(), 0);
}

#[tokio::test]
async fn waiting_requests_see_that_a_switch_is_flipped() {
    let dify = one().await;
    let hour = Duration::from_secs(3600);
    let breaks = [
        |switches: &mut Switches| switches.traffic = Traffic::Hang,
        |switches: &mut Switches| switches.traffic = Traffic::RedisDown(Duration::from_secs(3600)),
    ];
    for break_it in breaks {
        dify.set(break_it);
        let mut waiting = send(&dify, &get("/v1/parameters")).await;
        assert!(is_silent(&mut waiting).await);
        dify.set(|switches| switches.traffic = Traffic::Normal);
        assert_eq!(status(&rest(waiting).await), 200);
    }
    dify.set(|switches| (switches.latency, switches.probe_latency) = (hour, hour));
    let mut probe = send(&dify, &get("/healthz")).await;
    assert!(is_silent(&mut probe).await);
    dify.set(|switches| switches.probe_latency = Duration::ZERO);
    assert_eq!(status(&rest(probe).await), 200);
}

#[tokio::test]
async fn traffic_can_be_closed_or_cut_instead_of_answered() {
    let dify = one().await;
    dify.set(|switches| switches.traffic = Traffic::Close);
    assert_eq!(ask(&dify, &get("/v1/parameters")).await, "");
    dify.set(|switches| switches.traffic = Traffic::Cut);
    let cut = ask(&dify, &get("/v1/parameters")).await;
    assert!(status(&cut) == 200 && cut.contains("to be cont") && !ended_well(&cut));
}

#[tokio::test]
async fn full_slots_make_a_probe_wait_until_a_stream_ends() {
    let dify = one().await;
    dify.set(|switches| switches.slots = 2);
    let first = send(&dify, &post("/v1/chat-messages", &streaming(100_000, 10))).await;
    let _second = send(&dify, &post("/v1/chat-messages", &streaming(100_000, 10))).await;
    dify.tally().until(|counts| counts.streams == 2).await;
    let mut probe = send(&dify, &get("/healthz")).await;
    assert!(is_silent(&mut probe).await);
    assert_eq!(dify.tally().counts().accepted, 2);
    drop(first);
    assert_eq!(status(&rest(probe).await), 200);
}

#[tokio::test]
async fn keep_alive_ends_after_its_idle_time_and_not_before() {
    let dify = one().await;
    dify.set(|switches| switches.keep_alive = Duration::from_secs(3));
    let mut socket = TcpStream::connect(dify.address()).await.unwrap();
    for _ in 0..3 {
        socket
            .write_all(b"GET /v1/parameters HTTP/1.1\r\nHost: dify\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut socket, "system_parameters").await;
        assert!(is_silent(&mut socket).await);
    }
    assert_eq!(rest(socket).await, "");
    assert_eq!(dify.tally().counts().accepted, 1);
}
