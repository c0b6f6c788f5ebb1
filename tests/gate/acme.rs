//! Certificates that the gate gets itself, from Pebble, the test server of Let's Encrypt's own people.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use difygate::server::Gate;
use difygate::simulated_dify::SimulatedDify;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::admin::admin;
use crate::support::{QUICK, addresses, dify_upstream, edge, instances, nobody, ready, settings, soon, until};
use crate::wire::ask;

/// An authority on loopback, for whom every host is at 127.0.0.1.
struct Pebble {
    folder: tempfile::TempDir,
    directory: SocketAddr,
    management: SocketAddr,
    _processes: [Child; 2],
}

impl Pebble {
    /// One that asks for its proofs at `port`, and refuses so many parts of a hundred of good nonces, as authorities may at any time (RFC 8555
    /// section 6.5).
    async fn start(port: u16, refuses: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (directory, management, names, names_management) = (nobody(), nobody(), nobody(), nobody());
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("cert.pem"), own.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        let config = serde_json::json!({"pebble": {
            "listenAddress": directory.to_string(), "managementListenAddress": management.to_string(),
            "certificate": path("cert.pem"), "privateKey": path("key.pem"),
            "httpPort": port, "tlsPort": 1, "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        std::fs::write(path("pebble.json"), config.to_string()).unwrap();
        let names_server = quiet("pebble-challtestsrv")
            .args([
                "-dns01",
                &names.to_string(),
                "-management",
                &names_management.to_string(),
            ])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
            .spawn()
            .unwrap();
        let pebble = quiet("pebble")
            .args([
                "-config",
                path("pebble.json").to_str().unwrap(),
                "-dnsserver",
                &names.to_string(),
            ])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", refuses.to_string())
            .spawn()
            .unwrap();
        for address in [directory, management, names_management] {
            until("the authority to listen", async || {
                TcpStream::connect(address).await.is_ok()
            })
            .await;
        }
        Self {
            directory,
            management,
            _processes: [pebble, names_server],
            folder,
        }
    }

    fn own_certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// A file with the authority that signs.
    async fn root(&self) -> PathBuf {
        let path = self.folder.path().join("root.pem");
        let url = format!("https://{}/roots/0", self.management);
        let own = self.own_certificate();
        let fetched = quiet("curl")
            .args([
                "--silent",
                "--fail",
                "--cacert",
                own.to_str().unwrap(),
                "-o",
                path.to_str().unwrap(),
                &url,
            ])
            .status();
        assert!(soon("the authority's certificate", fetched).await.unwrap().success());
        path
    }
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true);
    command
}

fn text(pebble: &Pebble, state: &Path, http: SocketAddr, difys: &[SimulatedDify]) -> String {
    format!(
        "server: {{lame_duck: 0s, state_dir: {}}}\nlisteners:\n- {{address: \"127.0.0.1:8443\", tls: {{acme: {{hosts: [dify.example.com, API.example.com], email: ops@example.com, agree_to_terms: true, directory: \"https://{}/dir\", ca: {}}}}}}}\n- {{address: \"{http}\", redirect_to_https: true}}\n{}",
        state.display(),
        pebble.directory,
        pebble.own_certificate().display(),
        dify_upstream(&addresses(difys), QUICK)
    )
}

/// A gate whose cleartext listener is at `http`, where the authority asks.
fn start(text: &str, http: SocketAddr) -> Gate {
    let mut config = settings(text);
    config.listeners[1].address = http;
    Gate::start(config).unwrap()
}

/// The serial number of the certificate that is shown to `host`, if `root` vouches for it.
async fn serial(edge: SocketAddr, host: &str, root: &Path) -> Option<String> {
    let output = quiet("curl")
        .args([
            "--silent",
            "--fail",
            "--cacert",
            root.to_str()?,
            "--resolve",
            &format!("{host}:{}:127.0.0.1", edge.port()),
        ])
        .args([
            "-w",
            "%{certs}",
            "-o",
            "/dev/null",
            &format!("https://{host}:{}/v1/info", edge.port()),
        ])
        .stdout(Stdio::piped())
        .output();
    let output = soon("curl to end", output).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let serial = told
        .lines()
        .find_map(|line| line.strip_prefix("Serial Number:"))
        .map(str::to_owned);
    serial.filter(|_| output.status.success())
}

/// A key and a certificate whose time is over.
fn expired() -> String {
    let mut old = rcgen::CertificateParams::new(vec!["dify.example.com".to_owned()]).unwrap();
    old.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    format!("{}{}", key.serialize_pem(), old.self_signed(&key).unwrap().pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_got_shown_kept_and_renewed() {
    let difys = instances::<1>().await;
    let http = nobody();
    let pebble = Pebble::start(http.port(), 20).await;
    let state = pebble.folder.path().join("state");
    let text = text(&pebble, &state, http, &difys);
    let gate = ready(start(&text, http)).await;
    let root = pebble.root().await;
    until("a certificate to be shown", async || {
        serial(edge(&gate), "dify.example.com", &root).await.is_some()
    })
    .await;
    let first = serial(edge(&gate), "api.example.com", &root).await.unwrap();
    let metrics = admin(&gate, "/metrics").await.text();
    assert!(
        metrics.contains("difygate_acme_orders_total{host=\"dify.example.com\",outcome=\"ok\"} 1"),
        "{metrics}"
    );
    for file in std::fs::read_dir(state.join("acme")).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.path());
    }
    let unknown = ask(http, "GET /.well-known/acme-challenge/unknown").await;
    assert_eq!(unknown.instance(), "dify-0", "another token goes where the routes say");
    drop(gate);
    // Another process shows it at once, and asks for none.
    let gate = ready(start(&text, http)).await;
    assert_eq!(
        serial(edge(&gate), "dify.example.com", &root).await.as_ref(),
        Some(&first)
    );
    drop(gate);
    // One whose time is nearly over is renewed, by the same account.
    let accounts = || {
        let files = std::fs::read_dir(state.join("acme")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("account-")).count()
    };
    assert_eq!(accounts(), 1);
    let own = settings(&text).listeners[0]
        .tls
        .clone()
        .unwrap()
        .acme
        .clone()
        .unwrap()
        .file();
    std::fs::write(&own, expired()).unwrap();
    let gate = ready(start(&text, http)).await;
    until("the new certificate to be shown", async || {
        serial(edge(&gate), "dify.example.com", &root)
            .await
            .is_some_and(|now| now != first)
    })
    .await;
    assert_eq!(accounts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_finds_no_proof_is_told_of_and_harms_nobody() {
    let difys = instances::<1>().await;
    // It asks where nobody listens.
    let pebble = Pebble::start(nobody().port(), 0).await;
    let http = nobody();
    let text = text(&pebble, &pebble.folder.path().join("state"), http, &difys);
    let gate = ready(start(&text, http)).await;
    until("the order to fail", async || {
        let metrics = admin(&gate, "/metrics").await.text();
        metrics.contains("difygate_acme_orders_total{host=\"dify.example.com\",outcome=\"failed\"} 1")
    })
    .await;
    assert_eq!(ask(http, "GET /v1/info").await.status, 308, "the gate serves");
    assert_eq!(
        serial(edge(&gate), "dify.example.com", &pebble.own_certificate()).await,
        None
    );
}
