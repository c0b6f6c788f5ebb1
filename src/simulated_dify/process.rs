//! The life of one worker process. Everything that an instance does runs inside its process, and so stops with it,
//! wakes with it and dies with it, at whatever line it stood: what SIGSTOP, SIGCONT and SIGKILL do.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The listen queue fills, nobody reads it.
    Booting,
    Running,
    /// Stopped by a signal: nothing moves, sockets stay open.
    Frozen,
    /// Finishing what is open, accepting nothing.
    Terminating,
    Dead,
}

/// A process; clones are the same one.
#[derive(Clone)]
pub(crate) struct Process {
    phase: Arc<watch::Sender<Phase>>,
    tasks: Arc<watch::Sender<usize>>,
}

impl Process {
    /// A process that does nothing for the time of `silence`, then whatever was asked of it meanwhile.
    pub(crate) fn boot(silence: Duration) -> Self {
        let first = if silence.is_zero() {
            Phase::Running
        } else {
            Phase::Booting
        };
        let process = Self {
            phase: Arc::new(watch::Sender::new(first)),
            tasks: Arc::default(),
        };
        if first == Phase::Booting {
            let booting = process.clone();
            tokio::spawn(async move {
                sleep(silence).await;
                booting.shift(Phase::Booting, Phase::Running);
            });
        }
        process
    }

    /// Runs `work` as a part of this process.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let process = self.clone();
        self.tasks.send_modify(|tasks| *tasks += 1);
        tokio::spawn(async move {
            process.live(work).await;
            process.tasks.send_modify(|tasks| *tasks -= 1);
        });
    }

    /// Polls `work` only while the process lives and runs; drops it unfinished where the process dies.
    async fn live(&self, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        let mut phase = self.phase.subscribe();
        loop {
            let seen = *phase.borrow_and_update();
            match seen {
                Phase::Dead => return,
                Phase::Booting | Phase::Frozen => {
                    let _ = phase.changed().await;
                }
                Phase::Running | Phase::Terminating => {
                    tokio::select! {
                        biased;
                        _ = phase.changed() => {}
                        () = &mut work => return,
                    }
                }
            }
        }
    }

    pub(crate) fn freeze(&self) {
        self.shift(Phase::Running, Phase::Frozen);
    }

    pub(crate) fn thaw(&self) {
        self.shift(Phase::Frozen, Phase::Running);
    }

    /// Asks the process to finish: see [`Process::terminating`].
    pub(crate) fn terminate(&self) {
        self.shift(Phase::Running, Phase::Terminating);
    }

    /// Waits until the process has been asked to finish.
    pub(crate) async fn terminating(&self) {
        let _ = self
            .phase
            .subscribe()
            .wait_for(|phase| *phase == Phase::Terminating)
            .await;
    }

    /// Ends the process without waiting for its parts to notice.
    pub(crate) fn die(&self) {
        self.phase.send_replace(Phase::Dead);
    }

    /// Waits until no part of the process is left, and with them none of its sockets.
    pub(crate) async fn ended(&self) {
        let _ = self.tasks.subscribe().wait_for(|tasks| *tasks == 0).await;
    }

    fn shift(&self, from: Phase, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let shifts = *phase == from;
            if shifts {
                *phase = to;
            }
            shifts
        });
    }
}
