//! Following a cutover: what happens is shown on standard error as it happens, until it has come far enough.

use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Exit, complain, live};
use crate::admin::cutovers::CutoverView;
use crate::cutover::document::{CutoverDoc, EntryDoc};
use crate::gate::cutover::Phase;

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(250);

/// A gate that is being upgraded, or started anew, does not answer for a moment.
const SILENCE: Duration = Duration::from_secs(30);

/// How far it is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Goal {
    /// Every gate passes; it waits to be promoted
    Ready,
    /// The new pool takes every new request
    Flipped,
    /// The bake was good
    Committed,
    /// The old pool has nothing left: it may be stopped
    Drained,
    /// The old pool need not stay ready any more
    Retired,
}

/// How it came out.
pub(super) struct Followed {
    pub(super) exit: Exit,
    pub(super) view: CutoverView,
}

impl Goal {
    fn is_reached(self, cutover: &CutoverDoc, phase: Phase) -> bool {
        let past = |phases: &[Phase]| phases.contains(&phase);
        match self {
            Self::Ready => past(&[
                Phase::Ready,
                Phase::Shifting,
                Phase::Baking,
                Phase::Committed,
                Phase::Retired,
            ]),
            Self::Flipped => cutover.flipped.is_some() && past(&[Phase::Baking, Phase::Committed, Phase::Retired]),
            Self::Committed => past(&[Phase::Committed, Phase::Retired]),
            Self::Drained => past(&[Phase::Committed, Phase::Retired]) && cutover.drained.is_some(),
            Self::Retired => phase == Phase::Retired,
        }
    }
}

/// Follows the cutover that `first` shows, for so long at the most.
pub(super) async fn follow(
    admin: &str,
    first: &CutoverView,
    goal: Goal,
    patience: Duration,
) -> anyhow::Result<Followed> {
    let deadline = now() + patience;
    let mut telling = Telling::default();
    let mut view = first.clone();
    let id = view.record.cutover.as_ref().map(|cutover| cutover.id);
    loop {
        telling.tell(&view);
        if let Some(exit) = outcome(&view, id, goal) {
            return Ok(Followed { exit, view });
        }
        if now() >= deadline {
            complain(&format!(
                "difygate: not there after {patience:?}; the cutover goes on by itself"
            ));
            return Ok(Followed {
                exit: Exit::Inconclusive,
                view,
            });
        }
        sleep(EVERY).await;
        view = look(admin, &view.name).await?;
    }
}

#[allow(clippy::disallowed_methods)] // a command waits in real time
fn now() -> Instant {
    Instant::now()
}

/// Looks again; a gate that does not answer for a moment is waited for.
async fn look(admin: &str, name: &str) -> anyhow::Result<CutoverView> {
    let until = now() + SILENCE;
    loop {
        let asked = timeout_at(
            until,
            live::ask::<CutoverView>(admin, &format!("/api/v1/cutovers/{name}")),
        )
        .await;
        match asked {
            Ok(Ok((_, view))) => return Ok(view),
            Ok(Err(_)) if now() < until => sleep(EVERY).await,
            Ok(Err(e)) => return Err(e),
            Err(_) => bail!("{admin} has not answered for {SILENCE:?}"),
        }
    }
}

fn outcome(view: &CutoverView, id: Option<u64>, goal: Goal) -> Option<Exit> {
    let cutover = view.record.cutover.as_ref()?;
    if Some(cutover.id) != id {
        complain(&format!(
            "difygate: another cutover ({}) was started meanwhile",
            cutover.id
        ));
        return Some(Exit::Conflict);
    }
    let phase = Phase::parse(&cutover.phase)?;
    if goal.is_reached(cutover, phase) {
        let cut = matches!(goal, Goal::Drained | Goal::Retired) && cutover.cut.is_some();
        return Some(if cut { Exit::Cut } else { Exit::Done });
    }
    match phase {
        Phase::Failed => Some(Exit::Gate),
        Phase::RolledBack => Some(Exit::RolledBack),
        Phase::Frozen => Some(Exit::Inconclusive),
        Phase::Steady
        | Phase::Preparing
        | Phase::Verifying
        | Phase::Ready
        | Phase::Shifting
        | Phase::Baking
        | Phase::Committed
        | Phase::Retired
        | Phase::RollingBack => None,
    }
}

/// What was told already.
#[derive(Default)]
struct Telling {
    /// The last entry of the log; of a long log the oldest are gone.
    entry: Option<EntryDoc>,
    last: String,
}

impl Telling {
    fn tell(&mut self, view: &CutoverView) {
        let Some(cutover) = &view.record.cutover else { return };
        let told = cutover.log.iter().rposition(|entry| Some(entry) == self.entry.as_ref());
        for entry in cutover.log.iter().skip(told.map_or(0, |told| told + 1)) {
            let time = entry.at.get(11..19).unwrap_or_default();
            let share = format!("{} % to {}", entry.percent, cutover.to);
            complain(&format!(
                "{time} {:<12} {share:<16} {}: {}",
                entry.phase, entry.by, entry.why
            ));
        }
        self.entry = cutover.log.last().cloned();
        let line = waiting(view, cutover);
        if !line.is_empty() && line != self.last {
            complain(&format!("         {:<12} {line}", cutover.phase));
            self.last = line;
        }
    }
}

/// What it waits for, in a line.
fn waiting(view: &CutoverView, cutover: &CutoverDoc) -> String {
    if let Some(trouble) = &view.trouble {
        return format!("stuck: {trouble}");
    }
    let open = view.gates.iter().filter(|gate| gate.verdict != "pass");
    let open: Vec<String> = open.map(|gate| format!("{}: {}", gate.name, gate.detail)).collect();
    let left = view.in_flight.get(&cutover.from).copied().unwrap_or_default();
    match cutover.phase.as_str() {
        "preparing" | "verifying" => open.join("; "),
        "committed" if cutover.drained.is_none() => {
            format!("{left} requests left in {}", cutover.from)
        }
        _ => String::new(),
    }
}
