//! The one line for a pipeline: `switch` starts a cutover, goes its whole way, and finds its work done where it is run again.

use super::cutover::{PlanArgs, VerbArgs, WaitArgs, follow, told};
use super::following::{self, Goal};
use super::{Exit, block_on, complain, live, report, say};
use crate::admin::cutovers::CutoverView;
use crate::admin::view::Status;
use crate::audit::sha256;

/// `difygate switch`.
#[derive(clap::Args, Debug)]
pub(super) struct SwitchArgs {
    #[command(flatten)]
    verb: VerbArgs,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

impl SwitchArgs {
    /// Runs it.
    pub(super) fn run(mut self) -> anyhow::Result<Exit> {
        let path = format!("/api/v1/cutovers/{}", self.verb.name);
        // Where there is no answer, the start says what is wrong.
        let seen = block_on(live::ask::<CutoverView>(&self.verb.admin.url, &path))?.ok();
        let key = self.verb.key.take();
        self.verb.key = key.or_else(|| self.key_of_the_run());
        let goal = self.wait.wait.unwrap_or(Goal::Committed);
        if let Some((raw, view)) = seen
            && let Some(exit) = self.is_there_already(raw, &view, goal)?
        {
            return Ok(exit);
        }
        let terms = self.plan.terms(true);
        follow(&self.verb, terms, Some(goal), self.wait.timeout)
    }

    /// A job that is run again must not move anybody twice.
    fn key_of_the_run(&self) -> Option<String> {
        let run = ["GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILD_TAG"]
            .iter()
            .find_map(|name| std::env::var(name).ok())?;
        let version = self.plan.expect_version.as_deref().unwrap_or_default();
        let parts = [self.verb.name.as_str(), &self.plan.to, version, &run];
        sha256(parts.join("\n").as_bytes()).get(..32).map(str::to_owned)
    }

    /// What it comes to where users are in the pool already and nothing is under way: done, if it is the expected version and what was to be waited
    /// for has come too. The old pool of a cutover that is committed may still have streams.
    fn is_there_already(&self, raw: String, view: &CutoverView, goal: Goal) -> anyhow::Result<Option<Exit>> {
        let (admin, pool) = (&self.verb.admin.url, &self.plan.to);
        let steady = ["steady", "committed", "retired", "failed", "rolled_back"].contains(&view.phase.as_str());
        if view.record.active != *pool || !steady {
            return Ok(None);
        }
        block_on(async {
            let (_, status) = live::ask::<Status>(admin, "/api/v1/status").await?;
            if let Some((endpoint, version)) = other_version(&status, view, pool, self.plan.expect_version.as_deref()) {
                complain(&format!(
                    "difygate: `{pool}` is active already, but {endpoint} is {version}"
                ));
                return Ok(Some(Exit::Gate));
            }
            complain(&format!("difygate: `{pool}` is active already"));
            if ["committed", "retired"].contains(&view.phase.as_str()) && !self.verb.dry_run {
                let followed = following::follow(admin, view, goal, self.wait.timeout).await?;
                return told(&followed, self.verb.json).map(Some);
            }
            say(&if self.verb.json { raw } else { report::status(view) }).map(Some)
        })?
    }
}

/// An endpoint of a pool that is of another version than the expected one.
fn other_version(status: &Status, view: &CutoverView, pool: &str, expected: Option<&str>) -> Option<(String, String)> {
    let expected = expected?;
    let members = status
        .upstreams
        .iter()
        .filter(|upstream| view.upstreams.contains(&upstream.name));
    let pools = members
        .flat_map(|upstream| &upstream.pools)
        .filter(|known| known.name == pool);
    let mut endpoints = pools.flat_map(|pool| &pool.endpoints).map(|endpoint| {
        let version = endpoint.last_probe.as_ref().and_then(|probe| probe.version.clone());
        (
            endpoint.address.clone(),
            version.unwrap_or_else(|| "of a version that it does not name".to_owned()),
        )
    });
    endpoints.find(|(_, version)| version != expected)
}
