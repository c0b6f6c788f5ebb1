//! Dify's own client packages, from PyPI and npm, talk through the gate as they talk to Dify.

use std::collections::BTreeSet;
use std::path::Path;

use difygate::server::Gate;
use difygate::simulated_dify::{Cluster, Health, SimulatedDify};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::origins;

/// Takes turns, so that few calls reach every instance.
const TURNS: &str = "balance: round_robin";

/// A call starts a run on one of these paths, exactly once.
const RUNS: [&str; 4] = [
    "chat blocking",
    "chat streaming",
    "completion blocking",
    "completion streaming",
];

struct World {
    difys: [SimulatedDify; 2],
    gate: Gate,
}

impl World {
    /// Two instances behind a gate, the second healthy or not from the start.
    async fn new(second: Health) -> Self {
        let cluster = Cluster::new();
        let start = async |name| SimulatedDify::start(&cluster, name).await.unwrap();
        let difys = [start("dify-1").await, start("dify-2").await];
        difys[1].set(|switches| switches.health = second);
        let gate = origins::gate(&[difys[0].address(), difys[1].address()], TURNS, "");
        let mut progress = gate.handle().progress.clone();
        progress.wait_for(|progress| progress.asked_everyone).await.unwrap();
        Self { difys, gate }
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.gate.listeners()[0])
    }

    fn executed(&self) -> [u64; 2] {
        [self.difys[0].tally().executed(), self.difys[1].tally().executed()]
    }

    /// The calls of the Python package.
    async fn python(&self) -> Vec<Value> {
        let mut command = Command::new(origins::installed("bin/python"));
        command.arg(origins::script("dify_client_calls.py")).arg(self.url());
        calls(command).await
    }

    /// The calls of the npm package.
    async fn node(&self) -> Vec<Value> {
        let packages = origins::installed("node/node_modules");
        let mut command = Command::new("node");
        command
            .arg(origins::script("dify_client_calls.mjs"))
            .arg(self.url())
            .arg::<&Path>(&packages);
        calls(command).await
    }
}

async fn calls(mut command: Command) -> Vec<Value> {
    let output = command.env("NO_PROXY", "*").kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks that every call succeeded with the whole answer, and returns the instances that answered.
fn instances(calls: &[Value]) -> BTreeSet<&str> {
    for call in calls {
        let name = call["call"].as_str().unwrap();
        let status = if name == "upload" { 201 } else { 200 };
        assert_eq!(call["status"], status, "{call}");
        if RUNS.contains(&name) {
            assert_eq!(call["answer"], "part 0 part 1 part 2 ", "{call}");
        }
    }
    let streamed = calls.iter().find(|call| call["call"] == "chat streaming").unwrap();
    let events = json!([
        "workflow_started",
        "message",
        "message",
        "message",
        "message_end",
        "workflow_finished"
    ]);
    assert_eq!(streamed["events"], events);
    calls.iter().map(|call| call["instance"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_talks_through_the_gate() {
    let world = World::new(Health::Passing).await;
    let calls = world.python().await;
    assert_eq!(calls.len(), 7);
    assert_eq!(instances(&calls), BTreeSet::from(["dify-1", "dify-2"]));
    assert_eq!(world.executed().iter().sum::<u64>(), 4, "each run was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_talks_through_the_gate() {
    let world = World::new(Health::Passing).await;
    let calls = world.node().await;
    assert_eq!(calls.len(), 6);
    assert_eq!(instances(&calls), BTreeSet::from(["dify-1", "dify-2"]));
    assert_eq!(world.executed().iter().sum::<u64>(), 4, "each run was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_an_instance_that_is_unfit() {
    let world = World::new(Health::failing(["database"])).await;
    for calls in [world.python().await, world.node().await] {
        assert_eq!(instances(&calls), BTreeSet::from(["dify-1"]));
    }
    assert_eq!(world.executed(), [8, 0]);
}
