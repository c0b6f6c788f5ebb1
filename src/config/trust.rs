//! Whom the gate trusts when it speaks TLS to others, and what it shows them: files that a configuration names and that must be there before it
//! is in force.

use std::path::Path;

use thiserror::Error;

use super::Config;
use crate::clock;
use crate::tls::{self, Authorities, Identity, TlsError, TlsFiles, TlsTerms};

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
        for (key, files) in self.tls_to_others() {
            fresh.of(&files).map_err(|source| Mistrust { key, source })?;
        }
        authorities.replace(fresh);
        Ok(())
    }

    /// What is to be said of the files for TLS to others, with the key of each.
    pub fn concerns(&self) -> Vec<(String, String)> {
        let all = self.tls_to_others().into_iter();
        all.flat_map(|(key, files)| concerns(&key, &files)).collect()
    }

    /// The files of all that is spoken to within TLS, each once, with the first key that names them.
    fn tls_to_others(&self) -> Vec<(String, TlsFiles)> {
        let mut all: Vec<(String, TlsFiles)> = Vec::new();
        let mut note = |key: String, files: &TlsFiles| {
            if all.iter().all(|(_, known)| known != files) {
                all.push((key, files.clone()));
            }
        };
        for upstream in &self.upstreams {
            let mut note = |key: &str, terms: Option<&TlsTerms>| {
                if let Some(terms) = terms {
                    note(format!("upstreams.{}.{key}", upstream.name), &terms.files);
                }
            };
            note("tls", upstream.tls.as_ref());
            for pool in &upstream.pools {
                let written = pool.endpoints.iter().map(|endpoint| &endpoint.probes);
                for probe in written.chain([&pool.probes]).flat_map(|probes| probes.iter()) {
                    note("probe.tls", probe.tls.as_ref());
                }
            }
            let live = upstream.live.as_ref();
            note("live.probe.tls", live.and_then(|live| live.probe.tls.as_ref()));
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Some(acme) = listener.tls.as_ref().and_then(|tls| tls.acme.as_ref()) {
                note(format!("listeners[{index}].tls.acme"), &acme.trust());
            }
        }
        all
    }
}

/// What is to be said of files that a key names: certificates that hold no more, not yet or not for long, and authorities of which nothing can be verified.
pub(super) fn concerns(key: &str, files: &TlsFiles) -> Vec<(String, String)> {
    let read = |path: &Path| tls::certificates(path).unwrap_or_default();
    let believed = files.ca.iter().flat_map(|path| tls::unverifiable(path, &read(path)));
    let believed = believed.map(|concern| (format!("{key}.ca"), concern));
    let shown = files.identity.iter().flat_map(|Identity { cert, .. }| {
        let concerns = tls::concerns(cert, &read(cert), clock::wall_seconds());
        concerns.into_iter().map(|concern| (format!("{key}.cert"), concern))
    });
    believed.chain(shown).collect()
}
