//! What the tests stand on: a gate on free ports, instances behind it, an upstream written by hand, and waiting for events.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use difygate::config::{self, Config};
use difygate::gate::cutover::triggers::Tally;
use difygate::gate::direction::Direction;
use difygate::gate::health::FailureClass;
use difygate::gate::keeper::{Known, ProbeRecord};
use difygate::gate::names::{PoolName, UpstreamName};
use difygate::gate::state::State;
use difygate::server::Gate;
use difygate::simulated_dify::{Cluster, SimulatedDify};
use difygate::upstream::Severed;
use difygate::upstream::streams::Streams;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Events come within this time, or the test fails. It only ends a test that waits in vain, so it is far beyond what a busy machine takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Probes often, and forgives silence, so that a busy machine makes nobody look sick.
pub(crate) const QUICK: &str = "probe: {interval: 250ms, timeout: 250ms, rise: 1, fall: {default: 2, timeout: 20}}";

/// As patient as a machine is busy on which hundreds of streams and further processes are under way.
pub(crate) const PATIENT: &str = "probe: {interval: 1s, timeout: 1s, rise: 1, fall: {default: 2, timeout: 20}}";

/// Waits for something that must come.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(come) => come,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Asks again and again until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, asking).await;
}

/// `text` with quiet defaults for the keys that it leaves out.
pub(crate) fn whole(text: &str) -> String {
    let mut whole = String::new();
    for (key, default) in [
        ("log:", "log: {access: \"off\"}"),
        ("listeners:", "listeners: [{address: \"127.0.0.1:8080\"}]"),
        ("server:", "server: {lame_duck: 0s, drain_timeout: 10s}"),
    ] {
        if !text.contains(key) {
            whole += &format!("{default}\n");
        }
    }
    whole + text
}

/// `text` as a configuration on free ports, with quiet defaults for the keys that it leaves out.
pub(crate) fn settings(text: &str) -> Config {
    let whole = whole(text);
    let mut config =
        config::parse(&whole, Path::new("test.yaml"), &config::unset).unwrap_or_else(|e| panic!("{e}\n{whole}"));
    for listener in &mut config.listeners {
        listener.address.set_port(0);
    }
    config.admin.set_port(0);
    config.server.state_dir = config.server.state_dir.filter(|folder| folder.wanted);
    config
}

/// The text of one upstream, `dify`, with one pool of `endpoints`.
pub(crate) fn dify_upstream(endpoints: &[SocketAddr], keys: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    let keys = if keys.is_empty() {
        String::new()
    } else {
        format!("{keys}, ")
    };
    format!(
        "upstreams: {{dify: {{{keys}pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        endpoints.join(", ")
    )
}

/// A gate that runs on `text` and has heard from every endpoint.
pub(crate) async fn gate(text: &str) -> Gate {
    ready(Gate::start(settings(text)).unwrap()).await
}

/// A gate once it has heard from every endpoint.
pub(crate) async fn ready(gate: Gate) -> Gate {
    let mut progress = gate.handle().progress.clone();
    soon(
        "the first round of probes",
        progress.wait_for(|progress| progress.asked_everyone),
    )
    .await
    .unwrap();
    // Where the machine was too busy for the gate to run, or for an answer to come in time, it asks again.
    let is_late = |known: &Known| {
        let late = |record: &ProbeRecord| record.report.outcome.class() == Some(FailureClass::Timeout);
        known.cause.to_string().contains("did not run") || known.history.len() < 5 && known.history.iter().all(late)
    };
    until("answers that are evidence", async || {
        let all = gate.handle().mailbox.known().await.unwrap();
        !all.iter().any(|one| is_late(&one.known))
    })
    .await;
    gate
}

/// A gate before `endpoints`, with `keys` for their upstream.
pub(crate) async fn gate_before(endpoints: &[SocketAddr], keys: &str) -> Gate {
    gate(&dify_upstream(endpoints, keys)).await
}

/// The text of one upstream, `dify`, with the pools `blue`, which is active, and `green`.
pub(crate) fn blue_green(blue: &[SocketAddr], green: &[SocketAddr], keys: &str) -> String {
    let pool = |endpoints: &[SocketAddr]| {
        let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
        format!("{{endpoints: [{}]}}", endpoints.join(", "))
    };
    let keys = if keys.is_empty() {
        String::new()
    } else {
        format!("{keys}, ")
    };
    format!(
        "upstreams: {{dify: {{active: blue, {keys}pools: {{blue: {}, green: {}}}}}}}\n",
        pool(blue),
        pool(green)
    )
}

/// Directs requests of `dify`.
pub(crate) async fn direct(gate: &Gate, direction: Direction) {
    let directed = gate
        .handle()
        .mailbox
        .direct(vec![(UpstreamName::new("dify"), direction)]);
    directed.await.unwrap();
}

/// Ends what a pool of `dify` serves.
pub(crate) fn sever(gate: &Gate, pool: &str) -> Severed {
    let roster = gate.handle().roster.borrow().clone();
    roster.sever(&UpstreamName::new("dify"), &PoolName::new(pool))
}

/// What the traffic of the endpoint at `address` came to.
pub(crate) fn tally(gate: &Gate, address: SocketAddr) -> Tally {
    let roster = gate.handle().roster.borrow().clone();
    let name = address.to_string();
    let mut endpoints = roster.endpoints.iter();
    endpoints
        .find(|endpoint| endpoint.id.address.as_str() == name)
        .unwrap()
        .sums
        .read()
}

/// The streams of `dify` under way.
pub(crate) fn streams(gate: &Gate) -> Arc<Streams> {
    let roster = gate.handle().roster.borrow().clone();
    roster.upstreams[0].flow.streams.clone()
}

/// So many instances of one deployment, named `dify-0`, `dify-1` and so on.
pub(crate) async fn instances<const N: usize>() -> [SimulatedDify; N] {
    let cluster = Cluster::new();
    let mut started = Vec::new();
    for number in 0..N {
        started.push(SimulatedDify::start(&cluster, &format!("dify-{number}")).await.unwrap());
    }
    started.try_into().unwrap_or_else(|_| panic!("as many as were started"))
}

/// The addresses of `difys`.
pub(crate) fn addresses(difys: &[SimulatedDify]) -> Vec<SocketAddr> {
    difys.iter().map(SimulatedDify::address).collect()
}

/// Where clients connect.
pub(crate) fn edge(gate: &Gate) -> SocketAddr {
    gate.listeners()[0]
}

/// What the gate knows of the endpoint at `address`.
pub(crate) async fn known(gate: &Gate, address: SocketAddr) -> Known {
    let all = gate.handle().mailbox.known().await.unwrap();
    let name = address.to_string();
    let mut all = all.into_iter().map(|one| one.known);
    all.find(|known| known.id.address.as_str() == name).unwrap()
}

/// Waits until the endpoint at `address` is in `state`.
pub(crate) async fn until_state(gate: &Gate, address: SocketAddr, state: State) {
    until(&format!("{address} to be {state}"), async || {
        known(gate, address).await.state == state
    })
    .await;
}

/// Waits until nothing is under way.
pub(crate) async fn until_idle(gate: &Gate) {
    until("nothing to be under way", async || gate.in_flight() == 0).await;
}

/// An address at which nobody listens, and nobody will: it is below the ports that the system gives out itself, and no other test is
/// given it.
pub(crate) fn nobody() -> SocketAddr {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(0..12_000)));
    loop {
        let port = 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// What arrives at an upstream written by hand.
pub(crate) struct Arrived {
    /// The request line and the headers, as they came.
    pub(crate) head: String,
    /// What follows.
    pub(crate) stream: BufReader<TcpStream>,
}

impl Arrived {
    async fn from(stream: TcpStream) -> Option<Self> {
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut head).await.ok()? == 0 {
                return None;
            }
        }
        Some(Self {
            head: String::from_utf8_lossy(&head).into_owned(),
            stream,
        })
    }

    /// Sends bytes; a peer that went away misses them.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Answers 200 with this body and these further header lines.
    pub(crate) async fn answer(&mut self, headers: &str, body: &str) {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    /// Reads so many bytes of the body.
    pub(crate) async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        soon("a body", self.stream.read_exact(&mut body)).await.unwrap();
        body
    }

    /// Reads until the peer closes.
    pub(crate) async fn closed(&mut self) {
        let mut ignored = Vec::new();
        let _ = self.stream.read_to_end(&mut ignored).await;
    }
}

/// An upstream written by hand: it passes every probe and gives each other request to a script, one request a connection.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    arrived: Arc<AtomicUsize>,
}

impl Upstream {
    /// Starts one.
    pub(crate) async fn start<S, R>(script: S) -> Self
    where
        S: Fn(Arrived) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived = Arc::new(AtomicUsize::new(0));
        let (count, script) = (arrived.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, script) = (count.clone(), script.clone());
                tokio::spawn(async move {
                    let Some(mut arrived) = Arrived::from(stream).await else {
                        return;
                    };
                    if arrived.head.starts_with("GET /healthz ") {
                        return arrived.answer("Connection: close\r\n", "{}").await;
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    script(arrived).await;
                });
            }
        });
        Self { address, arrived }
    }

    /// One that answers with the head of the request.
    pub(crate) async fn echo() -> Self {
        Self::start(async |mut arrived: Arrived| {
            let head = arrived.head.clone();
            arrived.answer("Connection: close\r\n", &head).await;
        })
        .await
    }

    /// Requests that arrived, probes not counted.
    pub(crate) fn arrivals(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }
}
