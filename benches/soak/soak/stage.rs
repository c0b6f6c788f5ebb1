//! The gate of the soak, in a process of its own, and connections to it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::client::Resets;
use super::origin::Origins;
use crate::authority::Authority;
use crate::launch::{Process, free_port};

impl Resets for TcpStream {
    fn reset_at_end(&self) {
        let _ = self.set_zero_linger();
    }
}

impl Resets for TlsStream<TcpStream> {
    fn reset_at_end(&self) {
        let _ = self.get_ref().0.set_zero_linger();
    }
}

/// A gate before the endpoints of the soak.
pub(crate) struct Stage {
    process: Process,
    pub(crate) clear: SocketAddr,
    pub(crate) tls: SocketAddr,
    connectors: [TlsConnector; 2],
    authority: Authority,
}

impl Stage {
    pub(crate) async fn set(origins: &Origins) -> Self {
        let authority = Authority::new();
        let certificate = authority.shown("gate", &["localhost"]);
        let folder = authority.folder.path();
        let (clear, tls, admin) = (free_port(), free_port(), free_port());
        let text = format!(
            "server: {{state_dir: \"off\", lame_duck: 0s}}\nadmin: {{address: \"{admin}\"}}\nlog: {{access: \"off\"}}\n\
             listeners: [{{address: \"{clear}\", http2: cleartext}}, {{address: \"{tls}\", tls: {{certificates: [{certificate}]}}}}]\n\
             routes: [{{path: /two/, upstream: two}}, {{path: /, upstream: one}}]\n\
             upstreams:\n  one: {{outlier: {{eject: false}}, all_down: open, pools: {{main: {{endpoints: [\"{}\"]}}}}}}\n\
             \x20 two: {{http2: true, probe: {{port: {}}}, outlier: {{eject: false}}, all_down: open, pools: {{main: {{endpoints: [\"{}\"]}}}}}}\n",
            origins.http1,
            origins.http1.port(),
            origins.http2
        );
        let path = folder.join("soak.yaml");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_difygate"));
        let log = std::fs::File::create(folder.join("log")).unwrap();
        command.args(["run", "-c"]).arg(&path).stdout(Stdio::null()).stderr(log);
        let process = Process(command.spawn().unwrap());
        let connectors = [connector(folder, b"http/1.1"), connector(folder, b"h2")];
        let stage = Self {
            process,
            clear,
            tls,
            connectors,
            authority,
        };
        stage.until_ready(&format!("http://{admin}")).await;
        stage
    }

    async fn until_ready(&self, admin: &str) {
        for _ in 0..2_000 {
            let answer = difygate::client::get(admin, "/readyz").await;
            if answer.is_ok_and(|(status, _)| status.is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = std::fs::read_to_string(self.authority.path("log")).unwrap_or_default();
        panic!("the gate does not get ready: {log}");
    }

    /// A connection within TLS, with room for so many bytes that nobody has read yet.
    pub(crate) async fn secure(&self, http2: bool, room: Option<u32>) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connect(self.tls, room).await?;
        self.connectors[usize::from(http2)].connect(name, stream).await
    }

    /// The memory of the gate that is in use, and the most that has been, in bytes.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap_or_default();
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0) << 10
        };
        (kilobytes("VmRSS:"), kilobytes("VmHWM:"))
    }
}

/// A connection in the clear.
pub(crate) async fn connect(address: SocketAddr, room: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(room) = room {
        socket.set_recv_buffer_size(room)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connector(folder: &Path, protocol: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}
