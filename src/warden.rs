//! Asks each endpoint whether it lives, beside the probes that decide who serves, and asks for its restart where it does not. It never moves
//! traffic.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::gate::liveness::{Call, Liveness};
use crate::mailbox::Mailbox;
use crate::metrics::{Metrics, endpoint_labels};
use crate::probe::{Kept, Prober};
use crate::tls::Authorities;
use crate::upstream::Endpoint;
use crate::upstream::settings::LiveSettings;

/// Watches over the endpoints of one gate.
#[derive(Clone)]
pub struct Warden {
    prober: Arc<Prober>,
    authorities: Arc<Authorities>,
    mailbox: Mailbox,
    metrics: Metrics,
    clock: Clock,
    /// When a restart was last asked for in a pool: they come one after the other, so that a fault of the probe itself does not take all
    /// endpoints at once.
    last: Arc<Mutex<Option<Instant>>>,
}

impl Warden {
    /// One for the endpoints of one upstream.
    pub fn new(mailbox: Mailbox, authorities: Arc<Authorities>, metrics: Metrics, clock: Clock) -> Self {
        Self {
            prober: Arc::new(Prober::new(clock, authorities.clone())),
            authorities,
            mailbox,
            metrics,
            clock,
            last: Arc::default(),
        }
    }

    /// One for another upstream.
    pub fn another(&self) -> Self {
        Self {
            last: Arc::default(),
            ..self.clone()
        }
    }

    /// Watches over one endpoint for ever.
    pub async fn watch(self, endpoint: Arc<Endpoint>, settings: Arc<LiveSettings>) {
        let plan = &settings.plan;
        let mut liveness = Liveness::new(plan, self.clock.now());
        loop {
            tokio::time::sleep_until(liveness.next().into()).await;
            let report = self
                .prober
                .probe(&endpoint.id.address, &settings.probe, &Kept::default())
                .await;
            let silent = u64::try_from(plan.interval.as_millis()).unwrap_or(u64::MAX);
            let delivering = endpoint.pulse.delivered_within(silent);
            let call = liveness.observe(&report.outcome, delivering, plan, self.clock.now());
            let cause = crate::gate::state::Cause::of("live", &report.outcome).to_string();
            match call {
                Call::Fine => {}
                Call::Failing(failures) => {
                    warn!(endpoint = %endpoint.id, failures, cause, "endpoint seems not to live")
                }
                Call::TooSoon => self.count(&endpoint, "too_soon"),
                Call::Restart => self.restart(&endpoint, &settings, &cause).await,
            }
        }
    }

    async fn restart(&self, endpoint: &Endpoint, settings: &LiveSettings, cause: &str) {
        if self.is_overridden(endpoint).await {
            info!(endpoint = %endpoint.id, "no restart is asked for while the operator is at it");
            return self.count(endpoint, "overridden");
        }
        let mut last = self.last.lock().await;
        let now = self.clock.now();
        if last.is_some_and(|at| now.saturating_duration_since(at) < settings.apart) {
            warn!(endpoint = %endpoint.id, cause, "no restart is asked for so soon after that of a neighbour");
            return self.count(endpoint, "neighbour");
        }
        *last = Some(now);
        drop(last);
        warn!(endpoint = %endpoint.id, cause, "endpoint does not live: its restart is asked for");
        match settings.hook.ask(&self.authorities, &endpoint.id, cause).await {
            Ok(()) => self.count(endpoint, "asked"),
            Err(why) => {
                error!(endpoint = %endpoint.id, why, "its restart could not be asked for");
                self.count(endpoint, "failed");
            }
        }
    }

    async fn is_overridden(&self, endpoint: &Endpoint) -> bool {
        let known = self.mailbox.known().await.unwrap_or_default();
        let mut own = known.iter().filter(|one| one.endpoint.slot == endpoint.slot);
        own.any(|one| one.known.overridden.is_some())
    }

    fn count(&self, endpoint: &Endpoint, outcome: &str) {
        let [upstream, pool, address] = endpoint_labels(&endpoint.id);
        self.metrics
            .restarts
            .with_label_values(&[upstream, pool, address, outcome])
            .inc();
    }
}
