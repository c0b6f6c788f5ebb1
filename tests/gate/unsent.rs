//! What a client is told whose request no endpoint answered: 503 where nothing of it was sent, so that it can be sent again; 502 or 504 where it may
//! have been processed. And what was sent is sent to nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{Arrived, Upstream, dify_upstream, edge, gate, nobody, soon, until};
use crate::wire::{Answer, Wire};

/// A body that the gate does not take in before it sends the request on.
const LARGE: usize = 70_000;

/// An upstream whose health is told by another one, so that it is routable whatever becomes of requests.
async fn healthy(keys: &str) -> (Upstream, String) {
    let health = Upstream::echo().await;
    let port = health.address.port();
    (
        health,
        format!("{keys}outlier: {{eject: false}}, probe: {{port: {port}, tls: false, interval: 60s, timeout: 1s}}"),
    )
}

/// Sends a request with a body of this length on a connection of its own.
async fn send(edge: SocketAddr, method: &str, length: usize) -> Answer {
    let mut wire = Wire::to(edge).await;
    wire.send(format!(
        "{method} /v1/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    ))
    .await;
    wire.offer(vec![b'x'; length]).await;
    wire.answer().await
}

#[track_caller]
fn is_unsent(answer: &Answer, what: &str) {
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "upstream_unreachable"),
        "{what}"
    );
    let seconds = answer.header("retry-after").expect("when to ask again");
    assert!(seconds.parse::<u32>().unwrap() > 0, "{what}");
}

/// A socket that listens and whose queue is full, so that no connection to it comes about.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    let connect = || tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address));
    while let Ok(Ok(stream)) = connect().await {
        waiting.push(stream);
    }
    (listener, waiting)
}

/// An endpoint that takes connections and speaks no TLS.
async fn deaf() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read_u8().await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_reached_nobody_is_503_and_can_be_sent_again_whatever_it_asks_for() {
    let (full, _waiting) = full().await;
    let deaf = deaf().await;
    for (what, endpoints, keys) in [
        ("refused", vec![nobody()], ""),
        ("all refused", vec![nobody(), nobody()], ""),
        ("refused, HTTP/2", vec![nobody()], "http2: true, "),
        (
            "never accepted",
            vec![full.local_addr().unwrap()],
            "timeouts: {connect: 200ms}, ",
        ),
        ("no TLS", vec![deaf], "tls: true, "),
        ("no TLS, HTTP/2", vec![deaf], "tls: true, http2: true, "),
    ] {
        let (_health, keys) = healthy(keys).await;
        let gate = gate(&dify_upstream(&endpoints, &keys)).await;
        for method in ["GET", "POST", "DELETE"] {
            for length in [0, 2, LARGE] {
                let answer = send(edge(&gate), method, length).await;
                is_unsent(&answer, &format!("{what} {method} {length}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_sent_once_may_have_been_processed_whatever_happened_since() {
    // It takes a request and breaks the connection.
    let breaking = Upstream::start(async |mut arrived: Arrived| {
        let _ = arrived.stream.read_u8().await;
    })
    .await;
    for (endpoints, methods) in [
        (vec![breaking.address], &["GET", "POST"][..]),
        (vec![breaking.address, nobody()], &["POST"][..]),
    ] {
        let (_health, keys) = healthy("balance: round_robin, ").await;
        let gate = gate(&dify_upstream(&endpoints, &keys)).await;
        for method in methods {
            for length in [2, LARGE] {
                let before = breaking.arrivals();
                let answers = [
                    send(edge(&gate), method, length).await,
                    send(edge(&gate), method, length).await,
                ];
                let sent = breaking.arrivals() - before;
                let told = answers
                    .iter()
                    .filter(|answer| answer.code() == "upstream_failed")
                    .count();
                assert_eq!(told, sent, "{method} {length}");
            }
        }
    }
    // Where a question was asked of one that broke and then of one that refuses, it may have been processed too.
    let (_health, keys) = healthy("").await;
    let gate = gate(&dify_upstream(&[breaking.address, nobody()], &keys)).await;
    until("both to be tried", async || {
        let before = breaking.arrivals();
        let answer = send(edge(&gate), "GET", 2).await;
        let sent = breaking.arrivals() > before;
        assert_eq!(answer.status, if sent { 502 } else { 503 });
        sent
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_breaks_after_an_interim_answer_has_failed() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        arrived.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        arrived.read(2).await;
    })
    .await;
    let (_health, keys) = healthy("").await;
    let gate = gate(&dify_upstream(&[upstream.address], &keys)).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await;
    assert_eq!(wire.head().await.status, 100);
    wire.send("ok").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_failed"));
}

/// Counts the POST requests that arrive at an endpoint, and answers those that it does not break off: every second one of a connection, as soon as
/// its head is there.
async fn breaking(arrived: Arc<AtomicUsize>, breaks: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_zero_linger().unwrap();
            let (arrived, breaks) = (arrived.clone(), breaks.clone());
            tokio::spawn(async move {
                let mut stream = stream;
                for number in 0.. {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.ok()?);
                    }
                    arrived.fetch_add(1, Ordering::SeqCst);
                    if number > 0 && breaks.load(Ordering::SeqCst) {
                        return None;
                    }
                    let mut body = vec![0; LARGE];
                    stream.read_exact(&mut body).await.ok()?;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).await.ok()?;
                }
                Some(())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_head_was_sent_on_a_kept_connection_that_broke_is_sent_to_nobody_else() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let breaks = Arc::new(AtomicBool::new(true));
    let endpoints = [
        breaking(arrived.clone(), breaks.clone()).await,
        breaking(arrived.clone(), breaks.clone()).await,
    ];
    let (_health, keys) = healthy("balance: round_robin, ").await;
    let gate = gate(&dify_upstream(&endpoints, &keys)).await;
    // Whether the gate notices by reading or by writing is chance, so it is tried often.
    for number in 0..60 {
        let before = arrived.load(Ordering::SeqCst);
        let answer = send(edge(&gate), "POST", LARGE).await;
        let sent = arrived.load(Ordering::SeqCst) - before;
        assert_eq!(sent, 1, "{number}: {}", answer.status);
        assert!(matches!(answer.status, 200 | 502), "{number}: {}", answer.status);
    }
}

/// What an endpoint in HTTP/2 does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// `RST_STREAM` with `REFUSED_STREAM`, always.
    Stream,
    /// The first connection ends with `GOAWAY` before the request.
    Goaway,
    /// `RST_STREAM` with another code.
    Cancel,
}

/// An endpoint in HTTP/2 that refuses.
async fn refusing(refusal: Refusal) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                if refusal == Refusal::Goaway && number == 0 {
                    return go_away(&mut stream).await;
                }
                let mut connection = h2::server::handshake(stream).await.ok()?;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    match refusal {
                        Refusal::Stream => respond.send_reset(h2::Reason::REFUSED_STREAM),
                        Refusal::Cancel => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                        Refusal::Goaway => {
                            let head = http::Response::builder().header("x", "y").body(()).unwrap();
                            let mut body = respond.send_response(head, false).ok()?;
                            body.send_data(Bytes::from_static(b"ok"), true).ok()?;
                        }
                    }
                }
                Some(())
            });
        }
    });
    (address, served)
}

/// Takes a client's preface and first headers, and says that it looks at none of its streams.
async fn go_away(stream: &mut TcpStream) -> Option<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.ok()?;
    stream.write_all(&SETTINGS).await.ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut rest = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut rest).await.ok()?;
        const HEADERS: u8 = 1;
        if head[3] == HEADERS {
            break;
        }
    }
    stream.write_all(&GOAWAY).await.ok()?;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_refuses_in_http2_was_not_processed() {
    // Without a body, for where the framework meets the refusal as it writes one it does not tell that it is one.
    for refusal in [Refusal::Stream, Refusal::Goaway, Refusal::Cancel] {
        let (address, served) = refusing(refusal).await;
        let (_health, keys) = healthy("http2: true, ").await;
        let gate = gate(&dify_upstream(&[address], &keys)).await;
        let answer = soon("an answer", send(edge(&gate), "POST", 0)).await;
        match refusal {
            Refusal::Stream => is_unsent(&answer, "refused"),
            Refusal::Goaway => assert_eq!((answer.status, answer.text().as_str()), (200, "ok")),
            Refusal::Cancel => assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_failed")),
        }
        assert_eq!(served.load(Ordering::SeqCst), 1, "{refusal:?}");
    }
}
