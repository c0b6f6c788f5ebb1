//! Certificates for the tests, by an authority that nobody else knows.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use difygate::clock::wall_seconds;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// An authority, and the folder with what it signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        // Of the same name as what it signs, it would seem to be signed by itself.
        authority
            .distinguished_name
            .push(DnType::CommonName, "an authority of the tests");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            issuer: Issuer::new(authority, key),
            folder,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn ca(&self) -> String {
        self.path("ca.pem").display().to_string()
    }

    /// Signs for `hosts`, as `NAME.crt` and `NAME.key` in `folder`, for a hundred days.
    pub(crate) fn sign(&self, folder: &Path, name: &str, hosts: &[&str]) {
        self.sign_within(folder, name, hosts, [-1, 100]);
    }

    /// Signs as [`Authority::sign`] does, from one day to another, counted from now, and an hour longer.
    pub(crate) fn sign_within(&self, folder: &Path, name: &str, hosts: &[&str], days: [i64; 2]) {
        let [begins, ends] = days.map(|days| {
            let seconds = wall_seconds() + days * 24 * 3_600 + 3_600;
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
        });
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut certificate = CertificateParams::new(hosts).unwrap();
        (certificate.not_before, certificate.not_after) = (begins.into(), ends.into());
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
    }

    /// A certificate as the configuration names it.
    pub(crate) fn shown(&self, name: &str, hosts: &[&str]) -> String {
        self.sign(self.folder.path(), name, hosts);
        let path = |kind: &str| self.path(&format!("{name}.{kind}")).display().to_string();
        format!("{{cert: {}, key: {}}}", path("crt"), path("key"))
    }
}
