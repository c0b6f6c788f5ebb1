//! Attacks on loopback, bounded in count and time, while other clients are served as if nothing were.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use difygate::server::Gate;
use difygate::simulated_dify::SimulatedDify;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::admin::metric;
use crate::authority::Authority;
use crate::endpoints_http2::shake_hands;
use crate::support::{QUICK, addresses, dify_upstream, edge, gate, instances, soon, until, until_idle};
use crate::wire::ask;

/// Clients that ask one after the other until they are told to stop, and how many were not served.
struct Others {
    asking: JoinHandle<(u32, u32)>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Others {
    fn of(edge: SocketAddr) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let asking = tokio::spawn(async move {
            let (mut asked, mut failed) = (0, 0);
            // A few more afterwards: what an attack leaves behind would show.
            while !*stopped.borrow() || asked < 50 {
                asked += 1;
                failed += u32::from(ask(edge, "GET /v1/info").await.status != 200);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (asked, failed)
        });
        Self { asking, stop }
    }

    async fn were_served(self) {
        self.stop.send(true).unwrap();
        let (asked, failed) = soon("the others to end", self.asking).await.unwrap();
        assert_eq!(failed, 0, "of {asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slowhttptest_in_its_four_modes_hurts_nobody() {
    let difys = instances::<2>().await;
    let gate = gate(&format!(
        "listeners: [{{address: \"127.0.0.1:8080\", header_timeout: 2s, limits: {{grace: 1s}}}}]\n{}",
        dify_upstream(&addresses(&difys), QUICK)
    ))
    .await;
    let url = format!("http://{}/v1/info", edge(&gate));
    let others = Others::of(edge(&gate));
    let modes: [&[&str]; 4] = [
        &["-H", "-i", "1"],
        &["-B", "-i", "1", "-s", "8192", "-t", "POST"],
        &["-R", "-a", "5", "-b", "3000"],
        &["-X", "-k", "3", "-w", "10", "-y", "20", "-n", "1", "-z", "5"],
    ];
    let attacks = modes.map(|mode| {
        let mut command = Command::new("slowhttptest");
        command
            .args(mode)
            .args(["-c", "150", "-r", "100", "-l", "12", "-p", "3", "-u", &url]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let attack = command.spawn().expect("slowhttptest, which `make deps` installs");
        tokio::spawn(async move {
            let mut attack = attack;
            attack.wait().await
        })
    });
    for attack in attacks {
        soon("an attack to end", attack).await.unwrap().unwrap();
    }
    others.were_served().await;
    for limit in ["header_timeout", "body_rate"] {
        let met = metric(&gate, "difygate_limited_total", limit).await;
        assert!(met >= 100.0, "{limit}: {met}");
    }
    until_idle(&gate).await;
    until("their connections to be gone", async || {
        metric(&gate, "difygate_connections_open", "").await == 0.0
    })
    .await;
}

/// A connection within TLS that has agreed on HTTP/2, frame by frame (RFC 9113 section 4.1).
struct Frames {
    stream: TlsStream<TcpStream>,
    out: BytesMut,
}

impl Frames {
    async fn to(edge: SocketAddr, authority: &Authority) -> Self {
        let mut frames = Self {
            stream: shake_hands(edge, authority).await,
            out: BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]),
        };
        frames.put(4, 0, 0, &[]);
        frames
    }

    fn put(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.put_uint(payload.len() as u64, 3);
        self.out.put_u8(kind);
        self.out.put_u8(flags);
        self.out.put_u32(stream);
        self.out.put_slice(payload);
    }

    /// Sends what was put, and tells whether the gate still takes it.
    async fn send(&mut self) -> bool {
        let sent = soon("frames to be taken or refused", self.stream.write_all(&self.out)).await;
        self.out.clear();
        sent.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Waits until the gate ends the connection, and returns how much it said before.
    async fn ended(&mut self) -> usize {
        let mut said = Vec::new();
        let _ = soon("the end of the connection", self.stream.read_to_end(&mut said)).await;
        said.len()
    }
}

/// The fields of a GET that is served (RFC 7541): three of the static table and the host.
fn get() -> Vec<u8> {
    let mut fields = vec![0x82, 0x87, 0x04, 8];
    fields.extend_from_slice(b"/v1/info");
    fields.push(0x41);
    fields.push(16);
    fields.extend_from_slice(b"dify.example.com");
    fields
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A gate before two instances, its authority, and its other clients, who come in the clear.
async fn attacked() -> (Gate, Authority, Others, [SimulatedDify; 2]) {
    let difys = instances::<2>().await;
    let authority = Authority::new();
    let certificate = authority.shown("gate", &["dify.example.com"]);
    let gate = gate(&format!(
        "listeners: [{{address: \"127.0.0.1:8443\", header_timeout: 10s, tls: {{certificates: [{certificate}]}}}}, {{address: \"127.0.0.1:8080\"}}]\n{}",
        dify_upstream(&addresses(&difys), QUICK)
    ))
    .await;
    let others = Others::of(gate.listeners()[1]);
    (gate, authority, others, difys)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_reset_in_a_flood_end_the_connection() {
    let (gate, authority, others, _difys) = attacked().await;
    for _ in 0..5 {
        let mut frames = Frames::to(edge(&gate), &authority).await;
        let mut stream = 1;
        for _ in 0..200 {
            for _ in 0..100 {
                frames.put(HEADERS, END_STREAM | END_HEADERS, stream, &get());
                frames.put(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
                stream += 2;
            }
            if !frames.send().await {
                break;
            }
        }
        frames.ended().await;
    }
    others.were_served().await;
    let calmed = metric(&gate, "difygate_http2_errors_total", "enhance_your_calm").await;
    assert!(calmed >= 5.0, "{calmed}");
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_end_the_connection() {
    let (gate, authority, others, _difys) = attacked().await;
    let mut frames = Frames::to(edge(&gate), &authority).await;
    frames.put(HEADERS, END_STREAM, 1, &get());
    assert!(frames.send().await);
    // More than the kernel's buffers hold, so that an end in time shows.
    let (mut sent, all) = (0, 1_000_000);
    while sent < all {
        for _ in 0..100 {
            // A literal that is not indexed: one letter, one letter.
            frames.put(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']);
            sent += 1;
        }
        if !frames.send().await {
            break;
        }
    }
    frames.ended().await;
    assert!(sent < all, "it ends before all has come");
    assert_eq!(metric(&gate, "difygate_http2_errors_total", "").await, 1.0);
    others.were_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_bytes_that_stand_for_many_headers_are_refused() {
    let (gate, authority, others, _difys) = attacked().await;
    let mut frames = Frames::to(edge(&gate), &authority).await;
    // A header of 4,000 bytes is put into the table once, then named by a byte each: 16,000,000 bytes of headers.
    let mut fields = get();
    fields.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    fields.extend_from_slice(&[b'y'; 4_000]);
    fields.extend_from_slice(&[0xbe; 4_000]);
    frames.put(HEADERS, END_STREAM | END_HEADERS, 1, &fields);
    assert!(frames.send().await);
    frames.put(PING, 0, 0, &[0; 8]);
    frames.send().await;
    // Either the request is refused or the connection is: nothing of it arrives.
    tokio::time::timeout(Duration::from_secs(5), frames.ended()).await.ok();
    others.were_served().await;
    assert_eq!(metric(&gate, "difygate_requests_total", "code=\"5").await, 0.0);
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_that_ask_nothing_keep_nobody_waiting() {
    let (gate, authority, others, _difys) = attacked().await;
    let floods: [(u8, u32, &[u8]); 3] = [
        (SETTINGS, 0, &[0, 4, 0, 1, 0, 0]),
        (PING, 0, &[7; 8]),
        (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
    ];
    for (kind, stream, payload) in floods {
        let mut frames = Frames::to(edge(&gate), &authority).await;
        for _ in 0..200 {
            for _ in 0..100 {
                frames.put(kind, 0, stream, payload);
            }
            // What it says back is not read, so that its answers pile up where it keeps them.
            let sent = tokio::time::timeout(Duration::from_secs(1), frames.send()).await;
            if !sent.unwrap_or(false) {
                break;
            }
        }
    }
    others.were_served().await;
}
