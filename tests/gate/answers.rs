//! Answers that some client would not understand: whatever an endpoint says, each version of HTTP gets a message that it can carry.

use std::net::SocketAddr;

use std::sync::Arc;

use bytes::Bytes;
use difygate::server::Gate;
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::Authority;
use crate::support::{Arrived, Upstream, dify_upstream, edge, gate, soon};
use crate::wire::Wire;

/// A body that the gate does not take in before it sends the request on.
const LARGE: usize = 70_000;

/// A listener that speaks HTTP/2 in the clear.
const LISTENER: &str = "listeners: [{address: \"127.0.0.1:8080\", http2: cleartext}]\n";

/// How a request goes to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The gate sends it once it has come.
    Whole,
    /// The gate sends it on as it comes.
    Upload,
    /// The framework sends it, since its endpoint might speak HTTP/2 and does not.
    Framework,
}

const WAYS: [Way; 3] = [Way::Whole, Way::Upload, Way::Framework];

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
    Http2,
}

const VERSIONS: [Version; 3] = [Version::Http10, Version::Http11, Version::Http2];

/// What a client got.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
    /// Heads before the last one.
    interim: usize,
}

impl Got {
    fn lines(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.get_all(name).iter();
        lines.map(|value| value.to_str().unwrap()).collect()
    }
}

/// The length of the body behind a head.
fn length(head: &str) -> usize {
    let head = head.to_ascii_lowercase();
    let length = head.split_once("content-length: ");
    let length = length.and_then(|(_, rest)| rest.split_once("\r\n"));
    length.map_or(0, |(length, _)| length.parse().unwrap())
}

/// An upstream that takes every request as a whole and sends these bytes, and the end of the connection.
async fn upstream(answer: &'static [u8]) -> Upstream {
    Upstream::start(move |mut arrived: Arrived| async move {
        let length = length(&arrived.head);
        arrived.read(length).await;
        arrived.send(answer).await;
    })
    .await
}

/// The same within TLS. It is called `endpoint.test`, and agrees on HTTP/1.1.
async fn upstream_within_tls(answer: &'static [u8], authority: &Authority) -> SocketAddr {
    authority.sign(authority.folder.path(), "endpoint", &["endpoint.test"]);
    let certificate = CertificateDer::from_pem_file(authority.path("endpoint.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(authority.path("endpoint.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.ok()?);
                }
                let mut body = vec![0; length(&String::from_utf8_lossy(&head))];
                stream.read_exact(&mut body).await.ok()?;
                stream.write_all(answer).await.ok()?;
                stream.shutdown().await.ok()
            });
        }
    });
    address
}

/// A gate before an upstream that answers with these bytes, and what must live as long.
async fn before(answer: &'static [u8], way: Way) -> (Gate, Upstream, Authority) {
    // What an endpoint answers here is no reason to leave it out.
    let keys = "outlier: {eject: false}, probe: {interval: 60s";
    let authority = Authority::new();
    if way != Way::Framework {
        let upstream = upstream(answer).await;
        let text = format!("{LISTENER}{}", dify_upstream(&[upstream.address], &format!("{keys}}}")));
        return (gate(&text).await, upstream, authority);
    }
    let health = Upstream::echo().await;
    let address = upstream_within_tls(answer, &authority).await;
    let keys = format!(
        "{keys}, port: {}, tls: false}}, http2: true, tls: {{ca: {}, server_name: endpoint.test}}",
        health.address.port(),
        authority.ca()
    );
    let text = format!("{LISTENER}{}", dify_upstream(&[address], &keys));
    (gate(&text).await, health, authority)
}

/// What a client of this version gets; `None` where the message broke off or made no sense to it.
async fn get(edge: SocketAddr, version: Version, way: Way) -> Option<Got> {
    let length = if way == Way::Upload { LARGE } else { 2 };
    match version {
        Version::Http2 => get_http2(edge, length).await,
        Version::Http10 => get_http1(edge, "HTTP/1.0", length).await,
        Version::Http11 => get_http1(edge, "HTTP/1.1", length).await,
    }
}

async fn get_http2(edge: SocketAddr, length: usize) -> Option<Got> {
    let stream = TcpStream::connect(edge).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::post("http://dify.example/x").header("content-length", length);
    let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    // The endpoint may have answered before, which ends the stream.
    let _ = body.send_data(Bytes::from(vec![b'x'; length]), true);
    let (head, mut body) = soon("an answer", answer).await.ok()?.into_parts();
    let mut got = Got {
        status: head.status.as_u16(),
        headers: head.headers,
        body: Vec::new(),
        trailers: HeaderMap::new(),
        interim: 0,
    };
    while let Some(part) = soon("a part", body.data()).await {
        let part = part.ok()?;
        let _ = body.flow_control().release_capacity(part.len());
        got.body.extend_from_slice(&part);
    }
    got.trailers = soon("the trailers", body.trailers()).await.ok()?.unwrap_or_default();
    Some(got)
}

async fn get_http1(edge: SocketAddr, version: &str, length: usize) -> Option<Got> {
    let mut wire = Wire::to(edge).await;
    // An HTTP/1.0 client asks to be kept, so that an end which is the connection's shows.
    let connection = if version == "HTTP/1.0" { "keep-alive" } else { "close" };
    let head = format!(
        "POST /x {version}\r\nHost: dify.example\r\nConnection: {connection}\r\nContent-Length: {length}\r\n\r\n"
    );
    wire.send(head).await;
    wire.send(vec![b'x'; length]).await;
    let mut interim = 0;
    let (status, headers) = loop {
        let head = wire.try_head().await?;
        if head.status >= 200 || head.status == 101 {
            break (head.status, fields(&head.head));
        }
        interim += 1;
    };
    let mut got = Got {
        status,
        headers,
        body: Vec::new(),
        trailers: HeaderMap::new(),
        interim,
    };
    if status == 204 || status == 304 {
        return Some(got);
    }
    if let Some(length) = got.lines("content-length").first() {
        got.body = wire.try_read(length.parse().unwrap()).await?;
        return Some(got);
    }
    if got.lines("transfer-encoding") == ["chunked"] {
        return chunks(wire, got).await;
    }
    assert_eq!(
        got.lines("connection"),
        ["close"],
        "an end that is the connection's is told"
    );
    got.body = wire.ended().await;
    Some(got)
}

/// Reads a body in chunks strictly, and what stands behind it.
async fn chunks(mut wire: Wire, mut got: Got) -> Option<Got> {
    let rest = wire.ended().await;
    let mut rest = rest.as_slice();
    let line = |rest: &mut &[u8]| {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = String::from_utf8(rest[..end].to_vec()).unwrap();
        *rest = &rest[end + 2..];
        Some(line)
    };
    loop {
        let size = usize::from_str_radix(&line(&mut rest)?, 16).unwrap();
        if size == 0 {
            break;
        }
        got.body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    let mut trailers = String::new();
    loop {
        let line = line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        trailers += &format!("{line}\r\n");
    }
    assert!(rest.is_empty(), "after the end: {}", rest.escape_ascii());
    got.trailers = fields(&format!("\r\n{trailers}"));
    Some(got)
}

/// The header lines behind the first line.
fn fields(head: &str) -> HeaderMap {
    let lines = head.split("\r\n").skip(1).filter(|line| !line.is_empty());
    let pairs = lines.map(|line| line.split_once(": ").unwrap());
    pairs
        .map(|(name, value)| {
            let name: http::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        })
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

/// Tries an answer with every version of HTTP and on every way.
async fn with_all(answer: &'static [u8], check: impl Fn(Version, Way, Option<Got>)) {
    for way in WAYS {
        let (gate, _upstream, _authority) = before(answer, way).await;
        for version in VERSIONS {
            let got = get(edge(&gate), version, way).await;
            check(version, way, got);
        }
    }
}

/// Whether an answer is 200 with this body.
#[track_caller]
fn is_ok(got: Option<Got>, body: &str) -> Got {
    let got = got.expect("a whole answer");
    assert_eq!((got.status, got.body.as_slice()), (200, body.as_bytes()));
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_said_twice_is_said_once() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2,2\r\nContent-Length: 2\r\n\r\nok",
    ] {
        with_all(answer, |_, _, got| {
            let got = is_ok(got, "ok");
            assert_eq!(got.lines("content-length"), ["2"]);
        })
        .await;
    }
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\nok",
    ] {
        with_all(answer, |_, _, got| assert_eq!(got.unwrap().status, 502)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_body_says_nothing_of_one() {
    for answer in [
        &b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX-End: 1\r\n\r\n"[..],
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX-End: 1\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nX-End: 1\r\n\r\n",
    ] {
        with_all(answer, |_, _, got| {
            let got = got.expect("a whole answer");
            assert_eq!((got.status, got.lines("x-end")), (204, vec!["1"]));
            assert!(got.lines("content-length").is_empty() && got.lines("transfer-encoding").is_empty());
        })
        .await;
    }
    for answer in [
        &b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"1\"\r\n\r\n"[..],
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nETag: \"1\"\r\n\r\n",
    ] {
        with_all(answer, |_, _, got| {
            let got = got.expect("a whole answer");
            assert_eq!((got.status, got.lines("etag")), (304, vec!["\"1\""]));
            assert!(got.lines("transfer-encoding").is_empty());
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_for_the_next_hop_end_at_the_gate() {
    let answers = [
        &b"HTTP/1.1 200 OK\r\nTE: trailers\r\nKeep-Alive: timeout=2\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTrailer: X-Sum\r\n\
           Content-Length: 2\r\nX-End: 1\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\nConnection: Upgrade, X-Hop\r\nUpgrade: h2,h2c\r\nX-Hop: 1\r\nContent-Length: 2\r\nX-End: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: x-hop,close\r\nX-Hop: 1\r\nX-End: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ];
    for answer in answers {
        with_all(answer, |_, _, got| {
            let got = is_ok(got, "ok");
            assert_eq!(got.lines("x-end"), ["1"]);
            for gone in ["te", "keep-alive", "proxy-connection", "upgrade", "x-hop"] {
                assert!(got.lines(gone).is_empty(), "{gone}");
            }
            if !got.lines("content-length").is_empty() {
                assert!(got.lines("trailer").is_empty());
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_gets_neither_chunks_nor_interim_answers() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 3\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        with_all(answer, |version, _, got| {
            let got = is_ok(got, "ok");
            if version == Version::Http10 {
                assert_eq!((got.interim, got.lines("transfer-encoding").len()), (0, 0));
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_switches_protocols_unasked_has_failed() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nok";
    with_all(answer, |_, _, got| assert_eq!(got.unwrap().status, 502)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_if_they_may_stand_there() {
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\n0\r\n\r\n\r\n2;a=\"b;c\"\r\nok\r\n0\r\nX-Sum:  1 \r\n\
                   x-sum: 2\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nHost: evil\r\nAuthorization: x\r\nX-Forwarded-For: x\r\n\r\n";
    with_all(answer, |version, way, got| {
        let got = is_ok(got, "0\r\n\r\nok");
        // The framework tells nothing of them.
        let passed = version != Version::Http10 && way != Way::Framework;
        let expected = if passed { vec!["1", "2"] } else { vec![] };
        let trailers: Vec<_> = got.trailers.iter().collect();
        assert!(trailers.iter().all(|(name, _)| *name == "x-sum"), "{trailers:?}");
        let sums: Vec<_> = trailers.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(sums, expected, "{version:?} {way:?}");
        assert_eq!(got.lines("trailer").len(), usize::from(passed));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_one_answer_do_not_stand_behind_the_next() {
    let upstream = Upstream::start(async |mut arrived: Arrived| {
        let trailers = if arrived.head.starts_with("GET /with ") { "X-Sum: 1\r\n" } else { "" };
        arrived
            .send(format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n"
            ))
            .await;
    })
    .await;
    let gate = gate(&dify_upstream(&[upstream.address], "")).await;
    let mut wire = Wire::to(edge(&gate)).await;
    for (target, rest) in [
        ("/with", "2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"),
        ("/without", "2\r\nok\r\n0\r\n\r\n"),
        ("/with", "2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"),
    ] {
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        assert_eq!(wire.head().await.status, 200);
        let came = wire.read(rest.len()).await;
        assert_eq!(String::from_utf8_lossy(&came), rest, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_two_readers_could_read_differently_break_an_answer_off() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for rest in [
        "2\r\nok\r\n\r\n\r\n",
        "2\r\nok\r\n\r\n0\r\n\r\n",
        "2;a\nb\r\nok\r\n0\r\n\r\n",
        "2;a\rb\r\nok\r\n0\r\n\r\n",
        "2\r\nok\r\n0\rX\r\n\r\n",
        "2;a=\"\r\nok\r\n0\r\n\r\n",
        "2\r\nok\r\n0\r\nX-Sum 1\r\n\r\n",
        "2\r\nok\r\n0\r\nX-Sum: 1\n\r\n\r\n",
    ] {
        let answer: &'static str = Box::leak(format!("{HEAD}{rest}").into_boxed_str());
        for way in [Way::Whole, Way::Upload] {
            let (gate, _upstream, _authority) = before(answer.as_bytes(), way).await;
            let got = get(edge(&gate), Version::Http11, way).await;
            assert!(got.as_ref().is_none_or(|got| got.status == 502), "{rest:?}: {got:?}");
        }
    }
}
