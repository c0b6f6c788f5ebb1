//! Certificates and private keys from PEM files (RFC 7468). What cannot be used is refused with the file, the reason and the command that helps:
//! the library would skip a part of a file that it does not know, or tell of its encoding.

use std::borrow::Cow;
use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use crate::files::without_mark;

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// It cannot be read, or holds none, or something else.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, "x509")?;
    let labels = labels(&text);
    // Each is a certificate to OpenSSL, so to leave one out would be to believe fewer than the file names.
    if let Some(label) = labels
        .iter()
        .find(|label| ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"].contains(&label.as_ref()))
    {
        let place = path.display();
        return Err(unfit(
            path,
            format!(
                "it holds a `{label}`, a form of OpenSSL's own, perhaps with terms of trust; write a plain certificate: `openssl x509 -in {place} -out NEW.pem`"
            ),
        ));
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|source| malformed(path, source))?;
    if found.is_empty() {
        return Err(unfit(path, format!("it holds no certificate{}", instead(&labels))));
    }
    if found.iter().any(|one| X509Certificate::from_der(one).is_err()) {
        return Err(unfit(path, "it holds something that is no certificate".to_owned()));
    }
    Ok(found)
}

/// The private key of a PEM file, the first one.
///
/// # Errors
/// It cannot be read, or holds none that can be had without a passphrase.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path, "pkey")?;
    let labels = labels(&text);
    let place = path.display();
    if let Some(label) = labels.iter().find(|label| label.ends_with("PRIVATE KEY")) {
        if label == "ENCRYPTED PRIVATE KEY" || is_encrypted(&text) {
            let message = "its private key is encrypted, and nobody gives the passphrase when the gate starts; write it in the clear, for the gate's user alone";
            return Err(unfit(
                path,
                format!("{message}: `openssl pkey -in {place} -out NEW.key`"),
            ));
        }
        if label == "OPENSSH PRIVATE KEY" {
            let message = "its private key is written as OpenSSH has it; write it as PKCS #8";
            return Err(unfit(path, format!("{message}: `ssh-keygen -p -m PKCS8 -f {place}`")));
        }
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(unfit(path, format!("it holds no private key{}", instead(&labels)))),
        Err(source) => Err(malformed(path, source)),
    }
}

/// What a file holds, without a byte order mark.
///
/// # Errors
/// It cannot be read.
pub fn content(path: &Path) -> Result<Vec<u8>, TlsError> {
    let content = std::fs::read(path).map_err(|e| malformed(path, pem::Error::Io(e)))?;
    Ok(without_mark(&content).to_owned())
}

/// The text of a file; `command` of openssl converts one that is none.
fn read(path: &Path, command: &str) -> Result<Vec<u8>, TlsError> {
    let content = content(path)?;
    let place = path.display();
    // A sequence of ASN.1, with which each certificate, key and PKCS #12 file begins, is no text.
    if content.starts_with(b"\x30") && std::str::from_utf8(&content).is_err() {
        return Err(unfit(
            path,
            format!(
                "it is binary, and PEM is wanted: `openssl {command} -inform DER -in {place} -out NEW.pem`, or for PKCS #12 `openssl pkcs12 -nodes -in {place} -out NEW.pem`"
            ),
        ));
    }
    if content.starts_with(b"\xff\xfe") || content.starts_with(b"\xfe\xff") {
        let message =
            format!("it is written in UTF-16, and PEM is ASCII: `iconv -f UTF-16 -t ASCII {place} > NEW.pem`");
        return Err(unfit(path, message));
    }
    Ok(content)
}

/// The labels of the parts of a PEM text, in their order.
fn labels(text: &[u8]) -> Vec<Cow<'_, str>> {
    let lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    let labels = lines.filter_map(|line| {
        let label = line.trim_ascii_end().strip_prefix(b"-----BEGIN ")?;
        Some(String::from_utf8_lossy(label.strip_suffix(b"-----")?))
    });
    labels.collect()
}

/// Whether a key of a text is encrypted as RFC 1421 section 4.6.1.1 has it, which OpenSSL still reads and writes.
fn is_encrypted(text: &[u8]) -> bool {
    let mut lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.any(|line| line.starts_with(b"Proc-Type:") && line.trim_ascii_end().ends_with(b"ENCRYPTED"))
}

/// What a file holds instead of what was looked for.
fn instead(labels: &[Cow<'_, str>]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    format!(", but: {}", labels.join(", "))
}

fn unfit(path: &Path, why: String) -> TlsError {
    TlsError::Unfit {
        path: path.to_owned(),
        why,
    }
}

fn malformed(path: &Path, source: pem::Error) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        source,
    }
}
