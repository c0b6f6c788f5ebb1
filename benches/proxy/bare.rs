//! A bare Pingora proxy, which picks an origin in turn and does nothing else. It is of the benchmark's own profile and on the system allocator.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

struct Bare {
    origins: Vec<SocketAddr>,
    next: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        let origin = self.origins[self.next.fetch_add(1, Ordering::Relaxed) % self.origins.len()];
        Ok(Box::new(HttpPeer::new(origin, false, String::new())))
    }
}

/// Listens at the first of the addresses, and sends what comes to the others.
pub(crate) fn run(addresses: &[SocketAddr]) {
    let conf = ServerConf {
        threads: 1,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let bare = Bare {
        origins: addresses[1..].to_vec(),
        next: AtomicUsize::new(0),
    };
    let mut service = http_proxy_service(&server.configuration, bare);
    service.add_tcp(&addresses[0].to_string());
    server.add_service(service);
    server.run_forever();
}
