//! One check: it asks once, and comes back at its deadline at the latest.

use std::error::Error;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Check, Kind, Needed};
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
            Kind::Postgres(config) => postgres(config).await.map_err(|e| told(&e)),
            Kind::Redis { client, write } => redis(client, *write).await,
            Kind::Http { address, spec } => http(address, spec, tools).await,
            Kind::Tcp(address) => tcp(address).await.map_err(|e| e.to_string()),
            Kind::Files(needed) => files(needed.clone()).await,
            Kind::Exec(words) => exec(words).await,
        }
    }
}

/// What an error says, with what is behind it.
fn told(e: &dyn Error) -> String {
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

/// A new connection each time: one that is kept would not notice that no further one can be had.
async fn postgres(config: &tokio_postgres::Config) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    // It ends with the client.
    let driven = tokio::spawn(connection);
    let asked = client.simple_query("SELECT 1").await;
    drop(client);
    if asked.is_ok() {
        // The server is told that this was all, and need not find out.
        drop(driven.await);
    }
    asked.map(drop)
}

async fn redis(client: &redis::Client, write: bool) -> Result<(), String> {
    const KEY: &str = "difygate:healthz";
    let failed = |e: redis::RedisError| e.to_string();
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    redis::cmd("PING")
        .query_async::<()>(&mut connection)
        .await
        .map_err(failed)?;
    if write {
        let value = fastrand::u64(..).to_string();
        // It goes by itself, should nobody ask again.
        let set = redis::cmd("SET").arg(KEY).arg(&value).arg("EX").arg(60).to_owned();
        set.query_async::<()>(&mut connection).await.map_err(failed)?;
        let read: Option<String> = redis::cmd("GET")
            .arg(KEY)
            .query_async(&mut connection)
            .await
            .map_err(failed)?;
        // Another instance may have written its own meanwhile.
        read.ok_or("what was written is not there")?;
    }
    Ok(())
}

async fn http(address: &Address, spec: &ProbeSpec, tools: &Tools) -> Result<(), String> {
    let prober = Prober::new(tools.clock, tools.authorities.clone());
    let report = prober.probe(address, spec, &Kept::default()).await;
    match report.outcome {
        Outcome::Pass => Ok(()),
        Outcome::Fail { detail, .. } | Outcome::Misconfigured { detail } | Outcome::Leaving { detail } => Err(detail),
        Outcome::Sheds { .. } => Err("it answered 429: it has too much to do".to_owned()),
        Outcome::Unknown { detail } => Err(detail),
    }
}

async fn tcp(address: &Address) -> std::io::Result<()> {
    TcpStream::connect((address.host(), address.port())).await.map(drop)
}

/// A disk that hangs holds a thread of its own, and not the answer.
async fn files(needed: Vec<Needed>) -> Result<(), String> {
    let looked = tokio::task::spawn_blocking(move || {
        for Needed { path, min_size } in &needed {
            let found = std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
            if found.len() < *min_size {
                return Err(format!(
                    "{}: {} bytes, fewer than {min_size}",
                    path.display(),
                    found.len()
                ));
            }
        }
        Ok(())
    });
    looked.await.map_err(|e| e.to_string())?
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
