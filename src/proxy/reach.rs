//! How the proxy framework reaches an endpoint with a request that is not whole yet, or in HTTP/2.

use std::net::SocketAddr;
use std::time::Duration;

use pingora::protocols::ALPN;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};

use crate::tls::Authorities;
use crate::upstream::settings::{Timeouts, UpstreamSettings};

/// Requests that share one HTTP/2 connection at the most; another is opened for more (RFC 9113 section 6.5.2 advises 100 at the least).
const STREAMS: usize = 100;

/// A connection of many requests is asked for a sign of life so often (RFC 9113 section 6.7), since a dead one would fail all of them.
const PING: Duration = Duration::from_secs(5);

/// The endpoint at `socket`, which is called `host`, as the framework wants it told.
///
/// # Errors
/// A file that TLS needs cannot be used any more.
pub(super) fn peer(
    socket: SocketAddr,
    host: &str,
    settings: &UpstreamSettings,
    timeouts: &Timeouts,
    authorities: &Authorities,
) -> pingora::Result<HttpPeer> {
    let name = settings.tls.as_ref().map_or(host, |terms| terms.name(host));
    let mut peer = HttpPeer::new(socket, settings.tls.is_some(), name.to_owned());
    if let Some(terms) = &settings.tls {
        let loaded = authorities.of(&terms.files);
        let loaded = loaded.map_err(|e| Error::because(ErrorType::InvalidCert, "reading what TLS needs", e))?;
        peer.options.ca.clone_from(&loaded.authorities);
        peer.client_cert_key.clone_from(&loaded.identity);
    }
    let options = &mut peer.options;
    options.total_connection_timeout = Some(timeouts.connect);
    options.idle_timeout = Some(timeouts.pool_idle);
    options.alpn = match (settings.http2, settings.tls.is_some()) {
        (false, _) => ALPN::H1,
        (true, true) => ALPN::H2H1,
        (true, false) => ALPN::H2,
    };
    if settings.http2 {
        options.max_h2_streams = STREAMS;
        options.h2_ping_interval = Some(PING);
        // One clock for the first byte and for all others: the longer of the two.
        options.read_timeout = Some(timeouts.first_byte.max(timeouts.idle));
    }
    Ok(peer)
}
