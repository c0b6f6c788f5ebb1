//! What was before this process: what another one knew of endpoints, and what operators said. Endpoints that are yet to be discovered are
//! remembered until they come.

use std::time::{Duration, Instant};

use super::Driver;
use super::world::Due;
use crate::gate::keeper::Memory;
use crate::gate::names::EndpointId;
use crate::gate::overrides::Override;

/// The operators' words that stand.
pub type Overrides = Vec<(EndpointId, Override)>;

/// What is known of an endpoint that was not watched for so long is worth no more than a probe.
const FRESH: Duration = Duration::from_secs(30);

/// What concerns nobody who is watched yet.
#[derive(Debug, Default)]
pub(super) struct Past {
    memories: Vec<Memory>,
    until: Option<Instant>,
    overrides: Overrides,
}

impl Driver {
    /// Goes on with what another process knew of its endpoints a moment ago.
    pub fn resume(&mut self, memories: Vec<Memory>) {
        let words = memories.iter();
        self.past.overrides = words
            .filter_map(|memory| Some((memory.id.clone(), memory.overridden.clone()?)))
            .collect();
        self.past.memories = memories;
        self.past.until = Some(self.clock.now() + FRESH);
        self.recollect();
    }

    /// Repeats what operators said before the process began.
    pub fn repeat(&mut self, overrides: Overrides) {
        self.past.overrides = overrides;
        self.recollect();
    }

    /// Lets the past count for whoever is watched by now.
    pub(super) fn recollect(&mut self) {
        let now = self.clock.now();
        let memories = std::mem::take(&mut self.past.memories);
        if self.past.until.is_some_and(|until| now < until) {
            let (resumed, absent) = self.keeper.resume(memories, now);
            self.past.memories = absent;
            for slot in resumed {
                if let Some(known) = self.keeper.get(slot) {
                    self.set_gauges(&known.id, known.state);
                }
                self.mark(slot, Due::Now);
            }
        }
        for (id, word) in std::mem::take(&mut self.past.overrides) {
            let found = self.keeper.all().find(|(_, known)| known.id == id);
            match found.map(|(slot, known)| (slot, known.overridden.is_some())) {
                _ if word.is_over(now) => {}
                Some((slot, false)) => self.keeper.handle_override(slot, word, now),
                Some((_, true)) => {}
                None => self.past.overrides.push((id, word)),
            }
        }
        self.note_overrides();
    }

    /// Publishes what operators want, if it is something else than before.
    pub(super) fn note_overrides(&self) {
        let all = self.keeper.all();
        let wanted = all.filter_map(|(_, known)| Some((known.id.clone(), known.overridden.clone()?)));
        let wanted: Overrides = wanted.chain(self.past.overrides.iter().cloned()).collect();
        self.overrides.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }
}
