//! `run`, `check` and `demo`: the commands that read a configuration or build a gate.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{Exit, block_on, complain, refuse, say};
use crate::config::{self, Config};
use crate::edge::{self, tls::Terminator};
use crate::log;
use crate::reload::Wanted;
use crate::server::{Gate, Stopped};
use crate::tls::Authorities;
use crate::upgrade::Predecessor;

/// The option that makes a new process take over.
const UPGRADE: &str = "--upgrade";

/// Validates a configuration.
pub(super) fn check(path: &Path) -> anyhow::Result<Exit> {
    let text = match config::read_file(path) {
        Ok(text) => text,
        Err(errors) => return refuse(&errors),
    };
    if config::healthz::is_meant(&text) {
        return match config::healthz::inspect(&text, path, &config::environment) {
            Ok(settings) => {
                warn_of(path, config::healthz::concerns(&settings));
                say(&format!("{}: valid; {} checks", path.display(), settings.checks.len()))
            }
            Err(errors) => refuse(&errors),
        };
    }
    match config::parse(&text, path, &config::environment) {
        Ok(config) => match certificates(path, &config) {
            wrong if wrong.is_empty() => {
                warn_of(path, concerns(&config));
                say(&summary(path, &config))
            }
            wrong => {
                complain(&wrong.join("\n"));
                Ok(Exit::Failed)
            }
        },
        Err(errors) => refuse(&errors),
    }
}

/// What is wrong with the files that TLS needs.
fn certificates(path: &Path, config: &Config) -> Vec<String> {
    let listeners = config.listeners.iter().enumerate();
    let checked = listeners.filter_map(|(index, listener)| {
        let wrong = Terminator::new(listener.tls.clone()?, listener.http2).err()?;
        Some(format!("{}: listeners[{index}].tls: {wrong}", path.display()))
    });
    let trusted = config.trust(&Authorities::default()).err();
    let trusted = trusted.map(|wrong| format!("{}: {wrong}", path.display()));
    checked.chain(trusted).collect()
}

/// What is to be said of certificates that can be used, with the key of each.
fn concerns(config: &Config) -> Vec<(String, String)> {
    let listeners = config.listeners.iter().enumerate();
    let shown = listeners.filter_map(|(index, listener)| Some((index, listener.tls.as_ref()?)));
    let shown = shown.flat_map(|(listener, tls)| {
        let each = edge::tls::concerns(tls).into_iter();
        each.map(move |(key, concern)| (format!("listeners[{listener}].tls.{key}"), concern))
    });
    shown.chain(config.concerns()).collect()
}

/// Tells what is no error and may become one.
fn warn_of(path: &Path, concerns: Vec<(String, String)>) {
    for (key, concern) in concerns {
        complain(&format!("{}: warning: {key}: {concern}", path.display()));
    }
}

fn summary(path: &Path, config: &Config) -> String {
    let endpoints = config
        .upstreams
        .iter()
        .flat_map(|upstream| &upstream.pools)
        .map(|pool| pool.endpoints.len());
    format!(
        "{}: valid; {} listeners, {} upstreams, {} endpoints, {} routes",
        path.display(),
        config.listeners.len(),
        config.upstreams.len(),
        endpoints.sum::<usize>(),
        config.routes.len()
    )
}

/// Serves until a signal ends it, or another process takes over.
pub(super) fn run(path: &Path, upgrade: bool) -> anyhow::Result<Exit> {
    let config = match config::load(path, &config::environment) {
        Ok(config) => config,
        Err(errors) => return refuse(&errors),
    };
    // Kept to the end: its last lines are written when it is dropped.
    let _log = log::start(config.log.level, config.log.format)?;
    block_on(async {
        // Before there is anything to reload or to drain: a signal that nobody handles yet would kill the process.
        let signals = Signals::listen()?;
        let predecessor = if upgrade { predecessor(&config).await? } else { None };
        let gate = Gate::start_after(config, predecessor)?;
        for listener in gate.listeners() {
            info!(%listener, version = env!("CARGO_PKG_VERSION"), "listening");
        }
        info!(admin = %gate.admin(), "status, metrics and probes of the gate itself");
        tokio::spawn(tell_manager(gate.opened()));
        Ok(until_stopped(&gate, signals).await)
    })?
}

/// The gate that runs, to take over from.
async fn predecessor(config: &Config) -> anyhow::Result<Option<Predecessor>> {
    let Some(socket) = &config.server.upgrade_socket else {
        anyhow::bail!(
            "nothing says where to ask the gate that runs: set `server.upgrade_socket` in both configurations"
        );
    };
    let found = Predecessor::find(socket).await;
    let found =
        found.with_context(|| format!("cannot take over from the gate that answers at {}", socket.display()))?;
    if found.is_none() {
        warn!(socket = %socket.display(), "no gate runs to take over from: starting as usual");
    }
    Ok(found)
}

/// The signals that the gate heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
            hangup: signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?,
            upgrade: signal(SignalKind::user_defined2()).context("cannot listen for SIGUSR2")?,
        })
    }
}

/// SIGHUP loads the configuration again; SIGUSR2 starts the program anew, to take over; SIGTERM drains; SIGINT, and a second signal of either kind,
/// end the process at once.
async fn until_stopped(gate: &Gate, signals: Signals) -> Exit {
    let Signals {
        mut terminate,
        mut interrupt,
        mut hangup,
        mut upgrade,
    } = signals;
    let replaced = loop {
        tokio::select! {
            _ = terminate.recv() => break false,
            () = gate.handed_over() => break true,
            _ = interrupt.recv() => return Exit::Done,
            _ = hangup.recv() => {
                // What comes of it stands in the log, and a stop does not wait for it.
                let loader = gate.loader().clone();
                tokio::spawn(async move { loader.ask(Wanted::Reload).await });
            }
            _ = upgrade.recv() => drop(tokio::spawn(successor())),
        }
    };
    let ending = async {
        if replaced {
            gate.make_way().await
        } else {
            gate.stop().await
        }
    };
    let stopped = tokio::select! {
        stopped = ending => stopped,
        _ = terminate.recv() => Stopped::Cut(gate.in_flight()),
        _ = interrupt.recv() => Stopped::Cut(gate.in_flight()),
    };
    match stopped {
        Stopped::Drained | Stopped::Cut(0) => Exit::Done,
        Stopped::Cut(_) => Exit::Cut,
    }
}

/// Starts the program anew, as it was started, to take over from this process. It is the file that is there by now, not the one that runs.
async fn successor() {
    let words: Vec<OsString> = std::env::args_os().filter(|word| word != UPGRADE).collect();
    let Some((program, words)) = words.split_first() else {
        return;
    };
    let mut command = Command::new(program);
    let started = command.args(words).arg(UPGRADE).stdin(Stdio::null()).spawn();
    match started {
        Ok(mut child) => {
            info!(pid = child.id(), program = %program.display(), "started the program anew, to take over");
            match child.wait().await {
                Ok(ended) => warn!(%ended, "the program that was started anew has ended"),
                Err(e) => warn!(error = %e, "nobody knows what became of the program that was started anew"),
            }
        }
        Err(e) => error!(error = %e, program = %program.display(), "the program cannot be started anew"),
    }
}

/// Tells the service manager that clients are let in, and by which process (sd_notify(3)).
async fn tell_manager(opened: impl Future<Output = ()>) {
    opened.await;
    let told = sd_notify::notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
    if let Err(e) = told {
        warn!(error = %e, "the service manager could not be told that the gate serves");
    }
}

/// Runs the demo.
pub(super) fn demo(once: bool, json: bool) -> anyhow::Result<Exit> {
    let good = crate::demo::run(once, json)?;
    Ok(if good { Exit::Done } else { Exit::Failed })
}
