//! What is told of each change: a line in the log and numbers in the metrics.

use tracing::{info, warn};

use super::Driver;
use crate::gate::health::Outcome;
use crate::gate::keeper::{ProbeReport, Spared, Ticket};
use crate::gate::names::EndpointId;
use crate::gate::passive::TrafficFailure;
use crate::gate::state::{Event, State, Tier};
use crate::metrics::endpoint_labels;

impl Driver {
    pub(super) fn share(&self, at: &EndpointId, component: &str, failing: bool) {
        let (upstream, pool) = (at.upstream.as_str(), at.pool.as_str());
        if failing {
            warn!(
                upstream,
                pool, component, "a dependency that instances share fails: nobody is ejected for it"
            );
        } else {
            info!(
                upstream,
                pool, component, "a dependency that instances share is well again"
            );
        }
        let gauge = self.metrics.shared_failure.with_label_values(&[upstream, component]);
        gauge.set(i64::from(failing));
    }

    pub(super) fn spare(&self, id: &EndpointId, failure: TrafficFailure, why: Spared) {
        match why {
            Spared::TooFew => warn!(endpoint = %id, %failure, "requests fail, and too few would be left without it"),
            Spared::LikeTheOthers => warn!(endpoint = %id, %failure, "requests fail here as they do elsewhere"),
        }
        self.metrics
            .ejections_refused
            .with_label_values(&endpoint_labels(id))
            .inc();
    }

    /// Tells once that there is nobody whom an optional probe asks.
    pub(super) fn tell_absent(&self, ticket: Ticket, report: &ProbeReport) {
        let (Outcome::Absent { detail }, Some(known)) = (&report.outcome, self.keeper.get(ticket.slot)) else {
            return;
        };
        let Some((plan, _)) = known.verdicts.get(ticket.probe) else {
            return;
        };
        let probe = &plan.name;
        let was_absent = known
            .last_of(probe)
            .is_some_and(|record| matches!(record.report.outcome, Outcome::Absent { .. }));
        if !was_absent {
            info!(endpoint = %known.id, %probe, detail, "optional probe finds nobody");
        }
    }

    pub(super) fn count(&self, ticket: Ticket, report: &ProbeReport) {
        let Some(watched) = self.endpoints.get(ticket.slot) else {
            return;
        };
        let [upstream, pool, endpoint] = endpoint_labels(&watched.endpoint.id);
        if report.outcome.is_pass() {
            watched.counts.passed.inc();
        } else {
            let class = report.outcome.class().map_or("", |class| class.as_str());
            let labels = [upstream, pool, endpoint, report.outcome.as_str(), class];
            self.metrics.probes.with_label_values(&labels).inc();
        }
        watched.counts.duration.observe(report.phases.total.as_secs_f64());
        let known = self.keeper.get(ticket.slot);
        let told = |component: &str| known.and_then(|known| known.components.get(component));
        for (component, up) in report.components.iter().filter(|(name, up)| told(name) != Some(up)) {
            let labels = [upstream, pool, endpoint, component];
            self.metrics.component_up.with_label_values(&labels).set(i64::from(*up));
        }
    }

    pub(super) fn announce(&self, event: &Event) {
        let id = &event.endpoint;
        let cause = event.cause.to_string();
        match event.to.tier() {
            Some(Tier::Fit) => {
                info!(endpoint = %id, from = %event.from, to = %event.to, cause, "endpoint takes traffic")
            }
            Some(Tier::Spare) => warn!(endpoint = %id, from = %event.from, to = %event.to, cause, "endpoint is spared"),
            Some(Tier::Accused) | None => {
                warn!(endpoint = %id, from = %event.from, to = %event.to, cause, "endpoint takes no traffic");
            }
        }
        let [upstream, pool, endpoint] = endpoint_labels(id);
        let labels = [upstream, pool, endpoint, event.to.as_str(), event.cause.label()];
        self.metrics.state_changes.with_label_values(&labels).inc();
        self.set_gauges(id, event.to);
    }

    pub(super) fn set_gauges(&self, id: &EndpointId, now: State) {
        let [upstream, pool, endpoint] = endpoint_labels(id);
        let routable = self
            .metrics
            .endpoint_routable
            .with_label_values(&[upstream, pool, endpoint]);
        routable.set(i64::from(now.is_routable()));
        for state in State::ALL {
            let labels = [upstream, pool, endpoint, state.as_str()];
            self.metrics
                .endpoint_state
                .with_label_values(&labels)
                .set(i64::from(now == state));
        }
    }
}
