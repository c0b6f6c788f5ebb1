//! Clients within TLS, of HTTP/2 and of HTTP/1.1. Their connections are set up and have carried a request before anything is timed.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::{HOST, origin};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Whom clients believe.
#[derive(Clone)]
pub(crate) struct Trust {
    roots: Arc<RootCertStore>,
}

impl Trust {
    pub(crate) fn of(authority: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(authority).expect("a certificate");
        roots.add(certificate).expect("an authority");
        Self { roots: Arc::new(roots) }
    }

    async fn connect(&self, address: SocketAddr, protocol: &str) -> Result<TlsStream<TcpStream>, Failure> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(HOST)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        Ok(stream)
    }
}

/// A connection in HTTP/2, with the windows that the server opens.
#[derive(Clone)]
pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
}

impl Http2 {
    pub(crate) async fn to(address: SocketAddr, trust: &Trust) -> Result<Self, Failure> {
        let (sender, connection) = h2::client::handshake(trust.connect(address, "h2").await?).await?;
        tokio::spawn(connection);
        let client = Self { sender };
        assert_eq!(client.send(Method::GET, "/", Bytes::new()).await?, StatusCode::OK);
        Ok(client)
    }

    /// Sends a body and reads the answer to its end.
    pub(crate) async fn post(&self, path: &str, body: Bytes) -> Result<StatusCode, Failure> {
        self.send(Method::POST, path, body).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<StatusCode, Failure> {
        let mut sender = self.sender.clone().ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{HOST}{path}"))
            .header(origin::LENGTH, body.len());
        let is_empty = body.is_empty();
        let request = if is_empty {
            request
        } else {
            request.header("content-length", body.len())
        };
        let (answer, mut out) = sender.send_request(request.body(())?, is_empty)?;
        if !is_empty {
            out.send_data(body, true)?;
        }
        let answer = answer.await?;
        let (status, mut body) = (answer.status(), answer.into_body());
        while let Some(part) = body.data().await {
            body.flow_control().release_capacity(part?.len())?;
        }
        Ok(status)
    }
}

/// A connection in HTTP/1.1.
pub(crate) struct Http1 {
    stream: TlsStream<TcpStream>,
}

impl Http1 {
    pub(crate) async fn to(address: SocketAddr, trust: &Trust) -> Result<Self, Failure> {
        let mut client = Self {
            stream: trust.connect(address, "http/1.1").await?,
        };
        let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        assert_eq!(client.send(head, b"").await?, StatusCode::OK);
        Ok(client)
    }

    /// Sends a body and reads the answer to its end.
    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Result<StatusCode, Failure> {
        let (name, length) = (origin::LENGTH, body.len());
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{name}: {length}\r\nContent-Length: {length}\r\n\r\n");
        self.send(head, body).await
    }

    async fn send(&mut self, head: String, body: &[u8]) -> Result<StatusCode, Failure> {
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body).await?;
        self.stream.flush().await?;
        let mut answer = Vec::new();
        // Every answer of the origin is a JSON object.
        while !answer.ends_with(b"}") {
            if self.stream.read_buf(&mut answer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        let status = answer.get(9..12).ok_or("no status")?;
        Ok(StatusCode::from_bytes(status)?)
    }
}
