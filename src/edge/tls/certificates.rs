//! The certificates of a listener, chosen by the host that a client names (RFC 6066 section 3).

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tracing::warn;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use crate::clock;
use crate::config::{CertificateSettings, TlsSettings};
use crate::tls;

/// The certificates that are shown at present.
pub(super) struct Shown(ArcSwap<Certificates>);

impl Shown {
    pub(super) fn new(certificates: Certificates) -> Self {
        Self(ArcSwap::from_pointee(certificates))
    }

    /// Shows others from now on.
    pub(super) fn replace(&self, certificates: Certificates) {
        self.0.store(Arc::new(certificates));
    }

    /// When the first of them ends, in seconds of Unix time; 0 where there is none.
    pub(super) fn ends(&self) -> i64 {
        self.0.load().ends
    }
}

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
pub(super) struct Certificates {
    by_host: HashMap<String, Arc<CertifiedKey>>,
    /// For whoever names no host, or an unknown one; none until the gate has got its own.
    first: Option<Arc<CertifiedKey>>,
    ends: i64,
}

/// The certificates that a listener shows by its settings: those that are named, and what the gate has got itself by now.
fn named(settings: &TlsSettings) -> Vec<CertificateSettings> {
    let own = settings.acme.as_ref().map(|acme| (acme.file(), &acme.hosts));
    let own = own
        .filter(|(file, _)| file.exists())
        .map(|(file, hosts)| CertificateSettings {
            cert: file.clone(),
            key: file,
            hosts: hosts.clone(),
        });
    settings.certificates.iter().cloned().chain(own).collect()
}

impl Certificates {
    /// Reads every file that `settings` name. What is to be said of a certificate is logged.
    pub(super) fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let (mut by_host, mut first, mut ends) = (HashMap::new(), None, i64::MAX);
        for one in named(settings) {
            let (key, _) = tls::certified(&one.cert, &one.key)?;
            for concern in tls::concerns(&one.cert, &key.cert, clock::wall_seconds()) {
                warn!("{concern}");
            }
            let key = Arc::new(key);
            let leaf = key.cert.first().ok_or(TlsError::Empty)?;
            ends = ends.min(tls::validity(leaf).map_or(i64::MAX, |(_, ends)| ends));
            first.get_or_insert_with(|| key.clone());
            let names = if one.hosts.is_empty() {
                hosts(&one.cert, leaf)?
            } else {
                one.hosts
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

/// What is to be said of the certificates and authorities of a listener, with the key of each; nothing of what the gate renews itself.
pub(crate) fn concerns(settings: &TlsSettings) -> Vec<(String, String)> {
    let now = clock::wall_seconds();
    let shown = settings.certificates.iter().enumerate().flat_map(|(index, one)| {
        let chain = tls::certificates(&one.cert).unwrap_or_default();
        let concerns = tls::concerns(&one.cert, &chain, now);
        concerns
            .into_iter()
            .map(move |concern| (format!("certificates[{index}].cert"), concern))
    });
    let believed = settings.client_ca.iter().flat_map(|path| {
        let concerns = tls::unverifiable(path, &tls::certificates(path).unwrap_or_default());
        concerns.into_iter().map(|concern| ("client_ca".to_owned(), concern))
    });
    shown.chain(believed).collect()
}

/// The hosts that a certificate names (RFC 6125 section 6.4).
#[allow(clippy::wildcard_enum_match_arm)] // of a certificate's many kinds of names one is a host's
fn hosts(path: &Path, leaf: &CertificateDer<'_>) -> Result<Vec<String>, TlsError> {
    let unreadable = || tls::TlsError::Unfit {
        path: path.to_owned(),
        why: "the names of its certificate cannot be read".to_owned(),
    };
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| unreadable())?;
    let alternative = certificate.subject_alternative_name().map_err(|_| unreadable())?;
    let names = alternative.into_iter().flat_map(|names| &names.value.general_names);
    let hosts = names.filter_map(|name| match name {
        GeneralName::DNSName(host) => Some((*host).to_owned()),
        _ => None,
    });
    Ok(hosts.collect())
}
