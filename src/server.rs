//! Assembly: a [`Gate`] is built from a configuration, serves, and stops. It binds everything before it does anything, so an address in
//! use is an error and not a process without a listener.
//!
//! Two runtimes share nothing but snapshots and counters: one proxies, the other probes and serves the admin API, so that traffic delays
//! no probe.

mod loading;
mod tending;
mod threads;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::access_log::AccessLog;
use crate::admin::{self, Admin, Lifecycle, Phase};
use crate::clock::Clock;
use crate::config::{AccessSink, Config, Mistrust};
use crate::discovery::Finders;
use crate::driver::{Driver, Handle};
use crate::edge::crowd::Crowd;
use crate::edge::tls::TlsError;
use crate::edge::{ListenError, Listener};
use crate::gate::alarm::Alarm;
use crate::metrics::Metrics;
use crate::proxy::{Gateway, Rates, Site};
use crate::reload::{Applied, Loader};
use crate::server::loading::Loading;
use crate::server::threads::Threads;
use crate::tls::Authorities;

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
    /// A listener cannot speak TLS.
    #[error("cannot speak TLS on {address}")]
    Tls {
        /// The listener's address.
        address: SocketAddr,
        /// Which file, and what is wrong with it.
        source: Box<TlsError>,
    },
    /// TLS cannot be spoken to an upstream.
    #[error(transparent)]
    Trust(#[from] Mistrust),
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

/// What a gate is assembled from.
struct Parts {
    site: Arc<ArcSwap<Site>>,
    alarm: Arc<Mutex<Alarm>>,
    access: AccessLog,
    lifecycle: Arc<Lifecycle>,
    handle: Handle,
    authorities: Arc<Authorities>,
    metrics: Metrics,
    clock: Clock,
}

impl Parts {
    /// The parts by `config`, and the driver, which does nothing yet.
    fn of(config: &Config, metrics: Metrics) -> Result<(Self, Driver), StartError> {
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
        let alarm = Arc::new(Mutex::new(Alarm::new(config.alarm)));
        let site = Site::new(config, upstreams, alarm.clone(), None);
        let parts = Self {
            site: Arc::new(ArcSwap::from_pointee(site)),
            alarm,
            access: access_log(config)?,
            lifecycle: Arc::default(),
            handle,
            authorities,
            metrics,
            clock,
        };
        Ok((parts, driver))
    }

    fn api(&self, config_path: String, applied: watch::Receiver<Applied>, loader: Loader) -> Router {
        admin::router(Admin {
            lifecycle: self.lifecycle.clone(),
            mailbox: self.handle.mailbox.clone(),
            roster: self.handle.roster.clone(),
            alarm: self.alarm.clone(),
            config_path,
            applied,
            loader,
            metrics: self.metrics.clone(),
            clock: self.clock,
        })
    }

    /// What serves the connections of each listener.
    fn proxies(&self, listeners: &[Listener], threads: usize) -> Vec<Arc<HttpProxy<Gateway>>> {
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
                authorities: self.authorities.clone(),
                metrics: self.metrics.clone(),
                clock: self.clock,
            };
            let idle = gateway.door.settings.idle_timeout;
            let mut proxy = http_proxy(&conf, gateway);
            let mut options = HttpServerOptions::default();
            options.h2_idle_timeout = Some(idle);
            proxy.server_options = Some(options);
            Arc::new(proxy)
        });
        proxies.collect()
    }

    /// Lets clients in once the first round of probes allows, until what is returned says otherwise.
    fn open(
        &self,
        edge: &Threads,
        listeners: Vec<Listener>,
        proxies: &[Arc<HttpProxy<Gateway>>],
        found: &watch::Receiver<bool>,
    ) -> watch::Sender<bool> {
        let (shutdown, watching) = watch::channel(false);
        for (listener, proxy) in listeners.into_iter().zip(proxies) {
            let (proxy, watching) = (proxy.clone(), watching.clone());
            let (handle, lifecycle, mut found) = (self.handle.clone(), self.lifecycle.clone(), found.clone());
            edge.spawn(async move {
                // A name service that is down keeps nobody waiting for longer than endpoints do.
                drop(tokio::time::timeout(FIRST_ROUND, found.wait_for(|found| *found)).await);
                first_round(handle).await;
                lifecycle.enter(Phase::Serving);
                listener.serve(proxy, watching).await;
            });
        }
        shutdown
    }
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
    proxies: Vec<Arc<HttpProxy<Gateway>>>,
    access: AccessLog,
    _threads: [Threads; 2],
}

impl Gate {
    /// Binds every address, starts probing, and serves as soon as the first round of probes allows.
    ///
    /// # Errors
    /// An address or a file cannot be had.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new()?;
        let threads = threads(&config);
        let edge = Threads::start("edge", threads)?;
        let control = Threads::alone("control")?;
        let bound = edge.within(|| bind(&config, &metrics))?;
        let admin = control.within(|| bind_admin(config.admin))?;
        let (parts, driver) = Parts::of(&config, metrics)?;
        let listeners = bound.iter().map(Listener::address).collect::<io::Result<_>>()?;
        let admin_address = admin.local_addr()?;
        let (loader, questions) = Loader::new();
        let path = config.path.display().to_string();
        let (finders, found) = Finders::new(parts.handle.roster.clone(), parts.metrics.clone());
        let (loading, applied) = Loading::new(config, finders, &parts);
        let api = parts.api(path, applied.clone(), loader.clone());
        control.spawn(driver.run());
        control.spawn(async move { axum::serve(admin, api).await });
        control.spawn(loading.run(questions));
        control.spawn(tending::lines(parts.handle.clone(), parts.clock));
        control.spawn(tending::wardens(&parts));
        let proxies = parts.proxies(&bound, threads);
        let shutdown = parts.open(&edge, bound, &proxies, &found);
        let Parts {
            handle,
            lifecycle,
            access,
            ..
        } = parts;
        Ok(Self {
            listeners,
            admin: admin_address,
            applied,
            loader,
            handle,
            lifecycle,
            shutdown,
            proxies,
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
        for proxy in &self.proxies {
            proxy.cleanup().await;
        }
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

/// How many threads proxy.
fn threads(config: &Config) -> usize {
    match config.server.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

fn bind(config: &Config, metrics: &Metrics) -> Result<Vec<Listener>, StartError> {
    let pools = config.upstreams.iter().flat_map(|upstream| &upstream.pools);
    let crowd = Crowd::before(pools.map(|pool| pool.endpoints.len()).sum());
    let listeners = config.listeners.iter().map(|settings| {
        let bound = Listener::bind(settings.clone(), crowd.clone(), config.trusted_proxies.clone(), metrics);
        let address = settings.address;
        bound.map_err(|e| match e {
            ListenError::Address(source) => StartError::Listen { address, source },
            ListenError::Tls(source) => StartError::Tls {
                address,
                source: Box::new(source),
            },
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
