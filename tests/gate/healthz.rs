//! The /healthz service: what it asks, whom it answers what, and what the gate makes of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use difygate::config;
use difygate::config::healthz;
use difygate::healthz::Service;
use difygate::simulated_dify::Health;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::admin::admin;
use crate::cli::{difygate, file, run};
use crate::databases::{Kind, PASSWORD, Server};
use crate::support::{QUICK, edge, gate, instances, known, nobody, soon, until};
use crate::wire::{Answer, ask};

/// A service that runs for as long as this is held.
struct Running {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

async fn start(text: &str) -> Running {
    let text = format!("listen: \"127.0.0.1:9901\"\ndrain: 0s\n{text}");
    let mut settings =
        healthz::parse(&text, Path::new("healthz.yaml"), &config::unset).unwrap_or_else(|e| panic!("{e}"));
    settings.listen.set_port(0);
    let service = Service::bind(settings).await.unwrap();
    let address = service.address().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(service.serve(async move { drop(stopped.await) }));
    Running { address, _stop: stop }
}

async fn healthz(service: &Running) -> Answer {
    ask(service.address, "GET /healthz").await
}

/// Waits until exactly these checks fail, and returns the answer.
async fn until_failing(service: &Running, names: &[&str]) -> Value {
    let mut last = Value::Null;
    let what = format!("{names:?} to fail");
    until(&what, async || {
        let answer = healthz(service).await;
        last = answer.json();
        let failed = last["failed"].clone();
        let expected = if names.is_empty() { Value::Null } else { json!(names) };
        failed == expected && (answer.status == 200) == names.is_empty()
    })
    .await;
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_kinds_tell_what_is_missing_and_what_is_not_critical_fails_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.bin");
    let [dify] = instances::<1>().await;
    let text = format!(
        "cache: 50ms\nchecks:\n  api: {{http: {{url: \"http://{}/health\", expect: {{json: {{/status: ok}}}}}}}}\n  port: {{tcp: \"{}\"}}\n  model_loaded: {{files: [{{path: {}, min_size: 4}}]}}\n  script: {{exec: [test, -e, {}]}}\n  search: {{tcp: \"{}\", critical: false}}\n",
        dify.address(),
        dify.address(),
        model.display(),
        folder.path().join("flag").display(),
        nobody()
    );
    let service = start(&text).await;
    let told = until_failing(&service, &["model_loaded", "script"]).await;
    assert_eq!(
        told["details"],
        json!({"api": true, "port": true, "model_loaded": false, "script": false, "search": false})
    );
    assert!(
        told["reasons"]["model_loaded"]
            .as_str()
            .unwrap()
            .contains("No such file"),
        "{told}"
    );
    assert_eq!(ask(service.address, "GET /startupz").await.status, 503);
    std::fs::write(&model, "abc").unwrap();
    std::fs::write(folder.path().join("flag"), "").unwrap();
    let told = until_failing(&service, &["model_loaded"]).await;
    assert!(
        told["reasons"]["model_loaded"]
            .as_str()
            .unwrap()
            .contains("3 bytes, fewer than 4"),
        "{told}"
    );
    std::fs::write(&model, "abcd").unwrap();
    let told = until_failing(&service, &[]).await;
    assert_eq!(told["details"]["search"], false);
    assert_eq!(ask(service.address, "GET /startupz").await.status, 200);
    let metrics = ask(service.address, "GET /metrics").await.text();
    assert!(metrics.contains("difygate_check_up{check=\"search\"} 0"), "{metrics}");
    assert!(metrics.contains("difygate_check_up{check=\"api\"} 1"), "{metrics}");
    dify.set(|switches| switches.health = Health::Status(500));
    until_failing(&service, &["api"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_cost_one_run_and_a_hung_check_holds_nobody_for_long() {
    let (address, runs) = counted().await;
    let text = format!("cache: 1h\nchecks:\n  hung: {{http: {{url: \"http://{address}/\"}}, timeout: 2s}}\n");
    let service = start(&text).await;
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let address = service.address;
            tokio::spawn(async move { ask(address, "GET /healthz").await.status })
        })
        .collect();
    for asked in asking {
        assert_eq!(soon("an answer", asked).await.unwrap(), 503);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_with_an_interval_sits_rounds_out_and_nobody_waits_for_two() {
    let (seldom, often, slow) = (counted().await, counted().await, counted().await);
    let text = format!(
        "cache: 50ms\nchecks:\n  seldom: {{tcp: \"{}\", interval: 1h}}\n  often: {{tcp: \"{}\"}}\n",
        seldom.0, often.0
    );
    let service = start(&text).await;
    until("the other one to be asked again", async || {
        assert_eq!(healthz(&service).await.status, 200);
        often.1.load(Ordering::SeqCst) >= 4
    })
    .await;
    assert_eq!(seldom.1.load(Ordering::SeqCst), 1);
    // Who asks while a round is under way that takes longer than it serves gets its answer, and begins no further one.
    let text = format!(
        "cache: 10ms\nchecks:\n  hung: {{http: {{url: \"http://{}/\"}}, timeout: 5s}}\n",
        slow.0
    );
    let service = start(&text).await;
    let first = tokio::spawn(ask(service.address, "GET /healthz"));
    until("the round to begin", async || slow.1.load(Ordering::SeqCst) == 1).await;
    assert_eq!(healthz(&service).await.status, 503);
    assert_eq!(soon("the first answer", first).await.unwrap().status, 503);
    assert_eq!(slow.1.load(Ordering::SeqCst), 1);
}

/// Somebody who takes connections and says nothing, and how many came.
async fn counted() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, runs) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = runs.clone();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            kept.push(stream);
        }
    });
    (address, runs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_there_only_with_the_checksum_that_it_should_have() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.bin");
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let text = format!(
        "cache: 10ms\nchecks:\n  model_loaded: {{files: [{{path: {}, sha256: {abc}}}]}}\n",
        model.display()
    );
    let service = start(&text).await;
    until_failing(&service, &["model_loaded"]).await;
    std::fs::write(&model, "abd").unwrap();
    until("its checksum to be wrong", async || {
        let told = healthz(&service).await.json();
        let why = told["reasons"]["model_loaded"].as_str().unwrap().to_owned();
        why.ends_with("its SHA-256 is another one")
    })
    .await;
    std::fs::write(&model, "abc").unwrap();
    until_failing(&service, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_asks_the_process_alone_and_forgives_its_start() {
    let [dify] = instances::<1>().await;
    let text = |grace: &str| {
        format!(
            "cache: 50ms\nstartup_grace: {grace}\nchecks:\n  database: {{tcp: \"{}\"}}\nlive: {{http: {{url: \"http://{}/health\"}}}}\n",
            nobody(),
            dify.address()
        )
    };
    let (booting, running) = (start(&text("1h")).await, start(&text("0s")).await);
    assert_eq!(ask(running.address, "GET /readyz").await.status, 503);
    assert_eq!(
        ask(running.address, "GET /livez").await.status,
        200,
        "what others share restarts nobody"
    );
    dify.set(|switches| switches.health = Health::Status(500));
    until("it to be dead", async || {
        ask(running.address, "GET /livez").await.status == 503
    })
    .await;
    assert_eq!(ask(booting.address, "GET /livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn reasons_are_for_the_internal_network_alone() {
    let text = |internal: &str| {
        format!(
            "internal: [\"{internal}\"]\nchecks:\n  database: {{tcp: \"{}\"}}\n",
            nobody()
        )
    };
    let inside = healthz(&start(&text("127.0.0.0/8")).await).await.json();
    assert!(inside["reasons"]["database"].is_string(), "{inside}");
    let outside = healthz(&start(&text("192.0.2.0/24")).await).await.json();
    assert_eq!(
        outside,
        json!({"status": "unhealthy", "failed": ["database"], "details": {"database": false}})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn difys_own_environment_is_enough_and_sigterm_announces_the_end() {
    let database = Server::start(Kind::Postgres).await;
    let cache = Server::start(Kind::Redis).await;
    let [dify] = instances::<1>().await;
    let environment = [
        ("DB_HOST", "127.0.0.1".to_owned()),
        ("DB_PORT", database.address.port().to_string()),
        ("DB_USERNAME", "postgres".to_owned()),
        ("DB_DATABASE", "postgres".to_owned()),
        ("DB_PASSWORD", PASSWORD.to_owned()),
        ("REDIS_HOST", "127.0.0.1".to_owned()),
        ("REDIS_PORT", cache.address.port().to_string()),
        ("REDIS_PASSWORD", PASSWORD.to_owned()),
        ("DIFY_PORT", dify.address().port().to_string()),
    ];
    let printed = difygate(&["healthz", "--from-env", "--print"])
        .envs(environment.clone())
        .output();
    let printed = String::from_utf8(soon("the text", printed).await.unwrap().stdout).unwrap();
    assert!(
        printed.contains("${DB_PASSWORD}") && !printed.contains(PASSWORD),
        "{printed}"
    );
    let folder = tempfile::tempdir().unwrap();
    let address = nobody();
    let path = file(&folder, &format!("listen: \"{address}\"\ndrain: 3s\n{printed}"));
    let mut child = difygate(&["healthz", "-c", &path])
        .envs(environment)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("it to listen", async || {
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;
    let answer = ask(address, "GET /healthz").await;
    assert_eq!(
        answer.text(),
        r#"{"status":"healthy","details":{"database":true,"cache":true,"process":true}}"#
    );
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    until("it to announce its end", async || {
        ask(address, "GET /healthz").await.json()["status"] == "draining"
    })
    .await;
    assert!(soon("it to end", child.wait()).await.unwrap().success());
    let (code, _, err) = run(&["healthz", "drain", "--url", &format!("http://{address}")]).await;
    assert_eq!(code, 1);
    assert!(err.contains("no /healthz service listens at"), "{err}");
    let (code, _, err) = run(&["healthz", "--from-env"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("DB_HOST"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_announces_the_end_and_takes_it_back_and_a_second_signal_is_heeded_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (address, [dify]) = (nobody(), instances::<1>().await);
    let text = format!(
        "listen: \"{address}\"\ndrain: 1h\nchecks:\n  api: {{tcp: \"{}\"}}\n",
        dify.address()
    );
    let mut child = difygate(&["healthz", "-c", &file(&folder, &text)])
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("it to listen", async || {
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;
    let url = format!("http://{address}");
    let status = async || ask(address, "GET /healthz").await.json()["status"].clone();
    assert_eq!(status().await, "healthy");
    assert_eq!(run(&["healthz", "drain", "--url", &url, "--wait", "10ms"]).await.0, 0);
    assert_eq!(status().await, "draining");
    assert_eq!(run(&["healthz", "drain", "--undo", "--url", &url]).await.0, 0);
    assert_eq!(status().await, "healthy");
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    until("it to announce its end", async || status().await == "draining").await;
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(soon("it to end", child.wait()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_names_a_database_that_instances_share_and_goes_on_when_it_is_back() {
    let mut server = Server::start(Kind::Postgres).await;
    let difys = instances::<2>().await;
    let check = server.kind.check(server.address, PASSWORD, "");
    let text = format!("cache: 50ms\nchecks:\n  database: {{{check}}}\n");
    let services = [start(&text).await, start(&text).await];
    let endpoints = difys.iter().zip(&services).map(|(dify, service)| {
        format!(
            "{{address: \"{}\", probe: {{port: {}}}}}",
            dify.address(),
            service.address.port()
        )
    });
    let endpoints: Vec<String> = endpoints.collect();
    let gate = gate(&format!(
        "upstreams: {{dify: {{{QUICK}, all_down: closed, components: {{database: {{shared: true}}}}, pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        endpoints.join(", ")
    ).replace("timeout: 250ms", "timeout: 250ms, path: /healthz"))
    .await;
    let serves = async || ask(edge(&gate), "GET /v1/info").await.status == 200;
    until("the gate to serve", serves).await;
    server.stop().await;
    until("the gate to name it", async || {
        let status = admin(&gate, "/api/v1/status").await.json();
        status["upstreams"][0]["shared_failure"] == "database"
    })
    .await;
    server.go_on().await;
    until("both to be well again", async || {
        let status = admin(&gate, "/api/v1/status").await.json();
        let endpoints = &status["upstreams"][0]["pools"][0]["endpoints"];
        let is_well = |endpoint: &Value| endpoint["routable"] == true && endpoint["components"]["database"] == true;
        status["upstreams"][0]["shared_failure"].is_null() && endpoints.as_array().unwrap().iter().all(is_well)
    })
    .await;
    until("the gate to serve again", serves).await;
    // It says that it is about to stop before it does.
    let drained = ask(services[0].address, "POST /drain").await;
    assert_eq!(drained.status, 204);
    until("the gate to let it go", async || {
        known(&gate, difys[0].address())
            .await
            .cause
            .to_string()
            .contains("about to stop")
    })
    .await;
}
