//! Socket.IO, by which Dify's editors work together: its sessions live in one process, so polling needs the same endpoint every time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::origins;

/// Longer than all that is said here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own process.
struct Server {
    address: SocketAddr,
    _process: Child,
}

impl Server {
    async fn start(name: &str) -> Self {
        let mut command = node("socket_io_server.mjs");
        let mut process = command.arg(name).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        out.read_line(&mut port).await.unwrap();
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap())),
            _process: process,
        }
    }
}

/// A server, for as long as what comes first is kept, and its address.
pub(crate) async fn server() -> (impl Sized, SocketAddr) {
    let server = Server::start("one").await;
    let address = server.address;
    (server, address)
}

fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(origins::script(script)).arg(origins::installed("node"));
    command.stdin(Stdio::null()).env("NO_PROXY", "*").kill_on_drop(true);
    command
}

/// What a client with these transports hears through a gate that balances so.
async fn talk(balance: &str, transports: &[&str]) -> Value {
    let servers = [
        Server::start("one").await,
        Server::start("two").await,
        Server::start("three").await,
    ];
    let upstream = format!("probe: {{path: /}}, balance: {balance}");
    let gate = origins::gate(&servers.each_ref().map(|server| server.address), &upstream, "");
    let mut progress = gate.handle().progress.clone();
    progress.wait_for(|progress| progress.asked_everyone).await.unwrap();
    let mut client = node("socket_io_client.mjs");
    client.arg(format!("http://{}", gate.listeners()[0])).args(transports);
    let output = timeout(PATIENCE, client.output()).await;
    let output = output.expect("a client that ends within a minute").unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_stays_with_one_endpoint_by_affinity_and_may_become_a_websocket() {
    for (transports, last) in [
        (&["polling"][..], "polling"),
        (&["websocket"], "websocket"),
        (&["polling", "websocket"], "websocket"),
    ] {
        let told = talk("{hash: client}", transports).await;
        assert_eq!(told["error"], Value::Null, "{told}");
        let answers = told["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 20, "{told}");
        let names: BTreeSet<&str> = answers.iter().map(|answer| answer["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 1, "{told}");
        assert_eq!(answers[19]["transport"], last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_affinity_polling_meets_servers_that_do_not_know_it() {
    let told = talk("round_robin", &["polling"]).await;
    assert_ne!(told["error"], Value::Null, "the test above can fail: {told}");
}
