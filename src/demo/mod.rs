//! The gate at work: a real gate before three simulated Dify instances on real sockets, under load, while a story of faults is told.

pub mod fault;
pub mod load;
mod report;
pub mod stage;
mod story;

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Builder;

use crate::demo::report::Report;
use crate::demo::stage::Stage;
use crate::demo::story::Narrator;

/// Tells the story. With `once` it ends there, else the gate goes on serving until it is interrupted; with `json` the outcome is
/// printed as data and nothing is narrated. Returns whether nothing failed that should not have.
///
/// # Errors
/// The stage cannot be set: no free port, no threads.
pub fn run(once: bool, json: bool) -> anyhow::Result<bool> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let good = runtime.block_on(tell(once, json));
    runtime.shutdown_timeout(Duration::from_millis(100));
    good
}

async fn tell(once: bool, json: bool) -> anyhow::Result<bool> {
    let narrator = Narrator { silent: json };
    let stage = Stage::set().await.context("the stage cannot be set")?;
    narrator.say(&stage.introduction());
    let report = story::tell(&stage, &narrator).await?;
    print(&report, json)?;
    if !once {
        narrator.say(&stage.invitation());
        tokio::signal::ctrl_c().await?;
    }
    Ok(report.good())
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string_pretty(report)?
    } else {
        report.table()
    };
    writeln!(std::io::stdout(), "{text}").context("the outcome cannot be printed")
}
