//! TLS towards others: endpoints, probes, webhooks. Whoever is asked is always verified: a gate that trusts anybody would call an impostor
//! healthy, and hand it every prompt.

mod key;
mod pem;
mod validity;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem as encoding};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto::ring};
use tracing::{error, info, warn};

use crate::clock;
use crate::files::Followed;
use crate::gate::names::without_dot;

pub use key::{certified, unverifiable};
pub use pem::{certificates, content, private_key};
pub use validity::{concerns, validity};

/// How somebody is spoken to within TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsTerms {
    /// The name that is sent (RFC 6066 section 3) and verified; the host of the address where absent.
    pub server_name: Option<String>,
    /// What is read from files.
    pub files: TlsFiles,
}

impl TlsTerms {
    /// The name that is sent to and verified of somebody at `host`, without the dot at its end (RFC 6066 section 3).
    pub fn name<'a>(&'a self, host: &'a str) -> &'a str {
        without_dot(self.server_name.as_deref().unwrap_or(host))
    }
}

/// The files of one side of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsFiles {
    /// A PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// What the gate itself shows where it is asked for a certificate.
    pub identity: Option<Identity>,
}

impl TlsFiles {
    /// Each file.
    pub fn paths(&self) -> Vec<PathBuf> {
        let own = self.identity.iter().flat_map(|own| [&own.cert, &own.key]);
        self.ca.iter().chain(own).cloned().collect()
    }
}

impl fmt::Display for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.paths();
        let paths = paths.iter().map(|path| path.display().to_string());
        f.write_str(&paths.collect::<Vec<_>>().join(", "))
    }
}

/// A certificate with its chain, and its private key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The certificate, then its chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why TLS cannot be spoken as the configuration says.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of use.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: encoding::Error,
    },
    /// What it holds is of no use.
    #[error("{path}: {why}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The system trusts nobody.
    #[error("this system has no certificate authorities; install ca-certificates or set `ca`")]
    NoAuthorities,
    /// The name cannot be verified.
    #[error("`{0}` is no name that a certificate could be for")]
    Name(String),
    /// The certificates or the key cannot be used.
    #[error("{path}: {source}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// No version and cipher is left.
    #[error(transparent)]
    Terms(#[from] rustls::Error),
}

/// Why a handshake came to nothing.
#[derive(Debug, Error)]
pub enum Unsecured {
    /// For a reason of the gate's own, which says nothing about the other side.
    #[error(transparent)]
    Ours(#[from] TlsError),
    /// The other side is not who it should be, or speaks something else.
    #[error(transparent)]
    Theirs(#[from] io::Error),
}

/// What the files of one side hold, ready for use.
pub struct Loaded {
    config: Arc<ClientConfig>,
    /// The authorities for the proxy framework's own connector; absent are the system's.
    pub authorities: Option<Arc<CaType>>,
    /// The gate's certificate for it.
    pub identity: Option<Arc<CertKey>>,
}

/// Everything that was read from files, by their names. Each is read when first needed, when a configuration is loaded, and when a file has changed.
#[derive(Default)]
pub struct Authorities(Mutex<BTreeMap<TlsFiles, Read>>);

/// What was read from files.
struct Read {
    loaded: Arc<Loaded>,
    followed: Arc<Mutex<Followed>>,
}

/// How often it is looked whether a file has changed.
pub const LOOK: Duration = Duration::from_secs(2);

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorities")
    }
}

impl Authorities {
    /// Takes what `fresh` holds for its own: connections from now on are judged by it.
    pub fn replace(&self, fresh: Self) {
        let fresh = fresh.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// What these hold.
    ///
    /// # Errors
    /// They were not read yet, and cannot be.
    pub fn of(&self, files: &TlsFiles) -> Result<Arc<Loaded>, TlsError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = known.get(files) {
            return Ok(read.loaded.clone());
        }
        let mut followed = Followed::new(files.paths());
        let loaded = Arc::new(followed.read(|| Loaded::read(files))?);
        let read = Read {
            loaded: loaded.clone(),
            followed: Arc::new(Mutex::new(followed)),
        };
        known.insert(files.clone(), read);
        Ok(loaded)
    }

    /// Reads files again whenever they change, for connections from then on. Those that cannot be used change nothing, which is told once.
    pub async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            self.look_again();
        }
    }

    fn look_again(&self) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = known.iter().map(|(files, read)| (files.clone(), read.followed.clone()));
        let all: Vec<_> = all.collect();
        drop(known);
        for (files, followed) in all {
            // Connections do not wait for the disk meanwhile.
            let mut looking = followed.lock().unwrap_or_else(PoisonError::into_inner);
            match looking.read_if_changed(|| Loaded::read(&files)) {
                None => {}
                Some(Ok(loaded)) => {
                    info!(%files, "the files for TLS to others have changed, and new connections go by the new ones");
                    let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    let read = known
                        .get_mut(&files)
                        .filter(|read| Arc::ptr_eq(&read.followed, &followed));
                    if let Some(read) = read {
                        read.loaded = Arc::new(loaded);
                    }
                }
                Some(Err(e)) => {
                    error!(error = %e, "the files for TLS to others have changed and cannot be used: new connections go by the old ones")
                }
            }
        }
    }

    /// Shakes hands on `stream` with `host`, to speak HTTP/1.1.
    ///
    /// # Errors
    /// [`Unsecured`] tells whose fault it is.
    pub async fn secure(
        &self,
        stream: TcpStream,
        host: &str,
        terms: &TlsTerms,
    ) -> Result<TlsStream<TcpStream>, Unsecured> {
        let connector = TlsConnector::from(self.of(&terms.files)?.config.clone());
        Ok(connector.connect(server_name(host, terms)?, stream).await?)
    }

    /// What shakes hands with `host` to speak something else than HTTP: it offers no protocol by name (RFC 7301), which databases may refuse.
    ///
    /// # Errors
    /// The files cannot be used, or nobody could be called by the name.
    pub fn connector(&self, host: &str, terms: &TlsTerms) -> Result<(TlsConnector, ServerName<'static>), TlsError> {
        let mut config = ClientConfig::clone(&self.of(&terms.files)?.config);
        config.alpn_protocols.clear();
        Ok((TlsConnector::from(Arc::new(config)), server_name(host, terms)?))
    }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let (roots, authorities) = match &files.ca {
            None => (system_roots()?, None),
            Some(path) => {
                let certificates = certificates(path)?;
                for concern in unverifiable(path, &certificates) {
                    warn!("{concern}");
                }
                (trusting(path, &certificates)?, Some(wrapped(&certificates)))
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let (mut config, identity) = match &files.identity {
            None => (builder.with_no_client_auth(), None),
            Some(Identity { cert, key }) => {
                let (own, private) = certified(cert, key)?;
                let chain = own.cert;
                for concern in concerns(cert, &chain, clock::wall_seconds()) {
                    warn!("{concern}");
                }
                let der = |one: &CertificateDer<'_>| one.as_ref().to_vec();
                let shown = CertKey::new(chain.iter().map(der).collect(), private.secret_der().to_vec());
                let config = builder.with_client_auth_cert(chain, private);
                let config = config.map_err(|source| TlsError::Unusable {
                    path: key.clone(),
                    source,
                })?;
                (config, Some(Arc::new(shown)))
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            authorities,
            identity,
        })
    }
}

fn server_name(host: &str, terms: &TlsTerms) -> Result<ServerName<'static>, TlsError> {
    let name = terms.name(host);
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
}

/// Whether a certificate could be for `name`: a host or an address.
pub fn is_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// Whoever trusts the authorities of a PEM file.
///
/// # Errors
/// It cannot be read, or holds something else.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    trusting(path, &certificates(path)?)
}

fn trusting(path: &Path, authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|source| TlsError::Unusable {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
}

fn wrapped(authorities: &[CertificateDer<'static>]) -> Arc<CaType> {
    let wrap = |one: &CertificateDer<'_>| WrappedX509::new(one.as_ref().to_vec(), parse_x509);
    authorities.iter().map(wrap).collect()
}

/// The authorities to trust, each as it stands in a certificate: those of a PEM file, or the system's.
///
/// # Errors
/// There are none, or the file cannot be read or holds something else.
pub fn authorities(ca: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    match ca {
        Some(path) => certificates(path),
        None => Some(rustls_native_certs::load_native_certs().certs)
            .filter(|found| !found.is_empty())
            .ok_or(TlsError::NoAuthorities),
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(TlsError::NoAuthorities);
    }
    Ok(roots)
}
