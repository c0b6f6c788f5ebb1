//! What the table is run against: a recording origin of each kind, and the gate before them, or a peer of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use difygate::config;
use difygate::server::Gate;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::authority::Authority;
use crate::client::{self, Answer, Job, Manner, Talk};
use crate::client_http2;
use crate::http2::{End, Request as Frames};
use crate::ledger::Ledger;
use crate::message::{Message, path_of};
use crate::origin::Origin;
use crate::patience;
use crate::reader::Fault;
use crate::streams::{Sliced, Tcp};
use crate::table::Case;
use crate::ways::{Carried, Client, Way};

/// No machine is so busy that a client of the table takes longer.
const PATIENT: &str = "header_timeout: 60s, limits: {grace: 60s}";

/// Where a proxy listens: in the clear, and within TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door {
    pub(crate) clear: SocketAddr,
    pub(crate) tls: SocketAddr,
}

/// The origins, with what they record.
pub(crate) struct Origins {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) http1: Origin,
    pub(crate) http2: Origin,
    pub(crate) authority: Authority,
}

impl Origins {
    pub(crate) async fn start(seed: u64) -> Self {
        let ledger = Arc::new(Ledger::default());
        Self {
            http1: Origin::start(ledger.clone(), seed).await,
            http2: Origin::start_http2(ledger.clone(), seed).await,
            authority: Authority::new(),
            ledger,
        }
    }

    /// A client's connector within TLS, for HTTP/2 or HTTP/1.1.
    fn connector(&self, http2: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.authority.path("ca.pem")).unwrap();
        roots.add(authority).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        TlsConnector::from(Arc::new(config))
    }
}

/// A gate before an origin, with a listener in the clear and one within TLS.
pub(crate) async fn gate(origins: &Origins, http2: bool) -> (Gate, Door) {
    let certificate = origins.authority.shown("gate", &["localhost"]);
    // An endpoint in HTTP/2 is asked elsewhere how it is, for a probe speaks HTTP/1.1. Whatever the origin does, it is not taken out.
    let (endpoint, more) = if http2 {
        let probe = format!(", probe: {{port: {}}}", origins.http1.address.port());
        (origins.http2.address, format!("http2: true{probe}"))
    } else {
        (origins.http1.address, "probe: {path: /healthz}".to_owned())
    };
    let text = format!(
        "log: {{access: \"off\"}}\nserver: {{lame_duck: 0s, drain_timeout: 10s}}\n\
         listeners: [{{address: \"127.0.0.1:8080\", http2: cleartext, {PATIENT}}}, {{address: \"127.0.0.1:8443\", {PATIENT}, tls: {{certificates: [{certificate}]}}}}]\n\
         upstreams: {{one: {{{more}, outlier: {{eject: false}}, all_down: open, pools: {{main: {{endpoints: [\"{endpoint}\"]}}}}}}}}\n"
    );
    let mut config =
        config::parse(&text, Path::new("wire.yaml"), &config::unset).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for listener in &mut config.listeners {
        listener.address.set_port(0);
    }
    config.admin.set_port(0);
    config.server.state_dir = None;
    let gate = Gate::start(config).unwrap();
    let mut progress = gate.handle().progress.clone();
    progress.wait_for(|progress| progress.asked_everyone).await.unwrap();
    let [clear, tls] = gate.listeners()[..] else {
        panic!("two listeners");
    };
    (gate, Door { clear, tls })
}

/// Everything that a trial needs.
pub(crate) struct Stage {
    pub(crate) origins: Origins,
    /// Before the origin in HTTP/1.1, and before the one in HTTP/2.
    pub(crate) doors: [Door; 2],
    connectors: [TlsConnector; 2],
}

impl Stage {
    pub(crate) fn new(origins: Origins, doors: [Door; 2]) -> Self {
        let connectors = [origins.connector(false), origins.connector(true)];
        Self {
            origins,
            doors,
            connectors,
        }
    }

    /// Sends a row on a way.
    pub(crate) async fn send(&self, case: &Case, way: Way, requests: &[Message], trial: u64, seed: u64) -> Talk {
        let mut rng = fastrand::Rng::with_seed(seed ^ case.fingerprint(way));
        let door = self.doors[usize::from(way.1 == Carried::ToHttp2)];
        if let Some(frames) = &case.frames {
            return by_frames(door.clear, frames.clone(), trial).await;
        }
        if let Some(reply) = &case.reply {
            self.origins.ledger.plan(trial, reply.clone());
        }
        let job = Job {
            requests,
            trial,
            manner: case.manner,
            split: case.split,
        };
        let address = if way.0 == Client::Clear { door.clear } else { door.tls };
        let whole = Duration::from_secs(4) + patience() * 3;
        let talking = self.talk(address, way.0, &job, &mut rng);
        tokio::time::timeout(whole, talking).await.unwrap_or_else(|_| Talk {
            end: Some(Fault::Stuck),
            ..Talk::default()
        })
    }

    async fn talk(&self, address: SocketAddr, client: Client, job: &Job<'_>, rng: &mut fastrand::Rng) -> Talk {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let tcp = Tcp {
            stream,
            no_fin: job.manner == Manner::SaysGoodbye,
            at_most: usize::MAX,
        };
        if client == Client::Clear {
            let reset = |tcp: &Tcp| drop(tcp.stream.set_zero_linger());
            return client::talk(tcp, job, reset, rng).await;
        }
        let connector = &self.connectors[usize::from(client == Client::Http2)];
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = match connector.connect(name, tcp).await {
            Ok(stream) => stream,
            Err(e) => panic!("no handshake: {e}"),
        };
        // From here on records may be cut anywhere.
        stream.get_mut().0.at_most = [usize::MAX, usize::MAX, 1_448, 100][rng.usize(..4)];
        if client == Client::Http2 {
            let sliced = Sliced {
                stream,
                first: rng.usize(..24),
            };
            return client_http2::talk(sliced, job, rng).await;
        }
        let reset = |stream: &tokio_rustls::client::TlsStream<Tcp>| drop(stream.get_ref().0.stream.set_zero_linger());
        client::talk(stream, job, reset, rng).await
    }
}

/// Sends frames on a connection of their own.
async fn by_frames(address: SocketAddr, mut frames: Frames, trial: u64) -> Talk {
    let path = path_of(trial);
    for (_, value) in &mut frames.fields {
        if let Some(rest) = value.strip_prefix(b"{t}") {
            *value = [path.as_bytes(), rest].concat();
        }
    }
    let sending = move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        frames.send(&mut stream)
    };
    let mut talk = Talk::default();
    let mut answered = |status| {
        talk.answers.push(Answer {
            http2: true,
            status,
            ..Answer::default()
        });
    };
    match tokio::task::spawn_blocking(sending).await.unwrap() {
        End::Answered(status) => answered(status),
        // Of the statuses that no table of HPACK has the gate gives only those of refusals here.
        End::AnsweredOtherwise => answered(499),
        End::Refused => talk.end = Some(Fault::Reset),
    }
    talk
}
