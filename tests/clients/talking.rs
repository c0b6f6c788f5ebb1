//! A real client that runs beside a test, and tells line by line what happens to it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::origins;

/// Longer than any client waits before it comes again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client.
pub(crate) struct Talking {
    name: String,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
    _process: Child,
}

impl Talking {
    /// A client of `ending_clients.py`.
    pub(crate) fn python(arguments: &[&str]) -> Self {
        let mut command = Command::new(origins::installed("bin/python"));
        command.arg(origins::script("ending_clients.py")).args(arguments);
        Self::start(arguments[0], command)
    }

    /// A client of `ending_clients.mjs`.
    pub(crate) fn node(arguments: &[&str]) -> Self {
        let mut command = Command::new("node");
        command.arg(origins::script("ending_clients.mjs"));
        command.arg(origins::installed("node")).args(arguments);
        Self::start(arguments[0], command)
    }

    fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("NO_PROXY", "*").env("no_proxy", "*").kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        Self {
            name: name.to_owned(),
            lines: BufReader::new(process.stdout.take().unwrap()).lines(),
            input: process.stdin.take().unwrap(),
            _process: process,
        }
    }

    /// Gives it a line.
    pub(crate) async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next thing that happens to it.
    pub(crate) async fn next(&mut self) -> Value {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} tells nothing more", self.name));
        let line = line.unwrap().unwrap_or_else(|| panic!("{} has ended", self.name));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// The next thing, which must be this.
    pub(crate) async fn tells(&mut self, event: &str) -> Value {
        let told = self.next().await;
        assert_eq!(told["event"], event, "{}: {told}", self.name);
        told
    }
}
