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
        for upstream in &self.upstreams {
            let read = |key: &str, terms: Option<&TlsTerms>| {
                let read = terms.map_or(Ok(()), |terms| fresh.of(&terms.files).map(drop));
                read.map_err(|source| Mistrust {
                    key: format!("upstreams.{}.{key}", upstream.name),
                    source,
                })
            };
            read("tls", upstream.tls.as_ref())?;
            for pool in &upstream.pools {
                let written = pool.endpoints.iter().map(|endpoint| &endpoint.probes);
                for probe in written.chain([&pool.probes]).flat_map(|probes| probes.iter()) {
                    read("probe.tls", probe.tls.as_ref())?;
                }
            }
            if let Some(live) = &upstream.live {
                read("live.probe.tls", live.probe.tls.as_ref())?;
            }
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(acme) = listener.tls.as_ref().and_then(|tls| tls.acme.as_ref()) else {
                continue;
            };
            fresh.of(&acme.trust()).map_err(|source| Mistrust {
                key: format!("listeners[{index}].tls.acme"),
                source,
            })?;
        }
        authorities.replace(fresh);
        Ok(())
    }
}
