//! Listeners as the file writes them, and what a client may ask of them.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Tls;
use crate::config::scalars::{Size, Socket, Time};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// The address to bind, such as 0.0.0.0:8080.
    pub(crate) address: Socket,
    /// Whether a load balancer tells whom each connection is from, by the PROXY protocol: off, v1, v2 or any. Default: off.
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    /// Connections at one time; more are closed at once. Default: 0, no limit.
    pub(crate) max_connections: Option<u32>,
    /// From the first byte of a request to the end of its headers. Default: 10s.
    pub(crate) header_timeout: Option<Time>,
    /// How long a connection may wait for its next request. Default: 75s.
    pub(crate) idle_timeout: Option<Time>,
    /// The largest request body. Default: 100MiB, as Dify's own nginx.
    pub(crate) body_limit: Option<Size>,
    /// What a client may ask of it.
    pub(crate) limits: Option<ClientLimits>,
    /// The certificates that it shows; without them it speaks cleartext.
    pub(crate) tls: Option<Tls>,
    /// Whether it offers HTTP/2 beside HTTP/1.1, within TLS; cleartext: clients may speak it without TLS. Default: true.
    pub(crate) http2: Option<Http2>,
    /// Whether a cleartext listener sends clients to https on port 443, all but those that ask for an ACME challenge. Default: false.
    pub(crate) redirect_to_https: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Http2 {
    Offered(bool),
    #[allow(dead_code)] // there is one word
    InClear(InClear),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InClear {
    Cleartext,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProxyProtocol {
    Off,
    V1,
    V2,
    Any,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientLimits {
    /// The longest request target. Default: 8KiB.
    pub(crate) uri: Option<Size>,
    /// All headers of a request together. Default: 64KiB.
    pub(crate) headers: Option<Size>,
    /// The lines of all headers. Default: 100.
    #[schemars(range(min = 1, max = 250))]
    pub(crate) fields: Option<u32>,
    /// Bytes a second that a client must send of a body, and take of an answer, while it is waited for. Default: 1KiB; 0 for no limit.
    pub(crate) min_rate: Option<Size>,
    /// For so long it is waited for whatever its rate. Default: 10s.
    pub(crate) grace: Option<Time>,
    /// Connections of one client at one time. Default: 0, no limit while there is room.
    pub(crate) client_connections: Option<u32>,
    /// How often each client may ask. Default: no limit.
    pub(crate) client_rate: Option<Rate>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rate {
    /// So many requests ...
    pub(crate) requests: NonZeroU32,
    /// ... in this time. Default: 1s.
    pub(crate) per: Option<Time>,
    /// So many at once, after a pause. Default: as `requests`.
    pub(crate) burst: Option<NonZeroU32>,
}
