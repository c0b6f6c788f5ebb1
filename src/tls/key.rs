//! Private keys that sign handshakes. ring signs with RSA of 2048 to 4096 bits, P-256, P-384 and Ed25519; of any other key the error tells the kind,
//! which the library does not.

use std::path::Path;

use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys};
use x509_parser::der_parser::ber::BerObject;
use x509_parser::der_parser::der::parse_der;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, certificates, private_key};

/// A certificate with its chain and what signs for it, and the private key itself.
///
/// # Errors
/// A file cannot be used, the key is of a kind that cannot be signed with, or belongs to another certificate.
pub fn certified(cert: &Path, key: &Path) -> Result<(CertifiedKey, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(cert)?;
    let private = private_key(key)?;
    let unfit = |why| TlsError::Unfit {
        path: key.to_owned(),
        why,
    };
    let signer = any_supported_type(&private).map_err(|_| unfit(refusal(key, kind(&private))))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok((certified, private)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let why = format!("it is not the private key of the certificate in {}", cert.display());
            Err(unfit(why))
        }
        Err(e) => Err(unfit(format!(
            "it does not sign for the certificate in {}: {e}",
            cert.display()
        ))),
    }
}

fn refusal(path: &Path, kind: Option<Kind>) -> String {
    let place = path.display();
    match kind {
        Some(Kind::Foreign(name)) => format!(
            "its private key is {name}, with which the gate cannot sign; it takes RSA of 2048 to 4096 bits, P-256, P-384 and Ed25519: make one by `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out NEW.key`, and have a certificate issued for it"
        ),
        Some(Kind::Described) => format!(
            "the curve of its private key is described, not named; name it: `openssl ec -in {place} -param_enc named_curve -out NEW.key`"
        ),
        Some(Kind::Usable(name)) => format!(
            "its private key, {name}, is damaged, or lacks its public half, which must stand in the file as well: `openssl pkey -in {place} -noout -check` tells whether it is whole"
        ),
        None => format!(
            "it holds no private key that can be read: `openssl pkey -in {place} -noout -text` shows what it is"
        ),
    }
}

/// The object identifier of keys on elliptic curves (RFC 5480 section 2.1.1).
const EC: &str = "1.2.840.10045.2.1";

/// What a key is.
enum Kind {
    /// One that can be signed with.
    Usable(String),
    /// One that cannot.
    Foreign(String),
    /// One on a curve that is described by its parameters.
    Described,
}

/// The kind of a private key, if it can be told.
#[allow(clippy::wildcard_enum_match_arm)] // the library may get to know further encodings
fn kind(key: &PrivateKeyDer<'_>) -> Option<Kind> {
    match key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => {
            let (_, key) = parse_der(key.secret_sec1_der()).ok()?;
            // RFC 5915: version, key, [0] parameters.
            let (_, curve) = parse_der(key.as_sequence().ok()?.get(2)?.as_slice().ok()?).ok()?;
            Some(curve_of(&curve))
        }
        PrivateKeyDer::Pkcs8(key) => {
            let (_, key) = parse_der(key.secret_pkcs8_der()).ok()?;
            // RFC 5958: version, algorithm (its object identifier and its parameters), key.
            let parts = key.as_sequence().ok()?;
            let algorithm = parts.get(1)?.as_sequence().ok()?;
            let foreign = |name: &str| Some(Kind::Foreign(name.to_owned()));
            match algorithm.first()?.as_oid().ok()?.to_id_string().as_str() {
                "1.2.840.113549.1.1.1" => rsa(parts.get(2)?.as_slice().ok()?),
                "1.2.840.113549.1.1.10" => foreign("RSA for PSS alone"),
                EC => Some(curve_of(algorithm.get(1)?)),
                "1.2.840.10040.4.1" => foreign("DSA"),
                "1.3.101.112" => Some(Kind::Usable("Ed25519".to_owned())),
                "1.3.101.113" => foreign("Ed448"),
                "1.3.101.110" | "1.3.101.111" => foreign("a key for key agreement (X25519 or X448)"),
                other => foreign(&format!("of the kind {other}")),
            }
        }
        _ => None,
    }
}

/// What is to be said of the authorities of a file: nothing but of those whose signatures the gate cannot verify, so that it refuses whoever shows one.
pub fn unverifiable(path: &Path, authorities: &[CertificateDer<'_>]) -> Vec<String> {
    let each = authorities.iter().filter_map(|authority| {
        let (_, authority) = X509Certificate::from_der(authority).ok()?;
        let algorithm = &authority.public_key().algorithm;
        let curve = algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
        let is_ec = algorithm.algorithm.to_id_string() == EC;
        match curve_named(&curve) {
            Kind::Foreign(name) if is_ec => {
                let (place, subject) = (path.display(), authority.subject());
                Some(format!(
                    "{place}: the key of the authority \"{subject}\" is {name}, and the gate cannot verify what it signs"
                ))
            }
            Kind::Foreign(_) | Kind::Usable(_) | Kind::Described => None,
        }
    });
    each.collect()
}

/// An RSA key of so many bits (RFC 8017 appendix A.1.2: version, modulus).
fn rsa(key: &[u8]) -> Option<Kind> {
    let (_, key) = parse_der(key).ok()?;
    let modulus = key.as_sequence().ok()?.get(1)?.as_slice().ok()?;
    let zeros: u32 = modulus.iter().take_while(|byte| **byte == 0).count().try_into().ok()?;
    let first = modulus.iter().find(|byte| **byte != 0)?;
    let bits = u32::try_from(modulus.len()).ok()? * 8 - zeros * 8 - first.leading_zeros();
    let name = format!("RSA of {bits} bits");
    Some(if (2048..=4096).contains(&bits) {
        Kind::Usable(name)
    } else {
        Kind::Foreign(name)
    })
}

/// A key on a curve that is named (RFC 5480 section 2.1.1.1), or on one that is described.
fn curve_of(curve: &BerObject<'_>) -> Kind {
    let name = curve.as_oid();
    name.map_or(Kind::Described, |name| curve_named(&name.to_id_string()))
}

/// A key on the curve of an object identifier.
fn curve_named(curve: &str) -> Kind {
    match curve {
        "1.2.840.10045.3.1.7" => Kind::Usable("P-256".to_owned()),
        "1.3.132.0.34" => Kind::Usable("P-384".to_owned()),
        "1.3.132.0.35" => Kind::Foreign("P-521".to_owned()),
        "1.3.132.0.10" => Kind::Foreign("secp256k1".to_owned()),
        other => Kind::Foreign(format!("of the curve {other}")),
    }
}
