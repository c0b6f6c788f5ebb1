//! Endpoints behind TLS: verified, asked and served there. A second gate stands before each of them, for the gate speaks TLS on both sides.

use std::net::SocketAddr;

use difygate::gate::state::State;
use difygate::server::{Gate, StartError};
use difygate::simulated_dify::SimulatedDify;

use crate::authority::Authority;
use crate::support::{
    QUICK, addresses, dify_upstream, edge, gate, instances, known, settings, soon, until, until_state,
};
use crate::tls::listener;
use crate::wire::{Wire, ask, ask_with, chat};

/// An endpoint that shows a certificate for `host`, with these further keys of its TLS.
async fn behind(authority: &Authority, host: &str, keys: &str, difys: &[SimulatedDify]) -> Gate {
    let certificate = authority.shown("endpoint", &[host]);
    gate(&format!(
        "{}{}",
        listener(&certificate, keys),
        dify_upstream(&addresses(difys), QUICK)
    ))
    .await
}

/// A gate before endpoints that are spoken to by these terms.
async fn before(endpoints: &[SocketAddr], terms: &str) -> Gate {
    gate(&dify_upstream(endpoints, &format!("{QUICK}, tls: {terms}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_passes_within_tls() {
    let difys = instances::<1>().await;
    difys[0].set(|switches| switches.websocket = true);
    let authority = Authority::new();
    let endpoint = behind(&authority, "127.0.0.1", "", &difys).await;
    for http2 in ["", ", http2: true"] {
        let gate = before(&[edge(&endpoint)], &format!("{{ca: {}}}{http2}", authority.ca())).await;
        until_state(&gate, edge(&endpoint), State::Up).await;
        for _ in 0..3 {
            let answer = ask(edge(&gate), "GET /v1/info").await;
            assert_eq!((answer.status, answer.instance()), (200, "dify-0"), "{http2}");
        }
        let answer = ask_with(
            edge(&gate),
            "POST /v1/chat-messages",
            "Content-Type: application/json\r\n",
            &chat("blocking", 2, 1),
        )
        .await;
        assert_eq!(answer.status, 200, "{http2}: {}", answer.text());
        let answer = ask_with(
            edge(&gate),
            "POST /v1/chat-messages",
            "Content-Type: application/json\r\n",
            &chat("streaming", 3, 5),
        )
        .await;
        assert!(
            answer.whole && answer.text().contains("message_end"),
            "{http2}: {}",
            answer.text()
        );
        for size in [10, 3_000_000] {
            let mut wire = Wire::to(edge(&gate)).await;
            wire.send(
                "POST /v1/files/upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            )
            .await;
            wire.send(format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size)))
                .await;
            let answer = wire.answer().await;
            assert!(answer.whole && answer.status < 500, "{http2} {size}: {}", answer.head);
        }
        tunnel(edge(&gate)).await;
        assert_eq!(known(&gate, edge(&endpoint)).await.state, State::Up);
    }
}

/// A WebSocket opens, and says something back.
async fn tunnel(edge: SocketAddr) {
    let mut wire = Wire::to(edge).await;
    wire.send(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(wire.head().await.status, 101);
    // A masked text of one letter (RFC 6455 section 5.2).
    wire.send([0x81, 0x81, 1, 2, 3, 4, b'2' ^ 1]).await;
    assert!(soon("a frame", wire.try_read(2)).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_is_given_nothing() {
    let difys = instances::<1>().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let unknown = behind(&stranger, "127.0.0.1", "", &difys).await;
    let elsewhere = behind(&authority, "other.internal", "", &difys).await;
    let asked = difys[0].tally().traffic();
    let gate = before(
        &[edge(&unknown), edge(&elsewhere)],
        &format!("{{ca: {}}}", authority.ca()),
    )
    .await;
    for (endpoint, hint) in [
        (edge(&unknown), "invalid peer certificate"),
        (edge(&elsewhere), "not valid for name"),
    ] {
        until_state(&gate, endpoint, State::Down).await;
        let cause = known(&gate, endpoint).await.cause.to_string();
        assert!(cause.contains("tls") && cause.contains(hint), "{cause}");
    }
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 503);
    assert_eq!(difys[0].tally().traffic(), asked, "nobody was asked");
    let named = before(
        &[edge(&elsewhere)],
        &format!("{{ca: {}, server_name: other.internal}}", authority.ca()),
    )
    .await;
    until_state(&named, edge(&elsewhere), State::Up).await;
    assert_eq!(ask(edge(&named), "GET /v1/info").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_turns_impostor_gets_no_request() {
    let difys = instances::<1>().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let endpoint = behind(&authority, "127.0.0.1", "", &difys).await;
    // The probe passes in the clear elsewhere, so that traffic alone meets the stranger.
    let probe = format!(
        "probe: {{tls: false, port: {}, interval: 100ms, timeout: 100ms, rise: 1, fall: {{default: 3, timeout: 50}}}}",
        difys[0].address().port()
    );
    let text = dify_upstream(&[edge(&endpoint)], &format!("{probe}, tls: {{ca: {}}}", stranger.ca()));
    let gate = gate(&text).await;
    until("the probe to pass", async || {
        known(&gate, edge(&endpoint)).await.state.is_routable()
    })
    .await;
    let before = difys[0].tally().traffic();
    let answer = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!(answer.code(), "upstream_unreachable");
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("POST /v1/files/upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        .await;
    assert_eq!(wire.answer().await.status, 503);
    assert_eq!(difys[0].tally().traffic(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_shows_its_own_certificate_where_it_is_asked_for_one() {
    let difys = instances::<1>().await;
    let authority = Authority::new();
    authority.sign(authority.folder.path(), "gate", &["gate"]);
    let endpoint = behind(
        &authority,
        "127.0.0.1",
        &format!(", client_ca: {}", authority.ca()),
        &difys,
    )
    .await;
    let shown = format!(
        "{{ca: {}, cert: {}, key: {}}}",
        authority.ca(),
        authority.path("gate.crt").display(),
        authority.path("gate.key").display()
    );
    for http2 in ["", ", http2: true"] {
        let gate = before(&[edge(&endpoint)], &format!("{shown}{http2}")).await;
        until_state(&gate, edge(&endpoint), State::Up).await;
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200, "{http2}");
    }
    let nameless = before(&[edge(&endpoint)], &format!("{{ca: {}}}", authority.ca())).await;
    until_state(&nameless, edge(&endpoint), State::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_again_by_a_reload_which_refuses_what_cannot_be_used() {
    let difys = instances::<1>().await;
    let (old, new) = (Authority::new(), Authority::new());
    let endpoint = behind(&new, "127.0.0.1", "", &difys).await;
    let folder = tempfile::tempdir().unwrap();
    let (ca, file) = (folder.path().join("ca.pem"), folder.path().join("gate.yaml"));
    std::fs::copy(old.path("ca.pem"), &ca).unwrap();
    let text = crate::support::whole(&dify_upstream(
        &[edge(&endpoint)],
        &format!("{QUICK}, tls: {{ca: {}}}", ca.display()),
    ));
    std::fs::write(&file, &text).unwrap();
    let mut config = settings(&text);
    config.path = file;
    let gate = crate::support::ready(Gate::start(config).unwrap()).await;
    until_state(&gate, edge(&endpoint), State::Down).await;
    std::fs::write(&ca, "nothing of use").unwrap();
    let refused = gate
        .loader()
        .ask(difygate::reload::Wanted::Reload)
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        refused.contains("upstreams.dify.tls") && refused.contains("ca.pem"),
        "{refused}"
    );
    std::fs::copy(new.path("ca.pem"), &ca).unwrap();
    gate.loader()
        .ask(difygate::reload::Wanted::Reload)
        .await
        .unwrap()
        .unwrap();
    until_state(&gate, edge(&endpoint), State::Up).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_an_error_that_names_its_key() {
    let text = dify_upstream(&[crate::support::nobody()], "tls: {ca: /nowhere/ca.pem}");
    match Gate::start(settings(&text)) {
        Err(e @ StartError::Trust(_)) => {
            let text = e.to_string();
            assert!(text.contains("upstreams.dify.tls: /nowhere/ca.pem"), "{text}");
        }
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it started"),
    }
}
