//! TLS for listeners, by rustls: memory-safe, without a C library of its own, and already here for probes. Certificates and the authorities for
//! clients are read again when their files change.

mod certificates;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tracing::{error, info, warn};

use crate::config::TlsSettings;
use crate::files::Followed;
use crate::metrics::Metrics;
use crate::tls;
use certificates::{Certificates, Shown};

pub(crate) use certificates::concerns;

/// Why a listener cannot speak TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] tls::TlsError),
    /// There is nothing to show.
    #[error("no certificate is named")]
    Empty,
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
/// How often it is said anew that a certificate ends soon.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What speaks TLS on one listener.
pub(crate) struct Terminator {
    settings: Arc<TlsSettings>,
    http2: bool,
    shown: Arc<Shown>,
    config: ArcSwap<ServerConfig>,
    files: Mutex<Files>,
}

/// The files that are followed: of certificates with their keys, and of the authorities for clients.
struct Files {
    certificates: Followed,
    authorities: Followed,
}

/// What became of files that have changed.
struct News {
    what: &'static str,
    outcome: Result<(), TlsError>,
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
        let mut files = Files::of(&settings);
        let certificates = files.certificates.read(|| Certificates::read(&settings))?;
        let shown = Arc::new(Shown::new(certificates));
        let config = files.authorities.read(|| server_config(&settings, http2, &shown))?;
        Ok(Self {
            settings,
            http2,
            shown,
            config: ArcSwap::new(config),
            files: Mutex::new(files),
        })
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// It speaks something else, or cannot agree.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.load_full()).accept(stream).await
    }

    /// Reads certificates and authorities again whenever one of their files changes. One that cannot be used changes nothing and is told of once.
    pub(crate) async fn follow(self: Arc<Self>, listener: String, metrics: Metrics) {
        let tell = |outcome| {
            let labels = [listener.as_str(), outcome];
            metrics.certificates_loaded.with_label_values(&labels).inc();
            let ends = metrics.certificate_ends.with_label_values(&labels[..1]);
            ends.set(self.shown.ends());
        };
        tell("ok");
        let mut ticks = tokio::time::interval(tls::LOOK);
        let mut days = tokio::time::interval(DAY);
        days.reset();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = days.tick() => {
                    for (_, concern) in concerns(&self.settings) {
                        warn!("{concern}");
                    }
                }
            }
            for News { what, outcome } in self.look() {
                match outcome {
                    Ok(()) => {
                        tell("ok");
                        info!(
                            listener,
                            "the {what} have changed, and new connections go by the new ones"
                        );
                    }
                    Err(e) => {
                        tell("failed");
                        error!(listener, error = %e, "the {what} have changed and cannot be used: new connections go by the old ones");
                    }
                }
            }
        }
    }

    /// Takes over what has changed.
    fn look(&self) -> impl Iterator<Item = News> + use<> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let certificates = files.certificates.read_if_changed(|| {
            self.shown.replace(Certificates::read(&self.settings)?);
            Ok(())
        });
        let authorities = files.authorities.read_if_changed(|| {
            self.config
                .store(server_config(&self.settings, self.http2, &self.shown)?);
            Ok(())
        });
        let news = |what, outcome: Option<Result<(), TlsError>>| outcome.map(|outcome| News { what, outcome });
        let certificates = news("certificates", certificates);
        certificates
            .into_iter()
            .chain(news("authorities for clients", authorities))
    }
}

impl Files {
    fn of(settings: &TlsSettings) -> Self {
        let named = settings.certificates.iter();
        let named = named.flat_map(|one| [one.cert.clone(), one.key.clone()]);
        let own = settings.acme.as_ref().map(|acme| acme.file());
        Self {
            certificates: Followed::new(named.chain(own)),
            authorities: Followed::new(settings.client_ca.clone()),
        }
    }
}

/// How hands are shaken. Sessions and tickets are its own: a client does not go on with one that other authorities have let in.
fn server_config(settings: &TlsSettings, http2: bool, shown: &Arc<Shown>) -> Result<Arc<ServerConfig>, TlsError> {
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
            for concern in tls::unverifiable(path, &tls::certificates(path)?) {
                warn!("{concern}");
            }
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
    Ok(Arc::new(config))
}
