//! Probes: the contract, the real thing, and every broken answer.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{SILENCE, ask, content, get, one, status};
use crate::simulated_dify::{BrokenAnswer, Health, SimulatedDify};

#[tokio::test]
async fn healthz_names_what_failed_and_health_does_not_care() {
    let dify = one().await;
    let passing = ask(&dify, &get("/healthz")).await;
    assert!(passing.contains("x-instance: dify-1\r\n"));
    let details = json!({"database": true, "cache": true, "core": true, "model_loaded": true});
    assert_eq!(
        (status(&passing), content(&passing)),
        (200, json!({"status": "healthy", "details": details}))
    );

    dify.set(|switches| switches.health = Health::failing(["database"]));
    let failing = ask(&dify, &get("/healthz")).await;
    assert_eq!(status(&failing), 503);
    assert_eq!(content(&failing)["failed"], json!(["database"]));
    assert_eq!(content(&failing)["details"]["database"], false);
    assert_eq!(content(&ask(&dify, &get("/health")).await)["status"], "ok");
    assert_eq!((dify.tally().probes(), dify.tally().traffic()), (3, 0));
}

#[tokio::test]
async fn real_dify_has_only_health_and_tells_its_version() {
    let dify = one().await;
    dify.set(|switches| {
        switches.health = Health::Real;
        switches.version = "1.15.0".to_owned();
    });
    let healthz = ask(&dify, &get("/healthz")).await;
    assert!(status(&healthz) == 404 && healthz.contains("text/html"));
    let health = ask(&dify, &get("/health")).await;
    assert!(health.contains("x-version: 1.15.0") && health.contains("x-env:"));
    assert_eq!(content(&health)["version"], "1.15.0");
}

#[tokio::test]
async fn health_answers_any_status_and_an_unhealthy_200() {
    let dify = one().await;
    for code in [500, 502, 429, 404, 401, 301] {
        dify.set(|switches| switches.health = Health::Status(code));
        assert_eq!(status(&ask(&dify, &get("/healthz")).await), code);
    }
    assert!(ask(&dify, &get("/health")).await.contains("location: /elsewhere"));
    dify.set(|switches| switches.health = Health::Unhealthy);
    let unhealthy = ask(&dify, &get("/healthz")).await;
    assert_eq!(
        (status(&unhealthy), content(&unhealthy)["status"].clone()),
        (200, "unhealthy".into())
    );
}

/// The first 300 bytes of a broken answer, and whether more followed or the connection ended within `SILENCE`.
async fn broken(dify: &SimulatedDify, answer: BrokenAnswer) -> (String, &'static str) {
    dify.set(|switches| switches.health = Health::Broken(answer));
    let mut socket = TcpStream::connect(dify.address()).await.unwrap();
    let _ = socket.write_all(get("/healthz").as_bytes()).await;
    let mut seen = Vec::new();
    let how = loop {
        let mut piece = [0; 65_536];
        match timeout(SILENCE, socket.read(&mut piece)).await {
            Err(_) => break "silent",
            Ok(Err(_)) => break "reset",
            Ok(Ok(0)) => break "closed",
            Ok(Ok(length)) => seen.extend_from_slice(&piece[..length]),
        }
        if seen.len() > 4_000_000 {
            break "endless";
        }
    };
    seen.truncate(300);
    (String::from_utf8_lossy(&seen).into_owned(), how)
}

#[tokio::test]
async fn each_broken_answer_is_broken_in_its_way_and_spares_traffic() {
    use BrokenAnswer as B;
    let dify = one().await;
    for answer in B::ALL {
        let (start, how) = broken(&dify, answer).await;
        let (expected, end): (&str, &[&str]) = match answer {
            B::HangBeforeHeaders => ("", &["silent"]),
            B::Drip => ("H", &["silent"]),
            B::HangMidHeader | B::HangMidBody | B::LengthTooLong => ("HTTP/1.1 200 OK\r\nContent-Ty", &["silent"]),
            B::EndlessBody | B::HugeBody => ("HTTP/1.1 200 OK", &["endless"]),
            B::EarlyHintsFlood => ("HTTP/1.1 103", &["endless"]),
            B::UnaskedContinue => ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", &["closed"]),
            B::UnaskedSwitch => ("HTTP/1.1 101", &["silent"]),
            B::Http09 => ("{\"status\":\"healthy\"", &["closed"]),
            B::Http10 => ("HTTP/1.0 200 OK\r\n", &["closed"]),
            B::Http99 => ("HTTP/9.9 200 OK\r\n", &["closed"]),
            B::SshBanner => ("SSH-2.0-", &["silent"]),
            B::TlsAlert => ("\u{15}\u{3}\u{1}", &["closed"]),
            B::ResetOnAccept => ("", &["reset"]),
            B::CloseOnAccept => ("", &["closed", "reset"]),
            B::InvalidJson | B::DeepJson | B::BomJson | B::Utf16Json | B::NanJson | B::LengthTooShort => (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length",
                &["closed"],
            ),
            B::ChunkedGarbage | B::ChunkedWithoutEnd | B::ChunkedHugeExtension => (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding",
                &["closed"],
            ),
            B::ManyHeaders => (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-More: 1",
                &["closed"],
            ),
            B::HugeHeader => (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Huge: xxx",
                &["closed"],
            ),
        };
        assert!(
            start.starts_with(expected) && end.contains(&how),
            "{answer:?}: {how} after {start:?}"
        );
        if !answer.needs_no_request() {
            assert_eq!(status(&ask(&dify, &get("/v1/parameters")).await), 200, "{answer:?}");
        }
    }
    dify.tally().until(|counts| counts.connections == 0).await;
}
