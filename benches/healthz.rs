//! What the /healthz service costs: answers from its cache for a second of one core, memory, and how often the checks ran meanwhile.
//!
//! `cargo bench --bench healthz`. The service is a process of its own on one core, before a check that counts who asks; 32 clients on loopback
//! ask for five seconds.

#![allow(clippy::disallowed_methods)] // a benchmark reads the clock

use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "launch/mod.rs"]
mod launch;

use launch::{Process, cpu, free_port};

const CLIENTS: usize = 32;
const LASTS: Duration = Duration::from_secs(5);

/// The most memory that a process has had, in MiB.
fn peak_memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Something that a check connects to, and how often it did.
async fn dependency() -> io::Result<(SocketAddr, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, runs) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
    let count = runs.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok((address, runs))
}

/// Asks again and again on one connection; tells how many answers were 200.
async fn ask(address: SocketAddr, until: Instant) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut answers, mut buffer) = (0, [0; 2048]);
    while Instant::now() < until {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").await?;
        let mut filled = 0;
        while !buffer.get(..filled).unwrap_or_default().ends_with(b"}}") {
            match stream.read(buffer.get_mut(filled..).unwrap_or_default()).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        answers += u64::from(buffer.starts_with(b"HTTP/1.1 200 "));
    }
    Ok(answers)
}

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> io::Result<()> {
    let (needed, runs) = dependency().await?;
    let address = free_port();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("healthz.yaml");
    std::fs::write(
        &path,
        format!("listen: \"{address}\"\nchecks:\n  database: {{tcp: \"{needed}\"}}\n"),
    )?;
    let mut command = Command::new("taskset");
    command
        .args(["-c", "0", env!("CARGO_BIN_EXE_difygate"), "healthz", "-c"])
        .arg(&path);
    let process = Process(command.stderr(Stdio::null()).spawn()?);
    let pid = process.0.id();
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (before, start) = (cpu(&process), Instant::now());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(ask(address, start + LASTS)))
        .collect();
    let mut answers = 0;
    for client in clients {
        answers += client.await??;
    }
    let (took, used) = (start.elapsed().as_secs_f64(), (cpu(&process) - before) as f64 / 1e9);
    println!("answers a second of the clients' time: {:.0}", answers as f64 / took);
    println!("answers a second of one core:          {:.0}", answers as f64 / used);
    println!("most memory:                           {:.1} MiB", peak_memory(pid));
    println!(
        "runs of the check in {took:.1} s:           {}",
        runs.load(Ordering::Relaxed)
    );
    Ok(())
}
