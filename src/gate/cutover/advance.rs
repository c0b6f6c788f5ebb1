//! The steps that a cutover takes by itself.

use std::time::{Duration, Instant};

use super::gates::{lack, obstacle};
use super::{Cutover, EXTENSIONS, GATE, Gate, Phase, Record, Seen, Verdict};

impl Record {
    /// The record after the next step that is due by itself, if one is.
    pub fn advance(&self, seen: &Seen, now: Instant) -> Option<Self> {
        let cutover = self.cutover.clone()?;
        let next = match cutover.phase {
            Phase::Preparing => cutover.prepared(seen, now),
            Phase::Verifying => cutover.verified(seen, now),
            Phase::Ready => cutover.promoted(seen, now),
            Phase::Shifting | Phase::Baking => cutover.watched(seen, now),
            Phase::Committed => cutover.drains(seen, now),
            Phase::RollingBack => Some(cutover.arrive_back(now)),
            Phase::Steady | Phase::Retired | Phase::Failed | Phase::RolledBack | Phase::Frozen => None,
        };
        next.map(|cutover| self.with(cutover))
    }
}

impl Cutover {
    /// Whether no person holds it and this much time has been spent in its phase.
    fn is_spent(&self, time: Duration, now: Instant) -> bool {
        self.paused.is_none() && self.spent(now) >= time
    }

    fn fail(self, why: String, evidence: Vec<Gate>, now: Instant) -> Self {
        self.enter(Phase::Failed, GATE, why, evidence, now)
    }

    fn prepared(mut self, seen: &Seen, now: Instant) -> Option<Self> {
        if seen.prepared && self.paused.is_none() {
            self.verifying = Some(now);
            let why = "every endpoint of the new pool has passed its probes";
            return Some(self.enter(Phase::Verifying, GATE, why, Vec::new(), now));
        }
        let within = self.plan.clocks.prepare;
        self.is_spent(within, now).then(|| {
            let because = obstacle(&seen.gates)
                .map(|gate| format!(": {gate}"))
                .unwrap_or_default();
            let why = format!("the new pool was not healthy within {within:?}{because}");
            self.fail(why, seen.gates.clone(), now)
        })
    }

    fn verified(self, seen: &Seen, now: Instant) -> Option<Self> {
        let lack = lack(&seen.gates);
        if self.paused.is_none() && lack.is_none() {
            return Some(self.enter(Phase::Ready, GATE, "every gate passes", seen.gates.clone(), now));
        }
        let within = self.plan.clocks.verify;
        let since = self.verifying.unwrap_or(self.entered);
        let is_late = self.paused.is_none() && now.saturating_duration_since(since) >= within;
        is_late.then(|| {
            let because = lack.unwrap_or_default();
            self.fail(
                format!("not every gate passed within {within:?}: {because}"),
                seen.gates.clone(),
                now,
            )
        })
    }

    fn promoted(self, seen: &Seen, now: Instant) -> Option<Self> {
        if self.plan.auto && self.paused.is_none() {
            return Some(self.flip(GATE, "it goes on by itself", seen, now));
        }
        let within = self.plan.clocks.ready;
        self.is_spent(within, now)
            .then(|| self.fail(format!("nobody promoted it within {within:?}"), Vec::new(), now))
    }

    /// The gates are asked once more, and only if all of them pass does anything move.
    pub(super) fn flip(mut self, by: &str, why: &str, seen: &Seen, now: Instant) -> Self {
        if let Some(lack) = lack(&seen.gates) {
            let why = format!("a gate does not pass any more: {lack}");
            return self.enter(Phase::Verifying, GATE, why, seen.gates.clone(), now);
        }
        self.baseline = seen.usual;
        match self.plan.steps.first().copied() {
            Some(step) if step.percent < 100 => {
                let mut shifting = self.share(step.percent, now);
                shifting.step = 0;
                shifting.enter(Phase::Shifting, by, why, seen.gates.clone(), now)
            }
            Some(_) | None => self
                .share(100, now)
                .enter(Phase::Baking, by, why, seen.gates.clone(), now),
        }
    }

    /// Goes back if there is a reason, and forward if it is time.
    fn watched(self, seen: &Seen, now: Instant) -> Option<Self> {
        let reason = seen.triggers.iter().find(|trigger| trigger.verdict == Verdict::Fail);
        if let Some(reason) = reason {
            let why = reason.to_string();
            return Some(self.go_back(GATE, &why, false, seen, now));
        }
        if self.phase == Phase::Shifting {
            let hold = self.plan.steps.get(self.step).map(|step| step.hold).unwrap_or_default();
            return match lack(&seen.gates) {
                _ if !self.is_spent(hold, now) => None,
                None => Some(self.next_step(GATE, "its time is over", seen, now)),
                Some(lack) => self.stays(hold, &lack, seen, now),
            };
        }
        let bake = self.plan.clocks.bake;
        self.is_spent(bake, now).then(|| self.baked(seen, now))
    }

    /// A share whose time is over waits for its gates, and is watched meanwhile. That is told once.
    fn stays(self, hold: Duration, lack: &str, seen: &Seen, now: Instant) -> Option<Self> {
        let over = self.entered + hold;
        let last = self.log.back().map(|entry| entry.at);
        let is_news = last.is_none_or(|last| last < over || last == self.entered && now > last);
        is_news.then(|| {
            let why = format!("its time is over, but it waits for a gate: {lack}");
            self.note(GATE, why, seen.gates.clone(), now)
        })
    }

    /// The next share, or all of it.
    pub(super) fn next_step(mut self, by: &str, why: &str, seen: &Seen, now: Instant) -> Self {
        self.step += 1;
        match self.plan.steps.get(self.step).copied() {
            Some(step) if step.percent < 100 => {
                let percent = step.percent;
                self.share(percent, now)
                    .enter(Phase::Shifting, by, why, seen.gates.clone(), now)
            }
            Some(_) | None => self
                .share(100, now)
                .enter(Phase::Baking, by, why, seen.gates.clone(), now),
        }
    }

    /// What the bake comes to. Without enough to judge it goes on for a while, and then a person has to.
    fn baked(mut self, seen: &Seen, now: Instant) -> Self {
        if seen.bake.verdict == Verdict::Pass {
            return self.enter(Phase::Committed, GATE, "the bake was good", seen.triggers.clone(), now);
        }
        let lack = &seen.bake.detail;
        if self.extensions < EXTENSIONS {
            self.extensions += 1;
            let why = format!(
                "the bake is not shown to be good ({lack}), extension {} of {EXTENSIONS}",
                self.extensions
            );
            return self.enter(Phase::Baking, GATE, why, seen.triggers.clone(), now);
        }
        let why = format!("the bake is not shown to be good ({lack}): promote, or roll back");
        self.freeze(GATE, why, seen.triggers.clone(), now)
    }

    fn freeze(mut self, by: &str, why: String, evidence: Vec<Gate>, now: Instant) -> Self {
        self.frozen_from = Some(self.phase);
        self.enter(Phase::Frozen, by, why, evidence, now)
    }

    /// What harm it may do to give everything back to the old pool.
    pub(super) fn harm(&self, seen: &Seen) -> Option<&'static str> {
        if self.plan.barrier {
            Some("the old version cannot live with what the new one wrote (migration: barrier)")
        } else if seen.old_fit == 0 {
            Some("the old pool has nobody who is fit")
        } else {
            None
        }
    }

    /// Gives everything back to the old pool, unless that could do harm: then a person has to say so.
    pub(super) fn go_back(self, by: &str, why: &str, force: bool, seen: &Seen, now: Instant) -> Self {
        let evidence = seen.triggers.clone();
        if let Some(harm) = self.harm(seen).filter(|_| !force) {
            let why = format!("{why}, but {harm}: promote, or roll back with force");
            return self.freeze(by, why, evidence, now);
        }
        let mut back = self.share(0, now);
        // It serves again, and has to.
        (back.drained, back.released) = (None, false);
        back.enter(Phase::RollingBack, by, why, evidence, now)
    }

    fn arrive_back(self, now: Instant) -> Self {
        let why = "the old pool takes every new request; what the new one serves goes on";
        self.enter(Phase::RolledBack, GATE, why, Vec::new(), now)
    }

    /// The old pool empties, and is held ready meanwhile.
    fn drains(mut self, seen: &Seen, now: Instant) -> Option<Self> {
        let is_empty = seen.old_in_flight == 0;
        if self.drained.is_none() && is_empty {
            self.drained = Some(now);
            return Some(self.note(GATE, "the old pool has nothing left", Vec::new(), now));
        }
        let over = self.released || self.hold_ends().is_some_and(|end| now >= end);
        if self.drained.is_some() && over && self.paused.is_none() {
            return Some(self.enter(Phase::Retired, GATE, "the old pool may be removed", Vec::new(), now));
        }
        let is_late = self.drain_ends().is_some_and(|end| now >= end) && self.paused.is_none();
        if self.drained.is_some() || !is_late || self.cut.is_some() || !self.plan.cut {
            return None;
        }
        let left = match seen.old_in_flight {
            1 => "1 request".to_owned(),
            left => format!("{left} requests"),
        };
        if seen.old_alive && !self.drain_extended {
            self.drain_extended = true;
            let why = format!("streams of the old pool still deliver: a quarter of the drain more ({left} left)");
            return Some(self.note(GATE, why, Vec::new(), now));
        }
        self.cut = Some(now);
        Some(self.note(
            GATE,
            format!("the drain is over, and what the old pool still serves is cut: {left}"),
            Vec::new(),
            now,
        ))
    }
}
