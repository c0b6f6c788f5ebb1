//! The command line. Results go to standard output, everything else to standard error; the exit code tells a script what happened.

mod cutover;
mod following;
mod healthz;
mod live;
mod render;
mod report;
mod run;
mod single;
mod switch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::admin::overrides::Put;
use crate::config::ConfigErrors;
use crate::gate::overrides::Wish;

/// Exit codes, as the manual lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed, or what was asked about is unhealthy.
    Failed = 1,
    /// A gate did not pass, and nothing has moved.
    Gate = 3,
    /// Everything went back to the old pool.
    RolledBack = 4,
    /// Something else is under way, or was meanwhile.
    Conflict = 5,
    /// The time was over, or nothing was shown either way.
    Inconclusive = 6,
    /// Done, but requests were cut.
    Cut = 8,
}

/// A health gatekeeper in front of Dify: probes every instance, sends traffic only to those fit to serve.
#[derive(Debug, Parser)]
#[command(name = "difygate", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed or unhealthy, 2 usage, 3 a gate failed and nothing moved, 4 rolled back, 5 conflict, \
    6 timeout or inconclusive, 8 done but requests were cut.\n\
    First steps: `difygate demo` shows the gate at work; `difygate run -c FILE` serves.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// Take over from the gate that runs, by its `server.upgrade_socket`: its listeners, verdicts and overrides; it ends with its last stream.
        /// Where none runs, start as usual
        #[arg(long)]
        upgrade: bool,
    },
    /// Validate a configuration: every error, with file:line:column and the key's path
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show what the running gate would change if it loaded this file
    Diff {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        loading: LoadingArgs,
    },
    /// Make the running gate load its file again, and show what changed; streams, verdicts and overrides stay
    Reload {
        #[command(flatten)]
        loading: LoadingArgs,
    },
    /// Show upstreams, pools and endpoints, and why each is in its state; exit 1 if an upstream has nothing fit to serve
    Status {
        #[command(flatten)]
        admin: AdminUrl,
        /// Print what the admin API says
        #[arg(long, conflicts_with = "watch")]
        json: bool,
        /// Show it again every second
        #[arg(long)]
        watch: bool,
    },
    /// Show an endpoint's last probes, and what must happen for its state to change
    Explain {
        /// The endpoint's address, host:port
        endpoint: String,
        #[command(flatten)]
        admin: AdminUrl,
        /// Print what the admin API says
        #[arg(long)]
        json: bool,
    },
    /// Drain an endpoint, put it in maintenance, or enable it again
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Move users from one pool to another, step by step
    #[command(subcommand)]
    Cutover(cutover::CutoverCommand),
    /// Move users to another pool in one go: start, verify, flip, watch; for release pipelines
    Switch(switch::SwitchArgs),
    /// Let requests wait, answer that the service is in maintenance, or let them go on
    #[command(subcommand)]
    Traffic(cutover::TrafficCommand),
    /// Send one probe to a URL and say what the gate would make of the answer, and why
    Probe(single::ProbeArgs),
    /// Answer /healthz beside a Dify instance: ask its database, cache and whatever else it needs, and say what is broken
    Healthz(healthz::HealthzArgs),
    /// Run the gate before three simulated Dify instances and tell a story of faults
    Demo {
        /// End after the story: exit 0 only if nothing failed that should not have
        #[arg(long)]
        once: bool,
        /// Print the outcome as data
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema {
        /// That of `difygate healthz`
        #[arg(long)]
        healthz: bool,
    },
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Subcommand)]
enum EndpointCommand {
    /// No new request goes there; what it serves goes on, and it is still probed
    Drain(WishArgs),
    /// No new request goes there and it is not probed; afterwards it must pass a probe anew
    Maintain(WishArgs),
    /// Take `drain` or `maintain` back
    Enable(OverrideArgs),
}

#[derive(clap::Args, Debug)]
struct WishArgs {
    #[command(flatten)]
    to: OverrideArgs,
    /// When it ends by itself, such as 30m; default: when it is enabled again
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    lasts: Option<String>,
    /// Why, for the others who look
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Leaves a time as it is written, if it is one.
fn time(text: &str) -> Result<String, String> {
    crate::config::duration(text).map(|_| text.to_owned())
}

#[derive(clap::Args, Debug)]
struct OverrideArgs {
    /// The endpoint's address, host:port
    endpoint: String,
    /// Only where it serves this upstream; default: every one
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only in this pool; default: every one
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only tell what would happen
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminUrl,
    /// Print what the admin API says
    #[arg(long)]
    json: bool,
}

impl EndpointCommand {
    fn run(self) -> anyhow::Result<Exit> {
        let (args, wish) = match self {
            Self::Drain(args) => (args, Wish::Drain),
            Self::Maintain(args) => (args, Wish::Maintain),
            Self::Enable(args) => return live::endpoint(&args, None),
        };
        let put = Put {
            state: wish.to_string(),
            reason: args.reason,
            lasts: args.lasts,
        };
        live::endpoint(&args.to, Some(put))
    }
}

#[derive(clap::Args, Debug)]
struct ConfigFile {
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", env = "DIFYGATE_CONFIG")]
    path: PathBuf,
}

#[derive(clap::Args, Debug)]
struct LoadingArgs {
    #[command(flatten)]
    admin: AdminUrl,
    /// Print what the admin API says
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct AdminUrl {
    /// The gate's admin API
    #[arg(
        long = "admin",
        value_name = "URL",
        env = "DIFYGATE_ADMIN",
        default_value = "http://127.0.0.1:9900"
    )]
    url: String,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    healthz::spare_memory();
    let cli = Cli::parse();
    let exit = dispatch(cli.command).unwrap_or_else(|e| {
        complain_briefly(format!("difygate: {e:#}"));
        Exit::Failed
    });
    ExitCode::from(exit as u8)
}

fn dispatch(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run { config, upgrade } => run::run(&config.path, upgrade),
        Command::Check { config } => run::check(&config.path),
        Command::Diff { config, loading } => live::diff(&config.path, &loading),
        Command::Reload { loading } => live::reload(&loading),
        Command::Status { admin, json, watch } => live::status(&admin.url, json, watch),
        Command::Explain { endpoint, admin, json } => live::explain(&admin.url, &endpoint, json),
        Command::Endpoint(command) => command.run(),
        Command::Cutover(command) => command.run(),
        Command::Switch(args) => args.run(),
        Command::Traffic(command) => command.run(),
        Command::Probe(args) => single::probe(&args),
        Command::Healthz(args) => healthz::healthz(&args),
        Command::Demo { once, json } => run::demo(once, json),
        Command::Schema { healthz } => {
            let schema = if healthz {
                crate::config::healthz::schema()
            } else {
                crate::config::schema()
            };
            say(&serde_json::to_string_pretty(&schema)?)
        }
        Command::Completions { shell } => completions(shell),
        Command::Man => manual(),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "difygate", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

fn manual() -> anyhow::Result<Exit> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    say(String::from_utf8_lossy(&page).trim_end())
}

/// Prints a result. A reader that has gone (`| head`) is no error.
fn say(text: &str) -> anyhow::Result<Exit> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        Ok(()) | Err(_) => Ok(Exit::Done),
    }
}

/// Prints what is not a result. With nowhere to print it there is nothing left to do.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints why a command failed, and gives up after a second: a process that ends must not wait for somebody to read standard error.
fn complain_briefly(text: String) {
    let (printed, done) = sync_channel(1);
    let printing = std::thread::Builder::new().spawn(move || {
        complain(&text);
        // Nobody waits any more after a second.
        let _ = printed.send(());
    });
    if printing.is_ok() {
        let _ = done.recv_timeout(Duration::from_secs(1));
    }
}

/// Tells everything that is wrong with a configuration.
fn refuse(errors: &ConfigErrors) -> anyhow::Result<Exit> {
    complain(&errors.to_string());
    Ok(Exit::Failed)
}

/// A runtime for a command that asks something over the network.
fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    runtime.shutdown_timeout(Duration::ZERO);
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
