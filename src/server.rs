//! Assembly: a [`Gate`] is built from a configuration, serves, and stops. It binds everything before it does anything, so an address in
//! use is an error and not a process without a listener.
//!
//! Two runtimes share nothing but snapshots and counters: one proxies, the other probes and serves the admin API, so that traffic delays
//! no probe.

mod api_listener;
mod binding;
mod handover;
mod loading;
mod moving;
mod ordering;
mod remembering;
mod stopping;
mod tending;
mod threads;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use tokio::sync::watch;
use tokio::time::timeout;

pub use binding::StartError;
pub use stopping::Stopped;

use crate::access_log::AccessLog;
use crate::acme::Challenges;
use crate::admin::{self, Admin, Lifecycle, Phase};
use crate::clock::Clock;
use crate::conductor::Archive;
use crate::config::{AccessSink, Config};
use crate::cutover::{Cutovers, Rules};
use crate::discovery::Finders;
use crate::driver::{Driver, Handle};
use crate::edge::{Door, Ending, Listener};
use crate::gate::alarm::Alarm;
use crate::metrics::Metrics;
use crate::proxy::{Gateway, Rates, Server, Site, SplitKey};
use crate::reload::{Applied, Loader};
use crate::server::api_listener::Open;
use crate::server::binding::Bound;
use crate::server::handover::{Handover, Signs};
use crate::server::loading::Loading;
use crate::server::stopping::Signals;
use crate::server::threads::Threads;
use crate::store::Store;
use crate::tls::Authorities;
use crate::upgrade::Predecessor;

/// How long clients wait for the first round of probes before they are answered all the same.
const FIRST_ROUND: Duration = Duration::from_secs(5);

/// Attempts that the proxy framework allows; ours are fewer and decided by `gate::retry`.
const MAX_ATTEMPTS: usize = 16;

/// What a gate is assembled from.
struct Parts {
    site: Arc<ArcSwap<Site>>,
    alarm: Arc<Mutex<Alarm>>,
    access: AccessLog,
    lifecycle: Arc<Lifecycle>,
    handle: Handle,
    authorities: Arc<Authorities>,
    split_key: Arc<SplitKey>,
    metrics: Metrics,
    clock: Clock,
    /// What authorities ask for that issue certificates to this gate.
    challenges: Challenges,
    /// How cutovers go by the configuration in force.
    rules: watch::Sender<Rules>,
    /// Whether another process is about to take over.
    handing_over: Arc<AtomicBool>,
}

impl Parts {
    /// The parts by `config`, and the driver, which does nothing yet.
    fn of(config: &Config, metrics: Metrics, store: Option<&Store>) -> Result<(Self, Driver), StartError> {
        let clock = Clock::start();
        let authorities = Arc::new(Authorities::default());
        config.trust(&authorities)?;
        let (driver, handle) = Driver::new(
            config.upstreams.clone(),
            authorities.clone(),
            metrics.clone(),
            clock,
            fastrand::u64(..),
        );
        let upstreams = handle.roster.borrow().upstreams.clone();
        // Where there is one pool nobody is moved.
        let moves = config.upstreams.iter().any(|upstream| upstream.pools.len() > 1);
        let alarm = Arc::new(Mutex::new(Alarm::new(config.alarm)));
        let site = Site::new(config, upstreams, alarm.clone(), None);
        let parts = Self {
            site: Arc::new(ArcSwap::from_pointee(site)),
            alarm,
            access: access_log(config, &metrics)?,
            lifecycle: Arc::default(),
            handle,
            authorities,
            split_key: Arc::new(remembering::split_key(store.filter(|_| moves)).map_err(StartError::Key)?),
            metrics,
            clock,
            challenges: Challenges::default(),
            rules: watch::Sender::new(moving::rules(config)),
            handing_over: Arc::default(),
        };
        Ok((parts, driver))
    }

    fn api(
        &self,
        config_path: String,
        applied: watch::Receiver<Applied>,
        loader: Loader,
        (cutovers, archive): (Cutovers, Option<&Archive>),
    ) -> Router {
        admin::router(Admin {
            lifecycle: self.lifecycle.clone(),
            mailbox: self.handle.mailbox.clone(),
            roster: self.handle.roster.clone(),
            alarm: self.alarm.clone(),
            config_path,
            applied,
            loader,
            cutovers,
            audit: archive.map(Archive::audit),
            metrics: self.metrics.clone(),
            clock: self.clock,
            handing_over: self.handing_over.clone(),
        })
    }

    /// What serves the connections of each listener.
    fn proxies(&self, listeners: &[Listener], threads: usize) -> Vec<Arc<Server>> {
        let conf = Arc::new(framework(threads));
        let proxies = listeners.iter().map(|listener| {
            let gateway = Gateway {
                door: listener.door().clone(),
                rates: listener
                    .door()
                    .settings
                    .limits
                    .client_rate
                    .map(|rate| Arc::new(Rates::new(rate))),
                site: self.site.clone(),
                mailbox: self.handle.mailbox.clone(),
                access: self.access.clone(),
                challenges: self.challenges.clone(),
                authorities: self.authorities.clone(),
                split_key: self.split_key.clone(),
                metrics: self.metrics.clone(),
                clock: self.clock,
            };
            let mut framework = http_proxy(&conf, gateway.clone());
            framework.h2_options = Some(http2());
            Arc::new(Server::new(gateway, framework))
        });
        proxies.collect()
    }

    /// Lets clients in once the first round of probes allows, until `ending` says otherwise. What is returned tells when.
    fn open(
        &self,
        edge: &Threads,
        listeners: Vec<Listener>,
        proxies: Vec<Arc<Server>>,
        mut found: watch::Receiver<bool>,
        ending: Ending,
    ) -> watch::Receiver<bool> {
        let (open, opened) = watch::channel(false);
        let (handle, lifecycle) = (self.handle.clone(), self.lifecycle.clone());
        edge.spawn(async move {
            // A name service that is down keeps nobody waiting for longer than endpoints do.
            drop(timeout(FIRST_ROUND, found.wait_for(|found| *found)).await);
            first_round(handle).await;
            lifecycle.enter(Phase::Serving);
            for (listener, proxy) in listeners.into_iter().zip(proxies) {
                tokio::spawn(listener.serve(proxy, ending.clone()));
            }
            open.send_replace(true);
        });
        opened
    }
}

/// A running gate.
pub struct Gate {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    applied: watch::Receiver<Applied>,
    loader: Loader,
    opened: watch::Receiver<bool>,
    handed_over: watch::Receiver<bool>,
    signals: Signals,
    doors: Vec<Arc<Door>>,
    proxies: Vec<Arc<Server>>,
    /// Connections of the admin API.
    asking: Open,
    parts: Parts,
    _threads: [Threads; 2],
}

impl Gate {
    /// Binds every address, starts probing, and serves as soon as the first round of probes allows.
    ///
    /// # Errors
    /// An address or a file cannot be had.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_after(config, None)
    }

    /// Starts as [`Gate::start`] does, and takes over from the process before this one.
    ///
    /// # Errors
    /// An address or a file cannot be had; the other process goes on then.
    pub fn start_after(config: Config, mut predecessor: Option<Predecessor>) -> Result<Self, StartError> {
        let metrics = Metrics::new()?;
        let threads = threads(&config);
        let edge = Threads::start("edge", threads)?;
        let control = Threads::alone("control")?;
        let bound = Bound::by(&config, &metrics, [&edge, &control], predecessor.as_mut())?;
        let (parts, mut driver) = Parts::of(&config, metrics, bound.store.as_ref())?;
        remembering::begin(&mut driver, predecessor.as_mut(), bound.store.as_ref(), &parts.clock);
        let archive = moving::archive(bound.store.as_ref(), &parts.clock);
        moving::begin(&mut driver, archive.as_ref(), &config)?;
        let addresses = bound
            .listeners
            .iter()
            .map(Listener::address)
            .collect::<io::Result<_>>()?;
        let doors = bound.listeners.iter().map(|listener| listener.door().clone());
        let doors = doors.collect();
        let admin = bound.admin.local_addr()?;
        let upgrade_socket = config.server.upgrade_socket.clone();
        let (loader, questions) = Loader::new();
        let path = config.path.display().to_string();
        let (finders, found) = Finders::new(parts.handle.roster.clone(), parts.metrics.clone());
        let (cutovers, orders, standings) = Cutovers::new();
        let told = cutovers.standings();
        let (loading, applied) = Loading::new(config, finders, (cutovers.standings(), archive.clone()), &parts);
        let conductor = moving::conductor(&parts, archive.clone(), (orders, standings));
        let api = parts.api(path, applied.clone(), loader.clone(), (cutovers, archive.as_ref()));
        let signals = Signals::default();
        let handover = (upgrade_socket, bound.upgrades, bound.sockets);
        let (handover, Signs { handed_over, settled }) = Handover::new(handover, &parts, signals.shut.subscribe());
        control.spawn(handover.gather(told));
        if let Some(store) = bound.store {
            control.spawn(remembering::remember(store, &parts, handed_over.clone()));
        }
        control.spawn(driver.run());
        control.spawn(loading.run(questions));
        control.spawn(tending::lines(parts.handle.clone(), parts.clock));
        control.spawn(tending::wardens(&parts));
        control.spawn(tending::issuers(&bound.listeners, &parts, handed_over.clone()));
        let proxies = parts.proxies(&bound.listeners, threads);
        let opened = parts.open(&edge, bound.listeners, proxies.clone(), found, signals.ending());
        let before = predecessor.is_some().then(|| opened.clone());
        control.spawn(moving::carry_out(conductor, settled, handed_over.clone()));
        let open = Open::new();
        let api = api_listener::serve(bound.admin, api, before, handed_over.clone(), open.clone());
        control.spawn(api);
        control.spawn(handover.run(predecessor, opened.clone()));
        Ok(Self {
            listeners: addresses,
            admin,
            applied,
            loader,
            opened,
            handed_over,
            signals,
            doors,
            proxies,
            asking: open,
            parts,
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
        &self.parts.handle
    }

    /// The way to load another configuration.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.parts.handle.roster.borrow().in_flight()
    }

    /// Ready once clients are let in.
    pub fn opened(&self) -> impl Future<Output = ()> + use<> {
        handover::happened(self.opened.clone())
    }

    /// Ready once another process has taken over, and never if none does.
    pub async fn handed_over(&self) {
        handover::happened(self.handed_over.clone()).await;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.parts.access.flush();
    }
}

/// How many threads proxy.
fn threads(config: &Config) -> usize {
    match config.server.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
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

/// What a client may send of one request body before the gate has taken any of it, in bytes. An upload at a round trip of 100 ms moves 20 MB a second.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// The same for all requests of one connection. So many uploads must stall at once before they hold back the others.
const CONNECTION_WINDOW: u32 = 8 * STREAM_WINDOW;

/// How HTTP/2 is spoken to clients, within the framework's limits on what a client may cost.
fn http2() -> H2Options {
    let mut options = default_h2_options();
    options.initial_window_size(STREAM_WINDOW);
    options.initial_connection_window_size(CONNECTION_WINDOW);
    options
}

fn access_log(config: &Config, metrics: &Metrics) -> Result<AccessLog, StartError> {
    let dropped = metrics.access_lines_dropped.clone();
    match &config.log.access {
        AccessSink::Off => Ok(AccessLog::off(dropped)),
        AccessSink::Stdout => Ok(AccessLog::stdout(config.log.sample, dropped)?),
        AccessSink::File(path) => {
            AccessLog::file(path, config.log.sample, dropped).map_err(|source| StartError::AccessLog {
                path: path.display().to_string(),
                source,
            })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(listener: SocketAddr) -> Config {
        let text = format!(
            "listeners: [{{address: \"{listener}\"}}]\nlog: {{access: \"off\"}}\nupstreams: {{dify: {{pools: {{main: {{endpoints: [\"127.0.0.1:9\"]}}}}}}}}\n"
        );
        let mut config = crate::config::parse(&text, Path::new("test.yaml"), &crate::config::unset).unwrap();
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
