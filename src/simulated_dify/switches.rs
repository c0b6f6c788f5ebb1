//! What an instance does wrong, and how it is told: a board of switches that any task may flip at any moment.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::broken::BrokenAnswer;

/// How `/healthz` and `/health` answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// `/healthz` is 200 `healthy` with every component true; `/health` is 200.
    #[default]
    Passing,
    /// `/healthz` is 503 and names these components; `/health` stays 200, for it asks only the process.
    Failing(Vec<String>),
    /// `/healthz` is 200, yet its body says `unhealthy`.
    Unhealthy,
    /// As Dify really is: `/healthz` is a 404 page, and only `/health` answers.
    Real,
    /// Both paths answer this status; a 3xx carries a `Location`.
    Status(u16),
    /// Both paths answer with something that breaks HTTP, JSON or patience.
    Broken(BrokenAnswer),
}

impl Health {
    /// The 503 of an instance whose `components` fail.
    pub fn failing<'a>(components: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Failing(components.into_iter().map(str::to_owned).collect())
    }
}

/// How everything that is not a probe is answered. Streams that are open already go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Traffic {
    /// As it should be.
    #[default]
    Normal,
    /// Every request gets this status at once. With passing health this is a grey failure.
    Status(u16),
    /// Whatever asks PostgreSQL is 500 after 20 ms; pages and `/console/api/ping` are fine.
    DatabaseDown,
    /// The API answers 200, but only after this long (33 s on a real Dify); a streaming run is one ping, then
    /// a clean end after the same time.
    RedisDown(Duration),
    /// Requests are read and not answered until the switch is flipped; then they are executed.
    Hang,
    /// The connection is closed instead of an answer.
    Close,
    /// A 200 whose chunked body is cut before its end.
    Cut,
}

/// Everything about an instance that can be changed while it runs. The next request sees a change, and so
/// do those that wait because of the old value.
#[derive(Clone, Debug)]
pub struct Switches {
    /// What `/health` reports as version.
    pub version: String,
    /// The answers to probes.
    pub health: Health,
    /// Whether `/health` says that the process lives; what else it answers is unaffected.
    pub alive: bool,
    /// Components that `details` of `/healthz` calls false and `failed` never names: they are not critical.
    pub minor: Vec<String>,
    /// The answers to everything else.
    pub traffic: Traffic,
    /// Added before each answer to traffic.
    pub latency: Duration,
    /// Added before each answer to a probe.
    pub probe_latency: Duration,
    /// Connections served at a time, idle ones included, as gunicorn's gevent worker counts them. The next
    /// one, a probe too, waits in the listen queue. Dify's default is 10, here there is no limit.
    pub slots: usize,
    /// From so many connections on every request gets 503, idle connections and the request's own counted, as by uvicorn's `--limit-concurrency`: a limit
    /// of 2 lets one connection through. Here there is no limit.
    pub limit_concurrency: usize,
    /// A connection without a request for this long is closed; read when the connection opens. 2 s on Dify.
    pub keep_alive: Duration,
    /// Silence in a stream after which a ping is sent. 10 s on Dify.
    pub ping_every: Duration,
    /// Whether a Celery worker takes runs. While none does, a streaming run is one ping and then no byte, and a blocking one has no answer: the pings come
    /// from the run itself.
    pub workers: bool,
    /// Whether upgrades are answered 101 and echoed, as by `api_websocket`; a plain api answers 500.
    pub websocket: bool,
    /// The release whose files under `/_next/static/` there are, as `/_next/static/{build}/...`; of every release where absent.
    pub build: Option<String>,
    /// What signs the tokens of the console: an instance with another one takes none of those that this one gave.
    pub secret_key: String,
    /// How long the next boot accepts connections in silence. A real one takes 20 to 60 s.
    pub boot: Duration,
    /// How long after a stop connections are still accepted. 1 s on Dify.
    pub last_call: Duration,
    /// Whether the port stays open while a stop lasts, and nobody answers there, as with gunicorn's sync and gthread workers, hypercorn and uvicorn with
    /// `--workers`: the kernel goes on accepting for the process that holds the socket.
    pub drains_open: bool,
    /// How long open requests live on after that, before they are cut. 30 s on Dify.
    pub grace: Duration,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            version: "1.14.2".to_owned(),
            health: Health::Passing,
            alive: true,
            minor: Vec::new(),
            traffic: Traffic::Normal,
            latency: Duration::ZERO,
            probe_latency: Duration::ZERO,
            slots: usize::MAX,
            limit_concurrency: usize::MAX,
            keep_alive: Duration::from_secs(2),
            ping_every: Duration::from_secs(10),
            workers: true,
            websocket: false,
            build: None,
            secret_key: "sk".to_owned(),
            boot: Duration::ZERO,
            last_call: Duration::from_secs(1),
            drains_open: false,
            grace: Duration::from_secs(30),
        }
    }
}

/// The switches of one instance, watched by everything that waits in it.
pub(crate) struct Board(watch::Sender<Switches>);

impl Board {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Switches::default()))
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Switches)) {
        self.0.send_modify(change);
    }

    pub(crate) fn read<T>(&self, what: impl FnOnce(&Switches) -> T) -> T {
        what(&self.0.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Switches> {
        self.0.subscribe()
    }

    /// Waits for a switchable time, counted from here: a change while waiting moves the end.
    pub(crate) async fn hold(&self, wait: impl Fn(&Switches) -> Duration) {
        let start = Instant::now();
        let mut switches = self.0.subscribe();
        loop {
            let wait = wait(&switches.borrow_and_update());
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                () = sleep_until(start + wait) => return,
                _ = switches.changed() => {}
            }
        }
    }
}
