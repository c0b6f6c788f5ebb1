//! Nobody outside reaches a guarded path, however it is written: proved by real web servers behind a real gate, which count who
//! arrives, and first shown to be reachable without it. What honest clients ask for arrives as it was sent.

#![allow(clippy::unwrap_used)]

mod http2;
mod message;
mod origin;
#[path = "../origins/mod.rs"]
mod origins;
mod spellings;
mod transports;

use std::net::SocketAddr;

use difygate::server::Gate;
use difygate::simulated_dify::{Cluster, SimulatedDify};

use crate::message::{Message, connect, send_all};
use crate::origin::Origin;
use crate::spellings::{CLAIMS, LEGITIMATE, MOVES, SPELLINGS};

/// Probes of a path that is not counted, so that whatever arrives is a client's.
const PROBE: &str = "probe: {path: /ping}";

/// Makes everyone here external: the tests connect from 127.0.0.1.
const ALL_EXTERNAL: &str = "probe_guard: {allow: [\"192.0.2.0/24\"]}";

/// A gate whose clients, the tests, are all external.
fn closed(origin: SocketAddr) -> Gate {
    origins::gate(&[origin], PROBE, ALL_EXTERNAL)
}

fn listener(gate: &Gate) -> SocketAddr {
    gate.listeners()[0]
}

fn targets() -> impl Iterator<Item = &'static [u8]> {
    SPELLINGS.iter().flat_map(|(_, targets)| targets.iter().copied())
}

/// A request in every way that is not its target: methods, versions, and both kinds of upgrade.
const FORMS: [Message<'static>; 9] = [
    form("GET", "HTTP/1.1", "Host: h\r\nConnection: close\r\n"),
    form("GET", "HTTP/1.0", "Host: h\r\n"),
    form("GET", "HTTP/1.0", ""),
    form("HEAD", "HTTP/1.1", "Host: h\r\n"),
    form("OPTIONS", "HTTP/1.1", "Host: h\r\n"),
    form("POST", "HTTP/1.1", "Host: h\r\nContent-Length: 0\r\n"),
    form("get", "HTTP/1.1", "Host: h\r\n"),
    form(
        "GET",
        "HTTP/1.1",
        "Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    ),
    form(
        "GET",
        "HTTP/1.1",
        "Host: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ),
];

const fn form(method: &'static str, version: &'static str, headers: &'static str) -> Message<'static> {
    Message {
        method,
        target: b"/",
        version,
        headers,
    }
}

/// Whether `act` makes a request run a guarded route of `origin`.
fn arrives<T>(origin: &Origin, act: impl FnOnce() -> T) -> (bool, T) {
    let before = origin.arrivals();
    let result = act();
    (origin.arrivals() > before, result)
}

/// Sends every target straight to `origin` and, in every form, through a gate, and proves that the gate makes the difference.
fn no_spelling_arrives(origin: &Origin, name: &str, least_direct: usize) {
    let gate = closed(origin.address());
    let (mut reached, mut passed) = (0, Vec::new());
    for (class, targets) in SPELLINGS {
        let (mut direct, before) = (0, passed.len());
        for target in *targets {
            direct += usize::from(arrives(origin, || Message::get(target).send(origin.address())).0);
            for form in FORMS {
                let (arrived, answer) = arrives(origin, || Message { target, ..form }.send(listener(&gate)));
                if arrived || !answer.is_refusal() {
                    passed.push(format!("{} {}: {}", form.method, target.escape_ascii(), answer.head()));
                }
            }
        }
        print_row(name, class, [targets.len(), direct, passed.len() - before]);
        reached += direct;
    }
    assert!(
        reached >= least_direct,
        "{name} is reached by only {reached} without a gate: the test shows too little"
    );
    assert!(
        passed.is_empty(),
        "{} got through:\n{}",
        passed.len(),
        passed.join("\n")
    );
}

/// The figures of `docs/probe-guard.md`, shown by `cargo test --test probe_guard -- --nocapture`.
#[allow(clippy::print_stdout)]
fn print_row(name: &str, class: &str, [targets, direct, through]: [usize; 3]) {
    println!("| {name} | {class} | {targets} | {direct} | {through} |");
}

#[test]
fn the_table_of_spellings_is_long_and_none_stands_in_it_twice() {
    let all: Vec<_> = targets().collect();
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(all.len(), distinct.len());
    assert!(
        all.len() >= 120 && LEGITIMATE.len() >= 40,
        "{} and {}",
        all.len(),
        LEGITIMATE.len()
    );
}

#[test]
fn no_spelling_reaches_flask_behind_gunicorn() {
    no_spelling_arrives(&Origin::gunicorn(), "gunicorn", 20);
}

#[test]
fn no_spelling_reaches_fastapi_behind_uvicorn() {
    no_spelling_arrives(&Origin::uvicorn(), "uvicorn", 8);
}

#[test]
fn no_spelling_reaches_werkzeug() {
    no_spelling_arrives(&Origin::werkzeug(), "Werkzeug", 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_reaches_a_dify() {
    let dify = SimulatedDify::start(&Cluster::new(), "dify-1").await.unwrap();
    let gate = closed(dify.address());
    for target in targets() {
        for form in FORMS {
            let answer = Message { target, ..form }.send(listener(&gate));
            assert!(
                answer.is_refusal(),
                "{} {}: {}",
                form.method,
                target.escape_ascii(),
                answer.head()
            );
        }
    }
    for target in LEGITIMATE {
        Message::get(target.as_bytes()).send(listener(&gate));
    }
    let counts = dify.tally().counts();
    let asked: Vec<&str> = counts.paths().map(|(path, _)| path).collect();
    let known =
        |path: &&str| *path == "/ping" || LEGITIMATE.iter().any(|target| target.split('?').next() == Some(path));
    assert!(asked.len() > 40 && asked.iter().all(known), "{asked:?}");
    assert_eq!(counts.probes, 0);
}

#[test]
fn no_header_moves_a_path_or_an_identity() {
    let origin = Origin::gunicorn();
    let moved = Message::get(b"/public/healthz").with("Host: h\r\nSCRIPT_NAME: /public\r\n");
    moved.send(origin.address());
    assert_eq!(
        origin.arrivals(),
        1,
        "gunicorn believes SCRIPT_NAME, so the test can fail"
    );
    let gate = closed(origin.address());
    for &(name, value, target) in MOVES {
        let headers = format!("Host: h\r\nConnection: close\r\n{name}: {value}\r\n");
        let answer = Message::get(target).with(&headers).send(listener(&gate));
        assert_eq!(answer.status(), Some(200), "{name}: {}", answer.head());
        let arrived = answer.json()["headers"].to_string();
        assert!(!arrived.contains(&format!("\"{value}\"")), "{name} arrives: {arrived}");
    }
    for claim in CLAIMS {
        let headers = format!("Host: h\r\n{claim}\r\n");
        let answer = Message::get(b"/healthz").with(&headers).send(listener(&gate));
        assert!(answer.is_refusal(), "{claim}: {}", answer.head());
        let answer = Message::get(b"/apps").with(&headers).send(listener(&gate));
        let heard = answer
            .status()
            .filter(|status| *status == 200)
            .map(|_| answer.json()["headers"].clone());
        for (name, value) in heard.iter().filter_map(|headers| headers.as_object()).flatten() {
            let kept = name.eq_ignore_ascii_case("via") || !value.to_string().contains("192.0.2.");
            assert!(kept, "{claim} arrives as {name}: {value}");
        }
    }
    assert_eq!(origin.arrivals(), 1);
}

#[test]
fn a_second_request_on_a_connection_is_judged_like_the_first() {
    let origin = Origin::uvicorn();
    let gate = closed(origin.address());
    let mut stream = connect(listener(&gate));
    for (target, status) in [
        (&b"/apps"[..], 200),
        (b"/healthz", 404),
        (b"/apps", 200),
        (b"//healthz", 404),
    ] {
        let answer = Message::get(target).with("Host: h\r\n").send_on(&mut stream);
        assert_eq!(answer.status(), Some(status), "{}", answer.head());
    }
    assert_eq!(origin.arrivals(), 0);
}

#[test]
fn no_second_request_hides_behind_a_first() {
    let origin = Origin::uvicorn();
    let gate = closed(origin.address());
    let inner = "GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let length = inner.len();
    let messages = [
        format!("GET /apps HTTP/1.1\r\nHost: h\r\n\r\n{inner}"),
        format!("GET /apps HTTP/1.0\r\nConnection: keep-alive\r\n\r\n{inner}"),
        format!("GET /apps HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{inner}"),
        format!(
            "POST /apps HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!(
            "POST /apps HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!("POST /apps HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!(
            "POST /apps HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\x0bchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!("POST /apps HTTP/1.1\r\nHost: h\r\nContent-Length: 0, {length}\r\n\r\n{inner}"),
        format!("POST /apps HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}"),
        format!("POST /apps HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n{inner}"),
        format!("POST /apps HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0;{inner}\r\n\r\n{inner}"),
        format!("POST /apps HTTP/1.1\r\nHost: h\r\nContent-Length : {length}\r\n\r\n{inner}"),
        format!("\r\nGET /apps HTTP/1.1\r\nHost: h\r\nX: a\r\n {inner}"),
    ];
    let plainly = &messages[0];
    assert!(
        arrives(&origin, || send_all(origin.address(), plainly.as_bytes())).0,
        "uvicorn takes both"
    );
    for message in &messages {
        let (arrived, answers) = arrives(&origin, || send_all(listener(&gate), message.as_bytes()));
        assert!(!arrived, "{message:?} -> {answers:?}");
    }
}

#[test]
fn a_fragment_is_gone_before_anything_is_decided() {
    let origin = Origin::werkzeug();
    let gate = closed(origin.address());
    let answer = Message::get(b"/x#/../healthz").send(listener(&gate));
    assert_eq!(answer.json()["target"], "/x");
    assert_eq!(origin.arrivals(), 0);
}

#[test]
fn honest_requests_arrive_as_they_were_sent() {
    for origin in [Origin::gunicorn(), Origin::uvicorn(), Origin::werkzeug()] {
        let gate = closed(origin.address());
        for target in LEGITIMATE {
            let answer = Message::get(target.as_bytes()).send(listener(&gate));
            assert_eq!(answer.status(), Some(200), "{target}: {}", answer.head());
            assert_eq!(answer.json()["target"], *target);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_internal_client_gets_the_gates_own_summary() {
    let dify = SimulatedDify::start(&Cluster::new(), "dify-1").await.unwrap();
    let gate = origins::gate(&[dify.address()], PROBE, "");
    let answer = Message::get(b"/healthz").send(listener(&gate));
    assert_eq!(answer.status(), Some(200));
    assert_eq!(
        answer.json(),
        serde_json::json!({"status": "healthy", "details": {"dify": true}})
    );
    let answer = Message::get(b"/threads").send(listener(&gate));
    assert_eq!(answer.status(), Some(404), "there is nothing to summarise");
    assert!(dify.tally().counts().paths().all(|(path, _)| path == "/ping"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_internal_client_may_be_forwarded() {
    let dify = SimulatedDify::start(&Cluster::new(), "dify-1").await.unwrap();
    let gate = origins::gate(&[dify.address()], PROBE, "probe_guard: {answer: forward}");
    let answer = Message::get(b"/healthz").send(listener(&gate));
    assert_eq!(answer.status(), Some(200));
    assert!(answer.head().contains("x-instance: dify-1"), "{}", answer.head());
    assert_eq!(dify.tally().requests("/healthz"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_nearest_untrusted_hop_is_the_client() {
    let dify = SimulatedDify::start(&Cluster::new(), "dify-1").await.unwrap();
    let keys = format!("trusted_proxies: [\"127.0.0.1\"]\n{ALL_EXTERNAL}");
    let gate = origins::gate(&[dify.address()], PROBE, &keys);
    let cases = [
        ("X-Forwarded-For: 192.0.2.7", 200),
        ("X-Forwarded-For: 203.0.113.9, 192.0.2.7", 200),
        ("X-Forwarded-For: 192.0.2.7, 127.0.0.1", 200),
        ("Forwarded: for=\"192.0.2.7:4711\"", 200),
        ("X-Forwarded-For: 192.0.2.7, 203.0.113.9", 404),
        ("X-Forwarded-For: 192.0.2.7, unknown", 404),
        ("X-Forwarded-For: 192.0.2.7\r\nForwarded: for=203.0.113.9", 404),
        ("X-Real-IP: 192.0.2.7", 404),
    ];
    for (header, status) in cases {
        let headers = format!("Host: h\r\nConnection: close\r\n{header}\r\n");
        let answer = Message::get(b"/healthz").with(&headers).send(listener(&gate));
        assert_eq!(answer.status(), Some(status), "{header}");
    }
}

#[test]
fn who_asks_too_often_is_told_of_and_refused_for_a_while() {
    let origin = Origin::werkzeug();
    let alarm = "probe_guard: {allow: [\"192.0.2.0/24\"], alarm: {window: 60s, requests: 5, block: 60s}}";
    let gate = origins::gate(&[origin.address()], PROBE, alarm);
    let ask = || Message::get(b"/%68ealthz").send(listener(&gate)).status();
    let statuses: Vec<_> = (0..8).map(|_| ask()).collect();
    let (told, refused) = statuses.split_at(6);
    assert!(told.iter().all(|status| *status == Some(404)), "{statuses:?}");
    assert!(refused.iter().all(|status| *status == Some(429)), "{statuses:?}");
    let honest = Message::get(b"/apps").send(listener(&gate));
    assert_eq!(honest.status(), Some(200), "only guarded paths are refused");
    let metrics = send_all(
        gate.admin(),
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert!(
        metrics.contains("guard_denied_total{reason=\"evasion\"} 8"),
        "{metrics}"
    );
    assert!(metrics.contains("guard_alarms_total 1"), "{metrics}");
    let status = send_all(
        gate.admin(),
        b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    let told = r#""guard":{"requests":8,"abnormal":false,"clients":[{"client":"127.0.0.1","requests":8,"#;
    assert!(
        status.contains(told) && status.contains(r#""blocked":true"#),
        "{status}"
    );
}
