//! Who a client is: forwarding headers, and the PROXY protocol.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::at_once;
use crate::config::ProxyProtocol;
use crate::edge::proxied;
use crate::gate::cidr::CidrSet;
use crate::gate::client::identify;
use crate::gate::hygiene::{self, HttpVersion};

const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn lines(data: &[u8]) -> Vec<(&str, &[u8])> {
    let lines = data.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(line.get(..colon)?).ok()?;
        Some((name, line.get(colon + 1..)?.trim_ascii()))
    });
    lines.collect()
}

/// Nobody but a trusted proxy says who a client is, and the nearest hop that it names counts, whatever stands before.
pub fn identity(data: &[u8]) {
    let trusted = CidrSet::from_iter(CidrSet::parse_one("10.0.0.0/8").unwrap());
    let lines = lines(data);
    let direct = identify(STRANGER, &trusted, lines.iter().copied());
    assert_eq!((direct.address, direct.via_trusted), (Some(STRANGER), false));
    let told = identify(PROXY, &trusted, lines.iter().copied());
    assert!(told.via_trusted);
    // What a proxy appends is the last of the list, and alone of its kind it decides.
    let plain: Vec<_> = lines
        .iter()
        .copied()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("forwarded"))
        .collect();
    let written: usize = plain
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"))
        .map(|(_, value)| value.split(|byte| *byte == b',').count() + value.len())
        .sum();
    let appended = [("X-Forwarded-For", &b"198.51.100.7"[..])];
    let client = identify(PROXY, &trusted, plain.iter().copied().chain(appended));
    if written < 30 {
        assert_eq!((client.address, client.hidden), (Some(STRANGER), false));
    } else {
        assert!(client.address.is_none() || client.address == Some(STRANGER));
    }
    for version in [HttpVersion::Http10, HttpVersion::Http11, HttpVersion::Http2] {
        let _ = hygiene::check_request(version, "GET", lines.iter().copied());
    }
}

/// A PROXY header is read to its end and no further, and says one thing.
pub fn proxy_header(data: &[u8]) {
    let mut rest = data;
    let header = match at_once(proxied::read(&mut rest)) {
        Ok(header) => header,
        Err(_) => return,
    };
    assert!(data.starts_with(&header) && data.len() - rest.len() == header.len());
    let both = proxied::parse(&header, ProxyProtocol::Any);
    let one = proxied::parse(&header, ProxyProtocol::V1);
    let two = proxied::parse(&header, ProxyProtocol::V2);
    assert!(one.is_err() || two.is_err(), "it is of both versions");
    assert_eq!(both.is_ok(), one.is_ok() || two.is_ok());
    if let (Ok(Some(source)), true) = (&both, header.starts_with(b"PROXY TCP")) {
        let text = String::from_utf8_lossy(&header).into_owned();
        let words: Vec<&str> = text.trim_end().split(' ').collect();
        let plain: SocketAddr = (words[2].parse::<IpAddr>().unwrap(), words[4].parse().unwrap()).into();
        assert_eq!(*source, plain);
    }
}
