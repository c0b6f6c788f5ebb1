//! The command line as scripts meet it: the real binary, what it prints where, and its exit codes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};

use difygate::gate::state::State;
use difygate::simulated_dify::Health;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{QUICK, addresses, dify_upstream, gate_before, instances, nobody, soon, until, until_state};
use crate::wire::ask;

pub(crate) fn difygate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_difygate"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.env_remove("DIFYGATE_CONFIG").env_remove("DIFYGATE_ADMIN");
    command
}

pub(crate) async fn run(arguments: &[&str]) -> (i32, String, String) {
    let output: Output = soon("the command to end", difygate(arguments).output()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A file of this text in a folder that goes with the test.
pub(crate) fn file(folder: &tempfile::TempDir, text: &str) -> String {
    let path = folder.path().join("difygate.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn configuration(edge: SocketAddr, admin: SocketAddr, endpoint: SocketAddr) -> String {
    format!(
        "server: {{lame_duck: 0s}}\nlog: {{access: \"off\"}}\nadmin: {{address: \"{admin}\"}}\nlisteners: [{{address: \"{edge}\"}}]\n{}",
        dify_upstream(&[endpoint], "")
    )
}

#[tokio::test]
async fn check_says_what_is_valid_and_every_error_of_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let minimal = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/minimal.yaml");
    let (code, out, _) = run(&["check", "-c", &minimal.display().to_string()]).await;
    assert_eq!(code, 0);
    assert!(out.contains("valid"), "{out}");

    let invalid = file(
        &folder,
        "listeners: [{adress: \"0.0.0.0:8080\"}]\nupstreams: {dify: {balance: best, pools: {}}}\n",
    );
    let (code, out, err) = run(&["check", "-c", &invalid]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    for hint in ["difygate.yaml:1:", "adress", "difygate.yaml:2:", "balance"] {
        assert!(err.contains(hint), "{hint} is missing in {err}");
    }
    let (code, _, err) = run(&["check", "-c", "/nowhere/difygate.yaml"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("/nowhere/difygate.yaml"), "{err}");
    assert_eq!(run(&["run", "-c", &invalid]).await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_ends_run_with_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    for text in [
        configuration(taken, nobody(), nobody()),
        configuration(nobody(), taken, nobody()),
    ] {
        let (code, out, err) = run(&["run", "-c", &file(&folder, &text)]).await;
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(&taken.to_string()), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_serves_until_sigterm_and_ends_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let [dify] = instances().await;
    let (edge, admin) = (nobody(), nobody());
    let path = file(&folder, &configuration(edge, admin, dify.address()));
    let mut child = difygate(&["run", "-c", &path]).stderr(Stdio::null()).spawn().unwrap();
    let ready = async || tokio::net::TcpStream::connect(edge).await.is_ok();
    until("the gate to listen", ready).await;
    assert_eq!(ask(edge, "GET /v1/info").await.instance(), "dify-0");
    let (code, out, _) = run(&["status", "--admin", &format!("http://{admin}")]).await;
    assert_eq!(code, 0);
    assert!(out.contains(&dify.address().to_string()), "{out}");
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let exit = soon("the process to end", child.wait()).await.unwrap();
    assert_eq!(exit.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_explain_show_the_running_gate_and_exit_1_when_nothing_is_fit() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), QUICK).await;
    let admin = format!("http://{}", gate.admin());
    let endpoint = difys[0].address().to_string();
    let (code, out, _) = run(&["status", "--admin", &admin]).await;
    assert_eq!(code, 0);
    assert!(out.contains(&endpoint) && out.contains("up"), "{out}");
    let (code, out, _) = run(&["status", "--json", "--admin", &admin]).await;
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &status["upstreams"][0]["name"]), (0, &Value::from("dify")));
    let (code, out, _) = run(&["explain", &endpoint, "--admin", &admin]).await;
    assert_eq!(code, 0);
    assert!(out.contains("next") && out.contains("CONNECTED"), "{out}");
    let (code, out, _) = run(&["explain", &endpoint, "--json", "--admin", &admin]).await;
    let explained: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &explained[0]["endpoint"]["state"]), (0, &Value::from("up")));
    let (code, _, err) = run(&["explain", "10.0.0.1:80", "--admin", &admin]).await;
    assert_eq!(code, 1);
    assert!(err.contains("10.0.0.1:80"), "{err}");
    for dify in &difys {
        dify.set(|switches| switches.health = Health::failing(["database"]));
        until_state(&gate, dify.address(), State::Down).await;
    }
    let (code, out, _) = run(&["status", "--admin", &admin]).await;
    assert_eq!(code, 1);
    assert!(out.contains("down") && out.contains("database"), "{out}");
}

#[tokio::test]
async fn a_gate_that_is_not_there_is_named() {
    let admin = format!("http://{}", nobody());
    let (code, out, err) = run(&["status", "--admin", &admin]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains(&admin), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_tells_the_verdict_and_exits_with_it() {
    let [dify] = instances().await;
    let url = format!("{}/healthz", dify.url());
    let (code, out, _) = run(&["probe", &url]).await;
    assert_eq!(code, 0);
    assert!(
        out.starts_with("verdict     pass") && out.contains("database up"),
        "{out}"
    );
    dify.set(|switches| switches.health = Health::failing(["database"]));
    let (code, out, _) = run(&["probe", &url]).await;
    assert_eq!(code, 1);
    assert!(
        out.contains("fail (status)") && out.contains("database failed"),
        "{out}"
    );
    let (code, out, _) = run(&["probe", &url, "--expect", "503"]).await;
    assert_eq!(code, 1, "its body says unhealthy: {out}");
    let (code, out, _) = run(&["probe", &format!("http://{}/healthz", nobody())]).await;
    assert_eq!(code, 1);
    assert!(out.contains("fail (connect)"), "{out}");
    assert_eq!(run(&["probe", "ftp://127.0.0.1/"]).await.0, 1);
}

#[tokio::test]
async fn schema_completions_and_manual_are_printed() {
    let (code, out, _) = run(&["schema"]).await;
    let schema: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(schema["title"], "difygate");
    assert!(schema["properties"]["listeners"].is_object());
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&["completions", shell]).await;
        assert!(code == 0 && out.contains("difygate"), "{shell}");
    }
    let (code, out, _) = run(&["man"]).await;
    assert!(code == 0 && out.contains(".TH difygate"), "{out}");
}

#[tokio::test]
async fn wrong_usage_is_exit_2() {
    for arguments in [
        &["unknown"][..],
        &[],
        &["run"],
        &["status", "--json", "--watch"],
        &["completions", "dos"],
    ] {
        let (code, out, err) = run(arguments).await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains("Usage") || err.contains("--help"), "{err}");
    }
}
