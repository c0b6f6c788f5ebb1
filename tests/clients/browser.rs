//! Chromium: a page behind the gate over HTTP/2, and the gate's own status page.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use difygate::simulated_dify::{Cluster, Health, SimulatedDify};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::origins;

/// A browser takes its time to start.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A page that does what Dify's pages do, and tells what came of it.
const PAGE: &str = r#"<!doctype html><title>page</title><script>
const told = {};
const post = (path, body, headers = {}) => fetch(path, {method: "POST", body, headers});
const work = async () => {
  told.protocol = performance.getEntriesByType("navigation")[0].nextHopProtocol;
  const ask = {inputs: {events: 5, gap_ms: 200}, query: "q", user: "u", response_mode: "streaming"};
  const chat = await post("/v1/chat-messages", JSON.stringify(ask), {"Content-Type": "application/json"});
  const reader = chat.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", first = 0, last = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    text += part.value; last = performance.now(); first ||= last;
  }
  told.events = (text.match(/^data: /gm) || []).length;
  told.spread = last - first;
  const form = new FormData();
  form.append("user", "u");
  form.append("file", new Blob([new Uint8Array(2 << 20)]), "file.txt");
  told.upload = (await post("/v1/files/upload", form)).status;
  told.socket = await new Promise(done => {
    const socket = new WebSocket(`wss://$${location.host}/socket.io/`);
    socket.onopen = () => socket.send("hello");
    socket.onmessage = event => done(event.data);
    socket.onerror = () => done("failed");
  });
  const many = await Promise.all([...Array(50).keys()].map(number => fetch("/v1/info?" + number)));
  told.many = many.filter(answer => answer.status === 200).length;
  told.guarded = (await fetch("/healthz")).status;
};
work().catch(error => { told.error = String(error); }).finally(() => post("/report", JSON.stringify(told)));
</script>"#;

/// What a page reports.
pub(crate) struct Reports(mpsc::UnboundedReceiver<Value>);

impl Reports {
    /// Takes them at `listener`, as `POST /report`.
    pub(crate) fn take(listener: TcpListener) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(report(stream, tell.clone()));
            }
        });
        Self(told)
    }

    pub(crate) async fn next(&mut self) -> Value {
        let told = timeout(PATIENCE, self.0.recv()).await;
        told.expect("a report within a minute").unwrap()
    }

    /// The next one, which must be of this event.
    pub(crate) async fn tell(&mut self, event: &str) -> Value {
        let told = self.next().await;
        assert_eq!(told["event"], event, "{told}");
        told
    }
}

async fn report(stream: TcpStream, tell: mpsc::UnboundedSender<Value>) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut head) = (String::new(), String::new());
    while stream.read_line(&mut line).await.unwrap() > 2 {
        head += &std::mem::take(&mut line);
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.unwrap();
    if head.starts_with("POST /report ") {
        // The test may be over.
        let _ = tell.send(serde_json::from_slice(&body).unwrap());
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
}

pub(crate) fn chromium(folder: &tempfile::TempDir) -> Command {
    let mut command = Command::new("chromium");
    // It runs as root in containers, where its own sandbox cannot.
    command.args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command.args(["--ignore-certificate-errors", "--host-resolver-rules=MAP * 127.0.0.1"]);
    command.arg(format!("--user-data-dir={}", folder.path().display()));
    command
        .env("HOME", folder.path())
        .env("NO_PROXY", "*")
        .kill_on_drop(true);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

async fn difys<const N: usize>() -> [SimulatedDify; N] {
    let cluster = Cluster::new();
    let mut started = Vec::new();
    for number in 0..N {
        let dify = SimulatedDify::start(&cluster, &format!("dify-{number}")).await.unwrap();
        dify.set(|switches| switches.websocket = true);
        started.push(dify);
    }
    started.try_into().unwrap_or_else(|_| panic!("as many as were started"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_streams_uploads_and_talks_over_http2() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = origins::certificate(folder.path(), "dify.example.com");
    let [first, second] = difys().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = format!(
        "listeners: [{{address: \"127.0.0.1:8443\", tls: {tls}}}]\nprobe_guard: {{allow: [\"192.0.2.0/24\"]}}\nroutes:\n- {{path: /, upstream: dify}}\n- {{path: /report, upstream: reports}}\n- {{path: /page, answer: {{content_type: text/html, body: {}}}}}\n",
        serde_json::to_string(PAGE).unwrap()
    );
    let reports = format!(
        "pools: {{main: {{endpoints: [\"{}\"]}}}}}}, reports: {{probe: {{path: /}}, pools: {{main: {{endpoints: [\"{}\"]}}}}}}, other: {{probe: {{path: /healthz}}",
        first.address(),
        listener.local_addr().unwrap()
    );
    let gate = origins::gate(&[second.address()], &reports, &keys);
    let mut reports = Reports::take(listener);
    let url = format!("https://dify.example.com:{}/page", gate.listeners()[0].port());
    let _browser = chromium(&folder).arg(&url).stdout(Stdio::null()).spawn().unwrap();
    let told = reports.next().await;
    assert_eq!(told["error"], Value::Null, "{told}");
    assert_eq!(told["protocol"], "h2", "{told}");
    assert!(told["events"].as_u64().unwrap() >= 5, "{told}");
    assert!(
        told["spread"].as_f64().unwrap() >= 150.0,
        "events come one by one: {told}"
    );
    assert_eq!(told["upload"], 201, "{told}");
    assert_eq!(told["socket"], "hello", "{told}");
    assert_eq!(told["many"], 50, "{told}");
    assert_eq!(told["guarded"], 404, "{told}");
}

/// The page at `address` as the browser shows it once its scripts have run.
async fn shown(address: SocketAddr) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = chromium(&folder);
    command.args(["--virtual-time-budget=3000", "--dump-dom"]);
    let output = command.arg(format!("http://{address}/")).output();
    let output = timeout(PATIENCE, output)
        .await
        .expect("a page within a minute")
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_shows_who_may_serve_and_why_not() {
    let [up, down] = difys().await;
    down.set(|switches| switches.health = Health::failing(["database"]));
    let gate = origins::gate(&[up.address(), down.address()], "balance: ewma", "");
    let mut progress = gate.handle().progress.clone();
    progress.wait_for(|progress| progress.asked_everyone).await.unwrap();
    let page = shown(gate.admin()).await;
    for part in [
        up.address().to_string(),
        down.address().to_string(),
        "class=\"state up\">up<".to_owned(),
        "class=\"state down\">down<".to_owned(),
        "✗ database".to_owned(),
        "active pool main".to_owned(),
    ] {
        assert!(page.contains(&part), "{part} is missing in {page}");
    }
    assert!(page.contains("id=\"gone\" role=\"status\" hidden"), "{page}");
}
