//! Names of the things that decisions are about: upstreams, pools and endpoints. Cheap to clone, ordered, never empty.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is; the configuration has already checked its alphabet.
            pub fn new(text: &str) -> Self {
                Self(text.into())
            }

            /// The name as the operator wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// One logical service, such as `dify` or `dify-api`.
    UpstreamName
}
name! {
    /// A set of endpoints that serve together, such as `blue` or `main`.
    PoolName
}

/// Where an endpoint listens, as configured: `host:port`, where the host is an IP literal or a name.
///
/// The text is the endpoint's identity: a name that resolves to another address is still the same endpoint, and weight is
/// no part of it (a changed weight must not forget a verdict).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    text: Arc<str>,
    host_len: usize,
    port: u16,
}

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// There is no `:port` at the end.
    NoPort,
    /// The port is not a number from 1 to 65535.
    BadPort(String),
    /// The host is empty or holds characters that no host name has.
    BadHost(String),
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str("has no port; write host:port, such as 10.0.0.11:80"),
            Self::BadPort(port) => {
                write!(f, "has port `{port}`; a port is a number from 1 to 65535")
            }
            Self::BadHost(host) => write!(
                f,
                "has host `{host}`; a host is an IPv4 address, an IPv6 address in brackets, or a DNS name"
            ),
        }
    }
}

impl std::error::Error for AddressError {}

impl Address {
    /// Reads `host:port`; an IPv6 host stands in brackets (RFC 3986 section 3.2.2).
    ///
    /// # Errors
    /// Says which half is wrong and what it should look like.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        if !is_host(host) {
            return Err(AddressError::BadHost(host.to_owned()));
        }
        match port.parse::<u16>() {
            Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok(Self {
                text: text.into(),
                host_len: host.len(),
                port: number,
            }),
            Ok(_) | Err(_) => Err(AddressError::BadPort(port.to_owned())),
        }
    }

    /// The whole text, `host:port`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, without the brackets of an IPv6 literal.
    pub fn host(&self) -> &str {
        self.text
            .get(..self.host_len)
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address, if the host is an IP literal; a name must be resolved first.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host().parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let looks_like_v4 = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_like_v4 {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// One endpoint, named by where it belongs and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// The upstream that it serves.
    pub upstream: UpstreamName,
    /// The pool that it is part of.
    pub pool: PoolName,
    /// Where it listens.
    pub address: Address,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.upstream, self.pool, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, host, port, literal) in [
            ("10.0.0.11:80", "10.0.0.11", 80, true),
            ("[::1]:8080", "::1", 8080, true),
            ("dify-api:5001", "dify-api", 5001, false),
            (
                "api.dify.svc.cluster.local:5001",
                "api.dify.svc.cluster.local",
                5001,
                false,
            ),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
            assert_eq!(address.literal().is_some(), literal, "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn a_text_that_is_no_address_says_what_is_wrong() {
        for (text, wrong) in [
            ("dify", AddressError::NoPort),
            ("dify:0", AddressError::BadPort("0".into())),
            ("dify:99999", AddressError::BadPort("99999".into())),
            ("dify:+80", AddressError::BadPort("+80".into())),
            (":80", AddressError::BadHost(String::new())),
            ("::1:80", AddressError::BadHost("::1".into())),
            ("10.0.0.256:80", AddressError::BadHost("10.0.0.256".into())),
            ("http://dify:80", AddressError::BadHost("http://dify".into())),
        ] {
            assert_eq!(Address::parse(text), Err(wrong), "{text}");
        }
    }
}
