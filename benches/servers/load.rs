//! Users before the gate: reads, blocking prompts and event streams at a fixed rate, whatever becomes of the earlier ones.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::client::{Ask, Whole};

/// Time from one user to the next.
const APART: Duration = Duration::from_millis(25);
/// How long a user waits for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// What a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    /// It runs for 0.2 s.
    Prompt,
    /// It lasts for 2 s.
    Stream,
}

impl Kind {
    /// Every tenth user has a prompt answered, every fortieth as a stream.
    fn of(number: u64) -> Self {
        match number {
            number if number % 40 == 20 => Self::Stream,
            number if number % 10 == 5 => Self::Prompt,
            _ => Self::Read,
        }
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) query: String,
    pub(crate) kind: Kind,
    /// Until a stream began, or another answer was whole.
    pub(crate) waited: Duration,
    pub(crate) end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Served,
    /// An error, with its status and Dify's `code`.
    Refused(u16, String),
    /// No answer, or none that came to its end.
    Broken(String),
}

/// A prompt or a stream that lasts so long, with so much between two events.
pub(crate) fn prompt(query: &str, streams: bool, seconds: f64, every: f64) -> Ask {
    let mode = if streams { "streaming" } else { "blocking" };
    let body = json!({
        "query": query, "response_mode": mode, "user": "lab", "inputs": {"seconds": seconds, "every": every},
    });
    Ask::post("/v1/chat-messages", &body)
}

/// What an answer is to its user.
pub(crate) fn end(kind: Kind, answer: Result<Whole, String>) -> End {
    match answer {
        Err(why) => End::Broken(why),
        Ok(answer) if answer.status != 200 => {
            let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
            End::Refused(answer.status.as_u16(), code)
        }
        Ok(answer) if kind == Kind::Stream && !answer.text.contains("\"message_end\"") => {
            End::Broken("the stream ended without its last event".to_owned())
        }
        Ok(_) => End::Served,
    }
}

/// Load under way.
pub(crate) struct Load {
    log: Arc<Mutex<Vec<Outcome>>>,
    begun: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts it at `edge`.
    pub(crate) fn start(edge: &str) -> Self {
        let (log, begun): (Arc<Mutex<Vec<Outcome>>>, Arc<Mutex<usize>>) = Default::default();
        let (edge, to, count) = (edge.to_owned(), log.clone(), begun.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(APART);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for number in 0_u64.. {
                ticks.tick().await;
                *count.lock().expect("a count") += 1;
                let (edge, to) = (edge.clone(), to.clone());
                tokio::spawn(async move {
                    let outcome = visit(&edge, number).await;
                    to.lock().expect("a log").push(outcome);
                });
            }
        });
        Self { log, begun, task }
    }

    /// Sends no more, and returns what became of all, once each has ended.
    pub(crate) async fn stop(self) -> Vec<Outcome> {
        self.task.abort();
        let all = *self.begun.lock().expect("a count");
        while self.log.lock().expect("a log").len() < all {
            sleep(Duration::from_millis(20)).await;
        }
        std::mem::take(&mut *self.log.lock().expect("a log"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn visit(edge: &str, number: u64) -> Outcome {
    let (kind, query, sent) = (Kind::of(number), format!("user-{number}"), Instant::now());
    let ask = match kind {
        Kind::Read => Ask::get("/v1/parameters"),
        Kind::Prompt => prompt(&query, false, 0.2, 1.0),
        Kind::Stream => prompt(&query, true, 2.0, 0.5),
    };
    let answer = ask.whole(edge, PATIENCE).await;
    let waited = match (&answer, kind) {
        (Ok(answer), Kind::Stream) => answer.first_byte,
        (Ok(answer), Kind::Read | Kind::Prompt) => answer.took,
        (Err(_), _) => sent.elapsed(),
    };
    Outcome {
        query,
        kind,
        waited,
        end: end(kind, answer),
    }
}
