//! When certificates hold, and what is to be said of those that hold no more, not yet, or not for long.

use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock;

/// A certificate that ends within so many seconds is warned of: two weeks, in which somebody will be at work.
const SOON: i64 = 14 * DAY;
const DAY: i64 = 24 * 3_600;

/// When a certificate begins to hold and when it ends, in seconds of Unix time; none for what is no certificate.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// What is to be said of the certificates of a file at the time `now`, in seconds of Unix time: nothing where all hold for long enough.
pub fn concerns(path: &Path, chain: &[CertificateDer<'_>], now: i64) -> Vec<String> {
    let each = chain.iter().enumerate().filter_map(|(index, certificate)| {
        let concern = concern(validity(certificate)?, now)?;
        let which = match index {
            0 => "the certificate".to_owned(),
            _ => format!("certificate {} of the chain", index + 1),
        };
        Some(format!("{}: {which} {concern}", path.display()))
    });
    each.collect()
}

/// One that is issued for less than six weeks is expected to be renewed when a third of its time is left, as ACME clients do.
fn concern((begins, ends): (i64, i64), now: i64) -> Option<String> {
    let left = ends - now;
    if begins > now {
        return Some(format!("does not hold before {}", clock::date(begins)));
    }
    if left < 0 {
        return Some(format!("expired on {}; clients refuse it", clock::date(ends)));
    }
    let soon = SOON.min((ends - begins) / 3);
    (left < soon).then(|| match left / DAY {
        0 => format!("ends on {}, within a day", clock::date(ends)),
        1 => format!("ends on {}, in 1 day", clock::date(ends)),
        days => format!("ends on {}, in {days} days", clock::date(ends)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_more_not_yet_or_not_for_long_is_told() {
        let now = 1_800_000_000; // 2027-01-15
        for (begins, ends, expected) in [
            (-60, 30, None),
            (-60, 14, None),
            (-60, 13, Some("ends on 2027-01-28, in 13 days")),
            (-89, 1, Some("ends on 2027-01-16, in 1 day")),
            (-90, 0, Some("ends on 2027-01-15, within a day")),
            (-90, -1, Some("expired on 2027-01-14; clients refuse it")),
            (1, 90, Some("does not hold before 2027-01-16")),
            (-3, 3, None),
            (-5, 1, Some("ends on 2027-01-16, in 1 day")),
        ] {
            let told = concern((now + begins * DAY, now + ends * DAY), now);
            assert_eq!(told.as_deref(), expected, "{begins} {ends}");
        }
    }
}
