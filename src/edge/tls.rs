//! TLS for listeners, by rustls: memory-safe, without a C library of its own, and already here for probes. Certificates are chosen by the host
//! that a client names (RFC 6066 section 3), and are read again when their files change.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{
    ClientHello, ResolvesServerCert, ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tracing::{error, info, warn};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock;
use crate::config::{CertificateSettings, TlsSettings};
use crate::metrics::Metrics;
use crate::tls;

/// Why a listener cannot speak TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] tls::TlsError),
    /// There is nothing to show.
    #[error("no certificate is named")]
    Empty,
    /// The key is of a kind that nobody signs with, or belongs to another certificate.
    #[error("{key} does not sign for {cert}: {source}")]
    Key {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        cert: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The authorities for clients cannot be used.
    #[error("{path}: {source}")]
    Clients {
        /// Their file.
        path: PathBuf,
        /// What is wrong with them.
        source: VerifierBuilderError,
    },
    /// No version and cipher is left.
    #[error(transparent)]
    Terms(#[from] rustls::Error),
}

/// Sessions that are remembered for clients which come back without a ticket (TLS 1.2).
const SESSIONS: usize = 4_096;
/// How often it is looked whether a file has changed.
const LOOK: Duration = Duration::from_secs(2);
/// A certificate that ends sooner is warned of.
const SOON: i64 = 14 * 24 * 3_600;

/// What speaks TLS on one listener.
pub(crate) struct Terminator {
    settings: Arc<TlsSettings>,
    shown: Arc<Shown>,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Terminator {
    /// Reads every file of `settings`.
    ///
    /// # Errors
    /// A file cannot be used; the error names it.
    pub(crate) fn new(settings: Arc<TlsSettings>, http2: bool) -> Result<Self, TlsError> {
        let shown = Arc::new(Shown(ArcSwap::from_pointee(Certificates::read(&settings)?)));
        let provider = Arc::new(ring::default_provider());
        let versions = if settings.only_1_3 {
            &[&TLS13][..]
        } else {
            &[&TLS13, &TLS12]
        };
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        let builder = match &settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = WebPkiClientVerifier::builder_with_provider(Arc::new(tls::roots(path)?), provider);
                let roots = if settings.client_required {
                    roots
                } else {
                    roots.allow_unauthenticated()
                };
                builder.with_client_cert_verifier(roots.build().map_err(|source| TlsError::Clients {
                    path: path.clone(),
                    source,
                })?)
            }
        };
        let mut config = builder.with_cert_resolver(shown.clone());
        config.alpn_protocols = if http2 {
            vec![b"h2".to_vec(), b"http/1.1".to_vec()]
        } else {
            vec![b"http/1.1".to_vec()]
        };
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self {
            settings,
            shown,
            acceptor: Arc::new(config).into(),
        })
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// It speaks something else, or cannot agree.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Reads the certificates again whenever one of their files changes. One that cannot be used changes nothing and is told of once.
    pub(crate) async fn follow(self: Arc<Self>, listener: String, metrics: Metrics) {
        let tell = |outcome, ends| {
            metrics
                .certificates_loaded
                .with_label_values(&[listener.as_str(), outcome])
                .inc();
            metrics
                .certificate_ends
                .with_label_values(&[listener.as_str()])
                .set(ends);
        };
        tell("ok", self.shown.0.load().ends);
        let mut seen = self.stamps();
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            let now = self.stamps();
            if now == seen {
                continue;
            }
            seen = now;
            match Certificates::read(&self.settings) {
                Ok(certificates) => {
                    tell("ok", certificates.ends);
                    self.shown.0.store(Arc::new(certificates));
                    info!("the certificates have changed, and new connections are shown the new ones");
                }
                Err(e) => {
                    tell("failed", self.shown.0.load().ends);
                    error!(error = %e, "the certificates have changed and cannot be used: the old ones are shown")
                }
            }
        }
    }

    /// When each file was written, and its length.
    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let files = self.settings.certificates.iter();
        let files = files.flat_map(|one| [one.cert.clone(), one.key.clone()]);
        let own = self.settings.acme.as_ref().map(|acme| acme.file());
        let stamp = |path: PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        files.chain(own).map(stamp).collect()
    }
}

/// The certificates that are shown at present.
struct Shown(ArcSwap<Certificates>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().of(hello.server_name())
    }
}

/// Certificates by host.
struct Certificates {
    by_host: HashMap<String, Arc<CertifiedKey>>,
    /// For whoever names no host, or an unknown one; none until the gate has got its own.
    first: Option<Arc<CertifiedKey>>,
    /// When the first of them ends, in seconds of Unix time; 0 where there is none.
    ends: i64,
}

impl Certificates {
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let (mut by_host, mut first, mut ends) = (HashMap::new(), None, i64::MAX);
        let own = settings.acme.as_ref().map(|acme| (acme.file(), &acme.hosts));
        let own = own
            .filter(|(file, _)| file.exists())
            .map(|(file, hosts)| CertificateSettings {
                cert: file.clone(),
                key: file,
                hosts: hosts.clone(),
            });
        for one in settings.certificates.iter().chain(&own) {
            let (key, told) = read(one)?;
            let key = Arc::new(key);
            ends = ends.min(told.ends);
            first.get_or_insert_with(|| key.clone());
            let names = if one.hosts.is_empty() {
                told.hosts
            } else {
                one.hosts.clone()
            };
            for name in names {
                // Of two for the same host the first one is shown.
                by_host.entry(name.to_ascii_lowercase()).or_insert_with(|| key.clone());
            }
        }
        match first {
            None if settings.acme.is_none() => Err(TlsError::Empty),
            None => Ok(Self {
                by_host,
                first,
                ends: 0,
            }),
            Some(_) => Ok(Self { by_host, first, ends }),
        }
    }

    /// The certificate for a host: its own, that of everything one label below a domain, or the first.
    fn of(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let host = host.unwrap_or_default().to_ascii_lowercase();
        let below = || host.split_once('.').map(|(_, domain)| format!("*.{domain}"));
        let found = self.by_host.get(&host).or_else(|| self.by_host.get(&below()?));
        found.or(self.first.as_ref()).cloned()
    }
}

/// What a certificate says of itself.
struct Told {
    /// The hosts that it names.
    hosts: Vec<String>,
    /// When it ends, in seconds of Unix time.
    ends: i64,
}

/// A certificate with its chain and key.
fn read(settings: &CertificateSettings) -> Result<(CertifiedKey, Told), TlsError> {
    let CertificateSettings { cert, key, .. } = settings;
    let chain = tls::certificates(cert)?;
    let leaf = chain.first().ok_or(TlsError::Empty)?;
    let told = told(cert, leaf)?;
    let private = tls::private_key(key)?;
    let refused = |source| TlsError::Key {
        key: key.clone(),
        cert: cert.clone(),
        source,
    };
    let signer = ring::sign::any_supported_type(&private).map_err(refused)?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok((certified, told)),
        Err(source) => Err(refused(source)),
    }
}

/// Reads a certificate (its hosts by RFC 6125 section 6.4); one that ends soon, or has ended, is warned of.
#[allow(clippy::wildcard_enum_match_arm)] // of a certificate's many kinds of names one is a host's
fn told(path: &Path, leaf: &CertificateDer<'_>) -> Result<Told, TlsError> {
    let unreadable = || tls::TlsError::Unreadable(path.to_owned());
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| unreadable())?;
    let ends = certificate.validity().not_after.timestamp();
    let left = ends - clock::wall_seconds();
    if left < 0 {
        warn!(path = %path.display(), "this certificate has expired; browsers will refuse it");
    } else if left < SOON {
        warn!(path = %path.display(), days = left / 86_400, "this certificate ends soon");
    }
    let alternative = certificate.subject_alternative_name().map_err(|_| unreadable())?;
    let names = alternative.into_iter().flat_map(|names| &names.value.general_names);
    let hosts = names.filter_map(|name| match name {
        GeneralName::DNSName(host) => Some((*host).to_owned()),
        _ => None,
    });
    Ok(Told {
        hosts: hosts.collect(),
        ends,
    })
}
