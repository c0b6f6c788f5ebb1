//! One instance: its port, its process, its switches, and the signals that are sent to it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::connection;
use super::process::Process;
use super::run::Cluster;
use super::switches::{Board, Switches};
use super::tally::Tally;

/// What an instance keeps across restarts, known to each of its connections.
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) cluster: Cluster,
    pub(crate) board: Board,
    pub(crate) tally: Tally,
}

/// A simulated Dify api on a port of this machine. It dies when it is dropped.
pub struct SimulatedDify {
    app: Arc<App>,
    address: SocketAddr,
    /// Held by gunicorn's master, so it outlives a worker; `None` is a closed port.
    listener: Mutex<Option<Arc<TcpListener>>>,
    process: Mutex<Process>,
}

impl SimulatedDify {
    /// Starts an instance on a free port of 127.0.0.1. Every answer carries `X-Instance: name`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(cluster: &Cluster, name: &str) -> io::Result<Self> {
        Self::start_at(cluster, name, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts an instance at `address`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_at(cluster: &Cluster, name: &str, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let dify = Self {
            app: Arc::new(App {
                name: name.to_owned(),
                cluster: cluster.clone(),
                board: Board::new(),
                tally: Tally::new(),
            }),
            address: listener.local_addr()?,
            listener: Mutex::new(Some(Arc::new(listener))),
            process: Mutex::new(Process::boot(Duration::ZERO)),
        };
        dify.work(dify.process());
        Ok(dify)
    }

    /// The name that its answers carry.
    pub fn name(&self) -> &str {
        &self.app.name
    }

    /// Where it listens, before and after a restart.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Flips switches. Requests that wait see it, and so does each later one.
    pub fn set(&self, change: impl FnOnce(&mut Switches)) {
        self.app.board.set(change);
    }

    /// The switches as they stand.
    pub fn switches(&self) -> Switches {
        self.app.board.read(Switches::clone)
    }

    /// What has arrived so far.
    pub fn tally(&self) -> &Tally {
        &self.app.tally
    }

    /// SIGSTOP: the kernel goes on accepting, nothing is answered, open streams fall silent.
    pub fn freeze(&self) {
        self.process().freeze();
    }

    /// SIGCONT: everything that queued up is executed and answered, whoever still waits for it.
    pub fn thaw(&self) {
        self.process().thaw();
    }

    /// SIGTERM: still accepts for [`Switches::last_call`], then closes the port unless it [drains open](Switches::drains_open), lets open requests finish
    /// within [`Switches::grace`], and cuts the rest without a final chunk. Returns how many connections were cut.
    pub async fn stop(&self) -> u64 {
        let process = self.process();
        sleep(self.app.board.read(|switches| switches.last_call)).await;
        if !self.app.board.read(|switches| switches.drains_open) {
            self.close_port();
        }
        process.terminate();
        let _ = timeout(self.app.board.read(|switches| switches.grace), process.ended()).await;
        let cut = self.app.tally.counts().connections;
        process.die();
        process.ended().await;
        self.close_port();
        cut
    }

    /// SIGKILL of everything: connections are cut and the port is closed when this returns.
    pub async fn kill(&self) {
        self.close_port();
        let process = self.process();
        process.die();
        process.ended().await;
    }

    /// SIGKILL of the worker alone: connections are cut, the master keeps the port open, and the new worker
    /// executes what has queued up after `silence` (26 s on a real Dify).
    pub async fn kill_worker(&self, silence: Duration) {
        let process = self.process();
        process.die();
        process.ended().await;
        self.work(Process::boot(silence));
    }

    /// Starts again at the same address, silent for [`Switches::boot`]. An instance that still runs is
    /// killed first.
    ///
    /// # Errors
    /// When something else has taken the port meanwhile.
    pub async fn restart(&self) -> io::Result<()> {
        self.kill().await;
        let listener = TcpListener::bind(self.address).await?;
        *locked(&self.listener) = Some(Arc::new(listener));
        self.work(Process::boot(self.app.board.read(|switches| switches.boot)));
        Ok(())
    }

    fn process(&self) -> Process {
        locked(&self.process).clone()
    }

    fn close_port(&self) {
        locked(&self.listener).take();
    }

    /// Makes `process` the one that serves the port.
    fn work(&self, process: Process) {
        *locked(&self.process) = process.clone();
        if let Some(listener) = locked(&self.listener).clone() {
            process.spawn(connection::accept(self.app.clone(), process.clone(), listener));
        }
    }
}

impl Drop for SimulatedDify {
    fn drop(&mut self) {
        self.process().die();
    }
}

/// No lock here is held across anything that can panic, so a poisoned one is still sound.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
