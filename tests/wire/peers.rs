//! The same table through nginx and HAProxy, as controls of the rules: what they do otherwise than the gate is printed and nothing fails.

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::launch::{Process, free_port, haproxy, nginx};
use crate::report;
use crate::run::{Row, judged, trials};
use crate::stage::{Door, Origins, Stage};
use crate::table::Case;
use crate::ways::{Carried, WAYS, Way, name};

/// Starts a peer with two listeners before each origin.
type Start = fn(&Path, &Origins, [Door; 2]) -> Option<Child>;

const PEERS: [(&str, Start); 2] = [("nginx", start_nginx), ("HAProxy", start_haproxy)];

/// Runs the table through every peer that is installed, where it is asked for.
pub(crate) async fn compare(cases: &Arc<Vec<Case>>, gate: &[Row], seed: u64) {
    if std::env::var("DIFYGATE_WIRE_PEERS").is_err() {
        return;
    }
    // What a peer sends by itself and what it streams is no distinction there.
    let ways: Vec<Way> = WAYS
        .into_iter()
        .filter(|(_, carried)| *carried != Carried::Streamed)
        .collect();
    for (peer, start) in PEERS {
        let origins = Origins::start(seed).await;
        let folder = tempfile::tempdir().unwrap();
        let door = || Door {
            clear: free_port(),
            tls: free_port(),
        };
        let doors = [door(), door()];
        let Some(_process) = start(folder.path(), &origins, doors).map(Process) else {
            println!("\n{peer} is not installed: `make peers`");
            continue;
        };
        if !listens(doors[0].clear).await {
            println!("\n{peer} does not listen");
            continue;
        }
        let begin = Instant::now();
        let stage = Arc::new(Stage::new(origins, doors));
        let sent = trials(cases, &stage, &ways, seed).await;
        let rows = judged(&sent, &stage.origins.ledger.by_trial(), false);
        report::summary(peer, &rows, seed, begin.elapsed());
        differences(peer, gate, &rows);
    }
}

async fn listens(address: SocketAddr) -> bool {
    for _ in 0..1_000 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn differences(peer: &str, gate: &[Row], rows: &[Row]) {
    let key = |row: &Row| (row.group, row.name.clone(), row.way);
    let ours: HashMap<_, _> = gate.iter().map(|row| (key(row), &row.verdict)).collect();
    for row in rows {
        let Some(own) = ours.get(&key(row)) else {
            continue;
        };
        let (what, why) = match (own, &row.verdict) {
            (Ok(()), Err(why)) => ("wrong where the gate is right", why),
            (Err(why), Ok(())) => ("right where the gate is wrong", why),
            (Ok(()), Ok(())) | (Err(_), Err(_)) => continue,
        };
        println!(
            "{peer} is {what}: {}: {} ({}): {why:.300}",
            row.group,
            row.name,
            name(row.way)
        );
    }
}

/// nginx with the least that makes it pass on what the gate does: limits as large, nothing gathered, connections kept.
fn start_nginx(folder: &Path, origins: &Origins, doors: [Door; 2]) -> Option<Child> {
    origins.authority.shown("gate", &["localhost"]);
    let (cert, key) = (origins.authority.path("gate.crt"), origins.authority.path("gate.key"));
    let server = |door: Door, upstream: &str, version: &str| {
        format!(
            "server {{ listen {}; listen {} ssl; http2 on; ssl_certificate {}; ssl_certificate_key {}; client_max_body_size 100m;\n\
             large_client_header_buffers 8 64k; lingering_close always; location / {{ proxy_pass http://{upstream}; proxy_http_version {version};\n\
             proxy_set_header Host $http_host; proxy_set_header Connection \"\"; proxy_request_buffering off; proxy_buffering off;\n\
             proxy_buffer_size 64k; proxy_busy_buffers_size 64k; proxy_buffers 8 64k; proxy_next_upstream off; }} }}\n",
            door.clear,
            door.tls,
            cert.display(),
            key.display()
        )
    };
    let upstream = |name: &str, address: SocketAddr| {
        format!("upstream {name} {{ server {address} max_fails=0; keepalive 32; }}\n")
    };
    let text = [
        upstream("one", origins.http1.address),
        upstream("two", origins.http2.address),
        server(doors[0], "one", "1.1"),
        server(doors[1], "two", "2"),
    ];
    nginx(folder, &text.concat())
}

/// HAProxy, which checks nothing.
fn start_haproxy(folder: &Path, origins: &Origins, doors: [Door; 2]) -> Option<Child> {
    origins.authority.shown("gate", &["localhost"]);
    let read = |name| std::fs::read_to_string(origins.authority.path(name)).ok();
    let pem = folder.join("gate.pem");
    std::fs::write(&pem, read("gate.crt")? + &read("gate.key")?).ok()?;
    let pair = |name: &str, door: Door, origin: SocketAddr, more: &str| {
        format!(
            "frontend f_{name}\n  bind {}\n  bind {} ssl crt {} alpn h2,http/1.1\n  default_backend {name}\n\
             backend {name}\n  server s {origin} {more}\n",
            door.clear,
            door.tls,
            pem.display()
        )
    };
    let text = format!(
        "global\n  nbthread 1\n  tune.bufsize 131072\n  tune.maxrewrite 16384\n\
         defaults\n  mode http\n  option http-no-delay\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n  retries 0\n{}{}",
        pair("one", doors[0], origins.http1.address, ""),
        pair("two", doors[1], origins.http2.address, "proto h2")
    );
    haproxy(folder, &text)
}
