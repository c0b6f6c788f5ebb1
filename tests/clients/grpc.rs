//! gRPC, by Google's own client and server: every kind of call, through a listener within TLS and through one in the clear.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::origins;

/// Longer than all that is said here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn python(script: &str) -> Command {
    let mut command = Command::new(origins::installed("bin/python"));
    command.arg(origins::script(script)).stdin(Stdio::null());
    command
        .env("no_proxy", "*")
        .env("GRPC_VERBOSITY", "NONE")
        .kill_on_drop(true);
    command
}

/// A server of its own process, and the port at which it is asked how it is.
async fn server(name: &str) -> (SocketAddr, u16, Child) {
    let mut process = python("grpc_server.py")
        .arg(name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ports = String::new();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    out.read_line(&mut ports).await.unwrap();
    let mut ports = ports.split_whitespace().map(|port| port.parse().unwrap());
    let service = SocketAddr::from(([127, 0, 0, 1], ports.next().unwrap()));
    (service, ports.next().unwrap(), process)
}

async fn calls(arguments: &[String]) -> Value {
    let output = timeout(PATIENCE, python("grpc_client.py").args(arguments).output()).await;
    let output = output.expect("a client that ends within a minute").unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_call_comes_through_within_tls_and_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, cert) = origins::certificate(folder.path(), "dify.example.com");
    let (service, health, _process) = server("one").await;
    let listeners = format!(
        "listeners: [{{address: \"127.0.0.1:8443\", tls: {tls}}}, {{address: \"127.0.0.1:8080\", http2: cleartext}}]"
    );
    let upstream = format!("http2: true, probe: {{path: /, port: {health}}}");
    let gate = origins::gate(&[service], &upstream, &listeners);
    let mut progress = gate.handle().progress.clone();
    progress.wait_for(|progress| progress.asked_everyone).await.unwrap();
    let addresses = [gate.listeners()[0].to_string(), gate.listeners()[1].to_string()];
    for arguments in [
        &[service.to_string()][..],
        &[addresses[0].clone(), cert.display().to_string()],
        &[addresses[1].clone()],
    ] {
        let told = calls(arguments).await;
        let expected = json!({
            "once": "one hello",
            "large": 3_000_004,
            "count": ["one 0", "one 1", "one 2", "one 3", "one 4"],
            "gather": "one 2000000",
            "talk": ["one word 0", "one word 1", "one word 2", "one word 3", "one word 4"],
            "fail": ["FAILED_PRECONDITION", "as it was asked to: 50 % of übel", "asked-to"],
            "unknown": ["UNIMPLEMENTED", "Method not found!", null],
            "many": 200,
        });
        assert_eq!(told, expected, "{arguments:?}");
    }
}
