//! Another configuration for a gate that runs. Verdicts, overrides, counts and streams stay; what cannot change is told.

use std::sync::{Arc, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::{FIRST_ROUND, Parts, first_round, moving};
use crate::clock::Clock;
use crate::conductor::Archive;
use crate::config::changes::{Change, changes};
use crate::config::secrets::FILE;
use crate::config::{self, Config};
use crate::cutover::{Rules, Standings};
use crate::discovery::Finders;
use crate::driver::Handle;
use crate::metrics::Metrics;
use crate::proxy::Site;
use crate::reload::{Applied, Loaded, Question, Refused, Wanted};
use crate::tls::Authorities;

/// Loads configurations, one after the other.
pub(super) struct Loading {
    config: Config,
    site: Arc<ArcSwap<Site>>,
    handle: Handle,
    finders: Finders,
    applied: watch::Sender<Applied>,
    authorities: Arc<Authorities>,
    rules: watch::Sender<Rules>,
    standings: watch::Receiver<Standings>,
    archive: Option<Archive>,
    metrics: Metrics,
    clock: Clock,
}

impl Loading {
    /// A loader of a gate that runs on `config`, and what tells which one is in force.
    pub(super) fn new(
        config: Config,
        finders: Finders,
        (standings, archive): (watch::Receiver<Standings>, Option<Archive>),
        parts: &Parts,
    ) -> (Self, watch::Receiver<Applied>) {
        parts.metrics.config_applied(1);
        let (applied, watching) = watch::channel(Applied {
            generation: 1,
            at: parts.clock.now(),
            server: config.server.clone(),
        });
        let loading = Self {
            config,
            finders,
            applied,
            site: parts.site.clone(),
            handle: parts.handle.clone(),
            authorities: parts.authorities.clone(),
            rules: parts.rules.clone(),
            standings,
            archive,
            metrics: parts.metrics.clone(),
            clock: parts.clock,
        };
        (loading, watching)
    }

    /// Answers until nobody can ask any more, and follows what is discovered and the files for TLS to others.
    pub(super) async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        let mut following = JoinSet::new();
        following.spawn(self.authorities.clone().follow());
        self.finders.look_for(&self.config.upstreams);
        loop {
            tokio::select! {
                question = questions.recv() => {
                    let Some((wanted, reply)) = question else { return };
                    let loaded = match wanted {
                        Wanted::Reload => self.reload().await,
                        Wanted::Diff(text) => self.diff(&text),
                    };
                    // Whoever asked may have gone; then nobody misses the answer.
                    let _ = reply.send(loaded);
                }
                news = self.finders.changed() => {
                    let filled = news.then(|| self.finders.fill(&self.config.upstreams));
                    if let Some(filled) = filled && self.handle.mailbox.reconcile(filled).await.is_none() {
                        return;
                    }
                    self.finders.tell_heard();
                }
            }
        }
    }

    fn generation(&self) -> u64 {
        self.applied.borrow().generation
    }

    fn diff(&self, text: &str) -> Result<Loaded, Refused> {
        // Whoever may ask this could else read every file that the gate may.
        let environment = |name: &str| match name.strip_prefix(FILE) {
            Some(path) if !self.config.secrets.has(name) => Err(format!(
                "the file `{path}` is not read here, for the configuration in force does not name it"
            )),
            Some(_) | None => config::environment(name),
        };
        let other = config::parse(text, &self.config.path, &environment).map_err(|errors| errors.to_string())?;
        Ok(Loaded {
            generation: self.generation(),
            changes: changes(&self.config, &other),
        })
    }

    async fn reload(&mut self) -> Result<Loaded, Refused> {
        let path = self.config.path.clone();
        let loaded = match config::load(&path, &config::environment) {
            Ok(config) => self.apply(config).await,
            Err(errors) => Err(errors.to_string()),
        };
        if let Err(why) = &loaded {
            self.metrics.config_last_reload_ok.set(0);
            error!(path = %path.display(), why, "the configuration is not loaded: the one in force stays");
        }
        loaded
    }

    async fn apply(&mut self, mut config: Config) -> Result<Loaded, Refused> {
        config.trust(&self.authorities).map_err(|wrong| wrong.to_string())?;
        moving::keep_pools(&self.standings, self.archive.as_ref(), &config)?;
        let found = changes(&self.config, &config);
        keep_alive_settings(&self.config, &mut config);
        self.finders.look_for(&config.upstreams);
        // Whom a new pool consists of is found before anybody is sent there, if it can be.
        drop(tokio::time::timeout(FIRST_ROUND, self.finders.all_heard()).await);
        let watched = self
            .handle
            .mailbox
            .reconcile(self.finders.fill(&config.upstreams))
            .await;
        watched.ok_or("the gate is stopping")?;
        // An upstream that is new is asked before anybody is sent there.
        first_round(self.handle.clone()).await;
        let upstreams = self.handle.roster.borrow().upstreams.clone();
        let before = self.site.load();
        let alarm = before.alarm.clone();
        alarm
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .follow(config.alarm);
        let site = Site::new(&config, upstreams, alarm, Some(&before));
        self.site.store(Arc::new(site));
        self.rules.send_replace(moving::rules(&config));
        let generation = self.generation() + 1;
        self.applied.send_replace(Applied {
            generation,
            at: self.clock.now(),
            server: config.server.clone(),
        });
        self.metrics
            .config_applied(i64::try_from(generation).unwrap_or(i64::MAX));
        self.config = config;
        tell(generation, &found);
        Ok(Loaded {
            generation,
            changes: found,
        })
    }
}

/// Whoever watches whether endpoints live goes on with what it knows, where nobody asks for something else.
fn keep_alive_settings(old: &Config, new: &mut Config) {
    let (from, to) = (&old.document, &new.document);
    for upstream in &mut new.upstreams {
        let name = upstream.name.as_str();
        let same = |key| from["upstreams"][name][key] == to["upstreams"][name][key];
        let before = old.upstreams.iter().find(|old| old.name == upstream.name);
        if let Some(before) = before.filter(|_| same("live") && same("probe") && same("probes")) {
            upstream.live.clone_from(&before.live);
        }
    }
}

fn tell(generation: u64, changes: &[Change]) {
    info!(generation, changes = changes.len(), "the configuration is loaded");
    for change in changes {
        if change.needs_restart {
            warn!(change = %change, "this does not change while the gate runs");
        } else {
            info!(change = %change, "changed");
        }
    }
}
