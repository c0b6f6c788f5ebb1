//! `healthz`: the /healthz service beside a Dify instance.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{Exit, block_on, refuse, run, say};
use crate::config::{self, ConfigErrors, LogFormat, LogSettings, healthz};
use crate::healthz::{Service, Settings};

/// What `difygate healthz` is given.
#[derive(clap::Args, Debug)]
pub(super) struct HealthzArgs {
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

fn environment_text() -> Result<String, ConfigErrors> {
    healthz::of_environment(&|name| std::env::var(name).ok())
}

fn settings(config: Option<&Path>) -> Result<Settings, ConfigErrors> {
    match config {
        Some(path) => healthz::load(path, &config::environment),
        None => healthz::parse(&environment_text()?, Path::new("environment"), &config::environment),
    }
}

/// Serves until a signal ends it.
pub(super) fn healthz(args: &HealthzArgs) -> anyhow::Result<Exit> {
    if args.print {
        return match environment_text() {
            Ok(text) => say(text.trim_end()),
            Err(errors) => refuse(&errors),
        };
    }
    let settings = match settings(args.config.as_deref()) {
        Ok(settings) => settings,
        Err(errors) => return refuse(&errors),
    };
    run::start_log(&LogSettings {
        level: tracing::level_filters::LevelFilter::INFO,
        format: LogFormat::Json,
        access: config::AccessSink::Off,
        sample: 0.0,
    });
    block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let checks = settings.checks.len();
        let service = Service::bind(settings).await?;
        info!(listen = %service.address()?, checks, version = env!("CARGO_PKG_VERSION"), "answering /healthz");
        let served = service.serve(async move {
            terminate.recv().await;
        });
        tokio::select! {
            served = served => served?,
            _ = interrupt.recv() => {}
        }
        Ok(Exit::Done)
    })?
}
