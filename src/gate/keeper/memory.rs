//! What one keeper tells the next, so that a new process goes on where the old one stops.
//!
//! **Invariant.** An endpoint that the successor watches as well is what it was: who served serves, who was out stays out, and the operator's word
//! holds. What is younger than any decision, the outcomes of the last ten seconds and the history for `explain`, begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Cause, Flapping, Health, Keeper, Known, Passive, Ramp, Slot, State, Timer};
use crate::gate::names::EndpointId;
use crate::gate::overrides::Override;
use crate::gate::passive::{PATIENCE, Standing};
use crate::gate::ramp;

/// All of an endpoint that decisions still need.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Which endpoint.
    pub id: EndpointId,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why, as operators read it.
    pub cause: String,
    /// The verdict of each probe, by its name.
    pub verdicts: Vec<(Arc<str>, Health)>,
    /// The address that passed a probe last.
    pub socket: Option<SocketAddr>,
    /// The latest word on each component.
    pub components: BTreeMap<String, bool>,
    /// Components that fail for its whole pool.
    pub shared: BTreeSet<String>,
    /// The latest version.
    pub version: Option<String>,
    /// What its traffic says.
    pub passive: Passive,
    /// How often it came and went.
    pub flapping: Flapping,
    /// Whether it does without a component.
    pub degraded: bool,
    /// Whether it had no time for its last probe.
    pub busy: bool,
    /// Until when it asked to be spared.
    pub sheds: Option<Instant>,
    /// When its return began, while that is under way.
    pub ramp: Option<Instant>,
    /// When its turn is to come back, while it waits for it.
    pub turn: Option<Instant>,
    /// The operator's word on it.
    pub overridden: Option<Override>,
}

impl Known {
    /// What is worth telling.
    pub fn memory(&self) -> Memory {
        let verdicts = self.verdicts.iter().map(|(plan, health)| (plan.name.clone(), *health));
        Memory {
            id: self.id.clone(),
            state: self.state,
            since: self.since,
            cause: self.cause.to_string(),
            verdicts: verdicts.collect(),
            socket: self.socket,
            components: self.components.clone(),
            shared: self.shared.clone(),
            version: self.version.clone(),
            passive: self.passive.clone(),
            flapping: self.flapping.clone(),
            degraded: self.degraded,
            busy: self.busy,
            sheds: self.sheds,
            ramp: self.ramp.map(Ramp::since),
            turn: self.turn,
            overridden: self.overridden.clone(),
        }
    }
}

impl Keeper {
    /// Goes on with what is remembered of endpoints that are watched here as well; returns their slots, and what is remembered of nobody here.
    /// Each is asked as soon as a new one would be, but nobody waits for its answer.
    pub fn resume(&mut self, memories: Vec<Memory>, now: Instant) -> (Vec<Slot>, Vec<Memory>) {
        let slots: BTreeMap<EndpointId, Slot> = self.all().map(|(slot, known)| (known.id.clone(), slot)).collect();
        let (mut resumed, mut absent) = (Vec::new(), Vec::new());
        for memory in memories {
            match slots.get(&memory.id) {
                Some(slot) => {
                    self.remember(*slot, memory, now);
                    resumed.push(*slot);
                }
                None => absent.push(memory),
            }
        }
        (resumed, absent)
    }

    fn remember(&mut self, slot: Slot, memory: Memory, now: Instant) {
        let Some(known) = self.known.get_mut(slot) else {
            return;
        };
        let (from, to) = (known.state, memory.state);
        let serves = to.tier().is_some();
        for (plan, health) in &mut known.verdicts {
            let told = memory.verdicts.iter().find(|(name, _)| *name == plan.name);
            *health = match told {
                Some((_, told)) => *told,
                // As after a reload, a probe that is new takes nobody out before it is answered.
                None if serves => Health::Up { fails: 0 },
                None => Health::START,
            };
        }
        known.state = to;
        known.since = memory.since;
        known.cause = Cause::HandedOver { cause: memory.cause };
        known.socket = memory.socket.or(known.socket);
        let lacked = memory
            .shared
            .iter()
            .filter(|name| memory.components.get(*name) == Some(&false));
        known.dependencies.resume(lacked.cloned().collect(), now);
        known.components = memory.components;
        known.shared = memory.shared;
        known.version = memory.version;
        known.flapping = memory.flapping;
        known.degraded = memory.degraded;
        known.busy = memory.busy;
        known.sheds = memory.sheds;
        known.turn = memory.turn;
        known.ramp = memory.ramp.map(|since| Ramp::start(since, known.terms.slow_start));
        known.overridden = memory.overridden;
        if known.terms.outlier.eject {
            known.passive = memory.passive;
            known.passive.ask_again(now);
        }
        self.tally(slot, from, to);
        self.wind_again(slot, now);
        let known = self.known.get(slot);
        let certain = |health: &Health| !matches!(health, Health::Unknown { .. });
        let heard: Vec<bool> = known.map_or_else(Vec::new, |known| {
            known
                .verdicts
                .iter()
                .map(|(_, health)| certain(health) || known.is_maintained())
                .collect()
        });
        for (track, heard) in self.tracks.get_mut(slot).into_iter().flatten().zip(heard) {
            self.unanswered -= usize::from(heard && !std::mem::replace(&mut track.heard, true));
        }
        // The configuration may say something else by now; an operator's wish does not depend on it.
        if self.known.get(slot).is_some_and(|known| known.verdict() != known.state) {
            self.settle(slot, Cause::Reloaded, now);
        }
    }

    /// Winds the clocks that an endpoint's memory needs; what should have rung by now rings at once.
    fn wind_again(&mut self, slot: Slot, now: Instant) {
        let Some(known) = self.known.get(slot) else { return };
        let hold = match known.passive.standing() {
            Standing::Clear => None,
            Standing::Ejected { until } => Some(until),
            Standing::Suspect { since, .. } | Standing::OnTrial { since } => Some(since + PATIENCE),
        };
        let word = known.overridden.as_ref().and_then(|word| word.until);
        let clocks = [
            (hold, Timer::Hold(slot)),
            (known.sheds, Timer::Shed(slot)),
            (known.turn, Timer::Turn(slot)),
            (known.ramp.map(|_| now + ramp::STEP), Timer::Ramp(slot)),
            (word, Timer::Override(slot)),
        ];
        for (at, timer) in clocks {
            if let Some(at) = at {
                self.timers.wind(at.max(now), timer);
            }
        }
    }
}
