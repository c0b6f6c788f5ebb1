//! Endpoints that speak HTTP/2, and gRPC through the gate: messages pass both ways while they come, and so do trailers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use difygate::server::Gate;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::authority::Authority;
use crate::support::{Upstream, dify_upstream, edge, gate, soon};
use crate::tls::listener;
use crate::wire::{Wire, ask, ask_with};

/// A service that sends every message back as it comes, and its status last, in the trailers.
struct Echo {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Dropped, it ends every connection.
    serving: JoinSet<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else {
                        return;
                    };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(echo(request, respond));
                    }
                });
            }
        });
        Self {
            address,
            connections,
            serving,
        }
    }
}

async fn echo(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Option<()> {
    let told = format!(
        "{} {} te={:?}",
        request.method(),
        request.uri(),
        request.headers().get("te")
    );
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("x-told", told);
    let mut out = respond.send_response(response.body(()).unwrap(), false).ok()?;
    let mut body = request.into_body();
    while let Some(part) = body.data().await {
        let part = part.ok()?;
        let _ = body.flow_control().release_capacity(part.len());
        out.send_data(part, false).ok()?;
    }
    let asked = body.trailers().await.ok()?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-asked", format!("{}", asked.is_some()).parse().unwrap());
    // It may not stand there.
    trailers.insert("set-cookie", "a=b".parse().unwrap());
    out.send_trailers(trailers).ok()
}

/// A connection within TLS that has agreed on HTTP/2.
pub(crate) async fn shake_hands(edge: SocketAddr, authority: &Authority) -> TlsStream<TcpStream> {
    secured(edge, authority, "h2").await
}

/// A connection within TLS that has agreed on `protocol`.
pub(crate) async fn secured(edge: SocketAddr, authority: &Authority, protocol: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority.path("ca.pem")).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(edge).await.unwrap();
    let name = ServerName::try_from("dify.example.com").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

/// A client's connection in HTTP/2.
pub(crate) async fn client(edge: SocketAddr, authority: &Authority) -> h2::client::SendRequest<Bytes> {
    let stream = shake_hands(edge, authority).await;
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

/// A gate before `echo`, whose health is told elsewhere, for it speaks nothing but HTTP/2.
async fn before(echo: &Echo, authority: &Authority) -> (Gate, Upstream) {
    let health = Upstream::echo().await;
    let certificate = authority.shown("gate", &["dify.example.com"]);
    let keys = format!("http2: true, probe: {{port: {}}}", health.address.port());
    let text = format!(
        "{}{}",
        listener(&certificate, ""),
        dify_upstream(&[echo.address], &keys)
    );
    (gate(&text).await, health)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_messages_pass_both_ways_as_they_come_and_trailers_at_the_end() {
    let (echo, authority) = (Echo::start().await, Authority::new());
    let (gate, _health) = before(&echo, &authority).await;
    let mut client = client(edge(&gate), &authority).await;
    let request = Request::post("https://dify.example.com/dify.Plugin/Invoke")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (answer, mut out) = client.send_request(request.body(()).unwrap(), false).unwrap();
    // A message of one letter: not compressed, its length, itself.
    let message = |letter: u8| Bytes::from(vec![0, 0, 0, 0, 1, letter]);
    out.send_data(message(b'a'), false).unwrap();
    let answer = soon("the head", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let told = answer.headers()["x-told"].to_str().unwrap();
    assert!(
        told.starts_with("POST http://dify.example.com/dify.Plugin/Invoke") && told.contains("te=Some(\"trailers\")"),
        "{told}"
    );
    let mut body = answer.into_body();
    for letter in [b'a', b'b', b'c'] {
        let mut come = Vec::new();
        while come.len() < 6 {
            let part = soon("a message", body.data()).await.unwrap().unwrap();
            body.flow_control().release_capacity(part.len()).unwrap();
            come.extend_from_slice(&part);
        }
        assert_eq!(come, message(letter), "it comes back before the next one is sent");
        if letter < b'c' {
            out.send_data(message(letter + 1), false).unwrap();
        }
    }
    out.send_data(Bytes::new(), true).unwrap();
    while let Some(part) = soon("the end", body.data()).await {
        assert!(part.unwrap().is_empty());
    }
    let trailers = soon("trailers", body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(!trailers.contains_key("set-cookie"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_share_a_connection() {
    let (echo, authority) = (Echo::start().await, Authority::new());
    let (gate, _health) = before(&echo, &authority).await;
    let client = client(edge(&gate), &authority).await;
    let call = |number: u64| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let request = Request::post("https://dify.example.com/x").header("te", "trailers");
            let (answer, mut out) = client.send_request(request.body(()).unwrap(), false).unwrap();
            out.send_data(Bytes::from(number.to_string()), true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            let mut come = Vec::new();
            while let Some(part) = body.data().await {
                come.extend_from_slice(&part.unwrap());
            }
            assert_eq!(come, number.to_string().as_bytes());
            body.trailers().await.unwrap().unwrap()["grpc-status"].clone()
        })
    };
    // One that goes on, and others beside it, each once the one before is answered: calls that start at once may each open a connection, for
    // nobody waits for one that is only being made.
    let request = Request::post("https://dify.example.com/x").header("te", "trailers");
    let mut other = client.clone();
    let (answer, mut out) = other.send_request(request.body(()).unwrap(), false).unwrap();
    out.send_data(Bytes::from_static(b"a"), false).unwrap();
    let mut body = soon("an answer", answer).await.unwrap().into_body();
    assert!(soon("its first part", body.data()).await.is_some());
    for number in 0..20 {
        assert_eq!(soon("an answer", call(number)).await.unwrap(), "0");
    }
    assert_eq!(echo.connections.load(Ordering::SeqCst), 1, "they share its connection");
    out.send_data(Bytes::new(), true).unwrap();
    for call in (1..=50).map(call).collect::<Vec<_>>() {
        assert_eq!(soon("an answer", call).await.unwrap(), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_http1_reach_endpoints_that_speak_http2() {
    let (echo, authority) = (Echo::start().await, Authority::new());
    let health = Upstream::echo().await;
    let _ = authority;
    let keys = format!("http2: true, probe: {{port: {}}}", health.address.port());
    let gate = gate(&dify_upstream(&[echo.address], &keys)).await;
    let answer = ask_with(edge(&gate), "POST /v1/x?y=%2F", "", "a body").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "a body"));
    let told = answer.header("x-told").unwrap();
    assert!(told.starts_with("POST http://dify.example/v1/x?y=%2F "), "{told}");
    for size in [1, 200_000] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send("POST /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        wire.send(format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size)))
            .await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.body.len()), (200, size));
    }
}

/// Such a request is admitted before the framework reads it once more, which must neither count it twice nor lose what came with its head.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_framework_sends_on_is_admitted_once() {
    let (echo, health) = (Echo::start().await, Upstream::echo().await);
    let keys = format!("http2: true, probe: {{port: {}}}", health.address.port());
    let limited =
        "listeners: [{address: \"127.0.0.1:8080\", limits: {client_rate: {requests: 1, per: 1h, burst: 3}}}]\n";
    let gate = gate(&format!("{limited}{}", dify_upstream(&[echo.address], &keys))).await;
    let mut wire = Wire::to(edge(&gate)).await;
    let post = |body: &str| {
        format!(
            "POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // The second and the third come with the first, whole.
    wire.send([post("one"), post("two"), post("three"), post("four")].concat())
        .await;
    for expected in ["one", "two", "three"] {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, expected));
    }
    assert_eq!(wire.answer().await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_harmless_goes_elsewhere_when_a_shared_connection_dies() {
    let (mut dying, staying, health) = (Echo::start().await, Echo::start().await, Upstream::echo().await);
    let keys = format!(
        "http2: true, balance: round_robin, probe: {{port: {}}}",
        health.address.port()
    );
    let gate = gate(&dify_upstream(&[dying.address, staying.address], &keys)).await;
    for _ in 0..4 {
        assert_eq!(ask(edge(&gate), "GET /v1/x").await.status, 200);
    }
    let opened = dying.connections.load(Ordering::SeqCst);
    assert!(opened > 0, "both are asked");
    dying.serving.shutdown().await;
    for _ in 0..8 {
        assert_eq!(ask(edge(&gate), "GET /v1/x").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_an_endpoint_that_speaks_http2_reach_clients_of_http1() {
    let (echo, health) = (Echo::start().await, Upstream::echo().await);
    let keys = format!("http2: true, probe: {{port: {}}}", health.address.port());
    let gate = gate(&dify_upstream(&[echo.address], &keys)).await;
    let mut wire = Wire::to(edge(&gate)).await;
    for (version, body) in [("1.1", "0\r\n\r\n"), ("1.1", "a body"), ("1.0", "a body")] {
        let length = body.len();
        let head = format!("POST /x HTTP/{version}\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        wire.send(format!("{head}{body}")).await;
        let answer = wire.head().await;
        assert_eq!(answer.status, 200);
        if version == "1.0" {
            assert_eq!(
                (wire.ended().await, answer.header("transfer-encoding")),
                (body.into(), None)
            );
            break;
        }
        let rest = format!("{length:X}\r\n{body}\r\n0\r\ngrpc-status: 0\r\nx-asked: false\r\n\r\n");
        let came = wire.read(rest.len()).await;
        assert_eq!(String::from_utf8_lossy(&came), rest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_http2_cannot_carry_is_encoded() {
    let (echo, health) = (Echo::start().await, Upstream::echo().await);
    let keys = format!("http2: true, probe: {{port: {}}}", health.address.port());
    let gate = gate(&dify_upstream(&[echo.address], &keys)).await;
    for (target, arrives) in [
        ("/x?q={张}|%zz", "/x?q={张}|%zz"),
        ("/x?q={\"张\":<1>}", "/x?q=%7B%22%E5%BC%A0%22:%3C1%3E%7D"),
    ] {
        let answer = ask(edge(&gate), &format!("GET {target}")).await;
        assert_eq!(answer.status, 200, "{target}");
        let told = answer.header("x-told").unwrap();
        assert!(told.contains(&format!("http://dify.example{arrives} ")), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_http1_clients_arrive_whole() {
    let echo = Echo::start().await;
    let health = Upstream::echo().await;
    let keys = format!("http2: true, probe: {{port: {}}}", health.address.port());
    let gate = gate(&dify_upstream(&[echo.address], &keys)).await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(wire.head().await.status, 100);
    wire.send("hello").await;
    assert_eq!(wire.answer().await.text(), "hello");
    // A size line that stands alone in a segment is no end of the body.
    let (expected, mut chunks) = ("0123456789".repeat(20), String::new());
    for part in expected.as_bytes().chunks(7) {
        chunks += &format!("{:x}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap());
    }
    let request = format!("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    for step in [1, 3, request.len()] {
        let mut wire = Wire::to(edge(&gate)).await;
        for segment in request.as_bytes().chunks(step) {
            wire.send(segment).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(wire.answer().await.text(), expected, "in segments of {step}");
    }
    let mut wire = Wire::to(edge(&gate)).await;
    // In HTTP/2 a query that is no UTF-8 is encoded.
    wire.send(b"GET /a?b=\xff&c=\"d\" HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let answer = wire.answer().await;
    let told = answer.header("x-told").unwrap_or_default();
    assert!(told.contains("/a?b=%FF&c=%22d%22 "), "{told}");
}
