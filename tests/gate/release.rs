//! `conf/ci/release.sh` as a pipeline runs it: the real script in the shells that are at hand, the real command, a gate, and two pools.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use difygate::server::Gate;
use difygate::simulated_dify::{ADMIN_KEY, Cluster, EMAIL, Health, PASSWORD, SimulatedDify, Traffic, WORKSPACE};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::admin::admin;
use crate::cutover::text;
use crate::support::{QUICK, edge, ready, settings, until};
use crate::wire::{Wire, ask, chat_request};

/// A release takes a few seconds; on a machine that is busy many.
const PATIENCE: Duration = Duration::from_secs(90);
const FAST: &str = "rise: 1, prepare: 20s, verify: 20s, bake: 200ms, min_samples: 0";
/// The password as newer consoles want it.
const ENCODED: &str = "cGFzcyAid29yZCIgJEhPTUUgXCAnbicgMQ==";

/// Two pools behind a gate, and the folder in which the pipeline works.
struct Stage {
    folder: TempDir,
    cluster: Cluster,
    blue: SimulatedDify,
    green: SimulatedDify,
    gate: Gate,
}

impl Stage {
    async fn set(keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        let cluster = Cluster::new();
        let blue = SimulatedDify::start(&cluster, "blue-1").await.unwrap();
        let green = SimulatedDify::start(&cluster, "green-1").await.unwrap();
        let probing = QUICK.replace("probe: {", "probe: {path: /health, ");
        let text = text(&folder.path().join("state"), [&blue, &green], keys).replace(QUICK, &probing);
        let gate = ready(Gate::start(settings(&text)).unwrap()).await;
        Self {
            folder,
            cluster,
            blue,
            green,
            gate,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Releases to green with these variables beside the usual ones; an empty value takes one away. The exit code, and all that was said.
    async fn release(&self, shell: &str, variables: &[(&str, &str)]) -> (i32, String) {
        let mut words = shell.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg(root().join("conf/ci/release.sh"));
        let programs = Path::new(env!("CARGO_BIN_EXE_difygate")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let paths = format!("{}:{}:{path}", self.folder.path().display(), programs.display());
        command.env_clear().env("PATH", paths).env("HOME", self.folder.path());
        let (admin, url) = (
            format!("http://{}", self.gate.admin()),
            format!("http://{}/", edge(&self.gate)),
        );
        let usual = [
            ("RELEASE_NAME", "dify"),
            ("RELEASE_POOL", "green"),
            ("RELEASE_VERSION", "1.14.2"),
            ("RELEASE_TIMEOUT", "60s"),
            ("DIFYGATE_ADMIN", &*admin),
            ("DEPLOY_COMMAND", "env >deployed"),
            ("RETIRE_COMMAND", "touch retired"),
            ("DIFY_URL", &*url),
            ("DIFY_EMAIL", EMAIL),
            ("DIFY_PASSWORD", PASSWORD),
        ];
        command.envs(usual).envs(variables.iter().copied());
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    async fn cutover(&self) -> Value {
        admin(&self.gate, "/api/v1/cutovers/dify").await.json()
    }

    async fn served_by(&self) -> String {
        ask(edge(&self.gate), "GET /v1/info").await.instance().to_owned()
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shells that runners have.
fn shells() -> impl Iterator<Item = &'static str> {
    let found = |shell: &&str| {
        let program = shell.split(' ').next().unwrap();
        let paths = std::env::var("PATH").unwrap();
        paths.split(':').any(|folder| Path::new(folder).join(program).exists())
    };
    ["sh", "dash", "bash", "busybox sh"].into_iter().filter(found)
}

/// Nothing that a pipeline's log keeps may have one of these in it.
fn has_no_secret(text: &str) {
    for secret in [PASSWORD, ENCODED, ADMIN_KEY, "access.sk", "csrf.sk", "hush"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

/// A `curl` before the real one on the path: it writes down what everybody on the machine could read of it.
fn watch_curl(stage: &Stage) {
    let real = std::env::var("PATH").unwrap();
    let mut real = real.split(':').map(|folder| Path::new(folder).join("curl"));
    let real = real
        .find(|path| path.exists())
        .expect("curl, which `make tools` installs");
    let text = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >>\"$HOME/arguments\"\nenv >>\"$HOME/arguments\"\nexec {} \"$@\"\n",
        real.display()
    );
    script(&stage.path("curl"), &text);
}

/// Writes a program of the test's own.
pub(crate) fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_deploys_verifies_moves_users_creates_an_app_and_retires_in_every_shell() {
    for shell in shells() {
        let stage = Stage::set(FAST).await;
        watch_curl(&stage);
        let urls = format!("{}/health {}/healthz", stage.green.url(), stage.green.url());
        let verify = [("VERIFY_URLS", &*urls)];
        let (code, said) = stage.release(shell, &verify).await;
        assert_eq!(code, 0, "{shell}: {said}");
        assert_eq!(stage.served_by().await, "green-1");
        let deployed = stage.text("deployed");
        assert!(deployed.contains("RELEASE_POOL=green") && stage.path("retired").exists());
        for text in [&said, &deployed, &stage.text("arguments")] {
            has_no_secret(text);
        }
        assert!(
            stage
                .text("cutover-report.md")
                .starts_with("# Cutover 1 of dify: committed"),
            "{shell}"
        );
        let report: Value = serde_json::from_str(&stage.text("cutover-report.json")).unwrap();
        assert_eq!(report["cutover"]["reason"], "release 1.14.2");
        // Over blue went the question whether there is a session, and over green the same, the app, and the list.
        let asked = [&stage.blue, &stage.green].map(|dify| dify.tally().requests("/console/api/apps"));
        assert_eq!(asked, [1, 3], "{shell}");
        assert_eq!(stage.cluster.apps(), [], "the app of the check is gone");
        let deleted = "/console/api/apps/00000007-0000-4000-8000-000000000001";
        assert_eq!(stage.green.tally().requests(deleted), 1);
        let mut left = std::fs::read_dir(stage.path("tmp")).unwrap();
        assert!(left.next().is_none(), "{shell} leaves something behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_run_again_finds_its_work_done() {
    let stage = Stage::set(FAST).await;
    let keep = [("DIFY_APP_KEEP", "yes"), ("CI_PIPELINE_ID", "7")];
    assert_eq!(stage.release("sh", &keep).await.0, 0);
    std::fs::remove_file(stage.path("deployed")).unwrap();
    let (code, said) = stage.release("sh", &keep).await;
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("green takes traffic already: nothing is deployed to it"),
        "{said}"
    );
    assert!(!stage.path("deployed").exists() && stage.text("cutover-report.md").contains("# Cutover 1 of dify"));
    let apps = stage.cluster.apps();
    let [app] = apps.as_slice() else { panic!("{apps:?}") };
    assert_eq!(
        (&*app.name, &*app.mode, &*app.instance),
        ("release check 1.14.2", "chat", "green-1")
    );
    let other = [("RELEASE_VERSION", "1.15.0")];
    let (code, said) = stage.release("sh", &other).await;
    assert_eq!(code, 3, "{said}");
    assert!(!stage.path("deployed").exists(), "users are in green");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_creates_the_app_may_be_told_in_four_ways() {
    let stage = Stage::set(FAST).await;
    std::fs::write(stage.path("secret"), format!("{PASSWORD}\n")).unwrap();
    for (number, means) in [
        [("DIFY_PASSWORD", ""), ("DIFY_PASSWORD_FILE", "secret"), ("", "")],
        [("DIFY_PASSWORD_FORM", "plain"), ("", ""), ("", "")],
        [
            ("DIFY_PASSWORD", ""),
            ("DIFY_ACCESS_TOKEN", ADMIN_KEY),
            ("DIFY_WORKSPACE_ID", WORKSPACE),
        ],
        [
            ("DIFY_EMAIL", ""),
            ("DIFY_ACCESS_TOKEN", "access.sk"),
            ("DIFY_CSRF_TOKEN", "csrf.sk"),
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("check {number}");
        let app = [("DIFY_APP_NAME", &*name), ("DIFY_APP_KEEP", "yes")];
        let means = means.into_iter().filter(|(name, _)| !name.is_empty());
        let variables: Vec<(&str, &str)> = means.chain(app).collect();
        let (code, said) = stage.release("sh", &variables).await;
        assert_eq!(code, 0, "{means:?}: {said}", means = variables[0]);
        has_no_secret(&said);
        assert_eq!(stage.cluster.apps().last().unwrap().name, name);
    }
    assert_eq!(stage.cluster.apps().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_ends_it_before_anything_is_deployed() {
    let stage = Stage::set(FAST).await;
    for wrong in [
        [("DIFY_PASSWORD", "hush-hush"), ("DIFY_EMAIL", EMAIL)],
        [("DIFY_ACCESS_TOKEN", "hush-hush"), ("DIFY_CSRF_TOKEN", "hush-too")],
    ] {
        let (code, said) = stage.release("sh", &wrong).await;
        assert_eq!(code, 1, "{said}");
        let words = ["Dify refuses the login or the token (401 ", "nothing has moved"];
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
        has_no_secret(&said);
        assert!(!said.contains("aHVzaC1odXNo"), "nor in base64: {said}");
    }
    assert!(!stage.path("deployed").exists() && !stage.path("retired").exists());
    assert_eq!(stage.cutover().await["epoch"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_fails_is_3_and_the_job_may_be_run_again() {
    let stage = Stage::set(&FAST.replace("20s", "8s")).await;
    let run = |attempt| {
        [
            ("RELEASE_VERSION", "1.15.0"),
            ("GITHUB_RUN_ID", "77"),
            ("GITHUB_RUN_ATTEMPT", attempt),
            ("GITHUB_ACTOR", "ann"),
        ]
    };
    let (code, said) = stage.release("sh", &run("1")).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("a gate failed and nothing moved"), "{said}");
    let report = stage.text("cutover-report.md");
    assert!(
        report.contains("is 1.14.2, expected 1.15.0") && report.contains("| by | ann |"),
        "{report}"
    );
    assert_eq!(stage.cluster.apps(), []);
    assert_eq!(stage.green.tally().traffic(), 0, "no user was sent there");
    assert_eq!(stage.served_by().await, "blue-1");
    assert!(stage.path("deployed").exists() && !stage.path("retired").exists());
    let unfit = format!("{}/console/api/nothing", stage.green.url());
    let (code, said) = stage
        .release("sh", &[("VERIFY_URLS", &*unfit), ("VERIFY_SECONDS", "0")])
        .await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is not fit after 0 seconds"), "{said}");
    stage.green.set(|switches| switches.version = "1.15.0".to_owned());
    until("the gate to see the new version", async || {
        let status = admin(&stage.gate, "/api/v1/status").await.json();
        status["upstreams"][0]["pools"][1]["endpoints"][0]["last_probe"]["version"] == "1.15.0"
    })
    .await;
    let (code, said) = stage.release("sh", &run("2")).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pool_that_dies_is_4_and_no_app_is_created() {
    let stage = Stage::set(&FAST.replace("bake: 200ms", "bake: 1h")).await;
    let dies = async {
        until("it to bake", async || stage.cutover().await["phase"] == "baking").await;
        stage.green.set(|switches| switches.health = Health::Status(503));
    };
    let ((code, said), ()) = tokio::join!(stage.release("sh", &[]), dies);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("users were taken back"), "{said}");
    assert!(stage.text("cutover-report.md").contains("rolled_back"));
    assert_eq!(stage.served_by().await, "blue-1");
    assert_eq!(stage.cluster.apps(), []);
    assert!(!stage.path("retired").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_cannot_be_created_stops_the_release_and_may_take_users_back() {
    let stage = Stage::set(FAST).await;
    stage.green.set(|switches| switches.traffic = Traffic::DatabaseDown);
    let (code, said) = stage.release("sh", &[]).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("500 internal_server_error") && said.contains("difygate cutover rollback dify"),
        "{said}"
    );
    assert_eq!(stage.cutover().await["active"], "green");
    let (code, said) = stage.release("sh", &[("ROLLBACK_IF_APP_FAILS", "yes")]).await;
    assert_eq!(code, 4, "{said}");
    assert_eq!(stage.served_by().await, "blue-1");
    assert!(!stage.path("retired").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_key_that_is_another_is_told_for_users_have_to_log_in_again() {
    let stage = Stage::set(FAST).await;
    stage.green.set(|switches| switches.secret_key = "another".to_owned());
    let (code, said) = stage.release("sh", &[]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("SECRET_KEY"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_pool_is_not_retired_while_it_has_a_stream_also_by_another_run() {
    let stage = Stage::set(FAST).await;
    let mut stream = Wire::to(edge(&stage.gate)).await;
    stream.send(chat_request("streaming", 100_000, 20)).await;
    assert_eq!(stream.head().await.status, 200);
    let short = [("RELEASE_TIMEOUT", "2s")];
    for _ in 0..2 {
        let (code, said) = stage.release("sh", &short).await;
        assert_eq!(code, 6, "{said}");
        assert!(said.contains("it goes on by itself"), "{said}");
        assert_eq!(stage.cutover().await["phase"], "committed");
        assert!(!stage.path("retired").exists());
    }
    assert!(stream.event().await.is_some(), "the stream goes on");
    drop(stream);
    let (code, said) = stage.release("sh", &[]).await;
    assert_eq!(code, 0, "{said}");
    assert!(stage.path("retired").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_were_cut_are_8_and_the_old_pool_is_left_for_a_person() {
    let stage = Stage::set(FAST).await;
    let mut stream = Wire::to(edge(&stage.gate)).await;
    stream.send(chat_request("streaming", 100_000, 20)).await;
    assert_eq!(stream.head().await.status, 200);
    let impatient = [
        ("SWITCH_OPTIONS", "--drain 300ms --bake 100ms"),
        ("DIFY_APP_KEEP", "yes"),
    ];
    let (code, said) = stage.release("sh", &impatient).await;
    assert_eq!(code, 8, "{said}");
    assert!(said.contains("streams of the old pool were cut"), "{said}");
    assert_eq!(stage.cluster.apps().len(), 1);
    assert!(!stage.path("retired").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_and_a_command_that_fails_moves_nobody() {
    let stage = Stage::set(FAST).await;
    for (variable, code, words) in [
        (("RELEASE_POOL", ""), 2, "RELEASE_POOL is not set"),
        (("DIFY_PASSWORD", ""), 2, "it takes DIFY_EMAIL and DIFY_PASSWORD"),
        (("DIFY_APP_NAME", "a\"b"), 2, "DIFY_APP_NAME takes"),
        (
            ("RELEASE_REPORT", "no/such/folder"),
            2,
            "no/such/folder.md cannot be written",
        ),
        (("RELEASE_POOL", "red"), 1, "dify has no pool red"),
        (
            ("DIFYGATE_ADMIN", "http://127.0.0.1:1"),
            1,
            "does not tell where dify stands",
        ),
        (
            ("DEPLOY_COMMAND", "exit 9"),
            1,
            "DEPLOY_COMMAND ended with 9; nothing has moved",
        ),
        (
            ("SWITCH_OPTIONS", "--sideways"),
            2,
            "difygate does not take these options",
        ),
    ] {
        let (ended, said) = stage.release("sh", &[variable]).await;
        assert_eq!(ended, code, "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(stage.cutover().await["epoch"], 0);
    let (code, said) = stage
        .release("sh", &[("RETIRE_COMMAND", "exit 9"), ("DIFY_URL", "")])
        .await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("RETIRE_COMMAND ended with 9; users are in green"),
        "{said}"
    );
}
