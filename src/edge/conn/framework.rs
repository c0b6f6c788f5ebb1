//! What the framework asks of a connection beside its bytes.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};

use super::Conn;

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        // The peer may be gone already, and then there is nothing to shut down.
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.stream.fd()
    }
}

impl Ssl for Conn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.terms()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        if self.many_at_once {
            Some(ALPN::H2)
        } else {
            self.stream.protocol()
        }
    }
}

impl Peek for Conn {}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest {
            established_ts: self.opened,
            ..TimingDigest::default()
        })]
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}
