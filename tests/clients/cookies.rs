//! Chromium splits its cookies over HTTP/2 (RFC 9113 section 8.2.3); Flask behind gunicorn must see each of them all the same.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::browser::{PATIENCE, Reports, chromium};
use crate::origins::{self, installed, script};

/// A page that has the cookies of Dify's console, asks as its scripts do, and tells what the server saw.
const PAGE: &str = r#"<!doctype html><title>page</title><script>
const work = async () => {
  for (const cookie of ["access_token=a.b.c", "csrf_token=d.e.f", "refresh_token=g", "locale=zh-Hans"])
    document.cookie = `$${cookie}; path=/; secure`;
  const told = await (await fetch("/console/api/account/profile?名=值")).json();
  told.protocol = performance.getEntriesByType("navigation")[0].nextHopProtocol;
  const upload = await fetch("/console/api/files/upload", {method: "POST", body: new Uint8Array(100000)});
  told.upload = (await upload.json()).cookies;
  return told;
};
work().catch(error => ({error: String(error)})).then(told => fetch("/report", {method: "POST", body: JSON.stringify(told)}));
</script>"#;

/// Flask in gunicorn's threads, which believes what loopback addresses say of the scheme. It ends when it is dropped.
fn gunicorn() -> (Child, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = Command::new(installed("bin/python"));
    command.args(["-m", "gunicorn", "--bind", "fd://0", "--log-level", "critical"]);
    command.args(["--worker-class", "gthread", "--threads", "4"]);
    command.args(["--forwarded-allow-ips", "127.0.0.1", "--chdir"]);
    command.arg(script("")).arg("flask_app:app");
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null());
    command.env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
    (command.spawn().unwrap(), address)
}

#[tokio::test(flavor = "multi_thread")]
async fn flask_behind_gunicorn_sees_each_cookie_that_a_browser_sends_over_http2() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = origins::certificate(folder.path(), "dify.example.com");
    let (_gunicorn, flask) = gunicorn();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = format!(
        "listeners: [{{address: \"127.0.0.1:8443\", tls: {tls}}}]\nroutes:\n- {{path: /, upstream: dify}}\n- {{path: /report, upstream: reports}}\n- {{path: /page, answer: {{content_type: text/html, body: {}}}}}\n",
        serde_json::to_string(PAGE).unwrap()
    );
    let reports = format!(
        "probe: {{path: /ping, interval: 200ms, timeout: 200ms}}, pools: {{main: {{endpoints: [\"{flask}\"]}}}}}}, reports: {{probe: {{path: /}}, pools: {{main: {{endpoints: [\"{}\"]}}}}}}, other: {{probe: {{path: /healthz}}",
        listener.local_addr().unwrap()
    );
    let gate = origins::gate(&[flask], &reports, &keys);
    let mut reports = Reports::take(listener);
    let url = format!("https://dify.example.com:{}/page", gate.listeners()[0].port());
    let started = async {
        let mailbox = &gate.handle().mailbox;
        while !mailbox
            .known()
            .await
            .unwrap()
            .iter()
            .all(|one| one.known.state.is_routable())
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, started)
        .await
        .expect("gunicorn to start within a minute");
    let _browser = chromium(&folder).arg(&url).stdout(Stdio::null()).spawn().unwrap();
    let told = reports.next().await;
    let cookies =
        serde_json::json!({"access_token": "a.b.c", "csrf_token": "d.e.f", "refresh_token": "g", "locale": "zh-Hans"});
    assert_eq!(told["cookies"], cookies, "{told}");
    assert_eq!(told["upload"], cookies, "{told}");
    assert_eq!(told["protocol"], "h2", "{told}");
    assert_eq!(told["scheme"], "https", "{told}");
    let port = gate.listeners()[0].port().to_string();
    assert_eq!(told["headers"]["X-Forwarded-Port"], port.as_str(), "{told}");
}
