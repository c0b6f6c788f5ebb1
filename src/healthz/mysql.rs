//! MySQL and MariaDB, and what speaks as they do: a connection, a login and `SELECT 1`, in the clear or within TLS.

use std::sync::{Arc, Mutex, PoisonError};

use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, Opts, OptsBuilder, SslOpts};

use tracing::error;

use super::check::told;
use crate::files::Followed;
use crate::tls::{Identity, TlsError, TlsTerms, authorities, certified, content};

/// A database and how it is reached.
#[derive(Clone, Debug)]
pub struct Mysql {
    /// Where, and as whom.
    pub login: Opts,
    /// TLS; cleartext where absent.
    pub tls: Option<TlsTerms>,
    /// The login with whom to trust, as the files say that were read last.
    pub secured: Arc<Mutex<Option<Secured>>>,
}

/// A login with whom to trust, and the files that say it.
#[derive(Debug)]
pub struct Secured {
    login: Opts,
    files: Followed,
}

impl Mysql {
    /// A new connection each time: one that is kept would not notice that no further one can be had.
    pub(super) async fn ask(&self) -> Result<(), String> {
        let login = match &self.tls {
            None => self.login.clone(),
            Some(terms) => self.secured(terms).map_err(|e| told(&e))?,
        };
        let mut connection = Conn::new(login).await.map_err(|e| told(&e))?;
        let asked = connection.query_drop("SELECT 1").await.map_err(|e| told(&e));
        // The server is told that this was all: it counts connections that end without a word, and shuts out whoever has too many.
        drop(connection.disconnect().await);
        asked
    }

    /// The login with whom to trust, read again where a file has changed. Files that cannot be used change nothing.
    fn secured(&self, terms: &TlsTerms) -> Result<Opts, TlsError> {
        let mut last = self.secured.lock().unwrap_or_else(PoisonError::into_inner);
        let read = || secured(&self.login, terms);
        if let Some(Secured { login, files }) = last.as_mut() {
            match files.read_if_changed(read) {
                None => {}
                Some(Ok(other)) => *login = other,
                Some(Err(e)) => {
                    error!(error = %e, "the files for TLS to a database have changed and cannot be used: new connections go by the old ones");
                }
            }
            return Ok(login.clone());
        }
        let mut files = Followed::new(terms.files.paths());
        let login = files.read(read)?;
        let secured = Secured { login, files };
        Ok(last.insert(secured).login.clone())
    }
}

/// The driver opens its connections itself, so it is told whom to trust.
fn secured(login: &Opts, terms: &TlsTerms) -> Result<Opts, TlsError> {
    let trusted = authorities(terms.files.ca.as_deref())?;
    let trusted = trusted.into_iter().map(|one| one.as_ref().to_vec().into());
    let shown = terms.files.identity.as_ref().map(identity).transpose()?;
    let tls = SslOpts::default()
        .with_root_certs(trusted.collect())
        .with_disable_built_in_roots(true)
        .with_client_identity(shown)
        .with_danger_tls_hostname_override(terms.server_name.clone());
    Ok(OptsBuilder::from_opts(login.clone()).ssl_opts(Some(tls)).into())
}

/// What is shown, as it is at present: the driver would read the files itself, each time.
fn identity(Identity { cert, key }: &Identity) -> Result<ClientIdentity, TlsError> {
    certified(cert, key)?;
    Ok(ClientIdentity::new(content(cert)?.into(), content(key)?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::TlsFiles;

    #[test]
    fn files_are_read_again_when_they_change_and_what_cannot_be_used_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let write = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap();
            std::fs::write(&path, authority.pem()).unwrap();
        };
        let terms = TlsTerms {
            files: TlsFiles {
                ca: Some(path.clone()),
                identity: None,
            },
            ..TlsTerms::default()
        };
        let mysql = Mysql {
            login: OptsBuilder::default().into(),
            tls: Some(terms.clone()),
            secured: Arc::default(),
        };
        assert!(mysql.secured(&terms).is_err(), "there is no file yet");
        write();
        let first = mysql.secured(&terms).unwrap();
        assert_eq!(mysql.secured(&terms).unwrap(), first);
        std::fs::write(&path, "no authority").unwrap();
        assert_eq!(mysql.secured(&terms).unwrap(), first);
        write();
        assert_ne!(mysql.secured(&terms).unwrap(), first);
    }
}
