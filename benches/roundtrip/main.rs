//! Uploads over a long way: 3 MB within TLS through a relay that adds 50 ms each way, over HTTP/2 and HTTP/1.1, and how long a small request waits
//! beside two uploads that their endpoint does not read: `cargo bench --bench roundtrip`. nginx does the same in turn, where it is installed
//! (`make peers`): on its defaults, by which it takes a whole body before it sends it on, and with `proxy_request_buffering off`, as the gate does.
//!
//! `DIFYGATE_BEFORE=PROGRAM` has another build of the gate take part, `DIFYGATE_BIN=PROGRAM` names the one under test, and `BENCH_ROUNDS` the rounds.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

#[allow(dead_code)] // the tests use the rest of it
#[path = "../../tests/gate/authority.rs"]
mod authority;
mod client;
#[path = "../launch/mod.rs"]
mod launch;
#[path = "../origin/mod.rs"]
mod origin;
mod relay;

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use authority::Authority;
use client::{Http1, Http2, Trust};
use launch::builds::{Build, rounds, spread};
use launch::{Process, free_port};
use relay::Relay;

const ROUNDS: usize = 5;
/// One way.
const DELAY: Duration = Duration::from_millis(50);
const UPLOAD: usize = 3_000_000;
/// An upload that is not read. It is larger than what sockets and proxies on the way hold.
const STALLED: usize = 32 << 20;
/// Uploads have stalled when nothing was sent for so long, ten round trips.
const QUIET: Duration = Duration::from_secs(1);
/// A request that is not answered within this time has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// The host that clients ask for.
pub(crate) const HOST: &str = "dify.example";

/// The time until an answer was whole, in seconds, round by round, and what else than 200 it was.
#[derive(Default)]
struct Figures {
    seconds: Vec<f64>,
    failures: Vec<String>,
}

impl Figures {
    async fn time<E: Display>(&mut self, request: impl Future<Output = Result<StatusCode, E>>) {
        let begun = Instant::now();
        let answered = timeout(PATIENCE, request).await;
        self.seconds.push(begun.elapsed().as_secs_f64());
        match answered {
            Ok(Ok(StatusCode::OK)) => {}
            Ok(Ok(status)) => self.failures.push(status.as_u16().to_string()),
            Ok(Err(e)) => self.failures.push(e.to_string()),
            Err(_) => self.failures.push("no answer".to_owned()),
        }
    }

    fn show(&self, reference: Option<&Self>) -> String {
        let (median, least, most) = spread(self.seconds.clone());
        let mut text = format!("{median:6.3} s ({least:.3} to {most:.3})");
        if let Some(reference) = reference {
            let ratios = self.seconds.iter().zip(&reference.seconds);
            let ratio = spread(ratios.map(|(ours, theirs)| ours / theirs).collect()).0;
            text += &format!("  {ratio:5.2}");
        }
        if let Some(failure) = self.failures.last() {
            text += &format!("  {} failed: {failure}", self.failures.len());
        }
        text
    }
}

/// A proxy, and a relay before it.
struct Runner {
    name: &'static str,
    _process: Process,
    relay: Relay,
    http2: Figures,
    http1: Figures,
    prompt: Figures,
}

impl Runner {
    /// One that serves, or nothing.
    async fn serving(name: &'static str, process: Option<Child>, address: SocketAddr, trust: &Trust) -> Option<Self> {
        let process = Process(process?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(e) = Http1::to(address, trust).await {
            if Instant::now() > deadline {
                say(&format!("{name}: {e}"));
                return None;
            }
            sleep(Duration::from_millis(20)).await;
        }
        Some(Self {
            name,
            _process: process,
            relay: Relay::before(address, DELAY).await.expect("a free port"),
            http2: Figures::default(),
            http1: Figures::default(),
            prompt: Figures::default(),
        })
    }

    async fn measure(&mut self, trust: &Trust) {
        let body = Bytes::from(vec![b'x'; UPLOAD]);
        let http2 = Http2::to(self.relay.address, trust).await.expect("a connection");
        self.http2.time(http2.post("/v1/files/upload", body.clone())).await;
        let mut http1 = Http1::to(self.relay.address, trust).await.expect("a connection");
        self.http1.time(http1.post("/v1/files/upload", &body)).await;
        self.stall(trust).await;
    }

    /// Times a prompt beside two uploads that have stalled.
    async fn stall(&mut self, trust: &Trust) {
        let client = Http2::to(self.relay.address, trust).await.expect("a connection");
        let body = Bytes::from(vec![b'x'; STALLED]);
        let uploads = [client.clone(), client.clone()].map(|client| {
            let body = body.clone();
            tokio::spawn(async move { client.post(origin::STALLED, body).await })
        });
        let (mut sent, mut since) = (self.relay.sent(), Instant::now());
        while since.elapsed() < QUIET {
            sleep(DELAY).await;
            if self.relay.sent() > sent {
                (sent, since) = (self.relay.sent(), Instant::now());
            }
        }
        let prompt = Bytes::from_static(b"{\"query\": \"Are you there?\"}");
        self.prompt.time(client.post("/v1/chat-messages", prompt)).await;
        for upload in uploads {
            upload.abort();
        }
    }
}

fn gate(
    build: &Build,
    folder: &Path,
    listener: SocketAddr,
    origin: SocketAddr,
    authority: &Authority,
) -> Option<Child> {
    let text = format!(
        "server: {{threads: 1}}\nadmin: {{address: \"{}\"}}\nlisteners: [{{address: \"{listener}\", tls: {{certificates: [{{cert: {}, key: {}}}]}}}}]\n\
         log: {{access: \"off\"}}\nupstreams: {{dify: {{pools: {{main: {{endpoints: [\"{origin}\"]}}}}}}}}\n",
        free_port(),
        authority.path("proxy.crt").display(),
        authority.path("proxy.key").display(),
    );
    build.start(folder, &text)
}

fn nginx(folder: &Path, listener: SocketAddr, origin: SocketAddr, authority: &Authority, lines: &str) -> Option<Child> {
    let http = format!(
        "client_max_body_size 0;\n{lines}\nupstream dify {{ server {origin}; keepalive 64; }}\n\
         server {{ listen {listener} ssl; http2 on; ssl_certificate {}; ssl_certificate_key {};\n\
         location / {{ proxy_pass http://dify; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; }} }}",
        authority.path("proxy.crt").display(),
        authority.path("proxy.key").display(),
    );
    launch::nginx(folder, &http)
}

/// The build under test, the one before it, and nginx in two ways.
async fn start_all(origin: SocketAddr, authority: &Authority, trust: &Trust) -> Vec<Runner> {
    let mut runners = Vec::new();
    let own = |name: &str| {
        // nginx takes its words at spaces.
        let folder = authority.path(&name.replace(' ', "-"));
        std::fs::create_dir(&folder).expect("a folder");
        folder
    };
    for build in Build::all() {
        say(&build.describe());
        let listener = free_port();
        let process = gate(&build, &own(build.name), listener, origin, authority);
        let runner = Runner::serving(build.name, process, listener, trust).await;
        runners.push(runner.unwrap_or_else(|| panic!("{} does not serve", build.name)));
    }
    for (name, lines) in [(NGINX, ""), ("nginx unbuffered", "proxy_request_buffering off;")] {
        let listener = free_port();
        let process = nginx(&own(name), listener, origin, authority, lines);
        match Runner::serving(name, process, listener, trust).await {
            Some(runner) => runners.push(runner),
            None => say(&format!("{name} is absent")),
        }
    }
    runners
}

const NGINX: &str = "nginx";

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("a reader");
}

/// A table by name, and its figures of a proxy.
type Table = (&'static str, fn(&Runner) -> &Figures);

fn print(rounds: usize, runners: &[Runner]) {
    let nginx = runners.iter().find(|runner| runner.name == NGINX);
    let tables: [Table; 3] = [
        ("3 MB over HTTP/2", |runner| &runner.http2),
        ("3 MB over HTTP/1.1", |runner| &runner.http1),
        ("a prompt beside two stalled uploads over HTTP/2", |runner| {
            &runner.prompt
        }),
    ];
    for (what, figures) in tables {
        say(&format!(
            "\n{what}, within TLS, 100 ms round trip: median (least to most) of {rounds} rounds in turn; the ratio to nginx in each round, median"
        ));
        for runner in runners {
            let shown = figures(runner).show(nginx.map(figures));
            say(&format!("{:18} {shown}", runner.name));
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let authority = Authority::new();
    authority.sign(authority.folder.path(), "proxy", &[HOST]);
    let trust = Trust::of(&authority.path("ca.pem"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let origin = listener.local_addr().expect("an address");
    tokio::spawn(origin::serve(listener));
    let rounds = rounds(ROUNDS);
    let mut runners = start_all(origin, &authority, &trust).await;
    for _ in 0..rounds {
        for runner in &mut runners {
            runner.measure(&trust).await;
        }
    }
    print(rounds, &runners);
}
