//! The commands that move users: `cutover`, `switch` and `traffic`.

use std::time::Duration;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};

use super::following::{self, Followed, Goal};
use super::{AdminUrl, Exit, block_on, complain, live, report, say, time};
use crate::admin::cutovers::{CutoverView, OrderView};
use crate::admin::inflight::InFlightView;
use crate::admin::terms::{StepTerms, Terms};
use crate::client;

/// `difygate cutover ...`.
#[derive(Debug, Subcommand)]
pub(super) enum CutoverCommand {
    /// Begin: verify the new pool, and wait there to be promoted, unless it is to go on by itself
    Start(StartArgs),
    /// Go on without waiting for the clock; once it is committed, let the old pool go
    Promote(VerbArgs),
    /// Stay where it is; reasons to go back still count
    Pause(VerbArgs),
    /// Go on with the clocks
    Resume(VerbArgs),
    /// Give up: before anything moved it fails, afterwards everything goes back
    Abort(VerbArgs),
    /// Give everything back to the old pool
    Rollback(RollbackArgs),
    /// Show where a cutover stands, what its gates say, and who is left in the old pool
    Status(StatusArgs),
    /// List who is left in each pool: since when, from where, and which task
    Inflight(InflightArgs),
    /// Print what happened, as Markdown or JSON, for the pipeline's artifacts
    Report(ReportArgs),
}

/// What every verb takes.
#[derive(clap::Args, Debug)]
pub(super) struct VerbArgs {
    /// The deployment, or the upstream that moves alone
    pub(super) name: String,
    /// Why, for the others who look
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Who; default: the pipeline's or the system's user
    #[arg(long, value_name = "NAME", env = "DIFYGATE_ACTOR")]
    by: Option<String>,
    /// Only if the epoch is still this one
    #[arg(long, value_name = "EPOCH")]
    if_epoch: Option<u64>,
    /// The same key again is answered and not carried out again
    #[arg(long, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// Only tell what would happen
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) admin: AdminUrl,
    /// Print what the admin API says
    #[arg(long)]
    pub(super) json: bool,
}

/// How a cutover goes; what is left out is as the configuration says.
#[derive(clap::Args, Debug)]
pub(super) struct PlanArgs {
    /// The pool to move to
    #[arg(long, value_name = "POOL")]
    pub(super) to: String,
    /// The version that every endpoint must name, in its probe's body or in X-Version
    #[arg(long, value_name = "VERSION")]
    pub(super) expect_version: Option<String>,
    /// Shares on the way and how long each, such as 10%:60s,50%:5m
    #[arg(long, value_name = "STEPS", value_delimiter = ',', value_parser = step)]
    steps: Option<Vec<StepTerms>>,
    /// How long the new pool is watched with all of the traffic
    #[arg(long, value_name = "TIME", value_parser = time)]
    bake: Option<String>,
    /// How long the old pool stays ready afterwards
    #[arg(long, value_name = "TIME", value_parser = time)]
    hold: Option<String>,
    /// How long what the old pool still serves may go on
    #[arg(long, value_name = "TIME", value_parser = time)]
    drain: Option<String>,
    /// Never cut what the old pool still serves
    #[arg(long)]
    no_cut: bool,
    /// Fewer requests than this judge nobody
    #[arg(long, value_name = "COUNT")]
    min_samples: Option<u64>,
    /// `barrier`: the old version cannot live with what the new one writes
    #[arg(long, value_enum)]
    migration: Option<Migration>,
    /// Give up a cutover that is under way, where nothing is lost by that
    #[arg(long)]
    supersede: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Migration {
    Compatible,
    Barrier,
}

#[derive(clap::Args, Debug)]
pub(super) struct StartArgs {
    #[command(flatten)]
    verb: VerbArgs,
    #[command(flatten)]
    plan: PlanArgs,
    /// Go on by itself once every gate passes
    #[arg(long)]
    auto: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    verb: VerbArgs,
    /// Also where that may do harm: over a migration barrier, or to a pool of which nobody is fit
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct WaitArgs {
    /// Return once it has come so far, and show the way on standard error
    #[arg(long, value_enum, value_name = "PHASE")]
    pub(super) wait: Option<Goal>,
    /// Wait for so long at the most; the cutover goes on by itself
    #[arg(long, value_name = "TIME", value_parser = patience, default_value = "45m")]
    pub(super) timeout: Duration,
}

#[derive(clap::Args, Debug)]
pub(super) struct StatusArgs {
    /// The deployment, or the upstream that moves alone; default: all of them
    name: Option<String>,
    #[command(flatten)]
    admin: AdminUrl,
    /// Print what the admin API says
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct InflightArgs {
    #[command(flatten)]
    of: ReportArgs,
    /// Only those in this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
}

#[derive(clap::Args, Debug)]
pub(super) struct ReportArgs {
    /// The deployment, or the upstream that moves alone
    name: String,
    #[command(flatten)]
    admin: AdminUrl,
    /// Print what the admin API says
    #[arg(long)]
    json: bool,
}

/// `difygate traffic ...`.
#[derive(Debug, Subcommand)]
pub(super) enum TrafficCommand {
    /// Requests wait, for `cutover.longest_pause` at the most
    Pause(VerbArgs),
    /// Requests are answered 503 and this message
    Stop(StopArgs),
    /// Requests go on
    Run(VerbArgs),
}

#[derive(clap::Args, Debug)]
pub(super) struct StopArgs {
    #[command(flatten)]
    verb: VerbArgs,
    /// What users read
    #[arg(long, value_name = "TEXT", default_value = "")]
    message: String,
}

fn patience(text: &str) -> Result<Duration, String> {
    crate::config::duration(text)
}

fn step(text: &str) -> Result<StepTerms, String> {
    let (percent, hold) = text
        .split_once(':')
        .map_or((text, None), |(percent, hold)| (percent, Some(hold)));
    let percent = percent.trim_end_matches('%').parse::<u32>().ok();
    let percent = percent.filter(|percent| (1..=100).contains(percent));
    Ok(StepTerms {
        percent: percent.ok_or_else(|| format!("`{text}` is no step; write a share and a time, such as 10%:60s"))?,
        hold: hold.map(time).transpose()?,
    })
}

impl PlanArgs {
    pub(super) fn terms(&self, auto: bool) -> Terms {
        Terms {
            to: self.to.clone(),
            expect_version: self.expect_version.clone(),
            auto,
            supersede: self.supersede,
            migration: self.migration.map(|migration| {
                match migration {
                    Migration::Compatible => "compatible",
                    Migration::Barrier => "barrier",
                }
                .to_owned()
            }),
            steps: self.steps.clone(),
            bake: self.bake.clone(),
            hold: self.hold.clone(),
            drain: self.drain.clone(),
            cut: self.no_cut.then_some(false),
            min_samples: self.min_samples,
            ..Terms::default()
        }
    }
}

impl CutoverCommand {
    /// Runs it.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Start(args) => args.run(),
            Self::Promote(args) => args.verb("promote", Terms::default()),
            Self::Pause(args) => args.verb("pause", Terms::default()),
            Self::Resume(args) => args.verb("resume", Terms::default()),
            Self::Abort(args) => args.verb("abort", Terms::default()),
            Self::Rollback(args) => {
                let force = args.force;
                args.verb.verb(
                    "rollback",
                    Terms {
                        force,
                        ..Terms::default()
                    },
                )
            }
            Self::Status(args) => status(&args),
            Self::Inflight(args) => {
                let pool = args.pool.map(|pool| format!("?pool={pool}")).unwrap_or_default();
                let path = format!("/api/v1/cutovers/{}/inflight{pool}", args.of.name);
                block_on(async {
                    let (raw, view) = live::ask::<InFlightView>(&args.of.admin.url, &path).await?;
                    say(&if args.of.json { raw } else { report::left(&view) })
                })?
            }
            Self::Report(args) => {
                let path = format!("/api/v1/cutovers/{}", args.name);
                block_on(async {
                    let (raw, view) = live::ask::<CutoverView>(&args.admin.url, &path).await?;
                    say(&if args.json { raw } else { report::markdown(&view) })
                })?
            }
        }
    }
}

fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    block_on(async {
        let (raw, views) = match &args.name {
            Some(name) => {
                let path = format!("/api/v1/cutovers/{name}");
                let (raw, view) = live::ask::<CutoverView>(&args.admin.url, &path).await?;
                (raw, vec![view])
            }
            None => live::ask::<Vec<CutoverView>>(&args.admin.url, "/api/v1/cutovers").await?,
        };
        if args.json {
            return say(&raw);
        }
        let texts: Vec<String> = views.iter().map(report::status).collect();
        say(&texts.join("\n\n"))
    })?
}

impl TrafficCommand {
    /// Runs it.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let (args, state, message) = match self {
            Self::Pause(args) => (args, "pause", String::new()),
            Self::Stop(args) => (args.verb, "stop", args.message),
            Self::Run(args) => (args, "run", String::new()),
        };
        args.verb(
            "traffic",
            Terms {
                state: state.to_owned(),
                message,
                ..Terms::default()
            },
        )
    }
}

impl StartArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let terms = self.plan.terms(self.auto);
        follow(&self.verb, terms, self.wait.wait, self.wait.timeout)
    }
}

pub(super) fn follow(args: &VerbArgs, terms: Terms, goal: Option<Goal>, timeout: Duration) -> anyhow::Result<Exit> {
    block_on(async {
        let (raw, order) = match args.send("start", terms).await? {
            Ok(done) => done,
            Err(exit) => return Ok(exit),
        };
        let Some(goal) = goal.filter(|_| !args.dry_run) else {
            return say(&if args.json { raw } else { report::ordered(&order) });
        };
        if order.repeated {
            complain("difygate: this was started before, under the same key; another `--key` starts it anew");
            let now = order.cutover.record.cutover.as_ref().map(|cutover| cutover.id);
            if order.repeats != now {
                complain("difygate: another cutover was started since");
                return Ok(Exit::Conflict);
            }
        }
        let followed = following::follow(&args.admin.url, &order.cutover, goal, timeout).await?;
        told(&followed, args.json)
    })?
}

pub(super) fn told(followed: &Followed, json: bool) -> anyhow::Result<Exit> {
    say(&if json {
        serde_json::to_string(&followed.view)?
    } else {
        report::markdown(&followed.view)
    })?;
    Ok(followed.exit)
}

impl VerbArgs {
    fn verb(&self, verb: &str, terms: Terms) -> anyhow::Result<Exit> {
        block_on(async {
            match self.send(verb, terms).await? {
                Ok((raw, order)) => say(&if self.json { raw } else { report::ordered(&order) }),
                Err(exit) => Ok(exit),
            }
        })?
    }

    /// Sends a verb. What the gate refuses is told, and is an exit code.
    async fn send(&self, verb: &str, terms: Terms) -> anyhow::Result<Result<(String, OrderView), Exit>> {
        let terms = Terms {
            reason: self.reason.clone(),
            by: self.by.clone().unwrap_or_else(user),
            ..terms
        };
        let dry_run = if self.dry_run { "?dry_run=true" } else { "" };
        let path = format!("/api/v1/cutovers/{}:{verb}{dry_run}", self.name);
        let key = self.key.clone().map(|key| ("idempotency-key", key));
        let epoch = self.if_epoch.map(|epoch| ("if-match", format!("\"{epoch}\"")));
        let headers: Vec<(&str, String)> = key.into_iter().chain(epoch).collect();
        let body = serde_json::to_vec(&terms)?.into();
        let admin = &self.admin.url;
        let (status, body) = client::send(http::Method::POST, admin, &path, &headers, body).await?;
        let raw = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            let order = serde_json::from_str(&raw);
            let order = order.with_context(|| format!("{admin} does not answer like a difygate of this version"))?;
            return Ok(Ok((raw, order)));
        }
        let said: serde_json::Value = serde_json::from_str(&raw).unwrap_or_default();
        let why = said.get("error").and_then(serde_json::Value::as_str).unwrap_or(&raw);
        complain(&format!("difygate: {why}"));
        Ok(Err(match said.get("kind").and_then(serde_json::Value::as_str) {
            Some("gate") => Exit::Gate,
            Some("conflict" | "stale" | "key_reused") => Exit::Conflict,
            Some(_) | None => Exit::Failed,
        }))
    }
}

/// Who says it, as pipelines and systems call them.
fn user() -> String {
    let names = ["GITHUB_ACTOR", "GITLAB_USER_LOGIN", "USER", "LOGNAME"];
    let found = names
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    found.unwrap_or_else(|| "operator".to_owned())
}
