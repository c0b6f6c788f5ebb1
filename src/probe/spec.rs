//! What a probe asks and what it expects: the settings of one named probe.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use regex::Regex;

use crate::gate::health::ProbePlan;
use crate::tls::TlsTerms;

/// One named probe of one endpoint.
#[derive(Clone, Debug)]
pub struct ProbeSpec {
    /// When it is sent and how its answers count.
    pub plan: Arc<ProbePlan>,
    /// The request target, always starting with `/`.
    pub path: String,
    /// The request method.
    pub method: http::Method,
    /// The `Host` header; the endpoint's own address where absent.
    pub host: Option<String>,
    /// The port to ask, where it is not the one that serves.
    pub port: Option<u16>,
    /// TLS to the probed port; cleartext where absent.
    pub tls: Option<TlsTerms>,
    /// Whether a connection serves several questions in turn.
    pub reuse: bool,
    /// Further request headers.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// What a passing answer looks like.
    pub expect: Expect,
}

/// What a passing answer looks like.
#[derive(Clone, Debug)]
pub struct Expect {
    /// Accepted status codes. Redirects are failures unless listed: a redirect to a login page is no health.
    pub status: Vec<RangeInclusive<u16>>,
    /// JSON pointers (RFC 6901) and the values that must stand there.
    pub json: BTreeMap<String, serde_json::Value>,
    /// A pattern that the body must match.
    pub body: Option<Regex>,
    /// Patterns that headers must match.
    pub headers: Vec<(http::HeaderName, Regex)>,
}

/// The probe of which nothing is said: the `/healthz` of Dify's image, 200.
impl Default for ProbeSpec {
    fn default() -> Self {
        Self {
            plan: Arc::default(),
            path: "/healthz".to_owned(),
            method: http::Method::GET,
            host: None,
            port: None,
            tls: None,
            reuse: false,
            headers: Vec::new(),
            expect: Expect::default(),
        }
    }
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            status: vec![200..=200],
            json: BTreeMap::new(),
            body: None,
            headers: Vec::new(),
        }
    }
}
