//! Streams under way: event streams and WebSockets. They outlive what decided about them, so whoever empties a pool must know who is left, and
//! be able to end them from outside.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::clock::Coarse;
use crate::gate::names::{EndpointId, PoolName};

/// A stream that is to end has so long to come to a place where it can be ended well.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Server-sent events.
    Sse,
    /// A WebSocket.
    Websocket,
}

impl Kind {
    /// The stable word for logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Websocket => "websocket",
        }
    }
}

/// Why the gate ends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its pool was given time to drain, and that is over.
    Drained,
    /// Somebody asked for it.
    Operator,
    /// The gate itself stops, or another process has taken over, and its `drain_timeout` is over.
    Shutdown,
}

impl Why {
    /// The stable word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Operator => "operator",
            Self::Shutdown => "shutdown",
        }
    }

    /// A number for an atomic cell, never 0.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Drained => 1,
            Self::Operator => 2,
            Self::Shutdown => 3,
        }
    }

    /// Why, by its number; 0 is no reason.
    pub(super) fn numbered(number: u8) -> Option<Self> {
        let all = [Self::Drained, Self::Operator, Self::Shutdown];
        all.into_iter().find(|why| why.number() == number)
    }
}

/// What is known of a stream from its beginning.
#[derive(Clone, Debug)]
pub struct About {
    /// The id of its request, as in the access log.
    pub request_id: String,
    /// The client, where it can be told.
    pub client: Option<IpAddr>,
    /// The method of its request.
    pub method: String,
    /// The path without its query, which may hold signatures.
    pub path: String,
    /// Who serves it.
    pub endpoint: EndpointId,
    /// What it carries.
    pub kind: Kind,
    /// When it began.
    pub since: Instant,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// Its number, unique for as long as the gate runs.
    pub id: u64,
    /// What is known of it.
    pub about: About,
    /// When a byte last came, by the coarse clock.
    moved: AtomicU64,
    task: OnceLock<Box<str>>,
    /// 0 while it may go on, else the number of why it may not.
    ends: AtomicU8,
    told: Notify,
}

impl Stream {
    /// Bytes came.
    pub fn move_on(&self) {
        self.moved.store(Coarse::get().millis(), Ordering::Relaxed);
    }

    /// How long no byte has come; up to a tick too much.
    pub fn silent_for(&self) -> Duration {
        let moved = self.moved.load(Ordering::Relaxed);
        Duration::from_millis(Coarse::get().millis().saturating_sub(moved))
    }

    /// The task that it tells of, once it has.
    pub fn task(&self) -> Option<&str> {
        self.task.get().map(Deref::deref)
    }

    /// Notes the task that it tells of; the first one stays.
    pub fn name_task(&self, task: &str) {
        // It was named before, and then that holds.
        let _ = self.task.set(task.into());
    }

    /// Why it is to end, if it is.
    pub fn ends(&self) -> Option<Why> {
        Why::numbered(self.ends.load(Ordering::SeqCst))
    }

    /// Tells it to end; tells whether it had not been told before.
    pub fn end(&self, why: Why) -> bool {
        let number = why.number();
        let told = self
            .ends
            .compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst);
        self.told.notify_waiters();
        told.is_ok()
    }

    /// Ready once it is to end.
    pub async fn told(&self) {
        loop {
            let mut told = pin!(self.told.notified());
            told.as_mut().enable();
            if self.ends().is_some() {
                return;
            }
            told.await;
        }
    }
}

/// The silent event streams of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// How many there are.
    pub streams: u32,
    /// How long no byte has come on the most silent one.
    pub longest: Duration,
}

/// The streams of one upstream.
#[derive(Debug, Default)]
pub struct Streams {
    last: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Stream>>>,
}

/// A stream under way. Dropping it is the only way out of the list, so one that panics or is cut off is out as well.
#[derive(Debug)]
pub struct Open {
    stream: Arc<Stream>,
    streams: Arc<Streams>,
}

impl Deref for Open {
    type Target = Arc<Stream>;

    fn deref(&self) -> &Arc<Stream> {
        &self.stream
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.stream.id);
    }
}

impl Streams {
    /// A stream begins.
    pub fn begin(self: &Arc<Self>, about: About) -> Open {
        let stream = Arc::new(Stream {
            id: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            about,
            moved: AtomicU64::new(Coarse::get().millis()),
            task: OnceLock::new(),
            ends: AtomicU8::new(0),
            told: Notify::new(),
        });
        self.lock().insert(stream.id, stream.clone());
        Open {
            stream,
            streams: self.clone(),
        }
    }

    /// All of them, the oldest first.
    pub fn list(&self) -> Vec<Arc<Stream>> {
        self.lock().values().cloned().collect()
    }

    /// The event streams of each endpoint that have been silent for so long at the least: how many there are, and for how long the most silent one is.
    pub fn silences(&self, least: Duration) -> HashMap<EndpointId, Silence> {
        let mut silences: HashMap<EndpointId, Silence> = HashMap::new();
        for stream in self.lock().values().filter(|stream| stream.about.kind == Kind::Sse) {
            let silent = stream.silent_for();
            if silent >= least {
                let silence = silences.entry(stream.about.endpoint.clone()).or_default();
                silence.streams += 1;
                silence.longest = silence.longest.max(silent);
            }
        }
        silences
    }

    /// How many a pool serves.
    pub fn count(&self, pool: &PoolName) -> usize {
        self.of(pool, |streams| streams.count())
    }

    /// When the oldest one that a pool serves began.
    pub fn oldest(&self, pool: &PoolName) -> Option<Instant> {
        self.of(pool, |streams| streams.map(|stream| stream.about.since).min())
    }

    /// Whether bytes have come on one of a pool's streams within so long.
    pub fn alive_within(&self, pool: &PoolName, time: Duration) -> bool {
        let silent = self.of(pool, |streams| streams.map(|stream| stream.silent_for()).min());
        silent.is_some_and(|silent| silent <= time)
    }

    /// The pool that runs a task, where one of its streams has told of it.
    pub fn task_pool(&self, task: &str) -> Option<PoolName> {
        let open = self.lock();
        let runs = open.values().find(|stream| stream.task() == Some(task))?;
        Some(runs.about.endpoint.pool.clone())
    }

    /// Ends one; tells whether there is one of this number that had not been told.
    pub fn end(&self, id: u64) -> bool {
        let stream = self.lock().get(&id).cloned();
        stream.is_some_and(|stream| stream.end(Why::Operator))
    }

    /// Ends all that a pool serves at this moment; tells how many had not been told.
    pub fn sever(&self, pool: &PoolName) -> usize {
        self.of(pool, |streams| {
            streams.filter(|stream| stream.end(Why::Drained)).count()
        })
    }

    /// Ends all of them; tells how many had not been told.
    pub fn end_all(&self, why: Why) -> usize {
        self.list().iter().filter(|stream| stream.end(why)).count()
    }

    fn of<T>(&self, pool: &PoolName, ask: impl FnOnce(&mut dyn Iterator<Item = &Arc<Stream>>) -> T) -> T {
        let open = self.lock();
        ask(&mut open.values().filter(|stream| stream.about.endpoint.pool == *pool))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Stream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::gate::names::{Address, UpstreamName};

    fn about(pool: &str) -> About {
        About {
            request_id: "r".to_owned(),
            client: None,
            method: "POST".to_owned(),
            path: "/v1/chat-messages".to_owned(),
            endpoint: EndpointId {
                upstream: UpstreamName::new("dify"),
                pool: PoolName::new(pool),
                address: Address::parse("10.0.0.1:80").unwrap(),
            },
            kind: Kind::Sse,
            since: Clock::start().now(),
        }
    }

    #[tokio::test]
    async fn a_pool_is_severed_once_and_what_comes_later_goes_on() {
        let streams = Arc::new(Streams::default());
        let (blue, green) = (PoolName::new("blue"), PoolName::new("green"));
        let [old, other] = [streams.begin(about("blue")), streams.begin(about("green"))];
        old.name_task("t");
        old.name_task("u");
        assert_eq!(streams.task_pool("t"), Some(blue.clone()));
        assert_eq!(streams.task_pool("u"), None);
        assert_eq!(
            (streams.count(&blue), streams.oldest(&blue)),
            (1, Some(old.about.since))
        );
        assert!(streams.alive_within(&blue, Duration::from_secs(15)));
        assert_eq!((streams.sever(&blue), streams.sever(&blue)), (1, 0));
        old.told().await;
        let later = streams.begin(about("blue"));
        assert_eq!(
            (old.ends(), later.ends(), other.ends()),
            (Some(Why::Drained), None, None)
        );
        assert!(streams.end(other.id) && !streams.end(99));
        assert_eq!(other.ends(), Some(Why::Operator));
        drop((old, later));
        assert_eq!((streams.count(&blue), streams.count(&green)), (0, 1));
        assert_eq!((streams.oldest(&blue), streams.list().len()), (None, 1));
        assert!(!streams.alive_within(&blue, Duration::from_secs(15)));
    }

    #[tokio::test]
    async fn silent_event_streams_are_counted_by_endpoint() {
        let streams = Arc::new(Streams::default());
        let of = |pool: &str, kind| About { kind, ..about(pool) };
        let _open = [
            ("blue", Kind::Sse),
            ("blue", Kind::Sse),
            ("green", Kind::Sse),
            ("red", Kind::Websocket),
        ]
        .map(|(pool, kind)| streams.begin(of(pool, kind)));
        let silences = streams.silences(Duration::ZERO);
        let counts = ["blue", "green", "red"].map(|pool| {
            let silence = silences.get(&about(pool).endpoint);
            silence.map_or(0, |silence| silence.streams)
        });
        assert_eq!(counts, [2, 1, 0], "a WebSocket may be silent");
        assert!(streams.silences(Duration::from_secs(3600)).is_empty());
    }
}
