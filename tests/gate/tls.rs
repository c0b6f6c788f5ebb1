//! TLS and HTTP/2 at the edge, as curl meets them.

use std::net::SocketAddr;
use std::process::Stdio;

use difygate::server::{Gate, StartError};
use difygate::simulated_dify::SimulatedDify;
use tokio::process::Command;

use crate::admin::metric;
use crate::authority::Authority;
use crate::support::{QUICK, Upstream, addresses, dify_upstream, edge, gate, instances, settings, soon, until};
use crate::wire::{Wire, ask};

/// A listener that shows `certificates`, with these further keys of its TLS.
pub(crate) fn listener(certificates: &str, keys: &str) -> String {
    format!("listeners: [{{address: \"127.0.0.1:8443\", tls: {{certificates: [{certificates}]{keys}}}}}]\n")
}

async fn secure(certificates: &str, keys: &str, difys: &[SimulatedDify], more: &str) -> Gate {
    gate(&format!(
        "{}{}{more}",
        listener(certificates, keys),
        dify_upstream(&addresses(difys), QUICK)
    ))
    .await
}

/// A gate that shows a certificate of an authority before one instance.
async fn shown() -> ([SimulatedDify; 1], Authority, Gate) {
    let difys = instances().await;
    let authority = Authority::new();
    let certificate = authority.shown("dify", &["dify.example.com"]);
    let gate = secure(&certificate, "", &difys, "").await;
    (difys, authority, gate)
}

/// What curl printed, and whether it was content.
pub(crate) async fn curl(edge: SocketAddr, host: &str, path: &str, arguments: &[&str]) -> (bool, String) {
    let resolve = format!("{host}:{}:{}", edge.port(), edge.ip());
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "8", "--resolve", &resolve])
        .args(arguments);
    command
        .arg(format!("https://{host}:{}{path}", edge.port()))
        .stdin(Stdio::null());
    let output = soon("curl to end", command.output()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_both_versions_and_is_shown_the_certificate_of_its_host() {
    let difys = instances::<1>().await;
    let authority = Authority::new();
    let certificates = format!(
        "{}, {}",
        authority.shown("dify", &["dify.example.com"]),
        authority.shown("wild", &["*.apps.example.com"])
    );
    let gate = secure(&certificates, "", &difys, "").await;
    let ca = authority.ca();
    for host in ["dify.example.com", "one.apps.example.com"] {
        for (version, arguments) in [("2", "--http2"), ("1.1", "--http1.1")] {
            let arguments = [
                "--cacert",
                &ca,
                arguments,
                "--write-out",
                " %{http_version} %{http_code}",
            ];
            let (content, out) = curl(edge(&gate), host, "/v1/info", &arguments).await;
            assert!(content && out.ends_with(&format!(" {version} 200")), "{host}: {out}");
        }
    }
    let (content, out) = curl(edge(&gate), "a.b.apps.example.com", "/v1/info", &["--cacert", &ca]).await;
    assert!(
        !content,
        "whoever names an unknown host is shown the first certificate: {out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_told_that_the_client_came_within_tls() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let certificate = authority.shown("dify", &["dify.example.com"]);
    let gate = gate(&format!(
        "{}{}",
        listener(&certificate, ""),
        dify_upstream(&[upstream.address], "")
    ))
    .await;
    for version in ["--http2", "--http1.1"] {
        let (_, head) = curl(
            edge(&gate),
            "dify.example.com",
            "/v1/x?y=%2F",
            &["--cacert", &authority.ca(), version],
        )
        .await;
        let head = head.to_lowercase();
        assert!(head.starts_with("get /v1/x?y=%2f http/1.1\r\n"), "{head}");
        for line in [
            "x-forwarded-proto: https\r\n".to_owned(),
            format!("x-forwarded-port: {}\r\n", edge(&gate).port()),
            format!("host: dify.example.com:{}\r\n", edge(&gate).port()),
            "x-real-ip: 127.0.0.1\r\n".to_owned(),
        ] {
            assert_eq!(
                head.matches(&format!("\r\n{line}")).count(),
                1,
                "{version}: {line} in {head}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_holds_over_http2_in_every_spelling() {
    let difys = instances::<1>().await;
    let authority = Authority::new();
    let certificate = authority.shown("dify", &["dify.example.com"]);
    let gate = secure(&certificate, "", &difys, "probe_guard: {allow: [10.0.0.0/8]}\n").await;
    let before = difys[0].tally().traffic();
    for path in [
        "/healthz",
        "/%68ealthz",
        "/HEALTHZ",
        "//healthz",
        "/x/..%2fhealthz",
        "/healthz;a=b",
        "/healthz%00",
        "/%2e%2e/healthz",
        "/inner/api/x",
    ] {
        let arguments = [
            "--path-as-is",
            "--http2",
            "--cacert",
            &authority.ca(),
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{http_code}",
        ];
        let (_, out) = curl(edge(&gate), "dify.example.com", path, &arguments).await;
        assert!(["2 404", "2 400"].contains(&out.as_str()), "{path}: {out}");
    }
    assert_eq!(difys[0].tally().traffic(), before, "nothing arrives");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_unknown_length_over_http2_leave_connections_in_order() {
    let (_difys, authority, gate) = shown().await;
    let folder = tempfile::tempdir().unwrap();
    for size in [0, 10, 70_000, 3_000_000] {
        let body = folder.path().join("body");
        std::fs::write(&body, vec![b'x'; size]).unwrap();
        let data = format!("@{}", body.display());
        for upload in [
            ["--upload-file", body.to_str().unwrap(), "--request", "POST"],
            ["--data-binary", &data, "--header", "content-type: text/plain"],
        ] {
            let ca = authority.ca();
            let mut arguments = vec![
                "--http2",
                "--cacert",
                &ca,
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code} ",
            ];
            arguments.extend(["--header", "transfer-encoding:", "--header", "expect:"]);
            arguments.extend(upload);
            let (content, out) = curl(edge(&gate), "dify.example.com", "/v1/files/upload", &arguments).await;
            assert!(content, "{size}: {out}");
            assert!(!out.starts_with('5'), "{size}: {out}");
            let (content, out) = curl(
                edge(&gate),
                "dify.example.com",
                "/v1/info",
                &["--http2", "--fail", "--cacert", &ca],
            )
            .await;
            assert!(content, "after {size}: {out}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_over_http2_one_by_one() {
    let (_difys, authority, gate) = shown().await;
    let body = crate::wire::chat("streaming", 5, 50);
    let ca = authority.ca();
    let (content, out) = curl(
        edge(&gate),
        "dify.example.com",
        "/v1/chat-messages",
        &[
            "--http2",
            "--no-buffer",
            "--cacert",
            &ca,
            "--header",
            "content-type: application/json",
            "--data",
            &body,
        ],
    )
    .await;
    assert!(content, "{out}");
    assert!(
        out.matches("data: ").count() >= 5 && out.contains("message_end"),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_up_over_http2_is_noticed() {
    let (_difys, authority, gate) = shown().await;
    for mode in ["streaming", "blocking"] {
        let (ca, body) = (authority.ca(), crate::wire::chat(mode, 100, 100));
        let json = "content-type: application/json";
        let arguments = [
            "--http2",
            "--max-time",
            "1",
            "--cacert",
            &ca,
            "--header",
            json,
            "--data",
            &body,
        ];
        let (content, out) = curl(edge(&gate), "dify.example.com", "/v1/chat-messages", &arguments).await;
        assert!(!content, "{mode}: {out}");
        crate::support::until_idle(&gate).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_a_stream_over_http2_end() {
    let (difys, authority, gate) = shown().await;
    let (ca, body, address) = (authority.ca(), crate::wire::chat("streaming", 10, 100), edge(&gate));
    let asking = tokio::spawn(async move {
        let arguments = [
            "--http2",
            "--cacert",
            &ca,
            "--header",
            "content-type: application/json",
            "--data",
            &body,
        ];
        curl(address, "dify.example.com", "/v1/chat-messages", &arguments).await
    });
    until("the stream to be open", async || difys[0].tally().streams() == 1).await;
    assert_eq!(gate.stop().await, difygate::server::Stopped::Drained);
    let (content, out) = asking.await.unwrap();
    assert!(content && out.contains("message_end"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_replaced_is_shown_without_a_restart() {
    let difys = instances::<1>().await;
    let (old, new) = (Authority::new(), Authority::new());
    let certificate = old.shown("dify", &["dify.example.com"]);
    let gate = secure(&certificate, "", &difys, "").await;
    let trusts = async |authority: &Authority| {
        curl(
            edge(&gate),
            "dify.example.com",
            "/v1/info",
            &["--cacert", &authority.ca()],
        )
        .await
        .0
    };
    assert!(trusts(&old).await && !trusts(&new).await);
    std::fs::write(old.path("dify.crt"), "half a certif").unwrap();
    until("the broken file to be noticed", async || {
        let metrics = crate::admin::admin(&gate, "/metrics").await.text();
        metrics
            .lines()
            .any(|line| line.starts_with("difygate_tls_certificates_loaded_total{") && line.contains("\"failed\"} 1"))
    })
    .await;
    assert!(trusts(&old).await, "a file that cannot be used changes nothing");
    new.sign(old.folder.path(), "dify", &["dify.example.com"]);
    until("the new one to be shown", async || trusts(&new).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_client_certificates_are_asked_for() {
    let difys = instances::<1>().await;
    let authority = Authority::new();
    let certificate = authority.shown("dify", &["dify.example.com"]);
    authority.sign(authority.folder.path(), "client", &["client"]);
    let (ca, key, cert) = (
        authority.ca(),
        authority.path("client.key").display().to_string(),
        authority.path("client.crt").display().to_string(),
    );
    let known: &[&str] = &["--cacert", &ca, "--key", &key, "--cert", &cert, "--fail"];
    let stranger: &[&str] = &["--cacert", &ca, "--fail"];
    let old: &[&str] = &["--cacert", &ca, "--tls-max", "1.2", "--fail"];
    let wanted = format!(", client_ca: {ca}");
    let optional = format!(", client_ca: {ca}, client_certificate: optional");
    for (keys, arguments, works) in [
        ("", old, true),
        (", min_version: \"1.3\"", old, false),
        (", min_version: \"1.3\"", stranger, true),
        (&wanted, known, true),
        (&wanted, stranger, false),
        (&optional, known, true),
        (&optional, stranger, true),
    ] {
        let gate = secure(&certificate, keys, &difys, "").await;
        let (content, out) = curl(edge(&gate), "dify.example.com", "/v1/info", arguments).await;
        assert_eq!(content, works, "{keys} {arguments:?}: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleartext_listener_sends_clients_to_https() {
    let upstream = Upstream::echo().await;
    let gate = gate(&format!(
        "listeners: [{{address: \"127.0.0.1:8080\", redirect_to_https: true}}]\n{}",
        dify_upstream(&[upstream.address], "")
    ))
    .await;
    let answer = ask(edge(&gate), "GET /v1/x?y=1").await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some("https://dify.example/v1/x?y=1"));
    assert_eq!(upstream.arrivals(), 0);
    assert_eq!(
        ask(edge(&gate), "GET /.well-known/acme-challenge/abc").await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_shake_hands_is_cut() {
    let difys = instances::<1>().await;
    let authority = Authority::new();
    let certificate = authority.shown("dify", &["dify.example.com"]);
    let text = format!(
        "{}{}",
        listener(&certificate, "").replace("tls:", "header_timeout: 2s, tls:"),
        dify_upstream(&addresses(&difys), QUICK)
    );
    let gate = gate(&text).await;
    let mut silent = Wire::to(edge(&gate)).await;
    let mut clear = Wire::to(edge(&gate)).await;
    clear.send("GET / HTTP/1.1\r\nHost: gate\r\n\r\n").await;
    assert!(soon("the silent one to be cut", silent.ended()).await.is_empty());
    soon("the one that speaks cleartext to be cut", clear.ended()).await;
    let metrics = crate::admin::admin(&gate, "/metrics").await.text();
    assert!(
        metrics.contains("difygate_tls_handshakes_failed_total{") && metrics.contains("} 2\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_an_error_that_names_its_file() {
    let authority = Authority::new();
    let good = authority.shown("dify", &["dify.example.com"]);
    authority.sign(authority.folder.path(), "other", &["other.example.com"]);
    let empty = authority.path("empty.crt");
    std::fs::write(&empty, "").unwrap();
    let other = good.replace("dify.key", "other.key");
    for (certificate, hint) in [
        (good.replace("dify.crt", "missing.crt"), "missing.crt"),
        (good.replace("dify.crt", "empty.crt"), "empty.crt"),
        (good.replace("dify.key", "dify.crt"), "dify.crt"),
        (other, "other.key"),
    ] {
        let text = format!(
            "{}{}",
            listener(&certificate, ""),
            dify_upstream(&[crate::support::nobody()], "")
        );
        match Gate::start(settings(&text)) {
            Err(e @ StartError::Tls { .. }) => {
                let text = format!("{:#}", anyhow::Error::from(e));
                assert!(text.contains(hint), "{hint}: {text}");
            }
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("it started with {certificate}"),
        }
    }
}

/// What a program said, all of it.
async fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = soon(program, command.output()).await.unwrap_or_else(|e| {
        panic!("{program}, which `make tools` installs: {e}");
    });
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_in_the_clear_is_spoken_where_it_is_asked_for_and_silence_has_an_end() {
    let difys = instances::<1>().await;
    let gate = gate(&format!(
        "listeners: [{{address: \"127.0.0.1:8080\", http2: cleartext, header_timeout: 3s}}, {{address: \"127.0.0.1:8081\"}}]\n{}",
        dify_upstream(&addresses(&difys), QUICK)
    ))
    .await;
    let [asked, not_asked] = [0, 1].map(|listener: usize| format!("http://{}/v1/info", gate.listeners()[listener]));
    let version = ["--silent", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"];
    for (how, url, expected) in [
        ("--http2-prior-knowledge", &asked, "2 200"),
        ("--http1.1", &asked, "1.1 200"),
        ("--http2", &asked, "1.1 200"),
        ("--http1.1", &not_asked, "1.1 200"),
    ] {
        let out = run("curl", &[&version[..], &[how, url.as_str()]].concat()).await;
        assert_eq!(out, expected, "{how} {url}");
    }
    let out = run(
        "curl",
        &[&version[..], &["--http2-prior-knowledge", &not_asked]].concat(),
    )
    .await;
    assert!(!out.contains("200"), "{out}");
    let out = run("h2load", &["-n", "500", "-c", "5", "-m", "20", &asked]).await;
    assert!(out.contains("500 succeeded, 0 failed, 0 errored"), "{out}");
    for silent in ["", "PRI * HTTP/2.0\r\n"] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(silent).await;
        wire.ended().await;
    }
    assert!(metric(&gate, "difygate_limited_total", "header_timeout").await >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clients_than_curl_are_served_as_well() {
    let difys = instances::<2>().await;
    let authority = Authority::new();
    let certificate = authority.shown("dify", &["dify.example.com"]);
    let gate = secure(&certificate, "", &difys, "").await;
    let (ca, address) = (authority.ca(), edge(&gate).to_string());
    let url = format!("https://{address}/v1/info");
    let out = run("h2load", &["-n", "1000", "-c", "5", "-m", "20", &url]).await;
    assert!(out.contains("1000 succeeded, 0 failed, 0 errored"), "{out}");
    let out = run("h2load", &["--h1", "-n", "200", "-c", "5", &url]).await;
    assert!(out.contains("200 succeeded, 0 failed, 0 errored"), "{out}");
    let out = run("nghttp", &["--no-verify", "-H", ":authority: dify.example.com", &url]).await;
    assert!(out.contains("tags"), "{out}");
    let named = [
        "s_client",
        "-connect",
        &address,
        "-servername",
        "dify.example.com",
        "-CAfile",
        &ca,
        "-verify_return_error",
    ];
    let with = |more: &[&'static str]| [&named[..], more].concat();
    let out = run("openssl", &with(&["-alpn", "h2,http/1.1"])).await;
    assert!(out.contains("ALPN protocol: h2") && out.contains("TLSv1.3"), "{out}");
    let out = run("openssl", &with(&["-tls1_2", "-reconnect"])).await;
    assert!(out.contains("Reused, TLSv1.2"), "{out}");
    let out = run("openssl", &with(&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])).await;
    assert!(out.contains("Cipher is (NONE)"), "{out}");
}
