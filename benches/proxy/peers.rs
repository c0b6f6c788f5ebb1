//! The proxies that people have today, each in front of the same origins: one worker, connections kept to the origins, least connections or
//! least requests where there is a choice, no access log, and request bodies that are sent on as they come. They do less than the gate, so a
//! comparison errs in their favour.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;

use crate::launch::{self, Launch, each};

pub(crate) const PEERS: [(&str, Launch); 4] = [
    ("nginx", nginx),
    ("HAProxy", haproxy),
    ("Envoy", envoy),
    ("Caddy", caddy),
];

fn nginx(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let servers = each(origins, |_, origin| format!("server {origin};\n"));
    let http = format!(
        "keepalive_requests 1000000000;\nclient_max_body_size 0;\nproxy_request_buffering off;\nupstream dify {{ least_conn; {servers} keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen {listener}; location / {{ proxy_pass http://dify; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
    );
    launch::nginx(folder, &http)
}

fn haproxy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let servers = each(origins, |index, origin| format!("  server o{index} {origin} check\n"));
    let text = format!(
        "global\n  nbthread 1\n  maxconn 1024\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  option httpchk GET /healthz\n\
         option forwardfor\n  http-reuse always\nfrontend f\n  bind {listener}\n  default_backend b\nbackend b\n  balance leastconn\n{servers}"
    );
    launch::haproxy(folder, &text)
}

fn envoy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let health = "health_checks: [{timeout: 1s, interval: 2s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {path: /healthz}}]";
    launch::envoy(folder, listener, origins, "cluster: dify", health)
}

fn caddy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let lines = "    lb_policy least_conn\n    health_uri /healthz\n    health_interval 2s\n";
    launch::caddy(folder, listener, origins, lines)
}
