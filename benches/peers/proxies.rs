//! The proxies under test: the gate on its defaults, its peers tuned as well as their own options allow for this job.
//!
//! What is the same for all: an answer may take 300 s to begin, since a workflow may think that long; an instance is probed every
//! second (the gate: every two); what fails is kept away for 10 s; a failed request is made once more where the proxy deems it safe.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};

use crate::launch::{self, Launch, each, free_port, start};

/// A proxy by name, and how it is started.
pub(crate) type Proxy = (&'static str, Launch);

pub(crate) const PROXIES: [Proxy; 6] = [
    ("difygate, defaults", difygate),
    ("HAProxy, defaults", haproxy),
    ("HAProxy, tuned", haproxy_tuned),
    ("Envoy, tuned", envoy),
    ("nginx, tuned", nginx),
    ("Caddy, tuned", caddy),
];

fn difygate(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let endpoints = each(origins, |_, origin| format!("\"{origin}\", "));
    let admin = free_port();
    let path = folder.join("gate.yaml");
    let text = format!(
        "admin: {{address: \"{admin}\"}}\nlisteners: [{{address: \"{listener}\"}}]\nlog: {{access: \"off\"}}\n\
         upstreams: {{dify: {{pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        endpoints.trim_end_matches(", ")
    );
    std::fs::write(&path, text).ok()?;
    start(
        Command::new(env!("CARGO_BIN_EXE_difygate"))
            .args(["run", "-c"])
            .arg(&path),
    )
}

fn haproxy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let check = "check";
    haproxy_with(folder, listener, origins, "  option httpchk GET /healthz\n", check)
}

fn haproxy_tuned(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let options = "  option httpchk GET /healthz\n  balance leastconn\n  option redispatch 1\n  retries 2\n  timeout check 1s\n\
                   \x20 retry-on conn-failure empty-response response-timeout 503\n";
    let check = "check inter 1s fastinter 100ms fall 2 rise 2 observe layer7 error-limit 1 on-error mark-down";
    haproxy_with(folder, listener, origins, options, check)
}

fn haproxy_with(
    folder: &Path,
    listener: SocketAddr,
    origins: &[SocketAddr],
    options: &str,
    check: &str,
) -> Option<Child> {
    let servers = each(origins, |index, origin| format!("  server o{index} {origin} {check}\n"));
    let text = format!(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 300s\n  timeout server 300s\n\
         frontend f\n  bind {listener}\n  default_backend b\nbackend b\n{options}{servers}"
    );
    launch::haproxy(folder, &text)
}

fn envoy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let previous = "{name: previous, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}";
    let retry = format!(
        "{{retry_on: \"connect-failure,refused-stream,reset,retriable-status-codes\", retriable_status_codes: [503], num_retries: 1, retry_host_predicate: [{previous}], host_selection_retry_max_attempts: 5}}"
    );
    let route = format!("cluster: dify, timeout: 300s, retry_policy: {retry}");
    let cluster = "outlier_detection: {consecutive_5xx: 1, interval: 1s, base_ejection_time: 10s, max_ejection_percent: 34, always_eject_one_host: true}\n    \
                   health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {path: /healthz}}]";
    launch::envoy(folder, listener, origins, &route, cluster)
}

fn nginx(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let servers = each(origins, |_, origin| {
        format!("server {origin} max_fails=1 fail_timeout=10s;\n")
    });
    let http = format!(
        "upstream dify {{ least_conn; {servers} }}\n\
         server {{ listen {listener}; location / {{ proxy_pass http://dify; proxy_connect_timeout 2s; proxy_read_timeout 300s;\n\
         proxy_next_upstream error timeout http_503; proxy_next_upstream_tries 2; }} }}"
    );
    launch::nginx(folder, &http)
}

fn caddy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let lines = "    lb_policy least_conn\n    lb_retries 1\n    health_uri /healthz\n    health_interval 1s\n    health_timeout 1s\n\
                 \x20   fail_duration 10s\n    max_fails 1\n    unhealthy_status 502 503 504\n";
    launch::caddy(folder, listener, origins, lines)
}
