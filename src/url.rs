//! URLs of HTTP services, as configurations name them.

use crate::gate::names::Address;

/// Whom to ask, how and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// Whether it is spoken to within TLS.
    pub secure: bool,
    /// Where it listens; the scheme's own port where the URL names none.
    pub address: Address,
    /// The path and the query.
    pub target: String,
}

impl HttpUrl {
    /// Reads `http://host:port/path` or `https://...`; none for anything else, and where it holds a user, for that would be a secret in the open.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let (secure, usual) = match uri.scheme_str()? {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let at = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(usual));
        Some(Self {
            secure,
            address: Address::parse(&at).ok()?,
            target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        })
    }
}
