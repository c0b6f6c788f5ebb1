//! Assembly: a [`Gate`] is built from a configuration, serves, and stops. It binds everything before it does anything, so an address in
//! use is an error and not a process without a listener.
//!
//! Two runtimes share nothing but snapshots and counters: one proxies, the other probes and serves the admin API, so that traffic delays
//! no probe.

mod loading;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use pingora::apps::ServerApp;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::access_log::AccessLog;
use crate::admin::{self, Admin, Lifecycle, Phase};
use crate::clock::{Clock, Coarse, TICK};
use crate::config::{AccessSink, Config};
use crate::driver::{Driver, Handle};
use crate::edge::Listener;
use crate::edge::crowd::Crowd;
use crate::gate::keeper::Slot;
use crate::gate::names::UpstreamName;
use crate::metrics::Metrics;
use crate::proxy::{Gateway, Site};
use crate::reload::{Applied, Loader};
use crate::server::loading::Loading;
use crate::upstream::Endpoint;
use crate::upstream::settings::LiveSettings;
use crate::warden::Warden;

/// How long clients wait for the first round of probes before they are answered all the same.
const FIRST_ROUND: Duration = Duration::from_secs(5);

/// Attempts that the proxy framework allows; ours are fewer and decided by `gate::retry`.
const MAX_ATTEMPTS: usize = 16;

/// Why the gate cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listener's address cannot be bound.
    #[error("cannot listen on {address} (is another process using it?)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The admin API's address cannot be bound.
    #[error("cannot listen on {address} for the admin API (set `admin.address`)")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The access log cannot be written.
    #[error("cannot write the access log {path} (set `log.access`)")]
    AccessLog {
        /// Its file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// No thread can be started.
    #[error("cannot start threads")]
    Threads(#[from] io::Error),
    /// Two metrics share a name.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// How a gate stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Everything under way came to its end.
    Drained,
    /// This many requests were cut off at the deadline.
    Cut(u32),
}

/// A running gate.
pub struct Gate {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    applied: watch::Receiver<Applied>,
    loader: Loader,
    handle: Handle,
    lifecycle: Arc<Lifecycle>,
    shutdown: watch::Sender<bool>,
    proxy: Arc<HttpProxy<Gateway>>,
    access: AccessLog,
    _threads: [Threads; 2],
}

impl Gate {
    /// Binds every address, starts probing, and serves as soon as the first round of probes allows.
    ///
    /// # Errors
    /// An address or a file cannot be had.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let clock = Clock::start();
        let metrics = Metrics::new()?;
        let threads = match config.server.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let edge = Threads::start("edge", threads)?;
        let control = Threads::start("control", 1)?;
        let bound = edge.within(|| bind(&config, &metrics))?;
        let admin = control.within(|| bind_admin(config.admin))?;
        let (driver, handle) = Driver::new(config.upstreams.clone(), metrics.clone(), clock, fastrand::u64(..));
        let roster = handle.roster.borrow().clone();
        let lifecycle = Arc::new(Lifecycle::default());
        let access = access_log(&config)?;
        let site = Arc::new(ArcSwap::from_pointee(Site::new(
            &config,
            roster.upstreams.clone(),
            None,
        )));
        let gateway = Gateway {
            site: site.clone(),
            mailbox: handle.mailbox.clone(),
            access: access.clone(),
            metrics: metrics.clone(),
            clock,
        };
        let proxy = Arc::new(http_proxy(&Arc::new(framework(threads)), gateway));
        let (shutdown, watching) = watch::channel(false);
        let listeners = bound.iter().map(Listener::address).collect::<io::Result<_>>()?;
        let admin_address = admin.local_addr()?;
        metrics.config_applied(1);
        let (applying, applied) = watch::channel(Applied {
            generation: 1,
            at: clock.now(),
            server: config.server,
        });
        let (loader, questions) = Loader::new();
        let api = admin::router(Admin {
            lifecycle: lifecycle.clone(),
            mailbox: handle.mailbox.clone(),
            roster: handle.roster.clone(),
            config_path: config.path.display().to_string(),
            applied: applied.clone(),
            loader: loader.clone(),
            metrics: metrics.clone(),
            clock,
        });
        control.spawn(driver.run());
        control.spawn(async move { axum::serve(admin, api).await });
        control.spawn(watch_lines(handle.clone(), clock));
        control.spawn(wardens(handle.clone(), metrics.clone(), clock));
        let loading = Loading {
            config,
            site,
            handle: handle.clone(),
            applied: applying,
            metrics,
            clock,
        };
        control.spawn(loading.run(questions));
        for listener in bound {
            let (proxy, watching) = (proxy.clone(), watching.clone());
            let (handle, lifecycle) = (handle.clone(), lifecycle.clone());
            edge.spawn(async move {
                first_round(handle).await;
                lifecycle.enter(Phase::Serving);
                listener.serve(proxy, watching).await;
            });
        }
        Ok(Self {
            listeners,
            admin: admin_address,
            applied,
            loader,
            handle,
            lifecycle,
            shutdown,
            proxy,
            access,
            _threads: [edge, control],
        })
    }

    /// The listeners' addresses, in the order of the configuration.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// The admin API's address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What the driver publishes and answers.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The way to load another configuration.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        let upstreams = self.handle.roster.borrow().upstreams.clone();
        upstreams.iter().map(|upstream| upstream.flow.in_flight.get()).sum()
    }

    /// Says that it is not ready, goes on serving for the lame-duck time, then takes no more connections and waits for what is under way, but
    /// no longer than the drain timeout. It comes back as soon as nothing is under way.
    pub async fn stop(&self) -> Stopped {
        let settings = self.applied.borrow().server;
        self.lifecycle.enter(Phase::Leaving);
        info!(lame_duck = ?settings.lame_duck, in_flight = self.in_flight(), "stopping: not ready any more");
        tokio::time::sleep(settings.lame_duck).await;
        // Listeners that are gone already need no word.
        let _ = self.shutdown.send(true);
        self.proxy.cleanup().await;
        let drained = async {
            while self.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(settings.drain_timeout, drained).await {
            Ok(()) => Stopped::Drained,
            Err(_) => {
                let cut = self.in_flight();
                warn!(
                    requests = cut,
                    "the drain timeout has passed: cutting what is under way"
                );
                Stopped::Cut(cut)
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.access.flush();
    }
}

fn bind(config: &Config, metrics: &Metrics) -> Result<Vec<Listener>, StartError> {
    let pools = config.upstreams.iter().flat_map(|upstream| &upstream.pools);
    let crowd = Crowd::before(pools.map(|pool| pool.endpoints.len()).sum());
    let listeners = config.listeners.iter().map(|settings| {
        Listener::bind(*settings, crowd.clone(), config.trusted_proxies.clone(), metrics).map_err(|source| {
            StartError::Listen {
                address: settings.address,
                source,
            }
        })
    });
    listeners.collect()
}

fn bind_admin(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|source| StartError::Admin { address, source })
}

/// The threads of one runtime. They are let go without waiting, so a gate may be dropped within another runtime, also one that did
/// not come to start.
struct Threads(Option<Runtime>);

impl Threads {
    fn start(name: &str, count: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(count).thread_name(name).enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs what needs a runtime around it, also where the caller is within another one.
    fn within<T>(&self, what: impl FnOnce() -> T) -> T {
        let _guard = self.0.as_ref().map(Runtime::enter);
        what()
    }

    fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(async move { drop(task.await) });
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn framework(threads: usize) -> ServerConf {
    ServerConf {
        max_retries: MAX_ATTEMPTS,
        threads,
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    }
}

fn access_log(config: &Config) -> Result<AccessLog, StartError> {
    match &config.log.access {
        AccessSink::Off => Ok(AccessLog::off()),
        AccessSink::Stdout => Ok(AccessLog::stdout(config.log.sample)?),
        AccessSink::File(path) => AccessLog::file(path, config.log.sample).map_err(|source| StartError::AccessLog {
            path: path.display().to_string(),
            source,
        }),
    }
}

/// Watches over the endpoints of upstreams that say how, whoever they are by now.
async fn wardens(mut handle: Handle, metrics: Metrics, clock: Clock) {
    let mut upstreams: HashMap<UpstreamName, Warden> = HashMap::new();
    let mut watches: HashMap<Slot, (Arc<LiveSettings>, JoinHandle<()>)> = HashMap::new();
    loop {
        let roster = handle.roster.borrow_and_update().clone();
        let mut before = std::mem::take(&mut watches);
        for upstream in roster.upstreams.iter() {
            let settings = &upstream.settings;
            let Some(live) = &settings.live else { continue };
            let warden = upstreams.entry(settings.name.clone());
            let warden = warden.or_insert_with(|| Warden::new(handle.mailbox.clone(), metrics.clone(), clock));
            for endpoint in roster
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.id.upstream == settings.name)
            {
                let old = before.remove(&endpoint.slot);
                let same = old.filter(|(settings, watch)| {
                    Arc::ptr_eq(settings, live) || {
                        watch.abort();
                        false
                    }
                });
                let start = || {
                    (
                        live.clone(),
                        tokio::spawn(warden.clone().watch(endpoint.clone(), live.clone())),
                    )
                };
                watches.insert(endpoint.slot, same.unwrap_or_else(start));
            }
        }
        before.into_values().for_each(|(_, watch)| watch.abort());
        if handle.roster.changed().await.is_err() {
            return;
        }
    }
}

/// Waits until something may serve every upstream, everyone was asked, or patience ends.
async fn first_round(mut handle: Handle) {
    let ready = handle
        .progress
        .wait_for(|progress| progress.asked_everyone || progress.can_serve);
    // Either way clients are answered from here on.
    let _ = tokio::time::timeout(FIRST_ROUND, ready).await;
}

/// Moves the coarse clock, ends lines on which something is overdue, and closes connections that nobody has used for long. Endpoints that have
/// left the configuration count until their last stream has ended.
async fn watch_lines(mut handle: Handle, clock: Clock) {
    let mut ticks = tokio::time::interval(TICK);
    let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
    loop {
        ticks.tick().await;
        Coarse::get().tick(&clock);
        if endpoints.is_empty() || handle.roster.has_changed().unwrap_or(false) {
            let roster = handle.roster.borrow_and_update().clone();
            let slots: HashSet<Slot> = roster.endpoints.iter().map(|endpoint| endpoint.slot).collect();
            endpoints.retain(|endpoint| !slots.contains(&endpoint.slot) && endpoint.in_flight.get() > 0);
            endpoints.extend(roster.endpoints.iter().cloned());
        }
        let now = Coarse::get().millis();
        for endpoint in &endpoints {
            endpoint.lines.end_overdue(now);
            endpoint.idle.close_old();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(listener: SocketAddr) -> Config {
        let text = format!(
            "listeners: [{{address: \"{listener}\"}}]\nlog: {{access: \"off\"}}\nupstreams: {{dify: {{pools: {{main: {{endpoints: [\"127.0.0.1:9\"]}}}}}}}}\n"
        );
        let mut config = crate::config::parse(&text, Path::new("test.yaml"), &|_| None).unwrap();
        config.admin.set_port(0);
        config
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it_also_within_a_runtime() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = taken.local_addr().unwrap();
        match Gate::start(config(listener)) {
            Err(StartError::Listen { address, source }) => {
                assert_eq!((address, source.kind()), (listener, io::ErrorKind::AddrInUse));
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it started"),
        }
    }
}
