//! Who the client is: the address of the socket, or what a trusted proxy says about it.
//!
//! Anybody can write a forwarding header, so it is read from the right, where the nearest proxy wrote, and only as far as
//! proxies that we trust wrote it. An address that cannot be told is nobody's, and nobody is internal.

use std::net::IpAddr;

use crate::gate::cidr::CidrSet;
use crate::gate::hygiene;

/// What is known of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address, IPv4 even where the socket is IPv6; `None` where a trusted proxy gave one that cannot be read.
    pub address: Option<IpAddr>,
    /// Whether the peer is a trusted proxy, so that its forwarding headers are extended and not replaced.
    pub via_trusted: bool,
    /// Whether something hides the true client, so that the address may be that of a machine in between: an untrusted peer
    /// with forwarding headers, or two kinds of them that disagree. A hidden client counts as external.
    pub hidden: bool,
}

impl Client {
    /// One of whom nothing can be told, and so an external one.
    pub const UNKNOWN: Self = Self {
        address: None,
        via_trusted: false,
        hidden: true,
    };

    /// A client that speaks to us without anything in between.
    pub fn direct(peer: IpAddr) -> Self {
        Self {
            address: Some(peer.to_canonical()),
            via_trusted: false,
            hidden: false,
        }
    }
}

/// Whose address this is, for counting: an IPv4 address, or the IPv6 network of which a single subscriber has every address (RFC 6177 section 2).
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The longest chain of hops that is followed.
const MAX_HOPS: usize = 32;
/// The longest forwarding header that is read, in bytes over all its lines.
const MAX_CHAIN: usize = 4 * 1024;

/// Tells who the client behind `peer` is, from all `headers` of the request, lines of one name in their order.
///
/// From a trusted proxy the right-most address counts that is not itself trusted, and the left-most where all are.
/// `X-Forwarded-For` is read before `Forwarded` (RFC 7239); where both stand they must agree, since the proxy writes one of them
/// and the client may have written the other.
pub fn identify<'h>(peer: IpAddr, trusted: &CidrSet, mut headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> Client {
    let direct = Client::direct(peer);
    if !trusted.contains(peer) {
        return Client {
            hidden: headers.any(|(name, _)| shows_a_proxy(name)),
            ..direct
        };
    }
    let (mut plain, mut standard) = (Chain::default(), Chain::default());
    for (name, line) in headers {
        if name.eq_ignore_ascii_case("x-forwarded-for") {
            plain.extend(line.len(), line.split(|byte| *byte == b','));
        } else if name.eq_ignore_ascii_case("forwarded") {
            standard.extend(line.len(), line.split(unquoted(b',')));
        }
    }
    let by_plain = || plain.client(direct.address, trusted, address_of);
    let by_standard = || standard.client(direct.address, trusted, forwarded_for);
    let (address, hidden) = match (plain.is_empty(), standard.is_empty()) {
        (true, true) => (direct.address, false),
        (true, false) => (by_standard(), false),
        (false, true) => (by_plain(), false),
        (false, false) => (by_plain(), by_plain() != by_standard()),
    };
    Client {
        address,
        via_trusted: true,
        hidden,
    }
}

/// Whether a header tells that the request passed a proxy.
fn shows_a_proxy(name: &str) -> bool {
    hygiene::is_claim(name) || name.eq_ignore_ascii_case("via")
}

/// The hops that one kind of header names, the nearest last.
#[derive(Default)]
struct Chain<'h> {
    hops: [&'h [u8]; MAX_HOPS],
    length: usize,
    bytes: usize,
}

impl<'h> Chain<'h> {
    fn extend(&mut self, bytes: usize, hops: impl Iterator<Item = &'h [u8]>) {
        self.bytes += bytes;
        for hop in hops {
            if let Some(slot) = self.hops.get_mut(self.length) {
                *slot = hop;
            }
            self.length += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Walks from the nearest hop to the first that is not trusted. A chain that is too long or that has an unreadable hop
    /// on the way names nobody.
    fn client(
        &self,
        peer: Option<IpAddr>,
        trusted: &CidrSet,
        read: impl Fn(&[u8]) -> Option<IpAddr>,
    ) -> Option<IpAddr> {
        let hops = self.hops.get(..self.length).filter(|_| self.bytes <= MAX_CHAIN)?;
        let mut client = peer;
        for hop in hops.iter().rev() {
            let address = read(hop)?;
            client = Some(address);
            if !trusted.contains(address) {
                break;
            }
        }
        client
    }
}

/// The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address_of(node: &[u8]) -> Option<IpAddr> {
    let node = std::str::from_utf8(node).ok()?.trim_matches([' ', '\t']);
    let (host, port) = match node.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (
                host,
                if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':')?)
                },
            )
        }
        None => match node.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            Some(_) | None => (node, None),
        },
    };
    if !port.is_none_or(is_port) {
        return None;
    }
    host.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// A port, or the word that stands for a hidden one (RFC 7239 section 6.3).
fn is_port(port: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=16).contains(&port.len()) && port.bytes().all(is_token)
}

/// The address behind the only `for=` of an element of `Forwarded`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut nodes = element.split(unquoted(b';')).filter_map(|pair| {
        let (name, value) = pair.trim_ascii().split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    });
    let (node, None) = (nodes.next()?, nodes.next()) else {
        return None;
    };
    let inside = node.strip_prefix(b"\"").and_then(|node| node.strip_suffix(b"\""));
    address_of(inside.unwrap_or(node))
}

/// Finds `separator` outside of quoted strings (RFC 9110 section 5.6.4), going from left to right.
pub(super) fn unquoted(separator: u8) -> impl FnMut(&u8) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    move |byte| {
        let is_escaped = std::mem::take(&mut escaped);
        match *byte {
            b'"' if !is_escaped => quoted = !quoted,
            b'\\' => escaped = quoted && !is_escaped,
            byte => return byte == separator && !quoted,
        }
        false
    }
}

#[cfg(test)]
mod tests;
