//! Answers of every kind, from a real socket, in one piece and byte by byte.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What a client makes of `answer`: its status, its body, and whether the connection can be used again; or why not.
async fn read(answer: &'static [u8], step: usize, to_head: bool) -> Result<(u16, String, bool), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut connection = Connection::over(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let (mut peer, _) = listener.accept().await.unwrap();
    peer.set_nodelay(true).unwrap();
    let sender = tokio::spawn(async move {
        for piece in answer.chunks(step) {
            peer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        // Only what ends with the connection is closed; else an end that is missed shows as a hang.
        let until_close = answer.starts_with(b"HTTP/1.0") || answer.ends_with(b"cut");
        (!until_close).then_some(peer)
    });
    let told = async {
        let mut head = connection.head(to_head).await?;
        while head.status.is_informational() {
            head = connection.head(to_head).await?;
        }
        let mut body = Vec::new();
        while let Some(part) = connection.part().await? {
            body.extend_from_slice(&part);
        }
        let body = String::from_utf8(body).unwrap();
        Ok::<_, WireError>((head.status.as_u16(), body, connection.is_reusable()))
    };
    let told = tokio::time::timeout(Duration::from_secs(60), told)
        .await
        .expect("an end");
    let _peer = sender.await.unwrap();
    told.map_err(|e| e.to_string())
}

#[tokio::test]
async fn answers_end_where_they_say() {
    let cases: [(&[u8], u16, &str, bool); 11] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "until the end", false),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, "", true),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x", true),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\none\r\n0B \r\n, two three\r\n0\r\nT: t\r\n\r\n",
            200,
            "one, two three",
            true,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nok", 200, "o", false),
    ];
    for (answer, status, body, reusable) in cases {
        for step in [1, 3, 4096] {
            let told = read(answer, step, false).await;
            let name = String::from_utf8_lossy(answer);
            // A byte too many is seen where it comes with the rest.
            let reusable = reusable || (step < 4096 && told.as_ref().is_ok_and(|told| told.2));
            assert_eq!(told, Ok((status, body.to_owned(), reusable)), "{name} by {step}");
        }
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whatever_it_says() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(read(answer, 7, true).await, Ok((200, String::new(), true)));
    }
}

#[tokio::test]
async fn what_could_be_framed_in_two_ways_is_an_error() {
    let cases: [(&[u8], &str); 13] = [
        (b"nonsense\r\n\r\n", "no HTTP/1 head"),
        (b"HTTP/1.1 2xx OK\r\n\r\n", "no HTTP/1 head"),
        (b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n", "no HTTP/1 head"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "a length and a transfer coding",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "two lengths",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "no number"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
            "no number",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "not chunked alone",
        ),
        (
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "not chunked alone",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n",
            "no number",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            "longer than it says",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", "closed before"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ncut",
            "closed before",
        ),
    ];
    for (answer, why) in cases {
        for step in [1, 4096] {
            let told = read(answer, step, false).await;
            let name = String::from_utf8_lossy(answer);
            assert!(
                told.as_ref().is_err_and(|told| told.contains(why)),
                "{name} by {step}: {told:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_nobody_looked_is_stale() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut connection = Connection::over(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let (peer, _) = listener.accept().await.unwrap();
    assert!(!connection.is_stale());
    drop(peer);
    connection.stream.readable().await.unwrap();
    assert!(connection.is_stale());
}
