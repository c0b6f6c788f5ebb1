//! The proxies under test: the gate on its defaults, its peers tuned as well as their own options allow for this job.
//!
//! What is the same for all: an answer may take 300 s to begin, since a workflow may think that long; an instance is probed every
//! second (the gate: every two); what fails is kept away for 10 s; a failed request is made once more where the proxy deems it safe.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};

use crate::launch::{self, each, envoy_endpoint, start};

/// What a proxy stands before, and where it listens.
pub(crate) struct Site<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) listener: SocketAddr,
    /// Where its state can be asked for.
    pub(crate) admin: SocketAddr,
    pub(crate) origins: &'a [SocketAddr],
    /// The weight of each origin; none where all weigh the same.
    pub(crate) weights: &'a [u32],
    /// The port of the service that answers `/healthz` beside each instance, on the same address; the instance itself where there is none.
    pub(crate) beside: Option<u16>,
}

/// A proxy by name, and how it is started.
pub(crate) type Proxy = (&'static str, fn(&Site<'_>) -> Option<Child>);

pub(crate) const GATE: Proxy = ("difygate, defaults", difygate);
pub(crate) const HAPROXY: Proxy = ("HAProxy, tuned", haproxy_tuned);
pub(crate) const ENVOY: Proxy = ("Envoy, tuned", envoy);
pub(crate) const NGINX: Proxy = ("nginx, tuned", nginx);
pub(crate) const CADDY: Proxy = ("Caddy, tuned", caddy);

impl Site<'_> {
    fn weight(&self, index: usize) -> Option<&u32> {
        self.weights.get(index)
    }
}

/// The gate on its defaults; with the preset for the question, where a service beside each instance answers it.
fn difygate(site: &Site<'_>) -> Option<Child> {
    let endpoints = each(site.origins, |index, origin| match site.weight(index) {
        None => format!("\"{origin}\", "),
        Some(weight) => format!("{{address: \"{origin}\", weight: {weight}}}, "),
    });
    let probe = site
        .beside
        .map_or(String::new(), |port| format!("probe: {{preset: dify, port: {port}}}, "));
    let path = site.folder.join("gate.yaml");
    let text = format!(
        "admin: {{address: \"{}\"}}\nserver: {{state_dir: \"off\"}}\nlisteners: [{{address: \"{}\"}}]\nlog: {{access: \"off\"}}\n\
         upstreams: {{dify: {{{probe}pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        site.admin,
        site.listener,
        endpoints.trim_end_matches(", ")
    );
    std::fs::write(&path, text).ok()?;
    let program = std::env::var_os("DIFYGATE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_difygate").into());
    start(Command::new(program).args(["run", "-c"]).arg(&path))
}

/// HAProxy with nothing but health checks.
pub(crate) fn haproxy(site: &Site<'_>) -> Option<Child> {
    haproxy_with(site, "  option httpchk GET /healthz\n", "check")
}

fn haproxy_tuned(site: &Site<'_>) -> Option<Child> {
    // It can ask both the instance and the service beside it.
    let question = site.beside.map_or("  option httpchk GET /healthz\n".to_owned(), |port| {
        format!(
            "  option httpchk\n  http-check connect\n  http-check send meth GET uri /health\n  http-check expect status 200\n\
             \x20 http-check connect port {port}\n  http-check send meth GET uri /healthz\n  http-check expect status 200\n"
        )
    });
    let options = format!(
        "{question}  balance leastconn\n  option redispatch 1\n  retries 2\n  timeout check 1s\n\
         \x20 retry-on conn-failure empty-response response-timeout 503\n"
    );
    let check = "check inter 1s fastinter 100ms fall 2 rise 2 observe layer7 error-limit 1 on-error mark-down";
    haproxy_with(site, &options, check)
}

fn haproxy_with(site: &Site<'_>, options: &str, check: &str) -> Option<Child> {
    let servers = each(site.origins, |index, origin| {
        let weight = site
            .weight(index)
            .map_or(String::new(), |weight| format!(" weight {weight}"));
        format!("  server o{index} {origin} {check}{weight}\n")
    });
    let text = format!(
        "global\n  nbthread 1\n  stats socket ipv4@{} level operator\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 300s\n  timeout server 300s\n\
         frontend f\n  bind {}\n  default_backend b\nbackend b\n{options}{servers}",
        site.admin, site.listener
    );
    launch::haproxy(site.folder, &text)
}

fn envoy(site: &Site<'_>) -> Option<Child> {
    let previous = "{name: previous, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}";
    let retry = format!(
        "{{retry_on: \"connect-failure,refused-stream,reset,retriable-status-codes\", retriable_status_codes: [503], num_retries: 1, retry_host_predicate: [{previous}], host_selection_retry_max_attempts: 5}}"
    );
    let route = format!("cluster: dify, timeout: 300s, retry_policy: {retry}");
    let cluster = "outlier_detection: {consecutive_5xx: 1, interval: 1s, base_ejection_time: 10s, max_ejection_percent: 34, always_eject_one_host: true}\n    \
                   health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {path: /healthz}}]";
    let asked = site.beside.map_or(String::new(), |port| {
        format!(", health_check_config: {{port_value: {port}}}")
    });
    let endpoints = each(site.origins, |index, origin| {
        let weight = site
            .weight(index)
            .map_or(String::new(), |weight| format!(", load_balancing_weight: {weight}"));
        envoy_endpoint(origin, &asked, &weight)
    });
    let (host, port) = (site.admin.ip(), site.admin.port());
    let admin = format!("admin: {{address: {{socket_address: {{address: \"{host}\", port_value: {port}}}}}}}\n");
    launch::envoy_before(site.folder, site.listener, &endpoints, &admin, &route, cluster)
}

fn nginx(site: &Site<'_>) -> Option<Child> {
    let servers = each(site.origins, |index, origin| {
        let weight = site
            .weight(index)
            .map_or(String::new(), |weight| format!(" weight={weight}"));
        format!("server {origin} max_fails=1 fail_timeout=10s{weight};\n")
    });
    let http = format!(
        "upstream dify {{ least_conn; {servers} }}\n\
         server {{ listen {}; location / {{ proxy_pass http://dify; proxy_connect_timeout 2s; proxy_read_timeout 300s;\n\
         proxy_next_upstream error timeout http_503; proxy_next_upstream_tries 2; }} }}",
        site.listener
    );
    launch::nginx(site.folder, &http)
}

fn caddy(site: &Site<'_>) -> Option<Child> {
    let weights: Vec<String> = site.weights.iter().map(u32::to_string).collect();
    // It has no weights for the fewest connections.
    let policy = if weights.is_empty() {
        "least_conn".to_owned()
    } else {
        format!("weighted_round_robin {}", weights.join(" "))
    };
    let port = site
        .beside
        .map_or(String::new(), |port| format!("    health_port {port}\n"));
    let lines = format!(
        "    lb_policy {policy}\n    lb_retries 1\n    health_uri /healthz\n{port}    health_interval 1s\n    health_timeout 1s\n\
         \x20   fail_duration 10s\n    max_fails 1\n    unhealthy_status 502 503 504\n"
    );
    let log = site.folder.join("caddy.log");
    let options = format!(
        "  admin {}\n  log {{\n    output file {}\n    format json\n    level INFO\n  }}\n",
        site.admin,
        log.display()
    );
    launch::caddy_with(site.folder, site.listener, site.origins, &options, &lines)
}
