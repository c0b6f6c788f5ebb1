//! The same tables by every way in: within TLS, by HTTP/2, and by HTTP/2 in the clear.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use difygate::server::Gate;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::http2::{End, Request};
use crate::message::{Message, connect};
use crate::origin::Origin;
use crate::spellings::LEGITIMATE;
use crate::{ALL_EXTERNAL, FORMS, PROBE, arrives, origins, targets};

/// A gate with a listener for each way, whose clients are all external.
struct Ways {
    gate: Gate,
    _folder: tempfile::TempDir,
    by_http1: Arc<ClientConfig>,
    by_http2: Arc<ClientConfig>,
}

impl Ways {
    fn before(origin: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (tls, cert) = origins::certificate(folder.path(), "h");
        let listeners = format!(
            "listeners: [{{address: \"127.0.0.1:8080\", http2: cleartext}}, {{address: \"127.0.0.1:8443\", tls: {tls}}}]\n{ALL_EXTERNAL}"
        );
        Self {
            gate: origins::gate(&[origin], PROBE, &listeners),
            by_http1: trusting(&cert, b"http/1.1"),
            by_http2: trusting(&cert, b"h2"),
            _folder: folder,
        }
    }

    fn in_the_clear(&self) -> TcpStream {
        connect(self.gate.listeners()[0])
    }

    fn within_tls(&self, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("h").unwrap();
        let session = ClientConnection::new(config.clone(), name).unwrap();
        StreamOwned::new(session, connect(self.gate.listeners()[1]))
    }
}

fn trusting(certificate: &Path, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

fn is_refusal(end: &End) -> bool {
    matches!(end, End::Refused | End::Answered(400 | 404))
}

#[test]
fn no_spelling_arrives_within_tls_or_by_http2() {
    let origin = Origin::gunicorn();
    let ways = Ways::before(origin.address());
    let honest = Request::get(b"/apps").send(&mut ways.within_tls(&ways.by_http2));
    assert_eq!(honest, End::Answered(200), "the test can fail");
    let mut passed = Vec::new();
    for target in targets() {
        // A request, an old one, and one that wants a tunnel.
        for form in [FORMS[0], FORMS[1], FORMS[7]] {
            let message = Message { target, ..form };
            let (arrived, answer) = arrives(&origin, || message.send_on(&mut ways.within_tls(&ways.by_http1)));
            if arrived || !answer.is_refusal() {
                passed.push(format!("TLS {}: {}", target.escape_ascii(), answer.head()));
            }
        }
        let request = Request::get(target);
        for (way, (arrived, end)) in [
            (
                "HTTP/2",
                arrives(&origin, || request.send(&mut ways.within_tls(&ways.by_http2))),
            ),
            (
                "HTTP/2 in the clear",
                arrives(&origin, || request.send(&mut ways.in_the_clear())),
            ),
        ] {
            if arrived || !is_refusal(&end) {
                passed.push(format!("{way} {}: {end:?}", target.escape_ascii()));
            }
        }
    }
    assert!(
        passed.is_empty(),
        "{} got through:\n{}",
        passed.len(),
        passed.join("\n")
    );
}

#[test]
fn honest_requests_come_through_by_every_way() {
    let origin = Origin::werkzeug();
    let ways = Ways::before(origin.address());
    for target in LEGITIMATE {
        let target = target.as_bytes();
        let answer = Message::get(target).send_on(&mut ways.within_tls(&ways.by_http1));
        assert_eq!(
            answer.status(),
            Some(200),
            "{}: {}",
            target.escape_ascii(),
            answer.head()
        );
        for end in [
            Request::get(target).send(&mut ways.within_tls(&ways.by_http2)),
            Request::get(target).send(&mut ways.in_the_clear()),
        ] {
            assert_eq!(end, End::Answered(200), "{}", target.escape_ascii());
        }
    }
}

/// Requests of HTTP/2 that would be two requests of HTTP/1.1, were they written as they are (Kettle, "HTTP/2: The Sequel is Always Worse").
fn smuggled() -> Vec<Request> {
    let inner = "GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let (post, get) = (Request::of("POST", b"/apps"), Request::get(b"/apps"));
    let ends = format!("0\r\n\r\n{inner}");
    let line = format!("x\r\nTransfer-Encoding: chunked\r\n\r\n{ends}");
    let cut = format!("a\r\n\r\n{inner}");
    let requests = vec![
        post.clone().with("transfer-encoding", "chunked").body(&ends),
        post.clone().with("transfer-encoding", "identity, chunked").body(&ends),
        post.clone().with("Transfer-Encoding", "chunked").body(&ends),
        post.clone().with("transfer-encoding ", "chunked").body(&ends),
        post.clone().with("content-length", "0").body(inner),
        post.clone().with("content-length", "1000").body(inner),
        post.clone()
            .with("content-length", "0")
            .with("content-length", inner.len().to_string())
            .body(inner),
        post.clone().with("content-length", "0, 7").body(inner),
        post.clone().with("content-length", "+0").body(inner),
        post.clone().with("x", &line).body(&ends),
        post.clone().with("x", format!("a\n{line}")).body(&ends),
        get.clone().with("x", &cut),
        get.clone().with("x", b"a\0b"),
        get.clone().with(format!("x: a\r\n\r\n{inner}"), "a"),
        get.clone().with(format!("x: a\r\nhost: {cut}"), "a"),
        get.clone().with("", "a"),
        get.clone().with("x y", "a"),
        get.clone()
            .with("connection", "close, x-forwarded-for")
            .with("x-forwarded-for", "10.0.0.1"),
        get.clone()
            .with("connection", "upgrade")
            .with("upgrade", "h2c")
            .with("http2-settings", "AAMAAABkAAQAAP__"),
        get.clone().with("connection", "upgrade").with("upgrade", "websocket"),
        get.clone().with("host", "other").with("host", "third"),
        get.clone().with(":path", "/healthz"),
        get.clone().with(":method", "POST"),
        get.clone().with(":unknown", "/healthz"),
        get.clone().with("x", "a").with(":path", "/healthz"),
        get.clone().without(":path").with("x", "a").with(":path", "/apps"),
        get.clone().without(":path"),
        get.clone().without(":method"),
        post.clone().body(&ends).trailer("transfer-encoding", "chunked"),
        post.clone().body(&ends).trailer("content-length", "0"),
        post.clone().body(&ends).trailer(":path", "/healthz"),
        post.body(&ends).trailer("x", &cut),
        Request::of("CONNECT", b"/apps").without(":path").without(":scheme"),
        Request::of("CONNECT", b"/healthz").with(":protocol", "websocket"),
    ];
    requests.into_iter().chain(misnamed(inner)).collect()
}

/// Requests whose own names hold more than a name.
fn misnamed(inner: &str) -> Vec<Request> {
    let get = Request::get(b"/apps");
    let mut requests = Vec::new();
    for (name, value) in [
        (":method", format!("GET /healthz HTTP/1.1\r\nX: a\r\n\r\n{inner}GET")),
        (":method", "GET /healthz".to_owned()),
        (":path", format!("/apps HTTP/1.1\r\nHost: h\r\n\r\n{inner}")),
        (":path", "/apps HTTP/1.1\r\nX: ".to_owned()),
        (":path", "healthz".to_owned()),
        (":path", String::new()),
        (":authority", format!("h\r\n\r\n{inner}")),
        (":authority", "h/healthz?".to_owned()),
        (":authority", "u@h".to_owned()),
        (":scheme", "http://h/healthz?".to_owned()),
        (":scheme", format!("http\r\n\r\n{inner}")),
    ] {
        let kept = get.clone().without(name);
        requests.push(Request {
            fields: [vec![(name.into(), value.into())], kept.fields].concat(),
            ..Request::default()
        });
    }
    requests
}

#[test]
fn no_second_request_hides_in_one_of_http2() {
    let origin = Origin::uvicorn();
    let ways = Ways::before(origin.address());
    let after = |stream: &mut dyn ReadWrite| {
        let answer = Message::get(b"/apps").with("Host: h\r\n").send_on(&mut { stream });
        assert_eq!(
            answer.json()["target"],
            "/apps",
            "connections to the endpoint stay in order"
        );
    };
    for request in smuggled() {
        for (arrived, end) in [
            arrives(&origin, || request.send(&mut ways.within_tls(&ways.by_http2))),
            arrives(&origin, || request.send(&mut ways.in_the_clear())),
        ] {
            assert!(!arrived, "{request:?} -> {end:?}");
            after(&mut ways.in_the_clear());
        }
    }
}

/// A connection of either kind.
trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// One that routes take by one name and an endpoint by another would pass by what a route refuses (RFC 9113 section 8.3.1).
#[test]
fn a_host_that_contradicts_itself_is_refused() {
    let origin = Origin::werkzeug();
    let ways = Ways::before(origin.address());
    let get = Request::get(b"/apps");
    let send = |request: Request| request.send(&mut ways.within_tls(&ways.by_http2));
    assert_eq!(send(get.clone().with("host", "h")), End::Answered(200));
    assert_eq!(
        send(get.clone().without(":authority").with("host", "h")),
        End::Answered(200)
    );
    for other in ["other", "h:81", "h, other", ""] {
        let end = send(get.clone().with("host", other));
        assert!(is_refusal(&end), "{other:?}: {end:?}");
    }
}
