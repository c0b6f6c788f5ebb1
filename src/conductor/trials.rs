//! Requests that the new pool must answer, and people or programs who must agree: asked at the side, so that a slow answer holds nobody up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::warn;

use super::Tools;
use crate::cutover::{Ask, CutoverSettings, HookSettings};
use crate::gate::cutover::{Cutover, Gate, Verdict};
use crate::gate::health::Outcome;
use crate::gate::names::{Address, UpstreamName};
use crate::probe::Kept;
use crate::probe::spec::ProbeSpec;

/// Between two rounds while the gates are to pass.
const AGAIN: Duration = Duration::from_secs(2);

/// So many rounds of smoke requests in a row that fail take everything back.
const STRIKES: u32 = 3;

/// What one round found.
#[derive(Clone, Debug)]
struct Round {
    began: Instant,
    smoke: Option<Gate>,
    confirm: Option<Gate>,
    rollback: Option<Gate>,
}

/// See the module's own words.
#[derive(Debug, Default)]
pub(super) struct Trials {
    running: Option<JoinHandle<Round>>,
    last: Option<Round>,
    ended: Option<Instant>,
    /// Rounds of smoke requests in a row that failed.
    strikes: u32,
}

/// Whom a round is about.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) name: String,
    pub(super) cutover: Cutover,
    pub(super) endpoints: Vec<(UpstreamName, Address)>,
}

impl Trials {
    /// Forgets everything: another cutover begins.
    pub(super) fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
        *self = Self::default();
    }

    /// Begins a round if it is time, and takes in what the last one found.
    pub(super) async fn poll(&mut self, scene: &Scene, settings: &Arc<CutoverSettings>, tools: &Tools) {
        let now = tools.clock.now();
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            self.collect(now).await;
        }
        let pause = if scene.cutover.phase.is_watched() {
            settings.limits.window.min(Duration::from_secs(30))
        } else {
            AGAIN
        };
        let due = self.ended.is_none_or(|ended| now >= ended + pause);
        if due && self.running.is_none() {
            self.running = Some(tokio::spawn(round(scene.clone(), settings.clone(), tools.clone())));
        }
    }

    /// A round of its own, begun after this was called, and waited for.
    pub(super) async fn afresh(&mut self, scene: &Scene, settings: &Arc<CutoverSettings>, tools: &Tools) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
        self.running = Some(tokio::spawn(round(scene.clone(), settings.clone(), tools.clone())));
        self.collect(tools.clock.now()).await;
    }

    async fn collect(&mut self, now: Instant) {
        let Some(running) = self.running.take() else { return };
        self.ended = Some(now);
        let Ok(round) = running.await else { return };
        self.strikes = match round.smoke.as_ref().map(|gate| gate.verdict) {
            Some(Verdict::Fail) => self.strikes + 1,
            Some(_) | None => 0,
        };
        self.last = Some(round);
    }

    /// What must hold before anything moves. What was not asked yet is not shown.
    pub(super) fn gates(&self, settings: &CutoverSettings) -> Vec<Gate> {
        let asked = [
            (
                "smoke",
                !settings.smoke.is_empty(),
                self.last.as_ref().and_then(|round| round.smoke.clone()),
            ),
            (
                "confirm",
                settings.hooks.iter().any(|hook| hook.ask == Ask::Confirm),
                self.last.as_ref().and_then(|round| round.confirm.clone()),
            ),
        ];
        let wanted = asked.into_iter().filter(|(_, wanted, _)| *wanted);
        wanted
            .map(|(name, _, gate)| gate.unwrap_or_else(|| Gate::new(name, Verdict::Inconclusive, "not asked yet")))
            .collect()
    }

    /// Reasons to go back.
    pub(super) fn triggers(&self) -> Vec<Gate> {
        let Some(last) = &self.last else {
            return Vec::new();
        };
        let smoke = last.smoke.clone().map(|mut gate| {
            if gate.verdict == Verdict::Fail && self.strikes < STRIKES {
                gate.verdict = Verdict::Inconclusive;
            }
            gate
        });
        smoke.into_iter().chain(last.rollback.clone()).collect()
    }

    /// What smoke requests say of the bake.
    pub(super) fn smoke(&self) -> Option<Verdict> {
        self.last.as_ref()?.smoke.as_ref().map(|gate| gate.verdict)
    }

    /// When the last round began.
    pub(super) fn began(&self) -> Option<Instant> {
        self.last.as_ref().map(|round| round.began)
    }
}

async fn round(scene: Scene, settings: Arc<CutoverSettings>, tools: Tools) -> Round {
    let began = tools.clock.now();
    let watched = scene.cutover.phase.is_watched();
    let hooks = |ask| settings.hooks.iter().filter(move |hook| hook.ask == ask);
    let confirm = async {
        if watched {
            return None;
        }
        ask_all(hooks(Ask::Confirm), "confirm", &scene, &tools).await
    };
    let rollback = async {
        if !watched {
            return None;
        }
        // Whoever agrees wants it taken back.
        let said = ask_any(hooks(Ask::Rollback), "rollback", &scene, &tools).await?;
        Some(said)
    };
    let (smoke, confirm, rollback) = tokio::join!(smoke(&scene, &settings, &tools), confirm, rollback);
    Round {
        began,
        smoke,
        confirm,
        rollback,
    }
}

async fn smoke(scene: &Scene, settings: &CutoverSettings, tools: &Tools) -> Option<Gate> {
    if settings.smoke.is_empty() {
        return None;
    }
    let mut asking = JoinSet::new();
    for smoke in &settings.smoke {
        let asked = |upstream: &UpstreamName| smoke.upstream.as_ref().is_none_or(|wanted| wanted == upstream);
        for (upstream, address) in scene.endpoints.iter().filter(|(upstream, _)| asked(upstream)) {
            let (spec, address, upstream) = (smoke.spec.clone(), address.clone(), upstream.clone());
            let prober = tools.prober.clone();
            asking.spawn(async move {
                let report = prober.probe(&address, &spec, &Kept::default()).await;
                (
                    failure(&report.outcome),
                    spec_name(&spec),
                    format!("{upstream}/{address}"),
                )
            });
        }
    }
    let mut passed = 0;
    let mut failed: Vec<String> = Vec::new();
    while let Some(Ok((failure, what, whom))) = asking.join_next().await {
        match failure {
            None => passed += 1,
            Some(why) => failed.push(format!("{what} on {whom}: {why}")),
        }
    }
    failed.sort();
    Some(match failed.first() {
        Some(first) => Gate::new("smoke", Verdict::Fail, first.clone()),
        None if passed == 0 => Gate::new("smoke", Verdict::Inconclusive, "there was nobody to ask"),
        None => Gate::new(
            "smoke",
            Verdict::Pass,
            format!("{passed} requests were answered as expected"),
        ),
    })
}

fn spec_name(spec: &ProbeSpec) -> String {
    format!("{} {}", spec.method, spec.path)
}

fn failure(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Pass => None,
        Outcome::Sheds { .. } => Some("it answered 429".to_owned()),
        Outcome::Fail { detail, .. }
        | Outcome::Misconfigured { detail }
        | Outcome::Leaving { detail }
        | Outcome::Unknown { detail } => Some(detail.clone()),
    }
}

/// All of them must agree.
async fn ask_all<'a>(
    hooks: impl Iterator<Item = &'a HookSettings>,
    event: &str,
    scene: &Scene,
    tools: &Tools,
) -> Option<Gate> {
    let mut asked = 0;
    for hook in hooks {
        asked += 1;
        if let Err(why) = post(hook, event, scene, "", tools).await {
            return Some(Gate::new(event, Verdict::Fail, format!("hook {asked}: {why}")));
        }
    }
    (asked > 0).then(|| Gate::new(event, Verdict::Pass, format!("{asked} hooks agree")))
}

/// One that agrees is a reason.
async fn ask_any<'a>(
    hooks: impl Iterator<Item = &'a HookSettings>,
    event: &str,
    scene: &Scene,
    tools: &Tools,
) -> Option<Gate> {
    let mut asked = 0;
    for hook in hooks {
        asked += 1;
        if post(hook, event, scene, "", tools).await.is_ok() {
            return Some(Gate::new(
                event,
                Verdict::Fail,
                format!("hook {asked} wants it taken back"),
            ));
        }
    }
    (asked > 0).then(|| {
        Gate::new(
            event,
            Verdict::Pass,
            format!("none of {asked} hooks wants it taken back"),
        )
    })
}

/// Tells everybody who wants to hear of steps. Nobody waits for them.
pub(super) fn announce(scene: Scene, why: String, settings: Arc<CutoverSettings>, tools: Tools) {
    if !settings.hooks.iter().any(|hook| hook.ask == Ask::Event) {
        return;
    }
    tokio::spawn(async move {
        for hook in settings.hooks.iter().filter(|hook| hook.ask == Ask::Event) {
            if let Err(e) = post(hook, "event", &scene, &why, &tools).await {
                warn!(cutover = scene.name, error = e, "a hook was not told of a step");
            }
        }
    });
}

async fn post(hook: &HookSettings, event: &str, scene: &Scene, why: &str, tools: &Tools) -> Result<(), String> {
    let cutover = &scene.cutover;
    let body = json!({
        "event": event,
        "name": scene.name,
        "cutover": cutover.id,
        "phase": cutover.phase.as_str(),
        "from": cutover.from.as_str(),
        "to": cutover.to.as_str(),
        "percent": cutover.percent,
        "expect_version": cutover.plan.expect_version,
        "by": cutover.by,
        "reason": cutover.reason,
        "why": why,
    });
    let body = body.to_string();
    let posting = timeout(hook.timeout, hook.webhook.post(&tools.authorities, &body));
    posting
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {:?}", hook.timeout)))
}
