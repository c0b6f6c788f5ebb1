//! Answers of every kind, from a real socket, in one piece and byte by byte.

use std::task::Poll;
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
    let cases: [(&[u8], u16, &str, bool); 17] = [
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
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", 204, "", true),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: gzip\r\n\r\n", 204, "", true),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n", 304, "", true),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b;\\\"c\" ; d\r\none\r\n00;\r\nT: t\r\nU:\r\n\r\n",
            200,
            "one",
            true,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, "", true),
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
#[allow(clippy::too_many_lines)] // a table
async fn what_could_be_framed_in_two_ways_is_an_error() {
    let cases: [(&[u8], &str); 26] = [
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
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok", "two lengths"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\nok", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xff\r\n\r\nok", "no number"),
        (
            b"HTTP/1.1 204 No Content\r\nContent-Length: 1, 2\r\n\r\n",
            "two lengths",
        ),
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
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n\r\n\r\n",
            "no number",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n;a\r\n\r\n",
            "no number",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n",
            "control character",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\rX\r\na\r\n",
            "control character",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\n\r\na\r\n",
            "control character",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"b\\\"\r\na\r\n",
            "quoted string",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT t\r\n\r\n",
            "no name",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n T: t\r\n\r\n",
            "no name",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: t\n\r\n\r\n",
            "no value",
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

/// A stream that takes so many bytes, and no more than this at once, and then breaks. Nothing is read from it.
struct Breaking {
    takes: usize,
    at_once: usize,
}

impl AsyncRead for Breaking {
    fn poll_read(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.len().min(self.at_once).min(self.takes);
        self.takes -= taken;
        Poll::Ready(if taken == 0 {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(taken)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn whether_some_of_a_request_was_sent_is_known() {
    let request = vec![b'x'; 100_000];
    for (takes, at_once, expected) in [
        (0, 1, (false, false)),
        (1, 1, (false, true)),
        (FIRST_WRITE, usize::MAX, (false, true)),
        (99_999, 1_000, (false, true)),
        (100_000, 7, (true, true)),
        (usize::MAX, usize::MAX, (true, true)),
    ] {
        let mut connection = Connection::over(Breaking { takes, at_once });
        let sent = connection.send(&request).await;
        assert_eq!((sent.is_ok(), connection.has_sent()), expected, "{takes} by {at_once}");
    }
    // Of the next request nothing was sent, though all of the last one was.
    let mut connection = Connection::over(Breaking { takes: 10, at_once: 10 });
    assert!(connection.send(b"0123456789").await.is_ok());
    assert!(connection.send(b"0123456789").await.is_err() && !connection.has_sent());
}

#[tokio::test]
async fn trailers_are_kept_until_they_are_taken() {
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: \t1 \r\nx-sum:2\r\nEmpty:\r\n\r\n";
    let (client, mut server) = tokio::io::duplex(4096);
    server.write_all(answer).await.unwrap();
    let mut connection = Connection::over(client);
    connection.head(false).await.unwrap();
    assert!(connection.is_chunked());
    assert_eq!(connection.part().await.unwrap(), None);
    let trailers = connection.take_trailers();
    let trailers: Vec<(&str, &str)> = trailers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(trailers, [("x-sum", "1"), ("x-sum", "2"), ("empty", "")]);
    assert!(connection.take_trailers().is_empty() && !connection.is_chunked());
    // Too many are an error.
    let many = "T: t\r\n".repeat(MAX_TRAILERS + 1);
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{many}\r\n");
    server.write_all(answer.as_bytes()).await.unwrap();
    connection.head(false).await.unwrap();
    assert!(
        connection
            .part()
            .await
            .is_err_and(|e| e.to_string().contains("too many trailers"))
    );
}

#[tokio::test]
async fn equal_lengths_become_one() {
    let (client, mut server) = tokio::io::duplex(4096);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 02\r\nX: y\r\nContent-Length: 2 ,2\r\n\r\nok";
    server.write_all(answer).await.unwrap();
    let head = Connection::over(client).head(false).await.unwrap();
    let lengths: Vec<&HeaderValue> = head.all(http::header::CONTENT_LENGTH).collect();
    assert_eq!(lengths, ["2"]);
}
