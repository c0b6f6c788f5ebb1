//! Certificates that the gate gets and renews itself, by ACME (RFC 8555). It proves that a host is its own by answering at that host over HTTP on
//! port 80 (section 8.3, HTTP-01), which any of its cleartext listeners does. What it gets is a file in `state_dir`, and listeners read it again
//! as they do any other certificate.

mod authority;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sha1_smol::Sha1;
use thiserror::Error;
use tokio::time::sleep;
use tracing::{error, info};

use crate::clock;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use crate::tls::{self, Authorities, TlsFiles};
use authority::Authority;

/// Where an authority asks for a proof.
pub const PREFIX: &str = "/.well-known/acme-challenge/";

/// Whether a certificate is to be renewed is looked at so often at the latest; a machine that slept must not miss it.
const LOOK: Duration = Duration::from_secs(3_600);

/// The wait after a first failure, which grows by four each time: Let's Encrypt allows five failures of a host an hour.
const AGAIN: Duration = Duration::from_secs(60);
const LONGEST_AGAIN: Duration = Duration::from_secs(6 * 3_600);
/// Refused nonces are no reason to wait (RFC 8555 section 6.5): so often an order is begun anew at once, after those that the client tried itself.
const NONCES: u32 = 5;

/// A certificate that the gate is to get.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Its hosts; never empty.
    pub hosts: Vec<String>,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// The authority's directory, an https URL.
    pub directory: String,
    /// A PEM file with the authorities to trust for the directory itself, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Where it is kept.
    pub folder: PathBuf,
}

impl Wanted {
    /// The file with its key and its chain. Other hosts are another file, and so is another authority.
    pub fn file(&self) -> PathBuf {
        self.folder.join(self.name())
    }

    /// Whom the authority itself must be vouched for by.
    pub fn trust(&self) -> TlsFiles {
        TlsFiles {
            ca: self.ca.clone(),
            identity: None,
        }
    }

    fn name(&self) -> String {
        let first = self.hosts.first().map_or("", String::as_str);
        let all = format!("{} {}", self.directory, self.hosts.join(" "));
        format!("{first}-{}.pem", brief(&all))
    }

    /// The document with the account at the authority.
    fn account(&self) -> String {
        let who = format!("{} {}", self.directory, self.email.as_deref().unwrap_or_default());
        format!("account-{}.json", brief(&who))
    }
}

/// A short name for a long text.
fn brief(text: &str) -> String {
    let digest = Sha1::from(text).digest().to_string();
    digest.chars().take(8).collect()
}

/// Proofs that authorities ask for at present, by their tokens.
#[derive(Clone, Debug, Default)]
pub struct Challenges(Arc<RwLock<HashMap<String, String>>>);

impl Challenges {
    /// The proof at a path, if one is asked for there (RFC 8555 section 8.3).
    pub fn proof(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(PREFIX)?;
        let proofs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        proofs.get(token).cloned()
    }

    fn put(&self, token: &str, proof: &str) -> Proof {
        let mut proofs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        proofs.insert(token.to_owned(), proof.to_owned());
        Proof {
            challenges: self.clone(),
            token: token.to_owned(),
        }
    }
}

/// A proof, given for as long as this is held.
struct Proof {
    challenges: Challenges,
    token: String,
}

impl Drop for Proof {
    fn drop(&mut self) {
        let mut proofs = self.challenges.0.write().unwrap_or_else(PoisonError::into_inner);
        proofs.remove(&self.token);
    }
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum AcmeError {
    /// The authority refuses, or cannot be spoken to.
    #[error(transparent)]
    Authority(#[from] instant_acme::Error),
    /// A host could not be proven to be the gate's.
    #[error("{host} is not proven to be the gate's: {why}")]
    Unproven {
        /// The host.
        host: String,
        /// What the authority says.
        why: String,
    },
    /// What it sent is no certificate for what was asked.
    #[error("what the authority sent cannot be used")]
    Useless(#[from] tls::TlsError),
    /// It cannot be kept.
    #[error(transparent)]
    Folder(#[from] StoreError),
    /// It cannot be kept.
    #[error("{} cannot be written", path.display())]
    Unkept {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Gets and renews certificates.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Where the proofs are answered.
    pub challenges: Challenges,
    /// Whom authorities must be vouched for by.
    pub authorities: Arc<Authorities>,
    /// Where it is counted.
    pub metrics: Metrics,
}

impl AcmeError {
    /// Whether the authority went on refusing the nonces that it had given.
    fn is_nonce(&self) -> bool {
        let Self::Authority(instant_acme::Error::Api(problem)) = self else {
            return false;
        };
        problem
            .r#type
            .as_deref()
            .is_some_and(|kind| kind.ends_with(":badNonce"))
    }
}

impl Issuer {
    /// Sees to it, for ever, that a certificate is there and is renewed when a third of its time is left, as Let's Encrypt advises.
    pub async fn keep(self, wanted: Arc<Wanted>) {
        let mut failures = 0;
        loop {
            let left = due_in(&wanted);
            if !left.is_zero() {
                sleep(left.min(LOOK)).await;
                continue;
            }
            let mut got = self.get(&wanted).await;
            for _ in 0..NONCES {
                if got.as_ref().err().is_none_or(|e| !e.is_nonce()) {
                    break;
                }
                got = self.get(&wanted).await;
            }
            let outcome = if got.is_ok() { "ok" } else { "failed" };
            let host = wanted.hosts.first().map_or("", String::as_str);
            self.metrics.acme_orders.with_label_values(&[host, outcome]).inc();
            match got {
                Ok(()) => {
                    failures = 0;
                    info!(hosts = wanted.hosts.join(","), "got a certificate");
                }
                Err(e) => {
                    let wait = AGAIN.saturating_mul(4u32.saturating_pow(failures)).min(LONGEST_AGAIN);
                    failures += 1;
                    let chain = anyhow::Error::from(e);
                    error!(hosts = wanted.hosts.join(","), error = %format!("{chain:#}"), again_in = ?wait, "no certificate could be had");
                    sleep(wait).await;
                }
            }
        }
    }

    async fn get(&self, wanted: &Wanted) -> Result<(), AcmeError> {
        let store = Store::open(&wanted.folder)?;
        let authority = Authority::of(wanted, &store, self.authorities.clone()).await?;
        let pem = authority.issue(&wanted.hosts, &self.challenges).await?;
        let kept = store.keep(&wanted.name(), pem.as_bytes());
        kept.map_err(|source| AcmeError::Unkept {
            path: wanted.file(),
            source,
        })
    }
}

/// How long until a certificate is to be renewed; at once where there is none that can be used.
fn due_in(wanted: &Wanted) -> Duration {
    let file = wanted.file();
    let chain = tls::certificates(&file).unwrap_or_default();
    let Some(validity) = chain.first().and_then(|leaf| tls::validity(leaf)) else {
        return Duration::ZERO;
    };
    if tls::private_key(&file).is_err() {
        return Duration::ZERO;
    }
    let (begins, ends) = validity;
    let due = ends - (ends - begins) / 3;
    Duration::from_secs(u64::try_from(due - clock::wall_seconds()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(folder: &std::path::Path) -> Wanted {
        Wanted {
            hosts: vec!["dify.example.com".to_owned(), "www.example.com".to_owned()],
            email: None,
            directory: "https://127.0.0.1:1/dir".to_owned(),
            ca: None,
            folder: folder.to_owned(),
        }
    }

    fn certificate(begins_days_ago: i64, ends_in_days: i64) -> String {
        let names = vec!["dify.example.com".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        let day = |days: i64| {
            let seconds = clock::wall_seconds() + days * 86_400;
            std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
        };
        params.not_before = day(-begins_days_ago).into();
        params.not_after = day(ends_in_days).into();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        format!("{}{}", key.serialize_pem(), certificate.pem())
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = wanted(folder.path());
        assert_eq!(due_in(&wanted), Duration::ZERO, "there is none");
        for (begins, ends, due) in [(0, 90, 60), (59, 31, 1), (60, 30, 0), (90, -1, 0)] {
            std::fs::write(wanted.file(), certificate(begins, ends)).unwrap();
            let days = due_in(&wanted).as_secs_f64() / 86_400.0;
            assert!((days - f64::from(due)).abs() < 0.01, "{begins} {ends}: {days}");
        }
        std::fs::write(wanted.file(), "no certificate").unwrap();
        assert_eq!(due_in(&wanted), Duration::ZERO);
    }

    #[test]
    fn other_hosts_and_other_authorities_are_other_files() {
        let one = wanted(std::path::Path::new("/var"));
        let mut hosts = one.clone();
        hosts.hosts.pop();
        let mut directory = one.clone();
        directory.directory.push('2');
        assert!(one.name().starts_with("dify.example.com-"), "{}", one.name());
        assert!(one.name() != hosts.name() && one.name() != directory.name());
        assert!(one.account() == hosts.account() && one.account() != directory.account());
    }

    #[test]
    fn a_proof_is_there_while_it_is_held_and_only_at_its_path() {
        let challenges = Challenges::default();
        let proof = challenges.put("token", "token.thumb");
        assert_eq!(
            challenges.proof("/.well-known/acme-challenge/token").unwrap(),
            "token.thumb"
        );
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/tokens",
            "/token",
            "",
        ] {
            assert_eq!(challenges.proof(path), None, "{path}");
        }
        drop(proof);
        assert_eq!(challenges.proof("/.well-known/acme-challenge/token"), None);
    }
}
