//! Files that a configuration names and that `difygate check` looks for.

use std::path::Path;

use crate::config::parse::Findings;
use crate::config::trust;
use crate::healthz::{Check, Kind, Settings, Whereabouts};
use crate::tls::{Authorities, TlsTerms};

/// Finds what is missing or of no use.
pub(super) fn look(settings: &Settings, findings: &mut Findings<'_>) {
    for (key, terms) in secured(settings) {
        tls(&key, terms, findings);
    }
    for (key, check) in checks(settings) {
        let Kind::Files(needed) = &check.kind else { continue };
        for (index, file) in needed.iter().enumerate() {
            if let Err(e) = std::fs::metadata(&file.path) {
                let message = format!("{}: {e}", file.path.display());
                findings.error(&format!("{key}[{index}]"), message);
            }
        }
    }
}

/// What is to be said of the files for TLS, with the key of each.
pub fn concerns(settings: &Settings) -> Vec<(String, String)> {
    let secured = secured(settings).into_iter();
    secured
        .flat_map(|(key, terms)| trust::concerns(&key, &terms.files))
        .collect()
}

/// Every check, with the key of its kind.
fn checks(settings: &Settings) -> impl Iterator<Item = (String, &Check)> {
    let named = settings.checks.iter();
    let named = named.map(|check| (format!("checks.{}", check.name), check));
    let live = settings.live.iter().map(|check| ("live".to_owned(), check));
    named
        .chain(live)
        .map(|(key, check)| (format!("{key}.{}", check.kind.as_str()), check))
}

/// All that is spoken to within TLS, by its key.
fn secured(settings: &Settings) -> Vec<(String, &TlsTerms)> {
    let mut all = Vec::new();
    for (key, check) in checks(settings) {
        let mut note = |key: String, terms| all.extend(Option::map(terms, |terms| (key, terms)));
        match &check.kind {
            Kind::Postgres(postgres) => note(format!("{key}.tls"), postgres.security.verified()),
            Kind::Mysql(mysql) => note(format!("{key}.tls"), mysql.tls.as_ref()),
            Kind::Redis(redis) => {
                note(format!("{key}.tls"), redis.tls.as_ref());
                if let Whereabouts::Sentinels(sentinels) = &redis.at {
                    note(format!("{key}.sentinel.tls"), sentinels.tls.as_ref());
                }
            }
            Kind::Http { spec, .. } => note(key, spec.tls.as_ref()),
            Kind::Files(_) | Kind::Tcp(_) | Kind::Exec(_) => {}
        }
    }
    all
}

/// What a service needs to speak TLS: the files, and somebody to trust.
fn tls(key: &str, TlsTerms { files, .. }: &TlsTerms, findings: &mut Findings<'_>) {
    if let Err(e) = Authorities::default().of(files) {
        let told = e.to_string();
        let names = |path: &Path| told.starts_with(&path.display().to_string());
        let own = files.identity.as_ref();
        let at = [
            ("ca", files.ca.as_deref()),
            ("cert", own.map(|own| own.cert.as_path())),
            ("key", own.map(|own| own.key.as_path())),
        ];
        let guilty = at.into_iter().find(|(_, path)| path.is_some_and(names));
        let key = guilty.map_or(key.to_owned(), |(name, _)| format!("{key}.{name}"));
        findings.error(&key, told);
    }
}
