//! What TLS holds back and how its connections end: every answer arrives whole, and its end tells it from a cut one (RFC 8446 section 6.1).

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use difygate::server::Gate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::authority::Authority;
use crate::support::{Arrived, QUICK, Upstream, dify_upstream, edge, gate, soon, until_idle};

async fn before(upstream: &Upstream, keys: &str) -> (Authority, Gate) {
    let authority = Authority::new();
    let certificate = authority.shown("gate", &["dify.example.com"]);
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8443\", tls: {{certificates: [{certificate}]}}{keys}}}]\n{}",
        dify_upstream(&[upstream.address], QUICK)
    );
    (authority, gate(&text).await)
}

/// A client that agrees on `protocol`, with a small receive buffer.
async fn connect(gate: &Gate, authority: &Authority, protocol: &str) -> TlsStream<tokio::net::TcpStream> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority.ca()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let stream = soon("a connection", socket.connect(edge(gate))).await.unwrap();
    let name = ServerName::try_from("dify.example.com").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    soon("a handshake", connector.connect(name, stream)).await.unwrap()
}

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: dify.example.com\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_arrives_whole_however_slowly_it_is_read() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let length = 300_000 + arrived.head.len() * 1_000;
        arrived
            .send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        arrived.send(vec![b'x'; length]).await;
    })
    .await;
    let (authority, gate) = before(&upstream, "").await;
    for number in 0..20 {
        let mut client = connect(&gate, &authority, "http/1.1").await;
        let path = "y".repeat(number * 7);
        client
            .write_all(format!("GET /{path} HTTP/1.1\r\nHost: dify.example.com\r\n\r\n").as_bytes())
            .await
            .unwrap();
        // Until the gate has taken the whole answer, as far as it goes, nothing is read.
        let mut answer = vec![0; 1];
        soon("the first byte", client.read_exact(&mut answer)).await.unwrap();
        let mut part = vec![0; 20_000];
        let whole = loop {
            let read = soon("more", client.read(&mut part)).await.unwrap();
            answer.extend_from_slice(&part[..read]);
            let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
            let length = head.and_then(|end| {
                let head = std::str::from_utf8(&answer[..end]).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
                Some(end + 4 + length.parse::<usize>().unwrap())
            });
            if length.is_some_and(|length| answer.len() >= length) {
                break length.unwrap();
            }
        };
        assert_eq!(answer.len(), whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_says_so_and_a_cut_does_not() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        if arrived.head.contains("/cut") {
            return arrived.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
        }
        if arrived.head.contains("/until-close") {
            return arrived.send("HTTP/1.1 200 OK\r\n\r\nall").await;
        }
        arrived.answer("Connection: close\r\n", "ok").await;
    })
    .await;
    let (authority, gate) = before(&upstream, ", idle_timeout: 200ms").await;
    for (request, body, ends_well) in [
        ("GET /idle HTTP/1.1\r\nHost: h\r\n\r\n", "ok", true),
        (
            "GET /close HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            "ok",
            true,
        ),
        ("GET /malformed HTTP/1.1\r\nHost : h\r\n\r\n", "}", true),
        ("GET /until-close HTTP/1.0\r\n\r\n", "all", true),
        ("GET /cut HTTP/1.1\r\nHost: h\r\n\r\n", "half", false),
        ("GET /cut HTTP/1.0\r\n\r\n", "half", false),
        ("", "", true),
    ] {
        let mut client = connect(&gate, &authority, "http/1.1").await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = soon("the end", client.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.ends_with(body), "{request:?}: {text}");
        match end {
            Ok(_) => assert!(ends_well, "{request:?}"),
            Err(e) => assert!(!ends_well && e.kind() == ErrorKind::UnexpectedEof, "{request:?}: {e}"),
        }
    }
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_the_own_direction_is_answered() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        arrived.answer("Connection: close\r\n", "ok").await;
    })
    .await;
    let (authority, gate) = before(&upstream, "").await;
    for with_alert in [true, false] {
        let mut client = connect(&gate, &authority, "http/1.1").await;
        client.write_all(GET).await.unwrap();
        if with_alert {
            client.shutdown().await.unwrap();
        } else {
            client.flush().await.unwrap();
            client.get_mut().0.shutdown().await.unwrap();
        }
        let mut answer = String::new();
        soon("the answer", client.read_to_string(&mut answer)).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_http2_has_as_long_as_a_head() {
    let upstream = Upstream::echo().await;
    let (authority, gate) = before(&upstream, ", header_timeout: 300ms").await;
    const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for sent in [1, 23, 24, 32] {
        let mut client = connect(&gate, &authority, "h2").await;
        client.write_all(&OPENING[..sent]).await.unwrap();
        let mut rest = Vec::new();
        // It is closed, with an alert or without.
        let _ = soon("the end", client.read_to_end(&mut rest)).await;
    }
    let mut client = connect(&gate, &authority, "h2").await;
    client.write_all(OPENING).await.unwrap();
    let mut rest = Vec::new();
    let open = tokio::time::timeout(Duration::from_millis(900), async {
        while client.read_buf(&mut rest).await.is_ok_and(|read| read > 0) {}
    });
    assert!(open.await.is_err(), "a connection that has begun may rest: {rest:?}");
}
