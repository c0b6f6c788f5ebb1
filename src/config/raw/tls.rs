//! TLS as the file writes it.

use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// What the listener shows; a client that names no host, or an unknown one, is shown the first. Default: none but that of `acme`.
    pub(crate) certificates: Option<Vec<Certificate>>,
    /// A certificate that the gate gets and renews itself.
    pub(crate) acme: Option<Acme>,
    /// The oldest version that is spoken. Default: 1.2.
    pub(crate) min_version: Option<TlsVersion>,
    /// A PEM file with the authorities whose client certificates are believed. Default: none is asked for.
    pub(crate) client_ca: Option<String>,
    /// Whether a client must show a certificate, where `client_ca` is set. Default: required.
    pub(crate) client_certificate: Option<ClientCertificate>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acme {
    /// The hosts that it is for; each must lead to this gate on port 80.
    pub(crate) hosts: Vec<String>,
    /// Whom the authority may write to. Default: nobody.
    pub(crate) email: Option<String>,
    /// Whether you agree to the authority's terms of service; it must be true.
    pub(crate) agree_to_terms: bool,
    /// The authority's directory. Default: that of Let's Encrypt.
    pub(crate) directory: Option<String>,
    /// A PEM file with the authorities to trust for the directory. Default: the system's.
    pub(crate) ca: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    /// A PEM file with the certificate and its chain.
    pub(crate) cert: String,
    /// A PEM file with its private key.
    pub(crate) key: String,
    /// The hosts that it is shown to, `*.example.com` for everything one label below. Default: the names in the certificate.
    pub(crate) hosts: Option<Vec<String>>,
}

/// TLS to somebody, where the gate is the client.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum ClientTls {
    Flag(bool),
    Terms(ClientTlsTerms),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientTlsTerms {
    /// The name that is sent and verified. Default: the endpoint's host.
    pub(crate) server_name: Option<String>,
    /// A PEM file with the authorities to trust. Default: the system's.
    pub(crate) ca: Option<String>,
    /// A PEM file with the certificate and its chain that the gate shows where it is asked for one. Default: none.
    pub(crate) cert: Option<String>,
    /// A PEM file with its private key.
    pub(crate) key: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(crate) enum TlsVersion {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientCertificate {
    Required,
    Optional,
}
