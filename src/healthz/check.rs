//! One check: it asks once, and comes back at its deadline at the latest.

use std::error::Error;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::files::{Checksums, files};
use super::{Check, Kind};
use crate::clock::Clock;
use crate::gate::health::Outcome;
use crate::gate::names::Address;
use crate::probe::spec::ProbeSpec;
use crate::probe::{Kept, Prober};
use crate::tls::Authorities;

/// What one run of a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Why it failed, where it did. It holds no secret: drivers tell users and hosts, never passwords.
    pub(super) failure: Option<String>,
    /// How long it took.
    pub(super) took: Duration,
}

/// What checks share.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) clock: Clock,
    pub(super) authorities: Arc<Authorities>,
    pub(super) checksums: Arc<Checksums>,
}

impl Check {
    /// Asks.
    pub(super) async fn run(&self, tools: &Tools) -> Finding {
        let start = tools.clock.now();
        let asked = timeout(self.timeout, self.ask(tools)).await;
        let took = tools.clock.now() - start;
        let failure = match (asked, self.slow) {
            (Err(_), _) => Some(format!("no answer within {:?}", self.timeout)),
            (Ok(Err(why)), _) => Some(why),
            (Ok(Ok(())), Some(slow)) if took > slow => Some(format!("it took {took:.1?}, longer than {slow:?}")),
            (Ok(Ok(())), _) => None,
        };
        Finding { failure, took }
    }

    async fn ask(&self, tools: &Tools) -> Result<(), String> {
        match &self.kind {
            Kind::Postgres(postgres) => postgres.ask(tools).await,
            Kind::Mysql(mysql) => mysql.ask().await,
            Kind::Redis(redis) => redis.ask(tools).await,
            Kind::Http { address, spec } => http(address, spec, tools).await,
            Kind::Tcp(address) => tcp(address).await.map_err(|e| e.to_string()),
            Kind::Files(needed) => files(needed, tools).await,
            Kind::Exec(words) => exec(words).await,
        }
    }
}

/// What an error says, with what is behind it.
pub(super) fn told(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}

async fn http(address: &Address, spec: &ProbeSpec, tools: &Tools) -> Result<(), String> {
    let prober = Prober::new(tools.clock, tools.authorities.clone());
    let report = prober.probe(address, spec, &Kept::default()).await;
    match report.outcome {
        Outcome::Pass | Outcome::Absent { .. } => Ok(()),
        Outcome::Fail { detail, .. } | Outcome::Misconfigured { detail } | Outcome::Leaving { detail } => Err(detail),
        Outcome::Sheds { .. } => Err("it answered 429: it has too much to do".to_owned()),
        Outcome::Unknown { detail } => Err(detail),
    }
}

async fn tcp(address: &Address) -> std::io::Result<()> {
    TcpStream::connect((address.host(), address.port())).await.map(drop)
}

/// What it prints is its own affair, and may hold secrets; its exit code decides.
async fn exec(words: &[String]) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else {
        return Err("the command is empty".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command
        .status()
        .await
        .map_err(|e| format!("`{program}` cannot be run: {e}"))?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("`{program}` ended with {status}"))
}
