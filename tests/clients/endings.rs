//! How real clients take it when nobody is fit, when what they read is cut, and when the gate stops. The table of docs/clients.md tells the same: each of
//! its rows is a test here or in `browser_endings.rs`.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use difygate::gate::names::{PoolName, UpstreamName};
use difygate::server::{Gate, Stopped};
use difygate::simulated_dify::{Cluster, Health, SimulatedDify};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::origins;
use crate::talking::Talking;

/// Events come within this time, or the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A WebSocket that the gate has ended is closed after so long, and a second more at the most.
const HOLD: Duration = Duration::from_secs(1);

/// A change of health is noticed soon.
pub(crate) const QUICK: &str = "probe: {interval: 100ms, timeout: 100ms, rise: 1, fall: {default: 2, timeout: 50}}";

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !holds().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// A server of event streams that never end unless they are told to, in several dialects; it notes what it was asked for.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    healthy: Arc<AtomicBool>,
    ending: Arc<Mutex<Option<Ending>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// How a stream ends after its first event, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// As a whole answer does, though its last event has not come.
    Clean,
    /// The connection is closed.
    Broken,
}

impl Origin {
    pub(crate) async fn start(healthy: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let healthy = Arc::new(AtomicBool::new(healthy));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let origin = Self {
            address,
            healthy,
            ending: Arc::default(),
            asked,
        };
        let served = origin.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let origin = served.clone();
                tokio::spawn(async move { origin.serve(BufReader::new(stream)).await });
            }
        });
        origin
    }

    fn end(&self, ending: Option<Ending>) {
        *self.ending.lock().unwrap() = ending;
    }

    async fn serve(&self, mut stream: BufReader<TcpStream>) -> Option<()> {
        loop {
            let (mut first, mut length) = (String::new(), 0);
            stream.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.ok().filter(|read| *read > 2)?;
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if stream.buffer().starts_with(b"\r\n") {
                    break;
                }
            }
            stream.consume(2);
            stream.read_exact(&mut vec![0; length]).await.ok()?;
            if first.starts_with("GET /healthz ") {
                let status = if self.healthy.load(Ordering::SeqCst) {
                    "200 OK"
                } else {
                    "503 Service Unavailable"
                };
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}");
                stream.write_all(answer.as_bytes()).await.ok()?;
                continue;
            }
            self.asked
                .lock()
                .unwrap()
                .push(first.trim_end().trim_end_matches(" HTTP/1.1").to_owned());
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
            for number in 1.. {
                let event = event(&first, number);
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).await.ok()?;
                let ending = *self.ending.lock().unwrap();
                match ending {
                    Some(Ending::Clean) => {
                        stream.write_all(b"0\r\n\r\n").await.ok()?;
                        break;
                    }
                    Some(Ending::Broken) => return None,
                    None => {}
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::SeqCst);
    }

    /// The request lines of all but probes.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// An event of the kind that the API of this path streams.
fn event(request: &str, number: u64) -> String {
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (name, data) = match path {
        "/v1/chat/completions" => (
            None,
            json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}),
        ),
        "/v1/responses" => (
            Some("response.output_text.delta"),
            json!({"type": "response.output_text.delta", "sequence_number": number, "item_id": "i", "output_index": 0,
                "content_index": 0, "delta": "a", "logprobs": []}),
        ),
        "/v1/messages" => (
            Some("content_block_delta"),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}),
        ),
        _ => return format!("id: {number}\ndata: hello\n\n"),
    };
    let name = name.map(|name| format!("event: {name}\n")).unwrap_or_default();
    format!("{name}data: {data}\n\n")
}

/// A gate that has asked everybody.
pub(crate) async fn asked_everyone(gate: Gate) -> Gate {
    let mut progress = gate.handle().progress.clone();
    progress.wait_for(|progress| progress.asked_everyone).await.unwrap();
    gate
}

/// Before an origin, with `keys` at the top of its configuration.
async fn before(origin: &Origin, keys: &str) -> Gate {
    asked_everyone(origins::gate(&[origin.address], QUICK, keys)).await
}

/// An instance of Dify, and a gate before it.
async fn dify(keys: &str) -> (SimulatedDify, Gate) {
    let dify = SimulatedDify::start(&Cluster::new(), "dify-0").await.unwrap();
    dify.set(|switches| switches.websocket = true);
    let gate = asked_everyone(origins::gate(&[dify.address()], QUICK, keys)).await;
    (dify, gate)
}

pub(crate) fn url(gate: &Gate) -> String {
    format!("http://{}", gate.listeners()[0])
}

/// Whether anybody may serve.
pub(crate) async fn until_served(gate: &Gate, served: bool) {
    let mut progress = gate.handle().progress.clone();
    let changed = progress.wait_for(|progress| progress.can_serve == served);
    timeout(PATIENCE, changed).await.unwrap().unwrap();
}

/// Ends what is under way.
fn cut(gate: &Gate) {
    cut_of(gate, "dify");
}

/// Ends what is under way of an upstream.
pub(crate) fn cut_of(gate: &Gate, upstream: &str) {
    let roster = gate.handle().roster.borrow().clone();
    let severed = roster.sever(&UpstreamName::new(upstream), &PoolName::new("main"));
    assert_eq!(severed.streams + severed.requests, 1);
}

/// The error that an event tells of.
fn code(event: &Value) -> &Value {
    &event["code"]
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_try_again_when_nobody_is_fit_and_hear_of_a_cut_once() {
    for (name, streams) in [("openai", &["chat", "responses"][..]), ("anthropic", &["messages"])] {
        let origin = Origin::start(false).await;
        let gate = before(&origin, "").await;
        let mut client = Talking::python(&[name, &url(&gate)]);
        client.say(streams[0]).await;
        let told = client.tells("status").await;
        assert_eq!((&told["status"], &told["asked"]), (&json!(503), &json!(2)), "{told}");
        assert!(told["at"].as_f64().unwrap() >= 2.0, "Retry-After is heeded: {told}");
        origin.set_healthy(true);
        until_served(&gate, true).await;
        for stream in streams {
            client.say(stream).await;
            client.tells("piece").await;
            cut(&gate);
            let told = client.next().await;
            assert_eq!(told["asked"], 1, "{told}");
            if name == "openai" {
                assert_eq!(
                    (&told["kind"], code(&told["body"])),
                    (&json!("APIError"), &json!("gateway_drained"))
                );
            } else {
                assert_eq!(
                    (&told["event"], code(&told["body"])),
                    (&json!("status"), &json!("gateway_drained"))
                );
            }
        }
        assert_eq!(origin.asked().len(), streams.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_does_not_send_a_prompt_again_that_may_be_running() {
    // It accepts and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let health = Origin::start(true).await;
    let upstream = format!("probe: {{port: {}}}", health.address.port());
    let gate = asked_everyone(origins::gate(&[silent], &upstream, "")).await;
    let mut client = Talking::python(&["openai", &url(&gate)]);
    client.say("chat").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    until("the request to wait", async || gate.in_flight() == 1).await;
    cut(&gate);
    let told = client.tells("status").await;
    assert_eq!((&told["status"], &told["asked"]), (&json!(504), &json!(1)), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn difys_own_clients_are_told_and_try_nothing_again() {
    let (dify, gate) = dify("").await;
    for mut client in [
        Talking::python(&["dify", &url(&gate)]),
        Talking::node(&["dify", &url(&gate)]),
    ] {
        let before = dify.tally().executed();
        client.say("").await;
        client.tells("piece").await;
        cut(&gate);
        let told = client.tells("end").await;
        assert_eq!(code(&told["last"]), "gateway_drained", "{told}");
        dify.set(|switches| switches.health = Health::failing(["database"]));
        until_served(&gate, false).await;
        client.say("").await;
        let told = client.next().await;
        assert_eq!(told["status"], 503, "{told}");
        dify.set(|switches| switches.health = Health::Passing);
        until_served(&gate, true).await;
        assert_eq!(dify.tally().executed() - before, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_event_source_sends_its_post_once() {
    let origin = Origin::start(false).await;
    let gate = before(&origin, "").await;
    let mut client = Talking::node(&["fetch-event-source", &url(&gate)]);
    client.say("/v1/chat/completions").await;
    client.tells("asked").await;
    let told = client.tells("message").await;
    let data = &told["data"];
    assert_eq!(
        (&told["name"], code(data), &data["status"]),
        (&json!("error"), &json!("no_endpoint"), &json!(503))
    );
    assert_eq!(client.tells("resolved").await["asked"], 1);
    origin.set_healthy(true);
    until_served(&gate, true).await;
    for path in ["/v1/chat/completions", "/plain"] {
        client.say(path).await;
        client.tells("asked").await;
        client.tells("piece").await;
        cut(&gate);
        let told = client.tells("message").await;
        assert_eq!(code(&told["data"]["error"]), "gateway_drained", "{told}");
        assert_eq!(client.tells("resolved").await["asked"], 1);
    }
    assert_eq!(origin.asked(), ["POST /v1/chat/completions", "POST /plain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_comes_again_until_somebody_is_fit_and_after_a_cut() {
    let origin = Origin::start(false).await;
    let gate = before(&origin, "").await;
    let mut client = Talking::node(&["eventsource", &url(&gate)]);
    client.tells("open").await;
    let told = client.tells("error").await;
    assert_eq!(told["state"], 0, "it connects again: {told}");
    origin.set_healthy(true);
    until_served(&gate, true).await;
    let again = client.tells("open").await;
    let waited = again["at"].as_f64().unwrap() - told["at"].as_f64().unwrap();
    assert!(waited >= 3.9, "no sooner than it was told: {again}");
    client.tells("piece").await;
    cut(&gate);
    let told = client.tells("error").await;
    assert!(told["data"].as_str().unwrap().contains("gateway_drained"), "{told}");
    assert_eq!(client.tells("error").await["state"], 0, "the end");
    client.tells("open").await;
    client.tells("piece").await;
    assert_eq!(origin.asked(), ["GET /events", "GET /events"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_clients_get_the_status_and_the_last_event() {
    for name in ["requests", "aiohttp"] {
        let origin = Origin::start(false).await;
        let gate = before(&origin, "").await;
        let mut client = Talking::python(&[name, &url(&gate)]);
        client.say("/v1/chat/completions").await;
        let told = client.tells("status").await;
        assert_eq!(
            (&told["status"], &told["retry_after"]),
            (&json!(503), &json!("2")),
            "{told}"
        );
        origin.set_healthy(true);
        until_served(&gate, true).await;
        client.say("/v1/chat/completions").await;
        client.tells("piece").await;
        cut(&gate);
        let told = client.tells("end").await;
        assert_eq!(code(&told["last"]["error"]), "gateway_drained", "{told}");
        // What they cannot know for an error must not look complete.
        client.say("/plain").await;
        client.tells("piece").await;
        cut(&gate);
        let told = client.tells("error").await;
        let kind = if name == "requests" {
            "ChunkedEncodingError"
        } else {
            "ClientPayloadError"
        };
        assert_eq!(told["kind"], kind, "{told}");
        assert_eq!(origin.asked(), ["POST /v1/chat/completions", "POST /plain"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_waits_before_it_comes_again() {
    let (dify, gate) = dify("").await;
    dify.set(|switches| switches.health = Health::failing(["database"]));
    until_served(&gate, false).await;
    let mut client = Talking::python(&["websockets", &url(&gate)]);
    let told = client.tells("failed").await;
    assert_eq!(
        (&told["kind"], &told["status"]),
        (&json!("InvalidStatus"), &json!(503)),
        "{told}"
    );
    dify.set(|switches| switches.health = Health::Passing);
    until_served(&gate, true).await;
    let mut told = client.next().await;
    while told["event"] == "failed" {
        told = client.next().await;
    }
    assert_eq!(
        (&told["event"], &told["heard"]),
        (&json!("open"), &json!("hello")),
        "{told}"
    );
    #[allow(clippy::disallowed_methods)] // the time that a client waits
    let since = Instant::now();
    cut(&gate);
    let closed = client.tells("closed").await;
    assert_eq!(
        (&closed["code"], &closed["reason"]),
        (&json!(1012), &json!("out of service")),
        "{closed}"
    );
    client.tells("open").await;
    assert!(since.elapsed() >= HOLD, "it comes again after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_io_comes_again_by_itself() {
    let (_server, address) = crate::socket_io::server().await;
    let health = Origin::start(true).await;
    let upstream = format!(
        "probe: {{interval: 100ms, timeout: 100ms, rise: 1, fall: {{default: 2, timeout: 50}}, port: {}}}",
        health.address.port()
    );
    let gate = asked_everyone(origins::gate(&[address], &upstream, "")).await;
    let mut client = Talking::node(&["socket.io", &url(&gate)]);
    client.tells("open").await;
    cut(&gate);
    let told = client.tells("closed").await;
    assert_eq!(
        (&told["reason"], &told["active"]),
        (&json!("transport close"), &json!(true)),
        "{told}"
    );
    client.tells("open").await;
    health.set_healthy(false);
    until_served(&gate, false).await;
    cut(&gate);
    client.tells("closed").await;
    client.tells("failed").await;
    health.set_healthy(true);
    until_served(&gate, true).await;
    let mut told = client.next().await;
    while told["event"] == "failed" {
        told = client.next().await;
    }
    assert_eq!(told["event"], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn httpx_loses_nothing_over_http2_when_the_gate_stops_or_is_replaced() {
    for replaced in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (tls, cert) = origins::certificate(folder.path(), "localhost");
        let keys = format!(
            "listeners: [{{address: \"127.0.0.1:8443\", tls: {tls}}}]\nserver: {{lame_duck: 0s, drain_timeout: 60s}}"
        );
        let (_dify, gate) = dify(&keys).await;
        let edge = gate.listeners()[0];
        let url = format!("https://localhost:{}", edge.port());
        let mut client = Talking::python(&["httpx", &url, &cert.display().to_string()]);
        client.say("ask").await;
        let first = client.tells("answer").await;
        assert_eq!(
            (&first["status"], &first["version"]),
            (&json!(200), &json!("HTTP/2")),
            "{first}"
        );
        client.say("stream").await;
        client.tells("piece").await;
        let stopping = async {
            if replaced {
                gate.make_way().await
            } else {
                gate.stop().await
            }
        };
        let talking = async {
            until("the gate to accept nothing", async || {
                TcpStream::connect(edge).await.is_err()
            })
            .await;
            for line in ["ask", "post", "ask"] {
                client.say(line).await;
                let told = client.tells("answer").await;
                assert!(
                    told["status"].as_u64().unwrap() < 500 && told["port"] == first["port"],
                    "{told}"
                );
            }
            let told = client.tells("end").await;
            assert_eq!(told["last"]["event"], "workflow_finished", "{told}");
            // Nobody listens there any more, so that whatever is asked now needs another connection.
            client.say("ask").await;
            assert_eq!(client.tells("error").await["kind"], "ConnectError");
        };
        let (stopped, ()) = tokio::join!(stopping, talking);
        assert_eq!(stopped, Stopped::Drained);
    }
}

/// curl with a POST to `path`.
fn curl(gate: &Gate, path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--no-buffer",
        "--max-time",
        "50",
        "--data",
        "{}",
    ]);
    command
        .args(arguments)
        .arg(format!("{}{path}", url(gate)))
        .stdout(Stdio::piped());
    command.kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_tells_a_cut_from_an_end_and_heeds_retry_after() {
    let origin = Origin::start(false).await;
    let gate = before(&origin, "").await;
    let path = "/v1/chat/completions";
    let failed = timeout(PATIENCE, curl(&gate, path, &["--fail"]).output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(failed.status.code(), Some(22));
    #[allow(clippy::disallowed_methods)] // the time that a client waits
    let since = Instant::now();
    let mut retrying = curl(&gate, path, &["--retry", "1", "--write-out", " %{http_code}"]);
    let retried = timeout(PATIENCE, retrying.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&retried.stdout).into_owned();
    assert!(retried.status.success() && text.ends_with(" 503"), "{text}");
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    origin.set_healthy(true);
    until_served(&gate, true).await;
    for (path, expected) in [(path, 0), ("/plain", 18)] {
        let mut process = curl(&gate, path, &[]).spawn().unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut text = String::new();
        timeout(PATIENCE, out.read_line(&mut text)).await.unwrap().unwrap();
        cut(&gate);
        timeout(PATIENCE, out.read_to_string(&mut text)).await.unwrap().unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(expected), "{path}: {text}");
        assert_eq!(text.contains("gateway_drained"), expected == 0, "{path}: {text}");
    }
}

/// What happens to a client after the first piece of a stream that its endpoint ends so.
async fn after_a_piece(client: &mut Talking, line: &str) -> Value {
    client.say(line).await;
    loop {
        let told = client.next().await;
        let begins = told["event"] == "piece" || told["event"] == "asked" && told["asked"] == 1;
        if !begins {
            return told;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_the_endpoints_own_passes_as_it_is() {
    let origin = Origin::start(true).await;
    let gate = before(&origin, "").await;
    let url = url(&gate);
    for (mut client, line, clean, broken) in [
        (
            Talking::python(&["openai", &url]),
            "chat",
            ["end", ""],
            ["error", "APIConnectionError"],
        ),
        (
            Talking::python(&["anthropic", &url]),
            "messages",
            ["end", ""],
            ["error", "RemoteProtocolError"],
        ),
        (
            Talking::python(&["requests", &url]),
            "/plain",
            ["end", ""],
            ["error", "ChunkedEncodingError"],
        ),
        (
            Talking::python(&["aiohttp", &url]),
            "/plain",
            ["end", ""],
            ["error", "ClientPayloadError"],
        ),
        // It sends its request again.
        (
            Talking::node(&["fetch-event-source", &url]),
            "/plain",
            ["resolved", ""],
            ["asked", ""],
        ),
    ] {
        for (ending, [event, kind]) in [(Ending::Clean, clean), (Ending::Broken, broken)] {
            origin.end(Some(ending));
            let told = after_a_piece(&mut client, line).await;
            assert_eq!(
                (&told["event"], told["kind"].as_str().unwrap_or("")),
                (&json!(event), kind),
                "{ending:?}: {told}"
            );
        }
    }
    for ending in [Ending::Clean, Ending::Broken] {
        origin.end(Some(ending));
        let mut client = Talking::node(&["eventsource", &url]);
        client.tells("open").await;
        client.tells("piece").await;
        assert_eq!(client.tells("error").await["state"], 0, "{ending:?}");
        client.tells("open").await;
    }
}
