//! One process takes over from another: what clients, streams and operators notice, which is nothing.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use difygate::gate::state::State;
use difygate::server::{Gate, StartError, Stopped};
use difygate::simulated_dify::{Health, SimulatedDify};
use difygate::upgrade::{Predecessor, UpgradeError, UpgradeSocket};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixDatagram, UnixListener};
use tokio::process::Child;

use crate::admin::admin;
use crate::cli::{difygate, file, run};
use crate::overrides::send;
use crate::reload::{Asking, descriptors};
use crate::support::{
    PATIENT, QUICK, addresses, dify_upstream, edge, instances, known, nobody, ready, settings, soon, until, until_idle,
    until_state, whole,
};
use crate::wire::{Wire, ask, chat_request};

/// A gate that can be taken over from, its text and its socket.
struct First {
    gate: Gate,
    text: String,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl First {
    async fn before(difys: &[SimulatedDify]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("upgrade.sock");
        let text = format!(
            "server: {{lame_duck: 0s, drain_timeout: 10s, upgrade_socket: {}}}\n{}",
            socket.display(),
            dify_upstream(&addresses(difys), QUICK)
        );
        Self {
            gate: ready(Gate::start(settings(&text)).unwrap()).await,
            text,
            socket,
            _folder: folder,
        }
    }

    async fn predecessor(&self) -> Predecessor {
        soon("the gate that runs to answer", Predecessor::find(&self.socket))
            .await
            .unwrap()
            .unwrap()
    }

    /// The gate after it, once that serves.
    async fn successor(&self) -> Gate {
        let gate = Gate::start_after(settings(&self.text), Some(self.predecessor().await)).unwrap();
        soon("the other gate to serve", gate.opened()).await;
        soon("the gate to hand over", self.gate.handed_over()).await;
        gate
    }
}

async fn metric(gate: &Gate, name: &str) -> f64 {
    let text = admin(gate, "/metrics").await.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("difygate_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_successor_knows_at_once_who_may_serve_and_what_the_operator_said() {
    let difys = instances::<3>().await;
    let first = First::before(&difys).await;
    difys[0].set(|switches| switches.health = Health::failing(["database"]));
    until_state(&first.gate, difys[0].address(), State::Down).await;
    let drain = json!({"state": "draining", "reason": "a new disk", "for": "1h"}).to_string();
    let path = format!("/api/v1/overrides/{}", difys[1].address());
    assert_eq!(send(&first.gate, "PUT", &path, &drain).await.status, 200);
    // Two more rounds of probes, so that what the successor learns itself begins later than what it is told.
    let asked = difys[2].tally().probes();
    until("two more probes", async || difys[2].tally().probes() >= asked + 3).await;
    let mut before = Vec::new();
    for dify in &difys {
        before.push(known(&first.gate, dify.address()).await);
    }
    #[allow(clippy::disallowed_methods)] // the time by which the gate's own is judged
    let taken = Instant::now();
    let next = first.successor().await;
    assert_eq!(edge(&next), edge(&first.gate), "it listens where the other one did");
    assert_eq!(next.admin(), first.gate.admin());
    for old in &before {
        let all = next.handle().mailbox.known().await.unwrap();
        let new = all
            .into_iter()
            .map(|one| one.known)
            .find(|new| new.id == old.id)
            .unwrap();
        assert_eq!(new.state, old.state);
        assert!(new.since < taken, "as long as in the process before");
    }
    let word = known(&next, difys[1].address()).await;
    assert_eq!(word.cause.to_string(), "by the operator: a new disk");
    assert!(word.overridden.unwrap().until.is_some());
    assert_eq!(first.gate.make_way().await, Stopped::Drained);
    let asked = [0, 1].map(|dify: usize| difys[dify].tally().traffic());
    for _ in 0..10 {
        assert_eq!(ask(edge(&next), "GET /v1/info").await.instance(), "dify-2");
    }
    assert_eq!([0, 1].map(|dify: usize| difys[dify].tally().traffic()), asked);
    let metrics = admin(&next, "/metrics").await.text();
    let down = format!(
        "difygate_endpoint_state{{endpoint=\"{}\",pool=\"main\",state=\"down\",upstream=\"dify\"}} 1",
        difys[0].address()
    );
    assert!(metrics.contains(&down), "{metrics}");
    difys[0].set(|switches| switches.health = Health::Passing);
    until("it to come back", async || {
        known(&next, difys[0].address()).await.state.is_routable()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_in_the_old_process_and_counts_in_the_new_one() {
    let difys = instances::<1>().await;
    let first = First::before(&difys).await;
    let mut wire = Wire::to(edge(&first.gate)).await;
    wire.send(chat_request("streaming", 60, 50)).await;
    assert_eq!(wire.head().await.status, 200);
    // One that waits for its next request learns by its answer that it is to come back by another connection.
    let mut kept = Wire::to(edge(&first.gate)).await;
    let get = "GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n";
    kept.send(get).await;
    assert_ne!(kept.answer().await.header("connection"), Some("close"));
    let next = first.successor().await;
    let old = tokio::spawn(async move { first.gate.make_way().await });
    until("its stream to count in the new one", async || {
        metric(&next, "predecessor_in_flight").await == 1.0
    })
    .await;
    let status: Value = admin(&next, "/api/v1/status").await.json();
    assert_eq!(status["upstreams"][0]["pools"][0]["endpoints"][0]["in_flight"], 1);
    assert_eq!(next.in_flight(), 0, "it is not this process's own");
    kept.send(get).await;
    let answer = kept.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let mut events = 0;
    while wire.event().await.is_some() {
        events += 1;
    }
    assert!(events >= 60, "{events}");
    drop(wire);
    assert_eq!(soon("the old gate to end", old).await.unwrap(), Stopped::Drained);
    until("nothing to be left there", async || {
        metric(&next, "predecessor_in_flight").await == 0.0
    })
    .await;
    let status: Value = admin(&next, "/api/v1/status").await.json();
    assert_eq!(status["upstreams"][0]["pools"][0]["endpoints"][0]["in_flight"], 0);
    until_idle(&next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_admin_api_that_was_accepted_before_is_answered() {
    let difys = instances::<1>().await;
    let first = First::before(&difys).await;
    let mut early = Wire::to(first.gate.admin()).await;
    // Connections are accepted in their order, so this answer tells that the one before was.
    assert_eq!(admin(&first.gate, "/livez").await.status, 200);
    let next = first.successor().await;
    let leaves = async { first.gate.make_way().await };
    let asks = async {
        early
            .send("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await;
        early.answer().await.status
    };
    let (stopped, status) = tokio::join!(leaves, asks);
    assert_eq!((stopped, status), (Stopped::Drained, 200));
    assert_eq!(admin(&next, "/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_successor_does_not_come_to_serve_nothing_has_happened() {
    let difys = instances::<1>().await;
    let first = First::before(&difys).await;
    let path = format!("/api/v1/overrides/{}", difys[0].address());
    let drain = json!({"state": "draining", "reason": "a new disk"}).to_string();
    let predecessor = first.predecessor().await;
    assert_eq!(predecessor.pid(), std::process::id());
    let refused = send(&first.gate, "PUT", &path, &drain).await;
    assert_eq!(refused.status, 503, "it would be lost");
    assert!(refused.text().contains("taking over"), "{}", refused.text());
    drop(predecessor);
    until("the gate to go on", async || {
        send(&first.gate, "PUT", &path, &drain).await.status == 200
    })
    .await;
    assert_eq!(send(&first.gate, "DELETE", &path, "").await.status, 200);
    until("it to serve", async || {
        ask(edge(&first.gate), "GET /v1/info").await.status == 200
    })
    .await;
    // Another one may still take over.
    let next = first.successor().await;
    assert_eq!(ask(edge(&next), "GET /v1/info").await.status, 200);
    until("somebody to take over from that one as well", async || {
        let found = Predecessor::find(&first.socket).await;
        found.is_ok_and(|found| found.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_at_the_socket_and_is_no_gate_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    assert!(Predecessor::find(&socket).await.unwrap().is_none(), "nobody is there");
    let listener = UnixListener::bind(&socket).unwrap();
    let length = |text: &str| (text.len() as u32).to_be_bytes();
    let framed = |text: &str| [&length(text)[..], text.as_bytes()].concat();
    let missing = "{\"format\": 1, \"version\": \"0\", \"pid\": 1, \"sockets\": [\"127.0.0.1:1\"]}";
    for (sent, expected) in [
        (Vec::new(), "the other process has gone"),
        (vec![0, 0], "its length is cut off"),
        (u32::MAX.to_be_bytes().to_vec(), "it is too long"),
        (vec![0, 0, 0, 9, b'{'], "it is cut off"),
        (framed("GET /"), "it says something else"),
        (framed("{\"format\": 1}"), "it says something else"),
        (
            framed("{\"format\": 2, \"version\": \"9.9\"}"),
            "the gate that runs is of version 9.9",
        ),
        (framed(missing), "sockets are missing"),
    ] {
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&sent).await.unwrap();
        };
        let (found, ()) = tokio::join!(soon("an error", Predecessor::find(&socket)), answer);
        let error = found.unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} for {sent:?}");
    }
    drop(listener);
    assert!(
        Predecessor::find(&socket).await.unwrap().is_none(),
        "nobody listens any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_the_gates_own() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    // What a process left behind is in nobody's way.
    drop(UnixListener::bind(&socket).unwrap());
    let bound = UpgradeSocket::bind(&socket).unwrap();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let taken = UpgradeSocket::bind(&socket).unwrap_err().to_string();
    assert!(
        taken.contains("a gate answers at") && taken.contains("--upgrade"),
        "{taken}"
    );
    drop(bound);
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o1777)).unwrap();
    let shared = UpgradeSocket::bind(&open.join("upgrade.sock")).unwrap_err();
    assert!(matches!(shared, UpgradeError::Shared { .. }), "{shared}");
    let nowhere = format!(
        "server: {{upgrade_socket: {}/nowhere/upgrade.sock}}\n{}",
        folder.path().display(),
        dify_upstream(&[nobody()], "")
    );
    match Gate::start(settings(&nowhere)) {
        Err(StartError::Upgrade(e)) => assert!(e.to_string().contains("set `server.upgrade_socket`"), "{e}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_the_socket_gets_nothing_it_can_use_and_disturbs_nobody() {
    let difys = instances::<1>().await;
    let first = First::before(&difys).await;
    for _ in 0..20 {
        let mut stream = tokio::net::UnixStream::connect(&first.socket).await.unwrap();
        // It reads a part and goes.
        let _ = soon("something", stream.read_u8()).await;
    }
    let next = first.successor().await;
    assert_eq!(ask(edge(&next), "GET /v1/info").await.status, 200);
}

#[tokio::test]
async fn an_upgrade_without_a_socket_says_which_key_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, &whole(&dify_upstream(&[nobody()], "")));
    let (code, _, err) = run(&["run", "--upgrade", "-c", &path]).await;
    assert_eq!(code, 1);
    assert!(err.contains("server.upgrade_socket"), "{err}");
}

/// A client that keeps its connection for as long as the gate does; tells what it was not answered.
async fn keep_asking(edge: SocketAddr, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut asked, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let mut wire = Wire::to(edge).await;
        while !stop.load(Ordering::Relaxed) {
            wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n").await;
            asked += 1;
            let Some(head) = wire.try_head().await else {
                failed.push("the connection ended before an answer".to_owned());
                break;
            };
            let length = head
                .header("content-length")
                .map_or(0, |length| length.parse().unwrap());
            wire.read(length).await;
            if head.status != 200 {
                failed.push(head.head.clone());
            }
            if head.header("connection") == Some("close") {
                break;
            }
        }
    }
    (asked, failed)
}

/// Whether a stream of so many events comes to its end.
async fn stream(edge: SocketAddr, events: u64) -> bool {
    let mut wire = Wire::to(edge).await;
    wire.send(chat_request("streaming", events, 100)).await;
    let status = wire.head().await.status;
    let mut seen = 0;
    while wire.event().await.is_some() {
        seen += 1;
    }
    status == 200 && seen >= events
}

/// A process of the gate, which says at its manager when it serves.
#[derive(Clone, Copy)]
struct Process<'a> {
    path: &'a str,
    manager: (&'a UnixDatagram, &'a Path),
}

impl Process<'_> {
    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = difygate(&[&["run", "-c", self.path], arguments].concat());
        command.env("NOTIFY_SOCKET", self.manager.1);
        command.stderr(std::process::Stdio::null()).spawn().unwrap()
    }

    /// The process that says that it serves.
    async fn serves(&self) -> Pid {
        let mut told = [0; 512];
        let told_it = self.manager.0.recv(&mut told);
        let length = soon("a process to say that it serves", told_it).await.unwrap();
        let told = String::from_utf8_lossy(&told[..length]).into_owned();
        assert!(told.contains("READY=1"), "{told}");
        let pid = told.lines().find_map(|line| line.strip_prefix("MAINPID="));
        Pid::from_raw(pid.unwrap_or_else(|| panic!("{told}")).parse().unwrap())
    }
}

/// Upgrades again and again, by hand and as a service manager does it, and waits each time until the next process serves.
async fn upgrade_often(times: usize, first: Process<'_>, asking: &Asking) -> (Pid, Vec<Child>) {
    let (mut pid, mut processes) = (first.serves().await, Vec::new());
    for turn in 0..times {
        let old = pid;
        if turn % 2 == 0 {
            processes.push(first.start(&["--upgrade"]));
        } else {
            kill(old, Signal::SIGUSR2).unwrap();
        }
        pid = first.serves().await;
        assert_ne!(pid, old);
        asking.some_more().await;
    }
    (pid, processes)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_upgrades_cut_no_stream_fail_no_request_and_leak_no_descriptor() {
    const STREAMS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let difys = instances::<3>().await;
    let (edge, admin) = (nobody(), nobody());
    let text = format!(
        "server: {{upgrade_socket: {0}/upgrade.sock, state_dir: {0}/state}}\nadmin: {{address: \"{admin}\"}}\nlog: {{access: \"off\"}}\nlisteners: [{{address: \"{edge}\", idle_timeout: 2s}}]\n{1}",
        folder.path().display(),
        dify_upstream(&addresses(&difys), PATIENT)
    );
    let path = file(&folder, &text);
    let at_manager = folder.path().join("manager.sock");
    let manager = UnixDatagram::bind(&at_manager).unwrap();
    let process = Process {
        path: &path,
        manager: (&manager, &at_manager),
    };
    let first = process.start(&[]);
    until("every endpoint to serve", async || {
        tokio::net::TcpStream::connect(edge).await.is_ok()
            && ask(edge, "GET /v1/info").await.status == 200
            && difys.iter().all(|dify| dify.tally().traffic() > 0)
    })
    .await;
    let before = descriptors(first.id().unwrap());
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        streams.spawn(stream(edge, 80));
    }
    until("all streams to be open", async || {
        difys.iter().map(|dify| dify.tally().streams()).sum::<u64>() >= STREAMS as u64
    })
    .await;
    let asking = Asking::start(edge);
    let stop = Arc::new(AtomicBool::new(false));
    let kept: Vec<_> = (0..4).map(|_| tokio::spawn(keep_asking(edge, stop.clone()))).collect();
    let (pid, mut processes) = upgrade_often(10, process, &asking).await;
    stop.store(true, Ordering::Relaxed);
    for client in kept {
        let (asked, failed) = soon("a client to end", client).await.unwrap();
        assert_eq!(failed, Vec::<String>::new());
        assert!(asked > 20, "{asked}");
    }
    assert_eq!(asking.failed().await, Vec::<String>::new());
    let whole = soon("the streams to end", streams.join_all()).await;
    assert_eq!(whole.iter().filter(|whole| **whole).count(), STREAMS);
    processes.push(first);
    for process in &mut processes {
        let ended = soon("an old process to end", process.wait()).await.unwrap();
        assert!(ended.success(), "{ended}");
    }
    let open = || descriptors(pid.as_raw().unsigned_abs());
    until("no descriptor to be left over", async || open() <= before + 3).await;
    kill(pid, Signal::SIGINT).unwrap();
    until("the last process to end", async || {
        tokio::net::TcpStream::connect(edge).await.is_err()
    })
    .await;
}
