//! What the file says about listeners: where clients connect, and what each of them may ask.

use std::sync::Arc;
use std::time::Duration;

use super::parse::{Findings, longer_than_zero, overlaps, socket, time};
use super::scalars::Size;
use super::{CertificateSettings, ClientLimits, ListenerSettings, ProxyProtocol, Rate, StateDir, TlsSettings, raw};
use crate::acme::Wanted;
use crate::gate::hygiene::Bounds;
use crate::gate::pace;

pub(super) fn listeners(
    raw: Vec<raw::Listener>,
    trusts: bool,
    state: Option<&StateDir>,
    findings: &mut Findings<'_>,
) -> Vec<ListenerSettings> {
    if raw.is_empty() {
        findings.error(
            "listeners",
            "is empty; the gate must listen somewhere: `listeners: [{address: \"0.0.0.0:8080\"}]`",
        );
    }
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("listeners[{index}]");
        let address = socket(&raw.address);
        if let Some(other) = listeners.iter().find(|other| overlaps(other.address, address)) {
            findings.error(
                &format!("{key}.address"),
                format!("{address} is taken by the listener on {}", other.address),
            );
        }
        let settings = ListenerSettings {
            address,
            max_connections: raw.max_connections.unwrap_or(0) as usize,
            header_timeout: time(raw.header_timeout, Duration::from_secs(10)),
            idle_timeout: time(raw.idle_timeout, Duration::from_secs(75)),
            body_limit: raw.body_limit.map_or(100 << 20, |size| size.0),
            limits: limits(&key, raw.limits.unwrap_or_default(), findings),
            proxy_protocol: match raw.proxy_protocol.unwrap_or(raw::ProxyProtocol::Off) {
                raw::ProxyProtocol::Off => ProxyProtocol::Off,
                raw::ProxyProtocol::V1 => ProxyProtocol::V1,
                raw::ProxyProtocol::V2 => ProxyProtocol::V2,
                raw::ProxyProtocol::Any => ProxyProtocol::Any,
            },
            http2: !matches!(raw.http2, Some(raw::Http2::Offered(false))),
            http2_in_clear: matches!(raw.http2, Some(raw::Http2::InClear(_))),
            redirect_to_https: raw.redirect_to_https.unwrap_or(false),
            tls: raw
                .tls
                .map(|tls| Arc::new(tls_settings(&format!("{key}.tls"), tls, state, findings))),
        };
        contradictions(&key, &settings, trusts, findings);
        listeners.push(settings);
    }
    unreachable_authorities(&listeners, findings);
    listeners
}

/// What a listener cannot do at the same time.
fn contradictions(key: &str, settings: &ListenerSettings, trusts: bool, findings: &mut Findings<'_>) {
    if settings.http2_in_clear && settings.tls.is_some() {
        findings.error(
            &format!("{key}.http2"),
            "cleartext is for a cleartext listener; this one has `tls`, within which HTTP/2 is offered anyway",
        );
    }
    if settings.redirect_to_https && settings.tls.is_some() {
        findings.error(
            &format!("{key}.redirect_to_https"),
            "is for a cleartext listener; this one has `tls`",
        );
    }
    if settings.proxy_protocol != ProxyProtocol::Off && !trusts {
        findings.error(
            &format!("{key}.proxy_protocol"),
            "lets nobody in: name the load balancer's network in `trusted_proxies`, for only its word is believed",
        );
    }
    for (name, value) in [
        ("header_timeout", settings.header_timeout),
        ("idle_timeout", settings.idle_timeout),
        ("limits.grace", settings.limits.grace),
    ] {
        longer_than_zero(&format!("{key}.{name}"), value, findings);
    }
}

/// An authority asks for its proof in the clear (RFC 8555 section 8.3).
fn unreachable_authorities(listeners: &[ListenerSettings], findings: &mut Findings<'_>) {
    if listeners.iter().any(|listener| listener.tls.is_none()) {
        return;
    }
    for (index, listener) in listeners.iter().enumerate() {
        if listener.tls.as_ref().is_some_and(|tls| tls.acme.is_some()) {
            findings.error(
                &format!("listeners[{index}].tls.acme"),
                "needs a listener without `tls` that is reached on port 80, where the authority asks for its proof: `{address: \"0.0.0.0:80\", redirect_to_https: true}`",
            );
        }
    }
}

fn limits(key: &str, raw: raw::ClientLimits, findings: &mut Findings<'_>) -> ClientLimits {
    let size =
        |size: Option<Size>, default: usize| size.map_or(default, |size| usize::try_from(size.0).unwrap_or(usize::MAX));
    ClientLimits {
        bounds: Bounds {
            uri: size(raw.uri, 8 << 10),
            headers: size(raw.headers, 64 << 10),
            fields: raw.fields.unwrap_or(100) as usize,
        },
        min_rate: raw.min_rate.map_or(1 << 10, |size| size.0),
        grace: time(raw.grace, pace::GRACE),
        client_connections: raw.client_connections.unwrap_or(0) as usize,
        client_rate: raw
            .client_rate
            .and_then(|raw| rate(&format!("{key}.limits.client_rate"), raw, findings)),
    }
}

/// How often somebody may ask.
pub(super) fn rate(key: &str, raw: raw::Rate, findings: &mut Findings<'_>) -> Option<Rate> {
    let every = time(raw.per, Duration::from_secs(1)) / raw.requests.get();
    longer_than_zero(&format!("{key}.per"), every, findings);
    (!every.is_zero()).then(|| Rate {
        every,
        burst: raw.burst.unwrap_or(raw.requests),
    })
}

fn tls_settings(key: &str, raw: raw::Tls, state: Option<&StateDir>, findings: &mut Findings<'_>) -> TlsSettings {
    let certificates = raw.certificates.unwrap_or_default();
    let acme = raw.acme.map(|raw| acme(&format!("{key}.acme"), raw, state, findings));
    if certificates.is_empty() && acme.is_none() {
        findings.error(
            &format!("{key}.certificates"),
            "is empty; a listener must show something: `certificates: [{cert: FILE, key: FILE}]`",
        );
    }
    if raw.client_certificate.is_some() && raw.client_ca.is_none() {
        findings.error(
            &format!("{key}.client_certificate"),
            "asks for certificates that nobody could check; name their authorities in `client_ca`",
        );
    }
    let certificates = certificates.into_iter().map(|one| CertificateSettings {
        cert: one.cert.into(),
        key: one.key.into(),
        hosts: one.hosts.unwrap_or_default(),
    });
    TlsSettings {
        certificates: certificates.collect(),
        acme: acme.map(Arc::new),
        only_1_3: matches!(raw.min_version, Some(raw::tls::TlsVersion::V1_3)),
        client_ca: raw.client_ca.map(Into::into),
        client_required: !matches!(raw.client_certificate, Some(raw::tls::ClientCertificate::Optional)),
    }
}

/// The directory of Let's Encrypt, whose certificates every browser believes and nobody pays for.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

fn acme(key: &str, raw: raw::tls::Acme, state: Option<&StateDir>, findings: &mut Findings<'_>) -> Wanted {
    if raw.hosts.is_empty() {
        findings.error(
            &format!("{key}.hosts"),
            "is empty; name the hosts that the certificate is for",
        );
    }
    for (index, host) in raw.hosts.iter().enumerate() {
        if let Some(wrong) = no_host(host) {
            findings.error(&format!("{key}.hosts[{index}]"), wrong);
        }
    }
    if !raw.agree_to_terms {
        findings.error(
            &format!("{key}.agree_to_terms"),
            "must be true: the authority issues nothing to who does not agree to its terms of service",
        );
    }
    let directory = raw.directory.unwrap_or_else(|| LETS_ENCRYPT.to_owned());
    let url = directory.parse::<http::Uri>().ok();
    if !url.is_some_and(|url| url.scheme_str() == Some("https") && url.host().is_some()) {
        findings.error(
            &format!("{key}.directory"),
            format!("\"{directory}\" is no https URL, which RFC 8555 section 6.1 asks for"),
        );
    }
    if raw
        .email
        .as_ref()
        .is_some_and(|email| !email.contains('@') || email.contains(char::is_whitespace))
    {
        findings.error(&format!("{key}.email"), "is no address that anybody could write to");
    }
    if state.is_none() {
        findings.error(key, "keeps the certificate in `server.state_dir`, which is off");
    }
    Wanted {
        hosts: raw.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        email: raw.email,
        directory,
        ca: raw.ca.map(Into::into),
        folder: state.map(|state| state.path.join("acme")).unwrap_or_default(),
    }
}

/// What is wrong with a host that a certificate is to be for.
fn no_host(host: &str) -> Option<String> {
    if host.starts_with("*.") {
        return Some(format!(
            "\"{host}\" is proven by DNS alone (RFC 8555 section 7.1.3); let certbot or acme.sh get it, and name its files in `certificates`"
        ));
    }
    let is_label = |label: &str| {
        let fits = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        fits && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_name = host.contains('.') && host.len() <= 253 && host.split('.').all(is_label);
    let is_address = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (!is_name || is_address).then(|| format!("\"{host}\" is no host that an authority could ask"))
}
