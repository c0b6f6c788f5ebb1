//! Clients: requests at a fixed rate whatever becomes of the earlier ones, so that a slow answer cannot hide the next failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Requests a second.
pub const RATE: u32 = 200;
/// One in this many is a prompt, a POST that must not run twice.
const PROMPTS: u64 = 5;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When it was sent.
    pub sent: Instant,
    /// How long its answer took.
    pub took: Duration,
    /// Whether it was a prompt.
    pub prompt: bool,
    /// The status, or nothing if no whole answer came.
    pub status: Option<u16>,
    /// Who answered.
    pub instance: Option<String>,
}

impl Outcome {
    /// Whether a good answer came.
    pub fn is_served(&self) -> bool {
        self.status == Some(200)
    }
}

/// Load under way. Dropping it ends it.
#[derive(Debug)]
pub struct Load {
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Log {
    outcomes: Vec<Outcome>,
    /// When each request that has no outcome yet was due.
    under_way: BTreeMap<u64, Instant>,
}

impl Load {
    /// Starts sending to `address`.
    pub fn start(address: SocketAddr) -> Self {
        let log = Arc::new(Mutex::new(Log::default()));
        let shared = log.clone();
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for number in 0_u64.. {
                let due = ticks.tick().await.into_std();
                open(&shared).under_way.insert(number, due);
                let shared = shared.clone();
                tokio::spawn(async move {
                    let outcome = send(address, number % PROMPTS == 0).await;
                    let mut log = open(&shared);
                    log.under_way.remove(&number);
                    log.outcomes.push(outcome);
                });
            }
        });
        Self { log, task }
    }

    /// What became of the requests that were sent from `from` on, as far as they have ended.
    pub fn since(&self, from: Instant) -> Vec<Outcome> {
        let log = open(&self.log);
        log.outcomes
            .iter()
            .filter(|outcome| outcome.sent >= from)
            .cloned()
            .collect()
    }

    /// Sends no more, and returns what became of every request once all of them have ended.
    pub async fn stop(self) -> Vec<Outcome> {
        self.task.abort();
        while !open(&self.log).under_way.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
        std::mem::take(&mut open(&self.log).outcomes)
    }

    /// Waits until every request that was due by `until` has ended, one way or another, so that none that hangs is left out of a count.
    /// Each ends with its client's patience at the latest.
    pub async fn settled(&self, until: Instant) {
        while open(&self.log).under_way.values().any(|due| *due <= until) {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn open(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send(address: SocketAddr, prompt: bool) -> Outcome {
    let request = if prompt {
        let body = r#"{"inputs":{"events":1,"gap_ms":1},"query":"hello","response_mode":"blocking","user":"demo"}"#;
        let head = "POST /v1/chat-messages HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer app-demo\r\nContent-Type: application/json";
        format!(
            "{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    } else {
        "GET /v1/parameters?user=demo HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer app-demo\r\nConnection: close\r\n\r\n".to_owned()
    };
    let sent = tokio::time::Instant::now().into_std();
    let answer = timeout(PATIENCE, exchange(address, &request))
        .await
        .ok()
        .and_then(Result::ok);
    Outcome {
        sent,
        took: tokio::time::Instant::now().into_std() - sent,
        prompt,
        status: answer.as_ref().and_then(|answer| answer.get(9..12)?.parse().ok()),
        instance: answer.as_ref().and_then(|answer| header(answer, "x-instance")),
    }
}

/// Sends a request and reads to the end of its answer.
///
/// # Errors
/// Nobody listens, or the connection broke off.
pub async fn exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn header(answer: &str, name: &str) -> Option<String> {
    let lines = answer.lines().take_while(|line| !line.is_empty());
    let found = lines
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_owned())
}
