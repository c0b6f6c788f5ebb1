//! What is told of each step: a line in the log, an entry in the audit trail, numbers in the metrics, and whoever wants to hear of it.

use tracing::{info, warn};

use super::mover::{Change, Mover};
use super::trials::{self, Scene};
use crate::audit::AuditEntry;
use crate::gate::cutover::{GATE, Gate, Phase, Record, Verdict};

impl Mover {
    /// The audit entry of a change.
    pub(super) fn entry(&self, next: &Record, change: &Change<'_>) -> AuditEntry {
        let evidence = next.cutover.as_ref().and_then(|cutover| cutover.log.back());
        let evidence = evidence.into_iter().flat_map(|entry| &entry.evidence);
        AuditEntry {
            time: self.tools.clock.tell(self.tools.clock.now()),
            name: self.deployment.name.clone(),
            verb: change.verb.to_owned(),
            actor: change.by.to_owned(),
            // The admin API listens on loopback alone.
            authenticated: if change.by == GATE { "gate" } else { "loopback" }.to_owned(),
            reason: change.reason.to_owned(),
            key: change.key.clone(),
            from_epoch: self.record.epoch,
            epoch: next.epoch,
            from_phase: self.record.phase().to_string(),
            phase: next.phase().to_string(),
            percent: next.cutover.as_ref().map_or(0, |cutover| cutover.percent),
            evidence: evidence.map(ToString::to_string).collect(),
            ..AuditEntry::default()
        }
    }

    /// Tells of a step that was taken.
    pub(super) fn tell(&self, before: &Record, change: &Change<'_>) {
        let (name, record) = (self.deployment.name.as_str(), &self.record);
        let (from, phase) = (before.phase(), record.phase());
        let percent = record.cutover.as_ref().map_or(0, |cutover| cutover.percent);
        let epoch = record.epoch;
        let (by, why) = (change.by, change.reason);
        let verb = change.verb;
        if matches!(
            phase,
            Phase::Failed | Phase::RollingBack | Phase::RolledBack | Phase::Frozen
        ) {
            warn!(name, verb, by, %from, to = %phase, percent, epoch, why, "cutover");
        } else {
            info!(name, verb, by, %from, to = %phase, percent, epoch, why, traffic = record.traffic.as_str(), "cutover");
        }
        let is_result = matches!(
            phase,
            Phase::Committed | Phase::Failed | Phase::RolledBack | Phase::Frozen
        );
        if is_result && from != phase {
            self.tools
                .metrics
                .cutovers
                .with_label_values(&[name, phase.as_str()])
                .inc();
        }
        if from != phase
            && let Some(old) = &before.cutover
        {
            let spent = self.tools.clock.now().saturating_duration_since(old.entered);
            let seconds = self
                .tools
                .metrics
                .cutover_state_seconds
                .with_label_values(&[name, from.as_str()]);
            seconds.observe(spent.as_secs_f64());
        }
        self.count();
        if let Some(cutover) = &record.cutover {
            let scene = Scene {
                name: name.to_owned(),
                cutover: cutover.clone(),
                endpoints: Vec::new(),
                is_cold: false,
            };
            trials::announce(scene, why.to_owned(), self.settings.clone(), self.tools.clone());
        }
    }

    /// Sets the gauges that say where a name stands.
    pub(super) fn count(&self) {
        let (name, record, metrics) = (self.deployment.name.as_str(), &self.record, &self.tools.metrics);
        let now = record.phase();
        for phase in Phase::ALL {
            let gauge = metrics.cutover_phase.with_label_values(&[name, phase.as_str()]);
            gauge.set(i64::from(phase == now));
        }
        let epoch = i64::try_from(record.epoch).unwrap_or(i64::MAX);
        metrics.cutover_epoch.with_label_values(&[name]).set(epoch);
        let direction = record.direction(name);
        let roster = self.tools.roster.borrow().clone();
        for upstream in self.members(&roster) {
            for pool in &upstream.settings.pools {
                let labels = [upstream.settings.name.as_str(), pool.name.as_str()];
                let weight = direction.weight(&pool.name);
                metrics.cutover_weight.with_label_values(&labels).set(weight.into());
            }
        }
    }

    /// Sets the gauges that say what was measured. Those of gates that are not asked any more go: their last values would look like present ones.
    pub(super) fn measure(&mut self) {
        let (name, metrics) = (self.deployment.name.as_str(), &self.tools.metrics);
        let is_over = self.record.phase().is_over();
        let gates = self.seen.gates.iter().chain(&self.seen.triggers);
        let gates: Vec<&Gate> = gates.filter(|_| !is_over).collect();
        let before = std::mem::take(&mut self.measured);
        for gone in before
            .iter()
            .filter(|gone| gates.iter().all(|gate| gate.name != **gone))
        {
            // One that is not there any more is what is wanted.
            let _ = metrics.cutover_gate.remove_label_values(&[name, gone.as_str()]);
        }
        self.measured = gates.iter().map(|gate| gate.name.clone()).collect();
        for gate in gates {
            let value = match gate.verdict {
                Verdict::Pass => 1,
                Verdict::Inconclusive => 0,
                Verdict::Fail => -1,
            };
            metrics.cutover_gate.with_label_values(&[name, &gate.name]).set(value);
        }
        for (pool, count) in &self.in_flight {
            metrics
                .cutover_in_flight
                .with_label_values(&[name, pool.as_str()])
                .set((*count).into());
        }
    }
}
