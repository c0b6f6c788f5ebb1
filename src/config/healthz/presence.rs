//! Files that a configuration names and that `difygate check` looks for.

use std::path::Path;

use crate::config::parse::Findings;
use crate::healthz::{Kind, Settings, Whereabouts};
use crate::tls::{Authorities, TlsTerms};

/// Finds what is missing or of no use.
pub(super) fn look(settings: &Settings, findings: &mut Findings<'_>) {
    let named = settings
        .checks
        .iter()
        .map(|check| (format!("checks.{}", check.name), check));
    let live = settings.live.iter().map(|check| ("live".to_owned(), check));
    for (key, check) in named.chain(live) {
        let key = format!("{key}.{}", check.kind.as_str());
        match &check.kind {
            Kind::Postgres(postgres) => tls(&format!("{key}.tls"), postgres.tls.as_ref(), findings),
            Kind::Mysql(mysql) => tls(&format!("{key}.tls"), mysql.tls.as_ref(), findings),
            Kind::Redis(redis) => {
                tls(&format!("{key}.tls"), redis.tls.as_ref(), findings);
                if let Whereabouts::Sentinels(sentinels) = &redis.at {
                    tls(&format!("{key}.sentinel.tls"), sentinels.tls.as_ref(), findings);
                }
            }
            Kind::Http { spec, .. } => tls(&key, spec.tls.as_ref(), findings),
            Kind::Files(needed) => {
                for (index, file) in needed.iter().enumerate() {
                    if let Err(e) = std::fs::metadata(&file.path) {
                        let message = format!("{}: {e}", file.path.display());
                        findings.error(&format!("{key}[{index}]"), message);
                    }
                }
            }
            Kind::Tcp(_) | Kind::Exec(_) => {}
        }
    }
}

/// What a service needs to speak TLS: the files, and somebody to trust.
fn tls(key: &str, terms: Option<&TlsTerms>, findings: &mut Findings<'_>) {
    let Some(TlsTerms { files, .. }) = terms else {
        return;
    };
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
