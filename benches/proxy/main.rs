//! Proxy CPU per request beside a bare Pingora round-robin proxy and the proxies that people have today, in turn within one run:
//! `cargo bench --bench proxy`. A peer that is not installed is said to be absent; `make peers` installs them.
//!
//! All proxies are processes of their own with one thread, before the same three origins; sixteen clients keep their connections and send
//! small GETs. The gate runs with everything on: probes, guard, identity, routes, retries, metrics, access log. The bare proxy picks an
//! origin and does nothing else, on the system allocator. CPU time is the kernel's, summed over all threads of the process.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

#[path = "../launch/mod.rs"]
mod launch;
mod peers;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use launch::{Process, cpu, free_port};

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(2);
const CLIENTS: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let role = arguments
        .iter()
        .position(|argument| argument == "--role")
        .and_then(|at| arguments.get(at + 1));
    match role.map(String::as_str) {
        Some("origins") => origins(),
        Some("bare") => bare(&arguments),
        Some(other) => panic!("no role {other}"),
        None => compare(),
    }
}

// ---- the origins: three ports, one constant answer

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\r\n{\"status\":\"healthy\",\"pad\":\"123456\"}";

fn origins() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let mut out = std::io::stdout();
            writeln!(out, "{}", listener.local_addr().expect("an address")).expect("a reader");
            tokio::spawn(serve(listener));
        }
        std::future::pending::<()>().await;
    });
}

async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(read) = stream.read(&mut buffer).await {
                if read == 0 || stream.write_all(ANSWER).await.is_err() {
                    break;
                }
            }
        });
    }
}

// ---- the bare proxy

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

fn bare(arguments: &[String]) {
    let addresses: Vec<SocketAddr> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
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

// ---- the comparison

fn spawn(program: &str, arguments: &[String]) -> Child {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

fn myself(role: &str, rest: &[SocketAddr]) -> Child {
    let program = std::env::current_exe().expect("a path").display().to_string();
    let addresses = rest.iter().map(SocketAddr::to_string);
    let arguments: Vec<String> = ["--role".to_owned(), role.to_owned()]
        .into_iter()
        .chain(addresses)
        .collect();
    spawn(&program, &arguments)
}

fn start_origins() -> (Process, Vec<SocketAddr>) {
    use std::io::BufRead;
    let mut child = myself("origins", &[]);
    let output = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let addresses = output
        .lines()
        .take(3)
        .map(|line| line.expect("a line").parse().expect("an address"));
    (Process(child), addresses.collect())
}

fn start_gate(listener: SocketAddr, origins: &[SocketAddr], folder: &std::path::Path) -> Process {
    let endpoints: Vec<String> = origins.iter().map(|origin| format!("\"{origin}\"")).collect();
    let text = format!(
        "server: {{threads: 1}}\nadmin: {{address: \"{}\"}}\nlisteners: [{{address: \"{listener}\"}}]\nlog: {{access: {}}}\n\
         upstreams: {{dify: {{pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        free_port(),
        folder.join("access.log").display(),
        endpoints.join(", ")
    );
    let path = folder.join("gate.yaml");
    std::fs::write(&path, text).expect("a file");
    let arguments = ["run".to_owned(), "-c".to_owned(), path.display().to_string()];
    Process(spawn(env!("CARGO_BIN_EXE_difygate"), &arguments))
}

/// Sends as fast as the answers come, and returns how many came.
async fn load(address: SocketAddr, time: Duration) -> u64 {
    let count = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let count = count.clone();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("a proxy");
                stream.set_nodelay(true).expect("a socket");
                let mut buffer = vec![0; 8192];
                loop {
                    stream
                        .write_all(b"GET /v1/parameters?user=bench HTTP/1.1\r\nHost: dify.example\r\n\r\n")
                        .await
                        .expect("a proxy");
                    let mut read = 0;
                    while !buffer[..read].ends_with(b"}") {
                        let more = stream.read(&mut buffer[read..]).await.expect("an answer");
                        assert!(more > 0, "the connection was closed");
                        read += more;
                    }
                    assert!(
                        buffer.starts_with(b"HTTP/1.1 200"),
                        "{}",
                        String::from_utf8_lossy(&buffer[..read])
                    );
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    let answered = count.load(Ordering::Relaxed);
    for client in clients {
        client.abort();
    }
    answered
}

async fn serves(address: SocketAddr) -> bool {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while tokio::time::Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream
                .write_all(b"GET / HTTP/1.1\r\nHost: dify.example\r\nConnection: close\r\n\r\n")
                .await;
            let mut answer = Vec::new();
            if stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200") {
                return true;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A proxy under load.
struct Runner {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    figures: Vec<f64>,
}

/// The gate first, then the bare proxy, then the peers that are there.
async fn start_all(origins: &[SocketAddr], folder: &std::path::Path) -> Vec<Runner> {
    let runner = |name, process, address| Runner {
        name,
        process,
        address,
        figures: Vec::new(),
    };
    let (gate, bare) = (free_port(), free_port());
    let mut runners = vec![
        runner("difygate, everything on", start_gate(gate, origins, folder), gate),
        runner(
            "bare Pingora round-robin",
            Process(myself("bare", &[&[bare][..], origins].concat())),
            bare,
        ),
    ];
    for ours in &runners {
        assert!(serves(ours.address).await, "{} does not serve", ours.name);
    }
    for (name, start) in peers::PEERS {
        let address = free_port();
        match start(folder, address, origins).map(Process) {
            Some(process) if serves(address).await => runners.push(runner(name, process, address)),
            Some(_) | None => say(&format!("{name} is absent")),
        }
    }
    runners
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("a reader");
}

fn compare() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_origins, addresses) = start_origins();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let runners = runtime.block_on(async {
        let mut runners = start_all(&addresses, folder.path()).await;
        for runner in &runners {
            load(runner.address, Duration::from_millis(500)).await;
        }
        for _ in 0..ROUNDS {
            for runner in &mut runners {
                let before = cpu(&runner.process);
                let answered = load(runner.address, ROUND).await;
                let used = cpu(&runner.process) - before;
                runner.figures.push(used as f64 / 1_000.0 / answered as f64);
            }
        }
        runners
    });
    say(&format!(
        "proxy CPU per small keep-alive GET, median of {ROUNDS} rounds of {ROUND:?} in turn, one worker each; the gate's share of it in each round, median"
    ));
    for runner in &runners {
        let ratios = runners[0].figures.iter().zip(&runner.figures);
        let ratio = median(ratios.map(|(ours, theirs)| ours / theirs).collect());
        say(&format!(
            "{:26} {:6.2} µs  {ratio:.2}",
            runner.name,
            median(runner.figures.clone())
        ));
    }
}
