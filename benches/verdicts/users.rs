//! Users of one proxy: what they ask, how long they wait, and what became of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// A user who waits for an answer leaves after this, as most HTTP clients do.
const PATIENCE: Duration = Duration::from_secs(15);
/// Nobody waits for a stream that is under way any longer than this.
const STREAMS: Duration = Duration::from_secs(90);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A GET, which may be sent again.
    Question,
    /// A POST that starts a run, answered when that is over.
    Prompt,
    /// The same, answered by an event stream.
    Stream,
}

/// One request and what became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) kind: Kind,
    pub(crate) sent: Instant,
    /// Until the first byte of the answer, or until there was none to wait for any more.
    pub(crate) first: Duration,
    /// Until its end.
    pub(crate) took: Duration,
    /// Whether the whole answer came, and was a good one.
    pub(crate) good: bool,
}

/// How requests come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// So many a second whatever becomes of them, one in five a prompt where there are `prompts`.
    Open { rate: u32, prompts: bool },
    /// So many users, each of whom asks again as soon as it is answered.
    Closed { users: u32 },
}

/// The users of one proxy, and what became of their requests.
#[derive(Clone)]
pub(crate) struct Users {
    at: SocketAddr,
    log: Arc<Mutex<Vec<Outcome>>>,
    /// Requests that are under way.
    under_way: Arc<()>,
}

impl Users {
    pub(crate) fn of(at: SocketAddr) -> Self {
        Self {
            at,
            log: Arc::default(),
            under_way: Arc::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks without a pause, until it is aborted.
    pub(crate) fn ask(&self, load: Load) -> Vec<JoinHandle<()>> {
        match load {
            Load::Open { rate, prompts } => vec![tokio::spawn(self.clone().at_a_rate(rate, prompts))],
            Load::Closed { users } => (0..users)
                .map(|number| tokio::spawn(self.clone().one_after_the_other(number)))
                .collect(),
        }
    }

    async fn at_a_rate(self, rate: u32, prompts: bool) {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0_u64.. {
            ticks.tick().await;
            let kind = if prompts && number.is_multiple_of(5) {
                Kind::Prompt
            } else {
                Kind::Question
            };
            let this = self.clone();
            tokio::spawn(async move { this.one(kind).await });
        }
    }

    async fn one_after_the_other(self, number: u32) {
        let kind = if number.is_multiple_of(5) {
            Kind::Prompt
        } else {
            Kind::Question
        };
        loop {
            // A request that has begun is finished when its user is told to stop.
            let this = self.clone();
            let good = tokio::spawn(async move { this.one(kind).await }).await;
            if !good.unwrap_or(false) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// One request.
    pub(crate) async fn one(&self, kind: Kind) -> bool {
        let _under_way = self.under_way.clone();
        let sent = Instant::now();
        let (first, good) = exchange(self.at, kind).await;
        let (first, took) = (first.unwrap_or_else(|| sent.elapsed()), sent.elapsed());
        self.open().push(Outcome {
            kind,
            sent,
            first,
            took,
            good,
        });
        good
    }

    /// What became of every request, once none is under way.
    pub(crate) async fn outcomes(&self) -> Vec<Outcome> {
        while Arc::strong_count(&self.under_way) > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.open().clone()
    }
}

fn request(kind: Kind) -> String {
    let mode = match kind {
        Kind::Question => {
            return "GET /v1/parameters?user=lab HTTP/1.1\r\nHost: lab\r\nAuthorization: Bearer app-lab\r\nConnection: close\r\n\r\n".to_owned();
        }
        Kind::Prompt => r#""blocking","inputs":{"events":1,"gap_ms":1}"#,
        // Ten seconds, unless it waits for a worker.
        Kind::Stream => r#""streaming","inputs":{"events":100,"gap_ms":100}"#,
    };
    let body = format!(r#"{{"query":"hello","user":"lab","response_mode":{mode}}}"#);
    let head = "POST /v1/chat-messages HTTP/1.1\r\nHost: lab\r\nAuthorization: Bearer app-lab\r\nContent-Type: application/json";
    format!(
        "{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// When the first byte of an answer came, if one did, and whether the whole of it did and was good.
async fn exchange(at: SocketAddr, kind: Kind) -> (Option<Duration>, bool) {
    let (sent, mut first, mut answer) = (Instant::now(), None, Vec::new());
    let asking = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(request(kind).as_bytes()).await?;
        while stream.read_buf(&mut answer).await? > 0 {
            first.get_or_insert_with(|| sent.elapsed());
        }
        std::io::Result::Ok(())
    };
    let patience = if kind == Kind::Stream { STREAMS } else { PATIENCE };
    let ended = timeout(patience, asking).await;
    let whole = matches!(ended, Ok(Ok(())));
    let text = String::from_utf8_lossy(&answer);
    let good = whole
        && text.starts_with("HTTP/1.1 200")
        && match kind {
            Kind::Question => true,
            Kind::Prompt => text.contains("\"answer\""),
            Kind::Stream => text.contains("message_end"),
        };
    (first, good)
}
