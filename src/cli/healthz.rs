//! `healthz`: the /healthz service beside a Dify instance.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use http::Method;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use super::{Exit, block_on, refuse, say};
use crate::client::{self, ClientError};
use crate::config::healthz::{self, FromEnvironment};
use crate::config::{self, ConfigErrors};
use crate::healthz::{Service, Settings};
use crate::log;

/// What `difygate healthz` is given.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct HealthzArgs {
    #[command(subcommand)]
    command: Option<HealthzCommand>,
    /// Its configuration, see docs/healthz.md
    #[arg(short, long = "config", value_name = "FILE", required_unless_present = "from_env")]
    config: Option<PathBuf>,
    /// Read DB_HOST, REDIS_HOST, VECTOR_STORE and so on from the environment, as Dify itself does
    #[arg(long, conflicts_with = "config")]
    from_env: bool,
    /// Print the configuration that --from-env comes to, without its secrets, and end
    #[arg(long, requires = "from_env")]
    print: bool,
}

#[derive(clap::Subcommand, Debug)]
enum HealthzCommand {
    /// Say to the service of this instance that the instance is about to stop: /healthz is 503 from then on, and the gate sends nothing new
    Drain(DrainArgs),
}

#[derive(clap::Args, Debug)]
struct DrainArgs {
    /// Take it back
    #[arg(long)]
    undo: bool,
    /// Where the service listens; it heeds loopback alone
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901")]
    url: String,
    /// End only after so long, as a `preStop` wants it: the gate has noticed by then
    #[arg(long, value_name = "TIME", value_parser = config::duration, conflicts_with = "undo")]
    wait: Option<Duration>,
}

/// Tells the allocator that huge pages are not worth their room.
const NO_HUGE_PAGES: &str = "MIMALLOC_ALLOW_THP";

/// Spares 5 MiB where this command is asked for: the allocator wants huge pages, and would fill three of them with what a quarter of one holds. It
/// decides before the program begins, by the environment, so the program begins once more; its number as a process stays.
pub(super) fn spare_memory() {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let is_meant = words.first().is_some_and(|command| command == "healthz");
    if !is_meant || std::env::var_os(NO_HUGE_PAGES).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut again = Command::new(program);
        // It comes back only where it could not be done, and then the service takes a little more.
        let _ = again.arg0(name).args(words).env(NO_HUGE_PAGES, "0").exec();
    }
}

fn from_environment() -> Result<FromEnvironment, ConfigErrors> {
    healthz::of_environment(&|name| std::env::var(name).ok())
}

/// The settings, and what of Dify's environment nobody asks.
fn settings(config: Option<&Path>) -> Result<(Settings, Vec<String>), ConfigErrors> {
    let Some(path) = config else {
        let FromEnvironment { text, unasked } = from_environment()?;
        return Ok((
            healthz::parse(&text, Path::new("environment"), &config::environment)?,
            unasked,
        ));
    };
    Ok((healthz::load(path, &config::environment)?, Vec::new()))
}

fn print() -> anyhow::Result<Exit> {
    match from_environment() {
        Ok(FromEnvironment { text, unasked }) => {
            let remarks: String = unasked.iter().map(|why| format!("# {why}\n")).collect();
            say((remarks + &text).trim_end())
        }
        Err(errors) => refuse(&errors),
    }
}

/// Runs the service, or says to a running one that the instance is about to stop.
pub(super) fn healthz(args: &HealthzArgs) -> anyhow::Result<Exit> {
    match &args.command {
        Some(HealthzCommand::Drain(drain)) => drain.run(),
        None if args.print => print(),
        None => match settings(args.config.as_deref()) {
            Ok((settings, unasked)) => serve(settings, &unasked),
            Err(errors) => refuse(&errors),
        },
    }
}

/// Serves until a signal ends it; a second one ends it at once.
fn serve(settings: Settings, unasked: &[String]) -> anyhow::Result<Exit> {
    let _log = log::start(LevelFilter::INFO, log::Format::Json)?;
    for why in unasked {
        warn!(why, "not asked");
    }
    block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let checks = settings.checks.len();
        let service = Service::bind(settings).await?;
        info!(listen = %service.address()?, checks, version = env!("CARGO_PKG_VERSION"), "answering /healthz");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = service.serve(async move { drop(stopped.await) });
        let told_twice = async move {
            terminate.recv().await;
            drop(stop);
            terminate.recv().await;
        };
        tokio::select! {
            served = served => served?,
            () = told_twice => info!("told twice: ending at once"),
            _ = interrupt.recv() => {}
        }
        Ok(Exit::Done)
    })?
}

impl DrainArgs {
    fn run(&self) -> anyhow::Result<Exit> {
        let method = if self.undo { Method::DELETE } else { Method::POST };
        let asked = block_on(client::send(method, &self.url, "/drain", &[], Bytes::new()))?;
        let (status, body) = match asked {
            // What it would say is about gates.
            Err(ClientError::Connect { url, source }) => bail!("no /healthz service listens at {url}: {source}"),
            asked => asked?,
        };
        if !status.is_success() {
            bail!(
                "{} answered {status}: {}",
                self.url,
                String::from_utf8_lossy(&body).trim()
            );
        }
        if let Some(pause) = self.wait {
            block_on(async { tokio::time::sleep(pause).await })?;
        }
        Ok(Exit::Done)
    }
}
