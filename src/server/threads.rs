//! The runtimes of a gate: one proxies, the other probes and serves the admin API.

use std::io;

use tokio::runtime::{self, Builder, Runtime};
use tokio::sync::oneshot;

/// One runtime and its threads. They are let go without waiting, so a gate may be dropped within another runtime, also one that did not come
/// to start.
pub(super) struct Threads {
    handle: runtime::Handle,
    /// Dropped, it ends the only thread of a runtime that has one.
    _ends: oneshot::Sender<()>,
    runtime: Option<Runtime>,
}

impl Threads {
    /// So many threads that share their tasks.
    pub(super) fn start(name: &str, count: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name(name)
            .enable_all()
            .build()?;
        let (ends, _) = oneshot::channel();
        Ok(Self {
            handle: runtime.handle().clone(),
            _ends: ends,
            runtime: Some(runtime),
        })
    }

    /// One thread, whose tasks never move, so that waking one costs no word to another thread.
    pub(super) fn alone(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel::<()>();
        let work = move || {
            // The sender is dropped rather than used.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self {
            handle,
            _ends: ends,
            runtime: None,
        })
    }

    /// Runs what needs a runtime around it, also where the caller is within another one.
    pub(super) fn within<T>(&self, what: impl FnOnce() -> T) -> T {
        let _guard = self.handle.enter();
        what()
    }

    /// Runs a task there.
    pub(super) fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        self.handle.spawn(async move { drop(task.await) });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
