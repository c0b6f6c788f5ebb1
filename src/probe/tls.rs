//! TLS for probes. Certificates are always verified: a probe that trusts anybody would call an impostor healthy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::gate::health::{FailureClass, Outcome};
use crate::gate::names::Address;
use crate::probe::spec::ProbeTls;

/// Who is trusted, by the file that names them; `None` is the system's store. Each is read once, when first needed.
#[derive(Debug, Default)]
pub(crate) struct Authorities(Mutex<BTreeMap<Option<PathBuf>, Arc<ClientConfig>>>);

impl Authorities {
    /// Shakes hands on `stream`.
    pub(crate) async fn secure(
        &self,
        stream: TcpStream,
        address: &Address,
        terms: &ProbeTls,
    ) -> Result<TlsStream<TcpStream>, Outcome> {
        let config = self
            .config(terms.ca.as_deref())
            .map_err(|detail| Outcome::Unknown { detail })?;
        let name = terms.server_name.as_deref().unwrap_or(address.host()).to_owned();
        let name = ServerName::try_from(name).map_err(|e| Outcome::Unknown { detail: e.to_string() })?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.map_err(|e| Outcome::Fail {
            class: FailureClass::Tls,
            detail: e.to_string(),
        })
    }

    fn config(&self, ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(&ca.map(Path::to_path_buf)) {
            return Ok(config.clone());
        }
        let roots = match ca {
            Some(path) => roots_of(path)?,
            None => system_roots()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        known.insert(ca.map(Path::to_path_buf), config.clone());
        Ok(config)
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let unusable = |e: &dyn std::fmt::Display| format!("`tls.ca` {} cannot be used: {e}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unusable(&e))? {
        let certificate = certificate.map_err(|e| unusable(&e))?;
        roots.add(certificate).map_err(|e| unusable(&e))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"it holds no certificate"));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(
            "this system has no certificate authorities; install ca-certificates or set `probe.tls.ca`".to_owned(),
        );
    }
    Ok(roots)
}
