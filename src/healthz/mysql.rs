//! MySQL and MariaDB, and what speaks as they do: a connection, a login and `SELECT 1`, in the clear or within TLS.

use std::sync::OnceLock;

use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, Opts, OptsBuilder, SslOpts};

use super::check::told;
use crate::tls::{TlsError, TlsTerms, authorities};

/// A database and how it is reached.
#[derive(Clone, Debug)]
pub struct Mysql {
    /// Where, and as whom.
    pub login: Opts,
    /// TLS; cleartext where absent.
    pub tls: Option<TlsTerms>,
    /// The login with whom to trust, once that has been read.
    pub secured: OnceLock<Opts>,
}

impl Mysql {
    /// A new connection each time: one that is kept would not notice that no further one can be had.
    pub(super) async fn ask(&self) -> Result<(), String> {
        let login = match (&self.tls, self.secured.get()) {
            (None, _) => self.login.clone(),
            (Some(_), Some(secured)) => secured.clone(),
            (Some(terms), None) => {
                let secured = secured(&self.login, terms).map_err(|e| told(&e))?;
                self.secured.get_or_init(|| secured).clone()
            }
        };
        let mut connection = Conn::new(login).await.map_err(|e| told(&e))?;
        let asked = connection.query_drop("SELECT 1").await.map_err(|e| told(&e));
        // The server is told that this was all: it counts connections that end without a word, and shuts out whoever has too many.
        drop(connection.disconnect().await);
        asked
    }
}

/// The driver opens its connections itself, so it is told whom to trust.
fn secured(login: &Opts, terms: &TlsTerms) -> Result<Opts, TlsError> {
    let trusted = authorities(terms.files.ca.as_deref())?;
    let trusted = trusted.into_iter().map(|one| one.as_ref().to_vec().into());
    let shown = terms
        .files
        .identity
        .as_ref()
        .map(|own| ClientIdentity::new(own.cert.clone().into(), own.key.clone().into()));
    let tls = SslOpts::default()
        .with_root_certs(trusted.collect())
        .with_disable_built_in_roots(true)
        .with_client_identity(shown)
        .with_danger_tls_hostname_override(terms.server_name.clone());
    Ok(OptsBuilder::from_opts(login.clone()).ssl_opts(Some(tls)).into())
}
