//! What the story plays on: three simulated Dify instances, and the gate before them on its default settings.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::time::sleep;

use crate::config;
use crate::gate::keeper::Known;
use crate::gate::state::State;
use crate::server::{Gate, StartError};
use crate::simulated_dify::{Cluster, SimulatedDify};

/// How long an expected change may take before the story is given up.
const PATIENCE: Duration = Duration::from_secs(15);

/// The players.
pub struct Stage {
    /// The gate.
    pub gate: Gate,
    /// What stands behind it.
    pub instances: [SimulatedDify; 3],
}

impl Stage {
    /// Starts everything. The gate takes its usual ports if they are free, else any.
    ///
    /// # Errors
    /// Something cannot be started, or an instance is not found fit.
    pub async fn set() -> anyhow::Result<Self> {
        let cluster = Cluster::new();
        let start = |name| SimulatedDify::start(&cluster, name);
        let instances = [start("dify-1").await?, start("dify-2").await?, start("dify-3").await?];
        let stage = Self {
            gate: start_gate(&instances)?,
            instances,
        };
        for index in 0..stage.instances.len() {
            stage.until(index, true).await?;
        }
        Ok(stage)
    }

    /// Where clients go.
    pub fn listener(&self) -> SocketAddr {
        self.gate.listeners().first().copied().unwrap_or(self.gate.admin())
    }

    /// Waits until the gate holds an instance fit to serve, or no longer, and tells since when.
    ///
    /// # Errors
    /// It does not come to that within the patience of the stage.
    pub async fn until(&self, index: usize, routable: bool) -> anyhow::Result<Instant> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let known = self.known(index).await?;
            if known.state.is_routable() == routable {
                return Ok(known.since);
            }
            sleep(Duration::from_millis(2)).await;
        }
        let fit = if routable { "in" } else { "out of" };
        bail!("dify-{} was not {fit} rotation within {PATIENCE:?}", index + 1)
    }

    /// Why an instance is out of rotation, once the probe that decides about a suspect has been answered.
    ///
    /// # Errors
    /// There is no such instance, or nothing is decided within the patience of the stage.
    pub async fn verdict(&self, index: usize) -> anyhow::Result<String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let known = self.known(index).await?;
            if known.state != State::Suspect {
                return Ok(known.cause.to_string());
            }
            sleep(Duration::from_millis(2)).await;
        }
        bail!("nothing was decided about dify-{} within {PATIENCE:?}", index + 1)
    }

    /// Attempts that the gate has made again so far.
    ///
    /// # Errors
    /// The admin API does not answer.
    pub async fn retries(&self) -> anyhow::Result<u64> {
        let (_, text) = crate::client::get(&format!("http://{}", self.gate.admin()), "/metrics").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text.lines().filter(|line| line.starts_with("difygate_retries_total{"));
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum())
    }

    /// What the gate knows of an instance.
    ///
    /// # Errors
    /// There is no such instance.
    pub async fn known(&self, index: usize) -> anyhow::Result<Known> {
        let known = self
            .gate
            .handle()
            .mailbox
            .known()
            .await
            .context("the gate has stopped")?;
        let one = known.into_iter().nth(index).map(|one| one.known);
        one.context("the gate lost an endpoint")
    }

    pub(super) fn introduction(&self) -> String {
        let mut lines =
            vec!["Three simulated Dify instances, a gate on default settings, 200 requests a second.".to_owned()];
        lines.extend(
            self.instances
                .iter()
                .map(|dify| format!("  {}   {}", dify.name(), dify.url())),
        );
        lines.push(format!(
            "  gate     http://{}   admin http://{}",
            self.listener(),
            self.gate.admin()
        ));
        lines.join("\n")
    }

    pub(super) fn invitation(&self) -> String {
        let (listener, admin) = (self.listener(), self.gate.admin());
        format!(
            "\nThe gate goes on serving. Open\n  http://{admin}/            the status page\n  http://{admin}/metrics     for Prometheus\n  \
             http://{listener}/         Dify, through the gate\nor type\n  difygate status --admin http://{admin}\n  \
             curl -i http://{listener}/healthz\n  curl -i -H 'X-Forwarded-For: 203.0.113.7' http://{listener}/healthz\nCtrl-C ends it."
        )
    }
}

fn start_gate(instances: &[SimulatedDify; 3]) -> anyhow::Result<Gate> {
    let endpoints: Vec<String> = instances.iter().map(|dify| format!("\"{}\"", dify.address())).collect();
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\"}}]\nlog: {{access: \"off\"}}\nupstreams:\n  dify:\n    pools: {{main: {{endpoints: [{}]}}}}\n",
        endpoints.join(", ")
    );
    let mut config = config::parse(&text, Path::new("(demo)"), &config::unset)?;
    match Gate::start(config.clone()) {
        Err(StartError::Listen { .. } | StartError::Admin { .. }) => {
            config.admin.set_port(0);
            for listener in &mut config.listeners {
                listener.address.set_port(0);
            }
            Ok(Gate::start(config)?)
        }
        started => Ok(started?),
    }
}
