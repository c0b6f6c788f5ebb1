//! Requests that the new pool must answer, and people or programs who must agree: asked at the side, so that a slow answer holds nobody up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::warn;

use super::Tools;
use crate::clock::Clock;
use crate::cutover::{Ask, CutoverSettings, HookSettings};
use crate::gate::cutover::{Cutover, Gate, Phase, Stage, Verdict};
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
    /// The round under way, and when it began.
    running: Option<(Instant, JoinHandle<Round>)>,
    last: Option<Round>,
    ended: Option<Instant>,
    /// Rounds of smoke requests in a row that failed.
    strikes: u32,
    /// The stage that the last round is about.
    stage: Option<Stage>,
    /// Whether somebody was asked in this cutover.
    warm: bool,
}

/// Whom a round is about.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) name: String,
    pub(super) cutover: Cutover,
    pub(super) endpoints: Vec<(UpstreamName, Address)>,
    /// Whether nobody has been asked yet.
    pub(super) is_cold: bool,
}

impl Trials {
    /// Forgets everything: another cutover begins.
    pub(super) fn reset(&mut self) {
        self.give_up();
        *self = Self::default();
    }

    /// Forgets what was answered in an earlier phase, where the new pool is watched in another one from now on.
    pub(super) fn enter(&mut self, stage: Option<Stage>) {
        if stage == self.stage {
            return;
        }
        if stage.is_some() {
            let warm = self.warm;
            self.reset();
            self.warm = warm;
        }
        self.stage = stage;
    }

    /// Whether nobody was asked in this cutover yet.
    pub(super) fn are_cold(&self) -> bool {
        !self.warm
    }

    /// Begins a round if it is time.
    pub(super) fn poll(&mut self, scene: &Scene, settings: &Arc<CutoverSettings>, tools: &Tools) {
        let pause = if scene.cutover.phase.is_watched() {
            settings.limits.window.min(Duration::from_secs(30))
        } else {
            AGAIN
        };
        let now = tools.clock.now();
        let due = self.ended.is_none_or(|ended| now >= ended + pause);
        if due && self.running.is_none() {
            self.begin(scene, settings, tools);
        }
    }

    /// Begins a round, unless one is under way that began at `since` or later.
    pub(super) fn afresh(&mut self, since: Instant, scene: &Scene, settings: &Arc<CutoverSettings>, tools: &Tools) {
        if self.running.as_ref().is_some_and(|(began, _)| *began >= since) {
            return;
        }
        self.give_up();
        self.begin(scene, settings, tools);
    }

    fn begin(&mut self, scene: &Scene, settings: &Arc<CutoverSettings>, tools: &Tools) {
        let task = tokio::spawn(round(scene.clone(), settings.clone(), tools.clone()));
        self.running = Some((tools.clock.now(), task));
    }

    fn give_up(&mut self) {
        if let Some((_, running)) = self.running.take() {
            running.abort();
        }
    }

    /// Whether a round is under way.
    pub(super) fn are_running(&self) -> bool {
        self.running.is_some()
    }

    /// Waits for the round under way, and takes in what it found; for ever where there is none. Nothing is lost where this is dropped.
    pub(super) async fn settle(&mut self, clock: &Clock) {
        let Some((_, running)) = &mut self.running else {
            return std::future::pending().await;
        };
        let found = running.await;
        self.running = None;
        self.ended = Some(clock.now());
        let Ok(round) = found else { return };
        self.last = Some(round);
        self.warm = true;
        self.strikes = match self.smoke() {
            Some(Verdict::Fail) => self.strikes + 1,
            Some(_) | None => 0,
        };
    }

    /// What must hold before anything moves. What was not asked yet is not shown.
    /// Whoever confirmed that users are moved is not asked again while they are.
    pub(super) fn gates(&self, settings: &CutoverSettings, phase: Phase) -> Vec<Gate> {
        let asked = [
            (
                "smoke",
                !settings.smoke.is_empty(),
                self.last.as_ref().and_then(|round| round.smoke.clone()),
            ),
            (
                "confirm",
                !phase.is_watched() && settings.hooks.iter().any(|hook| hook.ask == Ask::Confirm),
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
    let asked = if watched { Ask::Rollback } else { Ask::Confirm };
    let (smoke, said) = tokio::join!(
        smoke(&scene, &settings, &tools),
        answers(asked, &scene, &settings, &tools)
    );
    let (confirm, rollback) = if watched {
        (None, unwanted(&said))
    } else {
        (agreed(&said), None)
    };
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
            let warm_up = if scene.is_cold { smoke.warm_up } else { 0 };
            asking.spawn(async move {
                for _ in 0..warm_up {
                    // Whatever it answers: it is to have been asked.
                    prober.probe(&address, &spec, &Kept::default()).await;
                }
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
        Outcome::Pass | Outcome::Absent { .. } => None,
        Outcome::Sheds { .. } => Some("it answered 429".to_owned()),
        Outcome::Fail { detail, .. }
        | Outcome::Misconfigured { detail }
        | Outcome::Leaving { detail }
        | Outcome::Unknown { detail } => Some(detail.clone()),
    }
}

/// What each hook of a kind says, all of them asked at once.
async fn answers(ask: Ask, scene: &Scene, settings: &CutoverSettings, tools: &Tools) -> Vec<Result<(), String>> {
    let hooks = settings.hooks.iter().filter(|hook| hook.ask == ask);
    let asking: Vec<_> = hooks
        .map(|hook| {
            let (hook, scene, tools) = (hook.clone(), scene.clone(), tools.clone());
            tokio::spawn(async move { post(&hook, &scene, "", &tools).await })
        })
        .collect();
    let mut said = Vec::new();
    for one in asking {
        said.push(one.await.unwrap_or_else(|e| Err(e.to_string())));
    }
    said
}

/// All of them must agree.
fn agreed(said: &[Result<(), String>]) -> Option<Gate> {
    let refused = said
        .iter()
        .zip(1..)
        .find_map(|(said, hook)| Some((hook, said.as_ref().err()?)));
    let gate = match refused {
        Some((hook, why)) => Gate::new("confirm", Verdict::Fail, format!("hook {hook}: {why}")),
        None => Gate::new("confirm", Verdict::Pass, format!("{} hooks agree", said.len())),
    };
    (!said.is_empty()).then_some(gate)
}

/// One that agrees is a reason to go back.
fn unwanted(said: &[Result<(), String>]) -> Option<Gate> {
    let gate = match said.iter().zip(1..).find(|(said, _)| said.is_ok()) {
        Some((_, hook)) => Gate::new("rollback", Verdict::Fail, format!("hook {hook} wants it taken back")),
        None => Gate::new(
            "rollback",
            Verdict::Pass,
            format!("none of {} hooks wants it taken back", said.len()),
        ),
    };
    (!said.is_empty()).then_some(gate)
}

/// Tells everybody who wants to hear of steps. Nobody waits for them.
pub(super) fn announce(scene: Scene, why: String, settings: Arc<CutoverSettings>, tools: Tools) {
    if !settings.hooks.iter().any(|hook| hook.ask == Ask::Event) {
        return;
    }
    tokio::spawn(async move {
        for hook in settings.hooks.iter().filter(|hook| hook.ask == Ask::Event) {
            if let Err(e) = post(hook, &scene, &why, &tools).await {
                warn!(cutover = scene.name, error = e, "a hook was not told of a step");
            }
        }
    });
}

async fn post(hook: &HookSettings, scene: &Scene, why: &str, tools: &Tools) -> Result<(), String> {
    let cutover = &scene.cutover;
    let event = match hook.ask {
        Ask::Confirm => "confirm",
        Ask::Rollback => "rollback",
        Ask::Event => "event",
    };
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
