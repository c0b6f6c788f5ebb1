//! The PROXY protocol: who a connection is really from, told by the load balancer before its first byte (HAProxy's `doc/proxy-protocol.txt`).
//!
//! The header is not optional where it is expected: a connection without one is closed, for otherwise every client could leave it out and come in
//! under the balancer's address, or send one of its own. So only `trusted_proxies` may connect to such a listener.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::ProxyProtocol;

/// Both versions have at least so many bytes, and what tells them apart is among the first of them.
const FIRST: usize = 15;
/// The longest header of version 1.
const LONGEST_V1: usize = 107;
/// The longest of version 2 that is read; its further fields mean nothing here.
const LONGEST_V2: usize = 4 * 1024;
/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header, not a byte more, and tells the client's address; `None` where the balancer speaks for itself, as its own probes do.
///
/// # Errors
/// There is no header, none of an accepted version, or it did not come in time.
pub(super) async fn source(
    stream: &mut TcpStream,
    accepted: ProxyProtocol,
    within: Duration,
) -> io::Result<Option<SocketAddr>> {
    let header = timeout(within, read(stream)).await;
    parse(
        &header.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?,
        accepted,
    )
}

/// The client's address in a whole header.
///
/// # Errors
/// It is none of an accepted version.
pub(crate) fn parse(header: &[u8], accepted: ProxyProtocol) -> io::Result<Option<SocketAddr>> {
    let config = ParseConfig {
        include_tlvs: false,
        allow_v1: matches!(accepted, ProxyProtocol::V1 | ProxyProtocol::Any),
        allow_v2: matches!(accepted, ProxyProtocol::V2 | ProxyProtocol::Any),
    };
    let malformed = |e: proxy_header::Error| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let (parsed, _) = ProxyHeader::parse(header, config).map_err(malformed)?;
    Ok(parsed.proxied_address().map(|address| address.source))
}

/// Reads a whole header and no byte of what follows it.
///
/// # Errors
/// What comes does not begin as one, is too long, or ends within it.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let none = || io::Error::new(io::ErrorKind::InvalidData, "it does not begin with a PROXY header");
    let mut header = vec![0; FIRST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(SIGNATURE) {
        header.push(stream.read_u8().await?);
        let length = match header.as_slice() {
            [.., high, low] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err(none()),
        };
        if length > LONGEST_V2 {
            return Err(none());
        }
        let start = header.len();
        header.resize(start + length, 0);
        stream.read_exact(header.get_mut(start..).unwrap_or_default()).await?;
        return Ok(header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(none());
    }
    // What follows the header is the client's, so it is read up to its end and no further.
    while !header.ends_with(b"\r\n") {
        if header.len() >= LONGEST_V1 {
            return Err(none());
        }
        header.push(stream.read_u8().await?);
    }
    Ok(header)
}
