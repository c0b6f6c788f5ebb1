//! Request bodies that are sent on as they come: every byte arrives, in order, and who keeps whom waiting is told right.

use std::sync::{Arc, Mutex};

use difygate::server::Gate;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

use crate::authority::Authority;
use crate::support::{Arrived, QUICK, Upstream, dify_upstream, edge, gate, nobody, soon, until, until_idle};
use crate::tls::{curl, listener};
use crate::wire::Wire;

/// Reads a request body as its head frames it, with its trailer section behind it; `None` where it breaks off.
async fn body(arrived: &mut Arrived) -> Option<(Vec<u8>, String)> {
    let head = arrived.head.to_lowercase();
    let mut body = Vec::new();
    if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        body.resize(length.parse().unwrap(), 0);
        arrived.stream.read_exact(&mut body).await.ok()?;
        return Some((body, String::new()));
    }
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    loop {
        let mut line = String::new();
        arrived
            .stream
            .read_line(&mut line)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("{line:?}"));
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        arrived.stream.read_exact(&mut chunk).await.ok()?;
        assert_eq!(chunk.split_off(size), b"\r\n");
        body.extend(chunk);
    }
    let mut trailers = String::new();
    while !trailers.ends_with("\r\n\r\n") && trailers != "\r\n" {
        arrived
            .stream
            .read_line(&mut trailers)
            .await
            .ok()
            .filter(|read| *read > 0)?;
    }
    Some((body, trailers.trim().to_owned()))
}

/// What arrived of each request: its body and its trailers, or nothing where it broke off.
type Seen = Arc<Mutex<Vec<Option<(Vec<u8>, String)>>>>;

async fn recorder() -> (Upstream, Seen) {
    let seen = Seen::default();
    let record = seen.clone();
    let upstream = Upstream::start(move |mut arrived: Arrived| {
        let record = record.clone();
        async move {
            let body = body(&mut arrived).await;
            let length = body.as_ref().map_or(0, |(body, _)| body.len());
            record.lock().unwrap().push(body);
            arrived.answer("Connection: close\r\n", &length.to_string()).await;
        }
    });
    (upstream.await, seen)
}

async fn before(upstream: &Upstream, keys: &str) -> Gate {
    gate(&dify_upstream(&[upstream.address], &format!("{QUICK}{keys}"))).await
}

fn chunks(content: &[u8], size: usize, extension: &str) -> Vec<u8> {
    let parts = content.chunks(size).flat_map(|part| {
        let line = format!("{:x}{extension}\r\n", part.len());
        [line.as_bytes(), part, b"\r\n"].concat()
    });
    parts.chain(*b"0\r\n\r\n").collect()
}

const POST: &str = "POST /v1/files HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn chunks_arrive_whole_wherever_they_are_cut() {
    let (upstream, seen) = recorder().await;
    let gate = before(&upstream, "").await;
    let content: Vec<u8> = (0..200_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    for (length, size, extension, step) in [
        (300, 7, "", 1),
        (300, 7, ";name=\"a;b\"", 1),
        (4_000, 1_000, "", 3),
        (300_000, 1_024, "", 1_448),
        (300_000, 1_024, ";x", 1_025),
        (800_000, 65_536, "", 16_384),
        (800_000, 100_000, "", 70_000),
        (0, 1, "", 1),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        let content = &content[..length];
        let request = [POST.as_bytes(), &chunks(content, size, extension)].concat();
        for segment in request.chunks(step) {
            wire.send(segment).await;
            if step < 100 {
                tokio::task::yield_now().await;
            }
        }
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text()), (200, length.to_string()));
        let (arrived, _) = seen.lock().unwrap().pop().unwrap().unwrap();
        assert!(arrived == content, "{length} bytes in chunks of {size}, cut at {step}");
        // The connection serves another request.
        wire.send("POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(wire.answer().await.text(), "2");
        seen.lock().unwrap().clear();
    }
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_malformed_or_break_off_are_no_complete_body() {
    let (upstream, seen) = recorder().await;
    let gate = before(&upstream, "").await;
    for parts in [
        "5\r\nhello\r\n\r\n",
        "5\r\nhello\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(format!("{POST}{parts}")).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "chunks"), "{parts:?}");
        assert!(wire.ended().await.is_empty());
    }
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(format!("{POST}5\r\nhello\r\n")).await;
    until("the upload to arrive", async || upstream.arrivals() == 4).await;
    drop(wire);
    until("the last to break off", async || seen.lock().unwrap().len() == 4).await;
    assert!(
        seen.lock().unwrap().iter().all(Option::is_none),
        "none of them is complete"
    );
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_arrive() {
    let (upstream, seen) = recorder().await;
    let gate = before(&upstream, "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    let claims = "Host: x\r\nContent-Length: 9\r\nX-Forwarded-For: 10.0.0.1\r\nSCRIPT_NAME: /x\r\nCookie: a=b\r\n";
    wire.send(format!("{POST}5\r\nhello\r\n0\r\n{claims}X-Sum: 5\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(
        seen.lock().unwrap().pop().unwrap(),
        Some((b"hello".to_vec(), "X-Sum: 5".to_owned()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_100_continue_is_told_to_go_on_and_keeps_the_connection() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        if arrived.head.contains("/refused") {
            return arrived
                .send("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await;
        }
        assert!(arrived.head.to_lowercase().contains("expect: 100-continue"));
        arrived.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let (body, _) = body(&mut arrived).await.unwrap();
        arrived
            .answer("Connection: close\r\n", &String::from_utf8_lossy(&body))
            .await;
    })
    .await;
    let gate = before(&upstream, "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    for _ in 0..3 {
        wire.send("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .await;
        assert_eq!(wire.head().await.status, 100);
        wire.send("hello").await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
    wire.send("POST /refused HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_100_continue_over_http2_is_told_to_go_on() {
    let (upstream, seen) = recorder().await;
    let authority = Authority::new();
    let certificate = authority.shown("gate", &["dify.example.com"]);
    let gate = gate(&format!(
        "{}{}",
        listener(&certificate, ""),
        dify_upstream(&[upstream.address], QUICK)
    ))
    .await;
    let content = authority.path("content");
    std::fs::write(&content, vec![b'z'; 2_000_000]).unwrap();
    let (content, ca) = (format!("@{}", content.display()), authority.ca());
    // Without the interim answer curl waits for longer than the test does.
    let patience = [
        "--http2",
        "--cacert",
        &ca,
        "--expect100-timeout",
        "60",
        "--header",
        "Expect: 100-continue",
    ];
    for _ in 0..2 {
        let arguments = [&patience[..], &["--data-binary", &content]].concat();
        let (content, out) = curl(edge(&gate), "dify.example.com", "/v1/files", &arguments).await;
        assert!(content && out == "2000000", "{out}");
        assert_eq!(seen.lock().unwrap().pop().unwrap().unwrap().0.len(), 2_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_begins_early_passes_while_the_body_goes_on() {
    // Echoes each chunk as it comes.
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        arrived
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
            .await;
        loop {
            let mut line = String::new();
            arrived.stream.read_line(&mut line).await.unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            arrived.stream.read_exact(&mut chunk).await.unwrap();
            arrived.send([line.as_bytes(), &chunk].concat()).await;
            if size == 0 {
                return;
            }
        }
    })
    .await;
    let gate = before(&upstream, "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(POST).await;
    assert_eq!(wire.head().await.status, 200);
    for number in 0..50 {
        let part = format!("part {number:04}");
        wire.send(format!("9\r\n{part}\r\n")).await;
        assert_eq!(wire.chunk().await.unwrap().unwrap(), part.as_bytes());
    }
    wire.send("0\r\n\r\n").await;
    assert_eq!(wire.chunk().await, Some(None));
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_early_ends_the_request() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        arrived
            .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
            .await;
        arrived.closed().await;
    })
    .await;
    let gate = before(&upstream, "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(format!("{POST}5\r\nhello\r\n")).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    until_idle(&gate).await;
    wire.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_stalls_is_told_from_a_client_that_does() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        // Nothing of the body is read.
        let mut rest = Vec::new();
        if arrived.head.contains("/read") {
            let _ = arrived.stream.read_to_end(&mut rest).await;
        } else {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", body_limit: 64MiB, limits: {{min_rate: 1KiB, grace: 1s}}}}]\n{}",
        dify_upstream(&[upstream.address], &format!("{QUICK}, timeouts: {{first_byte: 1s}}"))
    );
    let gate = gate(&text).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("POST /stall HTTP/1.1\r\nHost: h\r\nContent-Length: 33554432\r\n\r\n")
        .await;
    // The client sends as fast as it is let.
    while wire.offer(vec![0; 64 * 1024]).await {}
    let mut slow = Wire::to(edge(&gate)).await;
    slow.send("POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 33554432\r\n\r\nx")
        .await;
    let answer = slow.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    let text = String::from_utf8(wire.ended().await).unwrap_or_default();
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 504 "), "{text}");
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_reads_slowly_gets_every_byte() {
    // More than the sockets on the way hold.
    const LENGTH: usize = 24 << 20;
    let content: Arc<Vec<u8>> = Arc::new((0..LENGTH as u32 / 4).flat_map(u32::to_le_bytes).collect());
    let expected = content.clone();
    let upstream = Upstream::start(move |mut arrived: Arrived| {
        let expected = expected.clone();
        async move {
            let is_chunked = arrived.head.to_lowercase().contains("transfer-encoding: chunked");
            let (mut body, mut wanted) = (Vec::new(), if is_chunked { usize::MAX } else { LENGTH });
            while body.len() < wanted {
                let read = arrived.stream.read_buf(&mut body).await.unwrap();
                assert_ne!(read, 0, "{} of {wanted}", body.len());
                if is_chunked && body.ends_with(b"\r\n0\r\n\r\n") {
                    body = plain(&body);
                    wanted = body.len();
                }
                // The gate must find the connection full again and again.
                if body.len() % 7 == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
            let differs = body.iter().zip(expected.iter()).position(|(came, sent)| came != sent);
            let told = differs.map_or_else(
                || format!("{} bytes", body.len()),
                |at| {
                    format!(
                        "differs at {at}: {:?}, {} bytes",
                        &body[at..body.len().min(at + 32)],
                        body.len()
                    )
                },
            );
            arrived.answer("Connection: close\r\n", &told).await;
        }
    })
    .await;
    let gate = before(&upstream, "").await;
    let length = format!("POST /v1/files HTTP/1.1\r\nHost: h\r\nContent-Length: {LENGTH}\r\n\r\n");
    for request in [
        [length.as_bytes(), &content].concat(),
        [POST.as_bytes(), &chunks(&content, 100_000, "")].concat(),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(&request).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text()), (200, format!("{LENGTH} bytes")));
    }
    until_idle(&gate).await;
}

/// The content of chunks.
fn plain(mut chunks: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let end = chunks.iter().position(|byte| *byte == b'\r').unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&chunks[end + 2..][..size]);
        chunks = &chunks[end + 2 + size + 2..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_that_nobody_is_to_meet_is_not_passed_on() {
    let upstream = Upstream::echo().await;
    let gate = before(&upstream, "").await;
    for (request, passes) in [
        ("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n", false),
        ("GET /a HTTP/1.1\r\nHost: h\r\n", false),
        ("POST /a HTTP/1.0\r\nHost: h\r\nContent-Length: 5\r\n", false),
        ("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n", true),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        let body = if request.contains(": 5") { "hello" } else { "" };
        wire.send(format!("{request}Expect: 100-continue\r\n\r\n{body}")).await;
        let answer = wire.answer().await;
        assert_eq!(
            (answer.status, answer.text().to_lowercase().contains("expect")),
            (200, passes),
            "{request}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_held_to_the_limit() {
    let (upstream, seen) = recorder().await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", body_limit: 100KiB}}]\n{}",
        dify_upstream(&[upstream.address], QUICK)
    );
    let gate = gate(&text).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(POST).await;
    wire.offer(chunks(&[7; 200_000], 10_000, "")).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
    until("the upload to break off", async || seen.lock().unwrap().len() == 1).await;
    assert_eq!(seen.lock().unwrap()[0], None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_to_another_endpoint_where_the_first_cannot_be_reached() {
    let (upstream, seen) = recorder().await;
    let gone = nobody();
    // The endpoint that is not there passes as fit until its first request: nobody probes within the test.
    let listener = tokio::net::TcpListener::bind(gone).await.unwrap();
    let healthy = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
    });
    let keys = "probe: {interval: 60s, timeout: 1s, rise: 1}, balance: round_robin";
    let gate = gate(&dify_upstream(&[gone, upstream.address], keys)).await;
    soon("the probe", healthy).await.unwrap();
    let content = vec![9; 300_000];
    for _ in 0..2 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send([POST.as_bytes(), &chunks(&content, 30_000, "")].concat())
            .await;
        assert_eq!(wire.answer().await.text(), content.len().to_string());
    }
    assert!(seen.lock().unwrap().iter().flatten().all(|(body, _)| *body == content));
    assert_eq!(upstream.arrivals(), 2);
}
