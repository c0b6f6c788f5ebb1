//! The /healthz service before real databases: for every fault of every kind of them the answer, its code, the time that it takes, that it comes back
//! without a restart, and that nothing tells a password.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::authority::Authority;
use crate::cli::difygate;
use crate::databases::{Kind, PASSWORD, Relay, Sentinel, Server};
use crate::support::{nobody, soon, until};
use crate::wire::ask;

/// A password that nobody has.
const WRONG: &str = "hush-9e77";

/// A service in a process of its own, and all that it says.
struct Watched {
    address: SocketAddr,
    log: PathBuf,
    answers: Vec<String>,
    _folder: tempfile::TempDir,
    _process: Child,
}

impl Watched {
    /// Starts one with these checks.
    async fn start(checks: &[(&str, String)]) -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), nobody());
        let (path, log) = (folder.path().join("healthz.yaml"), folder.path().join("log"));
        let mut text = format!("listen: \"{address}\"\ncache: 50ms\nchecks:\n");
        for (name, check) in checks {
            text += &format!("  {name}: {{{check}}}\n");
        }
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::create(&log).unwrap();
        let mut command = difygate(&["healthz", "-c", path.to_str().unwrap()]);
        command.stdout(Stdio::from(file.try_clone().unwrap())).stderr(file);
        let process = command.spawn().unwrap();
        until("it to listen", async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self {
            address,
            log,
            answers: Vec::new(),
            _folder: folder,
            _process: process,
        }
    }

    async fn ask(&mut self) -> (u16, Value) {
        let answer = ask(self.address, "GET /healthz").await;
        self.answers.push(answer.text());
        (answer.status, answer.json())
    }

    /// Waits until exactly these checks fail, and returns the answer that says so.
    async fn until_failing(&mut self, names: &[&str]) -> Value {
        let mut answer = Value::Null;
        until(&format!("{names:?} to fail"), async || {
            answer = self.ask().await.1;
            answer["failed"] == json!(names)
        })
        .await;
        answer
    }

    /// Waits until `name`, its only check, fails for a reason that has these words, and holds the answer against the contract.
    async fn until_ill(&mut self, name: &str, words: &str) {
        until(&format!("{name} to fail: {words}"), async || {
            let (_, answer) = self.ask().await;
            answer["reasons"][name].as_str().is_some_and(|why| why.contains(words))
        })
        .await;
        let (status, mut answer) = soon("an answer, though the check is not answered", self.ask()).await;
        answer.as_object_mut().unwrap().remove("reasons");
        let expected = json!({"status": "unhealthy", "failed": [name], "details": {name: false}});
        assert_eq!((status, answer), (503, expected));
    }

    async fn until_well(&mut self, name: &str) {
        let expected = (200, json!({"status": "healthy", "details": {name: true}}));
        until(&format!("{name} to be well"), async || self.ask().await == expected).await;
    }

    /// Nothing that it ever said holds a password.
    async fn kept_secrets(&self) {
        let metrics = ask(self.address, "GET /metrics").await.text();
        let mut log = String::new();
        until("the failure in the log", async || {
            log = std::fs::read_to_string(&self.log).unwrap();
            log.contains("check fails")
        })
        .await;
        assert!(metrics.contains("difygate_check_up"));
        for said in self.answers.iter().chain([&metrics, &log]) {
            assert!(!said.contains(PASSWORD) && !said.contains(WRONG), "{said}");
        }
    }
}

/// What each kind of server says when it has no room, and when the password is wrong.
fn words(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Postgres => ("too many connections", "password authentication failed"),
        Kind::Mariadb => ("max_user_connections", "Access denied"),
        Kind::Redis => ("max number of clients reached", "WRONGPASS"),
    }
}

async fn every_fault_is_named_and_forgotten(kind: Kind) {
    const NAME: &str = "needed";
    let mut server = Server::start(kind).await;
    let (no_room, wrong_password) = words(kind);
    let check = |at, password| [(NAME, kind.check(at, password, ""))];
    let mut watched = Watched::start(&check(server.address, PASSWORD)).await;
    watched.until_well(NAME).await;

    server.stop().await;
    watched.until_ill(NAME, "refused").await;
    server.go_on().await;
    watched.until_well(NAME).await;

    server.signal(Signal::SIGSTOP);
    watched.until_ill(NAME, "no answer within 800ms").await;
    server.signal(Signal::SIGCONT);
    watched.until_well(NAME).await;

    let mut full = server.fill().await;
    watched.until_ill(NAME, no_room).await;
    full.free().await;
    watched.until_well(NAME).await;
    watched.kept_secrets().await;

    let relay = Relay::before(server.address).await;
    let mut behind = Watched::start(&check(relay.address, PASSWORD)).await;
    behind.until_well(NAME).await;
    relay.set_slow(true);
    behind.until_ill(NAME, "no answer within 800ms").await;
    relay.set_slow(false);
    behind.until_well(NAME).await;
    behind.kept_secrets().await;

    let mut stranger = Watched::start(&check(server.address, WRONG)).await;
    stranger.until_ill(NAME, wrong_password).await;
    stranger.kept_secrets().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_postgres_is_named_and_forgotten_when_it_is_over() {
    every_fault_is_named_and_forgotten(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_mariadb_is_named_and_forgotten_when_it_is_over() {
    every_fault_is_named_and_forgotten(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_redis_is_named_and_forgotten_when_it_is_over() {
    every_fault_is_named_and_forgotten(Kind::Redis).await;
}

async fn only_who_is_verified_is_spoken_to(kind: Kind) {
    let authority = Authority::new();
    let own = authority.shown("client", &["dify.internal"]);
    let own = own.trim_matches(['{', '}']);
    let server = Server::within_tls(kind, &authority).await;
    let check = |name, keys: String| (name, kind.check(server.address, PASSWORD, &keys));
    let ca = authority.ca();
    let mut watched = Watched::start(&[
        check("verified", format!(", tls: {{ca: {ca}, {own}}}")),
        check("anonymous", format!(", tls: {{ca: {ca}}}")),
        check(
            "misnamed",
            format!(", tls: {{ca: {ca}, {own}, server_name: other.internal}}"),
        ),
        check("untrusted", format!(", tls: {{{own}}}")),
        check("open", String::new()),
    ])
    .await;
    let failing = ["anonymous", "misnamed", "untrusted", "open"];
    let answer = watched.until_failing(&failing).await;
    assert_eq!(answer["details"]["verified"], true, "{answer}");
    for (name, words) in [("misnamed", "not valid for name"), ("untrusted", "UnknownIssuer")] {
        let why = answer["reasons"][name].as_str().unwrap();
        assert!(why.contains(words), "{answer}");
    }
    watched.kept_secrets().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_within_tls_is_verified_before_it_hears_a_password() {
    only_who_is_verified_is_spoken_to(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_is_reached_as_its_own_clients_reach_it() {
    for (word, refused) in [("hostssl", "open"), ("hostnossl", "verified")] {
        let authority = Authority::new();
        let server = Server::choosing(&authority, word).await;
        let check = |name, keys: String| (name, server.kind.check(server.address, PASSWORD, &keys));
        let verified = format!(", tls: {{ca: {}, server_name: db.internal}}", authority.ca());
        let mut watched = Watched::start(&[
            check("preferring", ", tls: prefer".to_owned()),
            check("verified", verified),
            check("open", String::new()),
        ])
        .await;
        let answer = watched.until_failing(&[refused]).await;
        assert_eq!(answer["details"]["preferring"], true, "{word}: {answer}");
        watched.kept_secrets().await;
    }
    let server = Server::start(Kind::Postgres).await;
    let check = |name, password| (name, server.kind.check(server.address, password, ", tls: prefer"));
    let mut watched = Watched::start(&[check("preferring", PASSWORD), check("wrong", WRONG)]).await;
    let answer = watched.until_failing(&["wrong"]).await;
    assert!(
        answer["reasons"]["wrong"].as_str().unwrap().contains("password"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_within_tls_is_verified_before_it_hears_a_password() {
    only_who_is_verified_is_spoken_to(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_within_tls_is_verified_before_it_hears_a_password() {
    only_who_is_verified_is_spoken_to(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_that_sentinels_name_is_asked_and_the_one_that_they_name_after_it() {
    let mut master = Server::start(Kind::Redis).await;
    let _replica = Server::replica_of(&master).await;
    let sentinel = Sentinel::watching(&master).await;
    let check = |service: &str, password: &str| {
        format!(
            "redis: {{sentinel: {{service: {service}, addresses: [\"{}\", \"{}\"], password: {password}}}, password: {PASSWORD}, write: true}}",
            nobody(),
            sentinel.address
        )
    };
    let mut watched = Watched::start(&[("cache", check("dify", PASSWORD))]).await;
    watched.until_well("cache").await;
    // It can take the master's place only once it has been seen.
    until("the Sentinel to know the replica", async || {
        let client = redis::Client::open(format!("redis://:{PASSWORD}@{}", sentinel.address)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut ask = redis::cmd("SENTINEL");
        let known: Vec<redis::Value> = ask
            .arg("replicas")
            .arg("dify")
            .query_async(&mut connection)
            .await
            .unwrap();
        known.len() == 1
    })
    .await;
    master.stop().await;
    watched.until_ill("cache", "refused").await;
    watched.until_well("cache").await;
    watched.kept_secrets().await;
    let mut unknown = Watched::start(&[("cache", check("other", PASSWORD))]).await;
    unknown.until_ill("cache", "Sentinel").await;
    let mut stranger = Watched::start(&[("cache", check("dify", WRONG))]).await;
    stranger.until_ill("cache", "Sentinel").await;
    stranger.kept_secrets().await;
}
