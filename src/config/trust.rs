//! Whom the gate trusts when it speaks TLS to others, and what it shows them: files that a configuration names and that must be there before it
//! is in force.

use thiserror::Error;

use super::Config;
use crate::tls::{Authorities, TlsError, TlsTerms};

/// A key of which a file cannot be used.
#[derive(Debug, Error)]
#[error("{key}: {source}")]
pub struct Mistrust {
    /// Which.
    pub key: String,
    /// What is wrong.
    #[source]
    pub source: TlsError,
}

impl Config {
    /// Reads every file anew that TLS to others needs, for `authorities` to hold from now on.
    ///
    /// # Errors
    /// One of them cannot be used; then nothing has changed.
    pub fn trust(&self, authorities: &Authorities) -> Result<(), Mistrust> {
        let fresh = Authorities::default();
        for (key, terms) in self.tls_terms() {
            fresh.of(&terms.files).map_err(|source| Mistrust { key, source })?;
        }
        authorities.replace(fresh);
        Ok(())
    }

    /// Every place where TLS is spoken to others, by its key.
    fn tls_terms(&self) -> impl Iterator<Item = (String, &TlsTerms)> {
        self.upstreams.iter().flat_map(|upstream| {
            let key = format!("upstreams.{}", upstream.name);
            let own = upstream.tls.iter().map({
                let key = format!("{key}.tls");
                move |terms| (key.clone(), terms)
            });
            let lists = upstream.pools.iter().flat_map(|pool| {
                let written = pool.endpoints.iter().map(|endpoint| &endpoint.probes);
                written.chain([&pool.probes])
            });
            let asked = lists.flat_map(|probes| probes.iter()).filter_map({
                let key = format!("{key}.probe.tls");
                move |probe| Some((key.clone(), probe.tls.as_ref()?))
            });
            let live = upstream.live.iter().filter_map(move |live| {
                let key = format!("{key}.live.probe.tls");
                Some((key, live.probe.tls.as_ref()?))
            });
            own.chain(asked).chain(live)
        })
    }
}
