//! Names of the things that decisions are about: upstreams, pools and endpoints. Cheap to clone, ordered, never empty.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

/// Where an endpoint listens: `host:port`, where the host is an IP literal or a name.
///
/// The text is the endpoint's identity: a name that resolves to another address is still the same endpoint, and weight is
/// no part of it (a changed weight must not forget a verdict). All spellings of one address have one text: names are in lower case (RFC 4343),
/// IPv6 addresses as RFC 5952 writes them, IPv4 addresses within IPv6 (`::ffff:10.0.0.1`) as IPv4, and ports without leading zeros.
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
    /// Reads `host:port`; an IPv6 host stands in brackets (RFC 3986 section 3.2.2). A name may end in a dot, which keeps the resolver from its search
    /// list (RFC 1034 section 3.1), and keeps it.
    ///
    /// # Errors
    /// Says which half is wrong and what it should look like.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        let host = canonical(host).ok_or_else(|| AddressError::BadHost(host.to_owned()))?;
        match port.parse::<u16>() {
            Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok(Self {
                text: format!("{host}:{number}").into(),
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

    /// The text without the dot at the end of a name: what a `Host` header says, and what names the same place where the dot makes no difference.
    pub fn without_dot(&self) -> Cow<'_, str> {
        match self.text.split_at_checked(self.host_len) {
            Some((host, port)) if host.ends_with('.') => Cow::Owned(format!("{}{port}", without_dot(host))),
            Some(_) | None => Cow::Borrowed(&self.text),
        }
    }

    /// Whether both name one place: a dot at the end of a name makes no difference.
    pub fn matches(&self, other: &Self) -> bool {
        self.port == other.port && self.without_dot() == other.without_dot()
    }

    /// The host as a resolver takes it, without the brackets of an IPv6 literal.
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

/// A name without the dot at its end, as certificates and `Host` headers write it (RFC 6066 section 3).
pub fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// A host in the spelling of all its spellings, if it is one.
fn canonical(host: &str) -> Option<String> {
    if let Some(inner) = host.strip_prefix('[') {
        let v6: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(
            v6.to_ipv4_mapped()
                .map_or_else(|| format!("[{v6}]"), |v4| v4.to_string()),
        );
    }
    let looks_like_v4 = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_like_v4 {
        return host.parse::<Ipv4Addr>().ok().map(|v4| v4.to_string());
    }
    let is_label = |label: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.bytes().all(fits)
    };
    let name = without_dot(host);
    (name.len() <= 253 && name.split('.').all(is_label)).then(|| host.to_ascii_lowercase())
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
    fn all_spellings_of_an_address_are_one() {
        for (spelled, text) in [
            ("LOCALHOST:80", "localhost:80"),
            ("Dify-API.Internal:5001", "dify-api.internal:5001"),
            ("127.0.0.1:025802", "127.0.0.1:25802"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("[2001:DB8::00A]:080", "[2001:db8::a]:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ] {
            let address = Address::parse(spelled).unwrap();
            assert_eq!(address.as_str(), text);
            assert_eq!(address, Address::parse(text).unwrap());
            assert_eq!(address.without_dot(), text);
        }
    }

    #[test]
    fn a_name_may_end_in_a_dot_that_resolvers_see_and_nobody_else() {
        let address = Address::parse("Dify.Internal.:80").unwrap();
        assert_eq!(
            (address.as_str(), address.host()),
            ("dify.internal.:80", "dify.internal.")
        );
        assert_eq!(address.without_dot(), "dify.internal:80");
        assert_eq!(without_dot(address.host()), "dify.internal");
        for text in [".:80", "dify..:80", ".dify:80", "10.0.0.1.:80"] {
            assert!(Address::parse(text).is_err(), "{text}");
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
