//! Logs that nobody reads, or that a client fills: the gate goes on, its memory stays bounded, and it ends when it is told to.

use std::cell::Cell;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::process::Stdio;
use std::sync::mpsc;

use difygate::simulated_dify::Health;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::ioctl_fionbio;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::cli::{difygate, file};
use crate::own_faults::{Process, Setup};
use crate::support::{QUICK, instances, nobody, soon, until};
use crate::wire::{Wire, ask};

/// A pipe that takes nothing more until somebody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    for part in [4096, 1] {
        let full = loop {
            if let Err(e) = writer.write(&[b'\n'; 4096][..part]) {
                break e.kind();
            }
        };
        assert_eq!(full, ErrorKind::WouldBlock);
    }
    ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

/// Reads a pipe, and hands its lines on.
fn lines(mut pipe: PipeReader) -> mpsc::Receiver<Value> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut text, mut part) = (Vec::new(), [0; 64 * 1024]);
        while let Ok(read @ 1..) = pipe.read(&mut part) {
            text.extend_from_slice(&part[..read]);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                if end > 0 {
                    sender.send(serde_json::from_slice(&line).unwrap()).unwrap();
                }
            }
        }
    });
    lines
}

fn run(path: &str, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Command {
    let mut command = difygate(&["run", "-c", path]);
    command.stdout(stdout).stderr(stderr);
    command
}

const CLEAR: Setup<'_> = Setup {
    log: "{access: stdout}",
    listener: "",
    keys: QUICK,
};

/// Requests whose access lines come to more than a writer may hold.
const FLOOD: u32 = 5_000;

/// Sends them, many at a time.
async fn flood(process: &Process) {
    let (path, host) = ("x".repeat(500), ["h"; 100].join("."));
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut wire = Wire::to(process.edge).await;
    for _ in 0..FLOOD / 20 {
        wire.send(request.repeat(20)).await;
        for _ in 0..20 {
            wire.answer().await;
        }
    }
}

/// The memory of a process, in bytes.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_outputs_full_everything_goes_on_and_memory_stays_bounded() {
    let difys = instances::<2>().await;
    let ((stdout, out), (_stderr, err)) = (full_pipe(), full_pipe());
    let process = Process::of(&difys, CLEAR, |path| run(path, out, err)).await;
    assert_eq!(ask(process.edge, "GET /v1/info").await.status, 200);
    difys[0].set(|switches| switches.health = Health::failing(["database"]));
    until("the endpoint to be down", async || {
        process.metric("difygate_endpoint_routable").await == 1.0
    })
    .await;
    assert_eq!(ask(process.edge, "GET /v1/info").await.instance(), "dify-1");
    flood(&process).await;
    let dropped = process.metric("difygate_access_lines_dropped_total").await;
    assert!(dropped > 100.0, "{dropped}");
    let before = resident(&process);
    for _ in 0..2 {
        flood(&process).await;
    }
    let grown = resident(&process).saturating_sub(before);
    // The allocator keeps a few pages of each thread.
    assert!(
        grown < 6 * 1024 * 1024,
        "{grown} bytes for 10 MB of lines that were dropped"
    );
    let dropped = process.metric("difygate_access_lines_dropped_total").await;
    assert!(dropped > f64::from(FLOOD), "{dropped}");
    assert_eq!(process.terminated().await, Some(0));
    drop(stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_counted_and_reported_once_somebody_reads() {
    let difys = instances::<1>().await;
    let ((stdout, out), (stderr, err)) = (full_pipe(), full_pipe());
    let setup = Setup {
        log: "{access: stdout, level: trace}",
        listener: ", http2: cleartext",
        ..CLEAR
    };
    let process = Process::of(&difys, setup, |path| run(path, out, err)).await;
    flood(&process).await;
    // Each frame is many lines at this level.
    acknowledgements(2_000).come(&process).await;
    let mut dropped = [0.0; 2];
    until("lines of both kinds to be dropped", async || {
        dropped = [
            process.metric("difygate_log_lines_dropped_total").await,
            process.metric("difygate_access_lines_dropped_total").await,
        ];
        dropped.iter().all(|dropped| *dropped > 0.0)
    })
    .await;
    let (access, log) = (lines(stdout), lines(stderr));
    let reported = Cell::new([0.0; 2]);
    let mut hear = |line: Value| {
        let mut sums = reported.get();
        let message = line["message"].as_str().unwrap_or_default();
        let number = line["lines"].as_f64().unwrap_or_default();
        for (kind, what) in ["log lines were dropped", "access lines were dropped"]
            .into_iter()
            .enumerate()
        {
            if message.ends_with(what) {
                assert!(message.starts_with(&format!("{number} ")), "{line}");
                sums[kind] += number;
            }
        }
        reported.set(sums);
    };
    let mut written = 0;
    until("every line to be written or reported", async || {
        log.try_iter().for_each(&mut hear);
        written += access.try_iter().count();
        let reported = reported.get();
        reported[0] >= dropped[0] && written as f64 + reported[1] == f64::from(FLOOD)
    })
    .await;
    assert_eq!(process.terminated().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_outputs_closed_everything_goes_on() {
    let difys = instances::<2>().await;
    let ((stdout, out), (stderr, err)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let process = Process::of(&difys, CLEAR, |path| run(path, out, err)).await;
    drop((stdout, stderr));
    for down in [1.0, 0.0] {
        let dify = &difys[usize::from(down == 0.0)];
        dify.set(|switches| switches.health = Health::failing(["database"]));
        until("the endpoint to be down", async || {
            process.metric("difygate_endpoint_routable").await == down
        })
        .await;
        assert_eq!(ask(process.edge, "GET /v1/info").await.status < 500, down > 0.0);
    }
    until("lines to be counted", async || {
        process.metric("difygate_log_lines_dropped_total").await > 0.0
            && process.metric("difygate_access_lines_dropped_total").await > 0.0
    })
    .await;
    assert_eq!(process.terminated().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_cannot_start_ends_though_nobody_reads_why() {
    let folder = tempfile::tempdir().unwrap();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "admin: {{address: \"{}\"}}\nlisteners: [{{address: \"{}\"}}]\n{}",
        nobody(),
        holder.local_addr().unwrap(),
        crate::support::dify_upstream(&[nobody()], "")
    );
    let (_reader, err) = full_pipe();
    let mut child = run(&file(&folder, &text), Stdio::null(), err).spawn().unwrap();
    let ended = soon("the process to end", child.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_healthz_service_goes_on_and_ends_with_its_log_full() {
    let folder = tempfile::tempdir().unwrap();
    let (listen, needed) = (nobody(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let text = format!(
        "listen: \"{listen}\"\ndrain: 0s\ncache: 10ms\nchecks: {{port: {{tcp: \"{}\"}}}}\n",
        needed.local_addr().unwrap()
    );
    let (_reader, err) = full_pipe();
    let mut command = difygate(&["healthz", "-c", &file(&folder, &text)]);
    let mut child = command.stderr(err).spawn().unwrap();
    until("the service to listen", async || {
        TcpStream::connect(listen).await.is_ok()
    })
    .await;
    assert_eq!(ask(listen, "GET /healthz").await.status, 200);
    drop(needed);
    until("the failure", async || ask(listen, "GET /healthz").await.status == 503).await;
    let metrics = ask(listen, "GET /metrics").await.text();
    assert!(metrics.contains("difygate_log_lines_dropped_total 0"), "{metrics}");
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = soon("the process to end", child.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a client sends on one connection, and on how many.
struct Nuisance {
    what: &'static str,
    bytes: Vec<u8>,
    connections: usize,
}

impl Nuisance {
    async fn come(&self, process: &Process) {
        for _ in 0..self.connections {
            let mut wire = Wire::to(process.edge).await;
            wire.offer(&self.bytes).await;
            wire.end().await;
        }
    }
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// What a client of HTTP/2 says first, and `frames`.
fn after_preface(frames: &[u8]) -> Vec<u8> {
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        frame(SETTINGS, 0, 0, &[]).as_slice(),
        frames,
    ]
    .concat()
}

/// So many answers to pings that nobody sent.
fn acknowledgements(number: usize) -> Nuisance {
    Nuisance {
        what: "PING acknowledgements",
        bytes: after_preface(&frame(PING, ACK, 0, &[7; 8]).repeat(number)),
        connections: 1,
    }
}

fn nuisances() -> Vec<Nuisance> {
    let fields = b"\x82\x86\x04\x08/v1/info\x41\x10dify.example.com";
    let resets: Vec<_> = (1..200)
        .step_by(2)
        .flat_map(|stream| {
            [
                frame(HEADERS, 4, stream, fields),
                frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            ]
        })
        .collect();
    vec![
        acknowledgements(20_000),
        Nuisance {
            what: "SETTINGS acknowledgements",
            bytes: after_preface(&frame(SETTINGS, ACK, 0, &[]).repeat(10)),
            connections: 300,
        },
        Nuisance {
            what: "broken prefaces",
            bytes: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense, and more of it".to_vec(),
            connections: 300,
        },
        Nuisance {
            what: "requests that are reset",
            bytes: after_preface(&resets.concat()),
            connections: 300,
        },
        Nuisance {
            what: "requests that are none",
            bytes: b"\x16\x03\x01 HTTP/1.1 nonsense\r\n\r\n".to_vec(),
            connections: 300,
        },
        Nuisance {
            what: "requests that end early",
            bytes: b"POST /v1/info HTTP/1.1\r\nHost: dify\r\nContent-Length: 100000\r\n\r\nx".to_vec(),
            connections: 300,
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_fills_the_log() {
    let difys = instances::<1>().await;
    let mut log = tempfile::tempfile().unwrap();
    let setup = Setup {
        log: "{access: \"off\"}",
        listener: ", http2: cleartext",
        keys: QUICK,
    };
    let file = log.try_clone().unwrap();
    let process = Process::of(&difys, setup, |path| run(path, Stdio::null(), file)).await;
    let mut size = log.seek(SeekFrom::End(0)).unwrap();
    for nuisance in nuisances() {
        nuisance.come(&process).await;
        let now = log.seek(SeekFrom::End(0)).unwrap();
        let sent = nuisance.connections * nuisance.bytes.len();
        let (what, logged) = (nuisance.what, now - size);
        assert!(logged < 10_000, "{what}: {sent} bytes sent, {logged} bytes of log");
        size = now;
    }
    assert_eq!(ask(process.edge, "GET /v1/info").await.status, 200);
    assert_eq!(process.terminated().await, Some(0));
    log.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(
        text.len() < 60_000,
        "{} bytes of log, the last ones included",
        text.len()
    );
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let acks = |line: &&Value| line["like"].as_str().is_some_and(|like| like.contains("PING ack"));
    let suppressed = lines
        .iter()
        .filter(acks)
        .inspect(|line| assert_eq!(line["client"], "127.0.0.1", "{line}"));
    let suppressed: u64 = suppressed.map(|line| line["lines"].as_u64().unwrap()).sum();
    let pings = |line: &&Value| {
        line["message"]
            .as_str()
            .is_some_and(|message| message.contains("PING ack"))
    };
    assert_eq!(suppressed + lines.iter().filter(pings).count() as u64, 20_000, "{text}");
}
