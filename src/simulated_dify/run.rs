//! The runs of all instances of one deployment. Real Dify executes them in its workers and passes the events
//! through Redis, so any instance can stop a run, or show it to a client that lost its connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::console::{Console, ConsoleApp};
use super::instance::locked;
use super::journal::Journal;
use super::switches::Switches;

/// So many runs can be stopped or shown again; older ones are forgotten.
const REMEMBERED: usize = 16_384;
/// A request may ask for no more events than this.
const MAX_EVENTS: u64 = 100_000;

/// What instances share: as one PostgreSQL and one Redis. Clones are the same cluster.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Shared>);

#[derive(Default)]
struct Shared {
    runs: Mutex<Runs>,
    console: Mutex<Console>,
    journal: Journal,
}

#[derive(Default)]
struct Runs {
    started: u64,
    runs: BTreeMap<u64, Arc<Run>>,
}

impl Cluster {
    /// A deployment without any runs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs that any of its instances has started so far.
    pub fn started(&self) -> u64 {
        locked(&self.0.runs).started
    }

    /// The apps that were created over the console API of any of its instances and are still there, the oldest first.
    pub fn apps(&self) -> Vec<ConsoleApp> {
        self.console().apps.clone()
    }

    /// What became of the requests that name themselves.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    pub(crate) fn console(&self) -> MutexGuard<'_, Console> {
        locked(&self.0.console)
    }

    /// Starts a run, which waits for a worker as the `switches` of the instance say that accepted it.
    pub(crate) fn start(&self, kind: Kind, request: &Value, switches: watch::Receiver<Switches>) -> Arc<Run> {
        let mut runs = locked(&self.0.runs);
        runs.started += 1;
        let run = Arc::new(Run::new(runs.started, kind, request));
        runs.runs.insert(run.number, run.clone());
        if runs.runs.len() > REMEMBERED {
            runs.runs.pop_first();
        }
        tokio::spawn(run.clone().work(switches));
        run
    }

    /// The run that a task, run or message id belongs to.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Run>> {
        let number = u64::from_str_radix(id.rsplit('-').next()?, 16).ok()?;
        locked(&self.0.runs).runs.get(&number).cloned()
    }
}

/// What kind of app is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
    Workflow,
}

/// One execution of an app, and the events it has emitted.
pub(crate) struct Run {
    number: u64,
    kind: Kind,
    conversation: String,
    events: u64,
    gap: Duration,
    created_at: u64,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) events: Vec<Bytes>,
    pub(crate) ended: bool,
    /// Whether a worker has taken it.
    pub(crate) taken: bool,
    stopped: bool,
    pieces: u64,
}

impl Run {
    /// Reads `{"inputs": {"events": n, "gap_ms": m}}`: how many pieces the answer has, and the pause before each.
    fn new(number: u64, kind: Kind, request: &Value) -> Self {
        let input = |name: &str| {
            request
                .get("inputs")
                .and_then(|inputs| inputs.get(name))
                .and_then(Value::as_u64)
        };
        let conversation = request
            .get("conversation_id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty());
        Self {
            number,
            kind,
            conversation: conversation.map_or_else(|| id(4, number), str::to_owned),
            events: input("events").unwrap_or(4).min(MAX_EVENTS),
            gap: Duration::from_millis(input("gap_ms").unwrap_or(5)),
            created_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |age| age.as_secs()),
            progress: watch::Sender::default(),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Asks the run to end; what it has emitted stays.
    pub(crate) fn stop(&self) {
        self.progress.send_modify(|progress| progress.stopped = true);
    }

    /// Waits for the end and returns the answer of blocking mode.
    pub(crate) async fn outcome(&self) -> Value {
        let mut progress = self.progress.subscribe();
        let _ = progress.wait_for(|progress| progress.ended).await;
        match self.kind {
            Kind::Workflow => self.dress(json!({"workflow_run_id": id(2, self.number), "data": self.summary()})),
            Kind::Chat | Kind::Completion => self.dress(json!({
                "event": "message", "mode": if self.kind == Kind::Chat { "advanced-chat" } else { "completion" },
                "answer": self.text(), "metadata": metadata(),
            })),
        }
    }

    /// Emits one event after the other. It runs outside every instance, as in a Celery worker.
    async fn work(self: Arc<Self>, mut switches: watch::Receiver<Switches>) {
        // It fails once the instance is gone, and a run outlives its instance.
        let _ = switches.wait_for(|switches| switches.workers).await;
        self.progress.send_modify(|progress| progress.taken = true);
        if self.kind != Kind::Completion {
            self.emit("workflow_started", json!({"data": {"id": id(2, self.number)}}));
        }
        let mut progress = self.progress.subscribe();
        for index in 0..self.events {
            if timeout(self.gap, progress.wait_for(|progress| progress.stopped))
                .await
                .is_ok()
            {
                break;
            }
            match self.kind {
                Kind::Workflow => self.emit("text_chunk", json!({"data": {"text": piece(index)}})),
                Kind::Chat | Kind::Completion => self.emit("message", json!({"answer": piece(index)})),
            }
            self.progress.send_modify(|progress| progress.pieces = index + 1);
        }
        if self.kind != Kind::Workflow {
            self.emit("message_end", json!({"metadata": metadata()}));
        }
        if self.kind != Kind::Completion {
            self.emit("workflow_finished", json!({"data": self.summary()}));
        }
        self.progress.send_modify(|progress| progress.ended = true);
    }

    fn emit(&self, name: &str, mut content: Value) {
        content["event"] = name.into();
        if self.kind != Kind::Completion {
            content["workflow_run_id"] = id(2, self.number).into();
        }
        let event = Bytes::from(format!("data: {}\n\n", self.dress(content)));
        self.progress.send_modify(|progress| progress.events.push(event));
    }

    /// Adds the ids that each event and each answer carries.
    fn dress(&self, mut content: Value) -> Value {
        content["task_id"] = id(1, self.number).into();
        content["created_at"] = self.created_at.into();
        if self.kind != Kind::Workflow {
            content["id"] = id(3, self.number).into();
            content["message_id"] = id(3, self.number).into();
            content["conversation_id"] = self.conversation.as_str().into();
        }
        content
    }

    pub(crate) fn summary(&self) -> Value {
        let status = if self.progress.borrow().stopped {
            "stopped"
        } else {
            "succeeded"
        };
        json!({
            "id": id(2, self.number), "workflow_id": id(5, 1), "status": status, "error": null,
            "outputs": {"answer": self.text()}, "elapsed_time": 0.1, "total_tokens": self.events, "total_steps": 3,
            "created_at": self.created_at, "finished_at": self.created_at,
        })
    }

    /// What has been said so far; less than was asked for where the run was stopped.
    fn text(&self) -> String {
        (0..self.progress.borrow().pieces).map(piece).collect()
    }
}

/// The ids of one run share their last part, so each of them finds it.
fn id(space: u32, number: u64) -> String {
    format!("{space:08x}-0000-4000-8000-{number:012x}")
}

/// Numbered, so that a lost or doubled event shows.
fn piece(index: u64) -> String {
    format!("part {index} ")
}

fn metadata() -> Value {
    json!({"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}, "retriever_resources": []})
}
