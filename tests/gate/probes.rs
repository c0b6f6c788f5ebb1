//! What probes make of real answers: right ones, wrong ones, and those that break HTTP, TLS or patience.

use std::net::SocketAddr;
use std::sync::Arc;

use difygate::gate::health::{FailureClass, Outcome};
use difygate::gate::keeper::Known;
use difygate::gate::state::{Cause, State};
use difygate::server::Gate;
use difygate::simulated_dify::{BrokenAnswer, Health, SimulatedDify};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use crate::support::{QUICK, addresses, edge, gate, gate_before, instances, known, soon, until, until_state};
use crate::wire::ask;

/// The class of the failure that an endpoint is down for.
fn class(known: &Known) -> Option<FailureClass> {
    let Cause::Failed { class, .. } = &known.cause else {
        let none = ["not_probed", "probe_passed", "misconfigured", "no_evidence"];
        assert!(none.contains(&known.cause.label()), "{}", known.cause);
        return None;
    };
    Some(*class)
}

/// What a probe makes of each broken answer without and with an expectation of JSON; `None` is a pass, for a body that is not JSON
/// is judged by its status.
fn verdict(broken: BrokenAnswer) -> [Option<FailureClass>; 2] {
    use BrokenAnswer as B;
    use FailureClass::{Body, Connect, Protocol, Timeout};
    match broken {
        B::HangBeforeHeaders | B::HangMidHeader | B::HangMidBody | B::Drip | B::LengthTooLong => [Some(Timeout); 2],
        B::EndlessBody | B::HugeBody => [Some(Body); 2],
        B::InvalidJson | B::DeepJson | B::BomJson | B::Utf16Json | B::NanJson | B::LengthTooShort => [None, Some(Body)],
        B::ChunkedGarbage
        | B::ChunkedWithoutEnd
        | B::ChunkedHugeExtension
        | B::Http09
        | B::Http99
        | B::SshBanner
        | B::TlsAlert
        | B::UnaskedSwitch
        | B::ManyHeaders
        | B::HugeHeader
        | B::EarlyHintsFlood => [Some(Protocol); 2],
        B::ResetOnAccept | B::CloseOnAccept => [Some(Connect); 2],
        B::Http10 | B::UnaskedContinue => [None; 2],
    }
}

/// A gate before one instance of every broken kind and, last, a healthy one.
async fn before_all_broken(expect: &str) -> ([SimulatedDify; 29], Gate) {
    let difys = instances::<29>().await;
    for (dify, broken) in difys.iter().zip(BrokenAnswer::ALL) {
        dify.set(|switches| switches.health = Health::Broken(broken));
    }
    let fragile = "interval: 1s, timeout: 1s, fall: 1, rise: 1";
    let gate = gate_before(&addresses(&difys), &format!("probe: {{{fragile}, {expect}}}")).await;
    (difys, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_answer_is_told_apart_and_troubles_nobody_else() {
    for (column, expect) in ["expect: {}", "expect: {json: {\"/status\": healthy}}"]
        .into_iter()
        .enumerate()
    {
        let (difys, gate) = before_all_broken(expect).await;
        for (dify, broken) in difys.iter().zip(BrokenAnswer::ALL) {
            let expected = verdict(broken)[column];
            let state = if expected.is_some() { State::Down } else { State::Up };
            let told = async || {
                let known = known(&gate, dify.address()).await;
                // Where the request crosses the end of the connection, the kernel tells either of the two.
                let crossed = broken.needs_no_request() && class(&known) == Some(FailureClass::Protocol);
                known.state == state && (class(&known) == expected || crossed)
            };
            until(&format!("{broken:?} with {expect} to be {state}: {expected:?}"), told).await;
        }
        until_state(&gate, difys[28].address(), State::Up).await;
        for _ in 0..5 {
            assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_path_that_nobody_has_ejects_nobody() {
    let difys = instances::<2>().await;
    let many = "probe: {interval: 100ms, timeout: 100ms, fall: 20}";
    let gate = gate_before(&addresses(&difys), many).await;
    for dify in &difys {
        dify.set(|switches| switches.health = Health::Real);
    }
    for dify in &difys {
        let all_wrong = async || {
            let known = known(&gate, dify.address()).await;
            let misconfigured = |outcome: &Outcome| matches!(outcome, Outcome::Misconfigured { .. });
            known.history.len() >= 20 && known.history.iter().all(|record| misconfigured(&record.report.outcome))
        };
        until("twenty probes to be answered 404", all_wrong).await;
        assert_eq!(known(&gate, dify.address()).await.state, State::Up);
    }
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_path_that_never_existed_leaves_endpoints_unknown_and_says_what_to_set() {
    let difys = instances::<2>().await;
    for dify in &difys {
        dify.set(|switches| switches.health = Health::Real);
    }
    let gate = gate_before(&addresses(&difys), "probe: {interval: 3s, timeout: 3s, fall: 2}").await;
    for dify in &difys {
        let told = async || {
            let known = known(&gate, dify.address()).await;
            matches!(&known.cause, Cause::Misconfigured { detail } if detail.contains("probe.path"))
        };
        until("a cause that tells what to set", told).await;
        assert_eq!(known(&gate, dify.address()).await.state, State::Unknown);
    }
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.code(), "no_endpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_from_one_of_two_is_that_ones_fault() {
    let difys = instances::<2>().await;
    let gate = gate_before(&addresses(&difys), QUICK).await;
    difys[0].set(|switches| switches.health = Health::Status(404));
    until_state(&gate, difys[0].address(), State::Down).await;
    assert_eq!(known(&gate, difys[1].address()).await.state, State::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_is_no_evidence() {
    let [dify] = instances().await;
    let text = format!(
        "upstreams: {{dify: {{pools: {{main: {{endpoints: [\"{}\", \"nowhere.invalid:80\"]}}}}}}}}\n",
        dify.address()
    );
    let gate = gate(&text).await;
    let all = gate.handle().mailbox.known().await.unwrap();
    let nowhere = all
        .iter()
        .map(|one| &one.known)
        .find(|known| known.id.address.as_str() == "nowhere.invalid:80")
        .unwrap();
    assert_eq!(nowhere.state, State::Unknown);
    assert!(nowhere.cause.to_string().contains("resolve"), "{}", nowhere.cause);
    assert!(matches!(nowhere.cause, Cause::NoEvidence { .. }));
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_probes_all_must_pass() {
    let [dify] = instances().await;
    let terms = "interval: 100ms, timeout: 100ms, rise: 1, fall: {default: 2, timeout: 50}";
    let keys = format!("probes: {{process: {{path: /health, {terms}}}, parts: {{path: /healthz, {terms}}}}}");
    let gate = gate_before(&[dify.address()], &keys).await;
    assert_eq!(known(&gate, dify.address()).await.state, State::Up);
    dify.set(|switches| switches.health = Health::failing(["cache"]));
    until_state(&gate, dify.address(), State::Down).await;
    let known = known(&gate, dify.address()).await;
    assert!(
        matches!(&known.cause, Cause::Failed { probe, .. } if probe == "parts"),
        "{}",
        known.cause
    );
    assert_eq!(known.components.get("cache"), Some(&false));
    assert_eq!(known.version.as_deref(), Some("1.14.2"));
    dify.set(|switches| switches.health = Health::Passing);
    until_state(&gate, dify.address(), State::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_that_says_unhealthy_is_a_failure() {
    let [dify] = instances().await;
    dify.set(|switches| switches.health = Health::Unhealthy);
    let gate = gate_before(&[dify.address()], QUICK).await;
    until_state(&gate, dify.address(), State::Down).await;
    assert_eq!(class(&known(&gate, dify.address()).await), Some(FailureClass::Body));
}

#[tokio::test(flavor = "multi_thread")]
async fn expectations_of_json_body_headers_and_status_all_count() {
    let difys = instances::<6>().await;
    let cases = [
        (
            "{json: {\"/status\": ok}, body_regex: '\"pid\"', headers: {x-env: '^PROD'}}",
            None,
        ),
        ("{json: {\"/status\": starting}}", Some(FailureClass::Body)),
        ("{json: {\"/missing\": 1}}", Some(FailureClass::Body)),
        ("{body_regex: 'ready'}", Some(FailureClass::Body)),
        ("{headers: {x-env: '^TEST'}}", Some(FailureClass::Body)),
        ("{status: \"204,300-399\"}", Some(FailureClass::Status)),
    ];
    let endpoints: Vec<String> = difys
        .iter()
        .zip(&cases)
        .map(|(dify, (expect, _))| format!("{{address: \"{}\", probe: {{expect: {expect}}}}}", dify.address()))
        .collect();
    let gate = gate(&format!(
        "upstreams: {{dify: {{probe: {{path: /health, interval: 20s, timeout: 20s, fall: 1}}, pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        endpoints.join(", ")
    ))
    .await;
    for (dify, (expect, expected)) in difys.iter().zip(cases) {
        let known = known(&gate, dify.address()).await;
        assert_eq!(class(&known), expected, "{expect}: {}", known.cause);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presets_know_what_a_real_dify_answers() {
    let difys = instances::<4>().await;
    let presets = ["dify-api", "dify-web", "plugin-daemon", "dify-healthz"];
    let endpoints: Vec<String> = difys
        .iter()
        .zip(presets)
        .map(|(dify, preset)| format!("{{address: \"{}\", probe: {{preset: {preset}}}}}", dify.address()))
        .collect();
    for dify in &difys {
        dify.set(|switches| switches.health = Health::Real);
    }
    let gate = gate(&format!(
        "upstreams: {{dify: {{probe: {{interval: 20s, timeout: 20s, fall: 1}}, pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        endpoints.join(", ")
    ))
    .await;
    for (dify, state) in difys.iter().zip([State::Up, State::Up, State::Down, State::Down]) {
        let known = known(&gate, dify.address()).await;
        assert_eq!(known.state, state, "{}", known.cause);
    }
    let api = known(&gate, difys[0].address()).await;
    assert_eq!(api.version.as_deref(), Some("1.14.2"));
}

/// An origin that speaks TLS, and the PEM text of the authority behind its certificate.
async fn tls_origin() -> (SocketAddr, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    .await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, pem)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_probe_passes_with_the_right_authority_and_name_alone() {
    let (address, pem) = tls_origin().await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, pem).unwrap();
    let ca = ca.display();
    for (tls, expected) in [
        (format!("{{ca: \"{ca}\"}}"), None),
        (
            format!("{{ca: \"{ca}\", server_name: other.example}}"),
            Some(FailureClass::Tls),
        ),
        ("true".to_owned(), Some(FailureClass::Tls)),
        ("false".to_owned(), Some(FailureClass::Protocol)),
    ] {
        let keys = format!("probe: {{interval: 20s, timeout: 20s, fall: 1, tls: {tls}}}");
        let gate = gate_before(&[address], &keys).await;
        let known = known(&gate, address).await;
        assert_eq!(class(&known), expected, "{tls}: {}", known.cause);
        assert_eq!(known.state.is_routable(), expected.is_none());
    }
}

/// Answers well, and counts connections and questions. A connection ends without a word once it has answered so many and gets one more.
async fn counting_origin(patience: usize) -> (SocketAddr, watch::Receiver<(usize, usize)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (counts, seen) = watch::channel((0, 0));
    let counts = Arc::new(counts);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counts.send_modify(|counts| counts.0 += 1);
            let counts = counts.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                for _ in 0..patience {
                    if stream.read(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                    counts.send_modify(|counts| counts.1 += 1);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                    let _ = stream.write_all(answer).await;
                }
                let _ = stream.read(&mut request).await;
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_serves_ten_questions_and_none_where_nobody_asked_for_it() {
    for (reuse, connections) in [(true, 2), (false, 20)] {
        let (address, mut seen) = counting_origin(usize::MAX).await;
        let keys = format!("probe: {{interval: 200ms, timeout: 200ms, fall: 50, reuse: {reuse}}}");
        let gate = gate_before(&[address], &keys).await;
        soon("twenty questions", seen.wait_for(|(_, asked)| *asked >= 20))
            .await
            .unwrap();
        // A probe that was slow gets company on a connection of its own.
        let (made, _) = *seen.borrow();
        assert!(
            if reuse {
                (connections..10).contains(&made)
            } else {
                made >= connections
            },
            "{made} connections"
        );
        assert!(known(&gate, address).await.state.is_routable());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_ends_unheard_is_no_word_against_the_endpoint() {
    let (address, mut seen) = counting_origin(3).await;
    let gate = gate_before(
        &[address],
        "probe: {interval: 50ms, timeout: 50ms, fall: {default: 50, protocol: 1, connect: 1}, reuse: true}",
    )
    .await;
    soon("twenty questions", seen.wait_for(|(_, asked)| *asked >= 20))
        .await
        .unwrap();
    let known = known(&gate, address).await;
    let mut failures = known.history.iter().filter(|record| !record.report.outcome.is_pass());
    assert!(
        failures.all(|record| record.report.outcome.class() == Some(FailureClass::Timeout)),
        "{:?}",
        known.history
    );
    assert!(known.state.is_routable(), "{}", known.cause);
}
