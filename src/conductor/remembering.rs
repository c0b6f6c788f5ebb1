//! What is remembered of a name beside its record: what its pools did in the last hour, and the alerts that fire. Nothing waits for it, and a gate that
//! cannot read it begins without.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::warn;

use super::alerts::Alerts;
use super::keeping::Archive;
use super::mover::Mover;
use crate::cutover::counted::{MeasuredDoc, PastDoc};
use crate::gate::names::PoolName;

/// What pools have done is written so often at the most.
const SELDOM: Duration = Duration::from_secs(30);

fn file(name: &str) -> String {
    format!("measured-{name}.json")
}

impl Archive {
    fn measured(&self, name: &str) -> MeasuredDoc {
        let read = self.store.read(&file(name));
        read.unwrap_or_else(|e| {
            warn!(error = %e, name, "what was measured before cannot be read: cutovers are judged by what comes from now on");
            None
        })
        .unwrap_or_default()
    }
}

impl Mover {
    /// Takes up what the process before remembered.
    pub(super) fn recall(&mut self) {
        let Some(archive) = &self.tools.archive else { return };
        let MeasuredDoc { pools, alerts } = archive.measured(&self.deployment.name);
        let clock = self.tools.clock;
        self.alerts = Alerts::read(alerts, &clock);
        for past in pools {
            if let Some(at) = clock.hear(&past.at) {
                self.samples.recall(PoolName::new(&past.pool), at, past.counted.into());
            }
        }
    }

    /// Remembers what pools have done, where that is due.
    pub(super) async fn remember_samples(&mut self) {
        let now = self.tools.clock.now();
        let due = self.remembered.is_none_or(|last| now >= last + SELDOM);
        if due && self.samples.have_grown() {
            self.remember().await;
        }
    }

    /// Remembers everything for the next process.
    pub(super) async fn remember(&mut self) {
        let Some(archive) = self.tools.archive.clone() else {
            return;
        };
        if self.tools.handing_over.load(Ordering::Relaxed) {
            return;
        }
        let (clock, now) = (self.tools.clock, self.tools.clock.now());
        self.remembered = Some(now);
        let pools = self.samples.told(now).into_iter().map(|(pool, at, counted)| PastDoc {
            pool: pool.to_string(),
            at: clock.tell(at),
            counted: (&counted).into(),
        });
        let document = MeasuredDoc {
            pools: pools.collect(),
            alerts: self.alerts.told(&clock),
        };
        let name = self.deployment.name.clone();
        let written = tokio::task::spawn_blocking(move || archive.store.write(&file(&name), &document)).await;
        let Err(e) = written.unwrap_or_else(|e| Err(e.into())) else {
            self.forgetful = false;
            return;
        };
        self.tools.metrics.state_write_failures.inc();
        // Said once: it is tried again every half a minute.
        if !std::mem::replace(&mut self.forgetful, true) {
            let name = self.deployment.name.as_str();
            warn!(error = %e, name, "what was measured of pools cannot be kept: it would not outlive this process");
        }
    }
}
