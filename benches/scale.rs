//! Thousands of endpoints, each probed every second: what that costs the gate, and how late a probe is: `cargo bench --bench scale`.
//!
//! The endpoints are loopback addresses, answered by one process of this benchmark, which notes when each was asked. The gate is a
//! process of its own, first with connections that serve ten questions and then with a new one for each; its processor time is the kernel's, summed over its threads. HAProxy, with as many servers and the same interval, is measured
//! in the same run. Numbers on the command line take the place of 5,000 and 10,000.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

mod launch;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use launch::{Process, cpu, free_port, haproxy, start};

const ENDPOINTS: &[u32] = &[5_000, 10_000];
/// From the first answers until every endpoint has found its phase.
const SETTLING: Duration = Duration::from_secs(8);
const MEASURED: Duration = Duration::from_secs(20);
/// An interval may be longer by a tenth.
const LONGEST: Duration = Duration::from_millis(1_100);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 63\r\n\r\n{\"status\":\"healthy\",\"details\":{\"database\":true,\"cache\":true}}  ";

/// When each endpoint was asked.
type Asked = Arc<Mutex<HashMap<IpAddr, Vec<Instant>>>>;

/// Answers until the client closes, so that the next ten thousand connections find ports.
async fn answer(mut stream: TcpStream, asked: Asked) -> std::io::Result<()> {
    let at = stream.local_addr()?.ip();
    let mut head = [0; 1024];
    while stream.read(&mut head).await? > 0 {
        asked.lock().unwrap().entry(at).or_default().push(Instant::now());
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}

async fn respond(listener: TcpListener, asked: Asked) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, which those that end give back.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        tokio::spawn(answer(stream, asked.clone()));
    }
}

fn address(number: u32, port: u16) -> SocketAddr {
    let [_, high, middle, low] = (number + 1).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, high, middle, low), port))
}

fn gate(endpoints: u32, reuse: bool, port: u16, folder: &Path) -> Option<Process> {
    let (edge, admin) = (free_port(), free_port());
    let mut text = format!(
        "log: {{access: \"off\", level: error}}\nadmin: {{address: \"{admin}\"}}\nlisteners: [{{address: \"{edge}\"}}]\n\
         upstreams:\n  dify:\n    probe: {{interval: 1s, timeout: 1s, reuse: {reuse}}}\n    pools:\n      main:\n        endpoints:\n"
    );
    for number in 0..endpoints {
        writeln!(text, "        - \"{}\"", address(number, port)).ok()?;
    }
    let path = folder.join("scale.yaml");
    std::fs::write(&path, text).ok()?;
    let binary = env!("CARGO_BIN_EXE_difygate");
    start(Command::new(binary).args(["run", "-c"]).arg(path)).map(Process)
}

fn peer(endpoints: u32, edge: SocketAddr, port: u16, folder: &Path) -> Option<Process> {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 2000\n  spread-checks 10\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n  timeout check 1s\n\
         frontend edge\n  bind {edge}\n  default_backend dify\nbackend dify\n  option httpchk\n  http-check send meth GET uri /healthz hdr Host dify\n  default-server check inter 1s\n"
    );
    for number in 0..endpoints {
        writeln!(text, "  server e{number} {}", address(number, port)).ok()?;
    }
    haproxy(folder, &text).map(Process)
}

/// The time between two questions to the same endpoint, longest last.
fn gaps(asked: &Asked) -> Vec<Duration> {
    let asked = asked.lock().unwrap();
    let all = asked
        .values()
        .flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0]));
    let mut all: Vec<Duration> = all.collect();
    all.sort_unstable();
    all
}

/// Lets a prober settle, and returns its cores.
async fn measure(name: &str, endpoints: u32, prober: Option<Process>, asked: &Asked) -> Option<f64> {
    let Some(prober) = prober else {
        say(&format!("{name}: absent"));
        return None;
    };
    let everyone = async {
        while asked.lock().unwrap().len() < endpoints as usize {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(SETTLING, everyone).await.is_err() {
        say(&format!(
            "{name}: asked only {} endpoints within {SETTLING:?}",
            asked.lock().unwrap().len()
        ));
    }
    tokio::time::sleep(SETTLING).await;
    asked.lock().unwrap().clear();
    let (before, began) = (cpu(&prober), Instant::now());
    tokio::time::sleep(MEASURED).await;
    let (used, passed) = ((cpu(&prober) - before) as f64 / 1e9, began.elapsed().as_secs_f64());
    drop(prober);
    let gaps = gaps(asked);
    let probes = gaps.len() + asked.lock().unwrap().len();
    if gaps.is_empty() {
        return None;
    }
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize];
    let late = gaps
        .iter()
        .filter(|gap| gap.saturating_sub(LONGEST) > Duration::from_millis(100));
    say(&format!(
        "{name}: {probes} probes in {passed:.0} s, {:.2} cores, {:.0} us a probe; gaps p50 {:.0?}, p99.9 {:.0?}, longest {:.0?}; {} probes late by more than 100 ms",
        used / passed,
        used * 1e6 / probes as f64,
        at(0.5),
        at(0.999),
        at(1.0),
        late.count(),
    ));
    asked.lock().unwrap().clear();
    Some(used / passed)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
}

fn main() {
    if std::env::args().any(|word| word == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
        let listener = socket.listen(4096).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Asked::default();
        tokio::spawn(respond(listener, asked.clone()));
        let folder = tempfile::tempdir().unwrap();
        let asked_for: Vec<u32> = std::env::args().filter_map(|word| word.parse().ok()).collect();
        let sizes = if asked_for.is_empty() { ENDPOINTS } else { &asked_for };
        for endpoints in sizes.iter().copied() {
            say(&format!("{endpoints} endpoints, each asked every second"));
            let kept = gate(endpoints, true, port, folder.path());
            let kept = measure("difygate, connections kept", endpoints, kept, &asked).await;
            let ours = gate(endpoints, false, port, folder.path());
            let ours = measure("difygate", endpoints, ours, &asked).await;
            let theirs = peer(endpoints, free_port(), port, folder.path());
            let theirs = measure("HAProxy", endpoints, theirs, &asked).await;
            if let (Some(kept), Some(ours), Some(theirs)) = (kept, ours, theirs) {
                say(&format!(
                    "cores, difygate / HAProxy: {:.2}; with connections kept {:.2}",
                    ours / theirs,
                    kept / theirs
                ));
            }
        }
    });
}
