//! Networks, and whether an address is in one of them. The guard's `allow` and `trusted_proxies` are both such sets, so a
//! spelling that could mean more than the operator thinks is refused here, with the spelling that was probably meant.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Words that stand for the networks of a kind.
const PRESETS: [(&str, &[&str]); 4] = [
    ("loopback", &["127.0.0.0/8", "::1/128"]),
    (
        "private",
        &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
    ),
    ("link_local", &["169.254.0.0/16", "fe80::/10"]),
    ("cgnat", &["100.64.0.0/10"]),
];

/// A set of networks. The empty set contains nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrSet {
    networks: Vec<IpNet>,
}

impl CidrSet {
    /// Reads one entry: a network (`10.0.0.0/8`), an address (one host) or a preset (`loopback`, `private`, `link_local`,
    /// `cgnat`), which may stand for several networks.
    ///
    /// # Errors
    /// What is wrong with the entry and what to write instead.
    pub fn parse_one(entry: &str) -> Result<Vec<IpNet>, CidrError> {
        match PRESETS.iter().find(|(name, _)| *name == entry) {
            Some((_, networks)) => networks.iter().map(|network| parse_network(network)).collect(),
            None => parse_network(entry).map(|network| vec![network]),
        }
    }

    /// Whether `address` is in one of the networks. An IPv4 address that came in over an IPv6 socket (`::ffff:a.b.c.d`) is
    /// judged as the IPv4 address it is; NAT64, 6to4 and Teredo addresses name somebody else's translator and stay IPv6.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The networks, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.networks.iter()
    }

    /// Whether nobody is in the set.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }
}

impl FromIterator<IpNet> for CidrSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        Self {
            networks: networks.into_iter().collect(),
        }
    }
}

fn parse_network(entry: &str) -> Result<IpNet, CidrError> {
    let fault = |fault| CidrError {
        entry: entry.to_owned(),
        fault,
    };
    let (host, length) = match entry.split_once('/') {
        Some((host, length)) => (host, Some(length)),
        None => (entry, None),
    };
    if host.contains('%') {
        return Err(fault(Fault::Zone));
    }
    let address: IpAddr = host.parse().map_err(|_| fault(Fault::NotAnAddress))?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => widest,
        Some(digits) => digits.parse().map_err(|_| fault(Fault::Length { widest }))?,
    };
    let network = IpNet::new(address, length).map_err(|_| fault(Fault::Length { widest }))?;
    if length == 0 {
        return Err(fault(Fault::Everyone));
    }
    if network.trunc() != network {
        return Err(fault(Fault::HostBits {
            network: network.trunc(),
        }));
    }
    match (address.to_canonical(), address.is_ipv6() && length >= 96) {
        (v4 @ IpAddr::V4(_), true) => Err(fault(Fault::Mapped {
            network: IpNet::new_assert(v4, length - 96),
        })),
        _ => Ok(network),
    }
}

/// An entry of a list of networks that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrError {
    entry: String,
    fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    NotAnAddress,
    Length { widest: u8 },
    HostBits { network: IpNet },
    Everyone,
    Zone,
    Mapped { network: IpNet },
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = &self.entry;
        match &self.fault {
            Fault::NotAnAddress => {
                write!(
                    f,
                    "{entry:?} is no network; write one like 10.0.0.0/8 or fc00::/7, an address, or one of "
                )?;
                write!(f, "{}", PRESETS.map(|(name, _)| name).join(", "))
            }
            Fault::Length { widest } => {
                write!(
                    f,
                    "{entry} has no usable prefix length; it is a number from 1 to {widest}"
                )
            }
            Fault::HostBits { network } => write!(f, "{entry} has host bits set; write {network}"),
            Fault::Everyone => {
                write!(f, "{entry} is the whole internet; name the networks that you mean")
            }
            Fault::Zone => {
                write!(
                    f,
                    "{entry} has a zone id, which means nothing to other machines; leave out the part from % on"
                )
            }
            Fault::Mapped { network } => {
                write!(f, "{entry} is an IPv4 network in IPv6 spelling; write {network}")
            }
        }
    }
}

impl std::error::Error for CidrError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[&str]) -> CidrSet {
        entries
            .iter()
            .flat_map(|entry| CidrSet::parse_one(entry).unwrap())
            .collect()
    }

    #[test]
    fn an_address_is_in_a_set_or_not() {
        let cases: [(&[&str], &str, bool); 16] = [
            (&[], "127.0.0.1", false),
            (&["10.0.0.0/8"], "10.255.0.1", true),
            (&["10.0.0.0/8"], "11.0.0.1", false),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&["10.0.0.0/8"], "::10.1.2.3", false),
            (&["10.0.0.0/8"], "64:ff9b::10.1.2.3", false),
            (&["10.0.0.0/8"], "2002:a01:203::1", false),
            (&["192.0.2.7"], "192.0.2.7", true),
            (&["192.0.2.7"], "192.0.2.8", false),
            (&["2001:db8::1"], "2001:db8::1", true),
            (&["2001:db8::1"], "2001:db8::2", false),
            (&["loopback"], "::1", true),
            (&["private"], "172.31.255.255", true),
            (&["private"], "172.32.0.0", false),
            (&["link_local"], "fe80::1", true),
            (&["cgnat"], "100.127.0.1", true),
        ];
        for (entries, address, expected) in cases {
            let contains = set(entries).contains(address.parse().unwrap());
            assert_eq!(contains, expected, "{address} in {entries:?}");
        }
    }

    #[test]
    fn every_preset_is_well_formed() {
        for (name, networks) in PRESETS {
            assert_eq!(CidrSet::parse_one(name).unwrap().len(), networks.len(), "{name}");
        }
    }

    #[test]
    fn a_refusal_tells_what_to_write() {
        let cases = [
            ("10.0.0.5/8", "write 10.0.0.0/8"),
            ("fe80::1/10", "write fe80::/10"),
            ("0.0.0.0/0", "name the networks"),
            ("::/0", "name the networks"),
            ("fe80::1%eth0", "leave out the part from %"),
            ("::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
            ("::ffff:10.0.0.1", "write 10.0.0.1/32"),
            ("10.0.0.0/33", "from 1 to 32"),
            ("10.0.0.0/", "from 1 to 32"),
            ("::1/129", "from 1 to 128"),
            ("010.0.0.0/8", "is no network"),
            ("10.1", "is no network"),
            ("0x7f000001", "is no network"),
            ("10.0.0.1:80", "is no network"),
            ("privat", "loopback, private, link_local, cgnat"),
            ("", "is no network"),
        ];
        for (entry, hint) in cases {
            let message = CidrSet::parse_one(entry).unwrap_err().to_string();
            assert!(message.contains(hint), "{entry}: {message}");
        }
    }
}
