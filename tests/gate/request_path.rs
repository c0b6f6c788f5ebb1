//! What becomes of one request: where it goes, what it looks like when it arrives, and what is refused.

use std::time::Duration;

use difygate::simulated_dify::Health;

use crate::support::{
    QUICK, Upstream, addresses, dify_upstream, edge, gate, gate_before, instances, known, nobody, until, until_idle,
};
use crate::wire::{Answer, Wire, ask, ask_with, chat};

/// What arrived at an upstream that echoes, line by line.
fn arrived(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.text().lines().map(str::to_owned).collect()
}

/// A header of the request that arrived.
fn arrived_header(answer: &Answer, name: &str) -> Vec<String> {
    let lines = arrived(answer);
    let pairs = lines.iter().filter_map(|line| line.split_once(": "));
    pairs
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_prefix_and_the_host_choose_the_upstream() {
    let [web, api, other] = instances().await;
    let text = format!(
        "upstreams:\n  web: {{pools: {{main: {{endpoints: [\"{}\"]}}}}}}\n  api: {{pools: {{main: {{endpoints: [\"{}\"]}}}}}}\n  \
         other: {{pools: {{main: {{endpoints: [\"{}\"]}}}}}}\n\
         routes:\n- {{path: /, upstream: web}}\n- {{path: /v1, upstream: api}}\n- {{hosts: [other.example], path: /, upstream: other}}\n",
        web.address(),
        api.address(),
        other.address()
    );
    let gate = gate(&text).await;
    for (target, host, instance) in [
        ("/apps", "h", "dify-0"),
        ("/v1/parameters", "h", "dify-1"),
        ("/v1/parameters", "OTHER.example:8080", "dify-2"),
        ("/", "other.example.", "dify-2"),
        ("/", "another.example", "dify-0"),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        assert_eq!(wire.answer().await.instance(), instance, "{host}{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_route_serves_is_404_in_the_shape_of_difys_errors() {
    let [dify] = instances().await;
    let text = format!(
        "{}routes: [{{path: /v1, upstream: dify}}]\n",
        dify_upstream(&[dify.address()], "")
    );
    let gate = gate(&text).await;
    let answer = ask(edge(&gate), "GET /apps").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(dify.tally().traffic(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_fit_to_serve_is_503_at_once_and_says_when_to_come_back() {
    let [dify] = instances().await;
    dify.set(|switches| switches.health = Health::failing(["database"]));
    let gate = gate_before(&[dify.address()], QUICK).await;
    for method in ["GET", "POST"] {
        let answer = ask(edge(&gate), &format!("{method} /v1/parameters")).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "no_endpoint"));
        assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    }
    assert_eq!(dify.tally().traffic(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_claims_about_itself_are_replaced() {
    let echo = Upstream::echo().await;
    let gate = gate_before(&[echo.address], "").await;
    let claims = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Real-IP: 10.0.0.3\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nForwarded: for=10.0.0.4\r\nX-Request-Id: mine\r\n";
    let answer = ask_with(edge(&gate), "GET /", claims, "").await;
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "dify.example"),
        ("x-forwarded-port", "80"),
        ("host", "dify.example"),
    ] {
        assert_eq!(arrived_header(&answer, name), [value], "{name}");
    }
    assert!(arrived_header(&answer, "forwarded").is_empty());
    let id = arrived_header(&answer, "x-request-id");
    assert!(id.len() == 1 && id[0].len() == 32, "{id:?}");
    assert_eq!(answer.header("x-request-id"), Some(id[0].as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxys_words_are_kept_and_extended() {
    let echo = Upstream::echo().await;
    let text = format!(
        "trusted_proxies: [\"127.0.0.1\"]\n{}",
        dify_upstream(&[echo.address], "")
    );
    let gate = gate(&text).await;
    let words = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outer.example\r\n\
                 X-Forwarded-Port: 443\r\nX-Request-Id: outer-1\r\n";
    let answer = ask_with(edge(&gate), "GET /", words, "").await;
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9, 127.0.0.1"),
        ("x-real-ip", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "outer.example"),
        ("x-forwarded-port", "443"),
        ("x-request-id", "outer-1"),
    ] {
        assert_eq!(arrived_header(&answer, name), [value], "{name}");
    }
    assert_eq!(answer.header("x-request-id"), Some("outer-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_another_server_would_misread_do_not_arrive() {
    let echo = Upstream::echo().await;
    let gate = gate_before(&[echo.address], "").await;
    let sent = "SCRIPT_NAME: /x\r\nX_Forwarded_For: 10.0.0.1\r\nX-Original-URL: /healthz\r\nX-Rewrite-URL: /healthz\r\nProxy: p\r\n\
                Keep-Alive: 1\r\nTE: trailers\r\nX-Kept: yes\r\n";
    let answer = ask_with(edge(&gate), "GET /", sent, "").await;
    for dropped in [
        "script_name",
        "x_forwarded_for",
        "x-original-url",
        "x-rewrite-url",
        "proxy",
    ] {
        assert!(arrived_header(&answer, dropped).is_empty(), "{dropped} arrives");
    }
    assert_eq!(arrived_header(&answer, "x-kept"), ["yes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_target_arrive_as_they_were_sent() {
    let echo = Upstream::echo().await;
    let gate = gate_before(&[echo.address], "").await;
    for (target, arrives) in [
        ("/files/a%2Fb?sign=x%3D%3d&x=/../y", "/files/a%2Fb?sign=x%3D%3d&x=/../y"),
        ("/a%20b/%E4%BD%A0?q=", "/a%20b/%E4%BD%A0?q="),
        ("/a//b/./c", "/a//b/./c"),
        ("http://dify.example/v1/a%2Fb?x=1", "/v1/a%2Fb?x=1"),
        ("http://dify.example", "/"),
    ] {
        let answer = ask(edge(&gate), &format!("GET {target}")).await;
        assert_eq!(arrived(&answer)[0], format!("GET {arrives} HTTP/1.1"), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_refused_before_it_goes_anywhere() {
    let echo = Upstream::echo().await;
    let gate = gate_before(&[echo.address], "").await;
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    let post = |headers: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    for (request, status) in [
        (get("/a%zz"), 400),
        (get("/a%00"), 400),
        (get("/a\\b"), 400),
        (get("/%ff"), 400),
        (get("ftp://h/x"), 400),
        (get(&format!("/{}", "x".repeat(8_192))), 414),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned(), 400),
        (post("Content-Length: 1, 1\r\n"), 400),
        (post("Content-Length: +1\r\n"), 400),
        (post("Transfer-Encoding: gzip, chunked\r\n"), 400),
        (
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        (post("Expect: a-miracle\r\nContent-Length: 0\r\n"), 417),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 405),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 405),
        ("get / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
    ] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(&request).await;
        let shown = &request[..request.len().min(80)];
        assert_eq!(wire.head().await.status, status, "{shown:?}");
    }
    assert_eq!(echo.arrivals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_by_its_length_and_by_counting() {
    let [dify] = instances().await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", body_limit: 1KiB}}]\n{}routes: [{{path: /v1/files, body_limit: 4KiB, upstream: \
         dify}}, {{path: /, upstream: dify}}]\n",
        dify_upstream(&[dify.address()], "")
    );
    let gate = gate(&text).await;
    let large = "x".repeat(2_000);
    assert_eq!(
        ask_with(edge(&gate), "POST /v1/chat-messages", "", &large).await.code(),
        "too_large"
    );
    assert_eq!(dify.tally().traffic(), 0);
    assert_eq!(
        ask_with(edge(&gate), "POST /v1/files/upload", "", &large).await.status,
        201
    );

    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("POST /v1/files/upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for _ in 0..3 {
        wire.send(format!("7d0\r\n{large}\r\n")).await;
    }
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_and_head_requests_are_served() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("GET /v1/parameters HTTP/1.0\r\n\r\n").await;
    assert_eq!(wire.head().await.status, 200);
    assert!(String::from_utf8_lossy(&wire.ended().await).contains("opening_statement"));

    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("HEAD /apps HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    let head = wire.head().await;
    assert!(
        head.header("content-length").is_some_and(|length| length != "0"),
        "{}",
        head.head
    );
    assert!(wire.ended().await.is_empty(), "a HEAD has no body");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_requests_also_those_that_are_sent_ahead() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    for _ in 0..3 {
        wire.send("GET /v1/parameters HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(wire.answer().await.status, 200);
    }
    wire.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3)).await;
    for _ in 0..3 {
        assert_eq!(wire.answer().await.json()["name"], "simulated");
    }
    assert_eq!(dify.tally().traffic(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_before_the_last_one_is_answered_waits_for_its_turn() {
    let [dify] = instances().await;
    let gate = gate_before(&[dify.address()], "").await;
    dify.set(|switches| switches.latency = Duration::from_millis(100));
    let mut wire = Wire::to(edge(&gate)).await;
    let body = chat("blocking", 1, 1);
    let post = format!(
        "POST /v1/chat-messages HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let get = "GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n";
    for (number, request) in (0..).zip([get, &post, get, &post, get]) {
        wire.send(request).await;
        until("it to arrive", async || dify.tally().traffic() > 2 * number).await;
        // The next one comes while this one is worked on.
        wire.send(get).await;
        assert_eq!(wire.answer().await.status, 200, "{number}");
        assert_eq!(wire.answer().await.json()["name"], "simulated", "{number}");
        until("both to be counted", async || {
            dify.tally().traffic() >= 2 * (number + 1)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickled_header_is_cut_and_an_idle_connection_closed() {
    let [dify] = instances().await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", header_timeout: 2s, idle_timeout: 1s}}]\n{}",
        dify_upstream(&[dify.address()], "")
    );
    let gate = gate(&text).await;
    let mut trickling = Wire::to(edge(&gate)).await;
    trickling.send("GET / HTTP/1.1\r\n").await;
    until("the trickled header to be cut", async || {
        !trickling.offer("X: y\r\n").await
    })
    .await;

    let mut silent = Wire::to(edge(&gate)).await;
    assert!(silent.ended().await.is_empty());

    let mut kept = Wire::to(edge(&gate)).await;
    kept.send("GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(kept.answer().await.status, 200);
    assert!(kept.ended().await.is_empty());
    assert_eq!(dify.tally().traffic(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_outlives_the_clients_timeouts() {
    let [dify] = instances().await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", header_timeout: 1s, idle_timeout: 1s}}]\n{}",
        dify_upstream(&[dify.address()], "")
    );
    let gate = gate(&text).await;
    dify.set(|switches| switches.latency = Duration::from_secs(2));
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_closed_and_room_is_given_back() {
    let [dify] = instances().await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", max_connections: 1}}]\n{}",
        dify_upstream(&[dify.address()], "")
    );
    let gate = gate(&text).await;
    let request = "GET /v1/info HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut first = Wire::to(edge(&gate)).await;
    first.send(request).await;
    assert_eq!(first.answer().await.status, 200);
    assert!(Wire::to(edge(&gate)).await.ended().await.is_empty(), "one too many");
    first.send(request).await;
    assert_eq!(first.answer().await.status, 200, "the first one stays");
    drop(first);
    let served = async || {
        let mut next = Wire::to(edge(&gate)).await;
        next.offer(request).await && next.try_head().await.is_some()
    };
    until("room for another connection", served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_between_two_hops_end_at_the_gate() {
    let upstream = Upstream::start(async |mut arrived: crate::support::Arrived| {
        let headers = "Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=2\r\nProxy-Authenticate: Basic\r\nX-End: 1\r\n";
        arrived.answer(headers, "done").await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    for _ in 0..2 {
        wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
        for gone in ["x-hop", "keep-alive", "proxy-authenticate"] {
            assert_eq!(answer.header(gone), None, "{}", answer.head);
        }
        assert_eq!(answer.header("x-end"), Some("1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fit_endpoint_gets_its_share() {
    let difys = instances::<3>().await;
    let gate = gate_before(&addresses(&difys), "balance: round_robin").await;
    for dify in &difys {
        assert!(known(&gate, dify.address()).await.state.is_routable());
    }
    for _ in 0..9 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    assert_eq!(difys.map(|dify| dify.tally().traffic()), [3, 3, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_connections_is_not_asked() {
    let [dify] = instances().await;
    let gate = gate_before(&[nobody(), dify.address()], QUICK).await;
    for _ in 0..6 {
        assert_eq!(ask(edge(&gate), "POST /v1/chat-messages").await.instance(), "dify-0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_can_read_why_nothing_serves() {
    let gate = gate_before(&[nobody()], QUICK).await;
    let origin = "Origin: https://console.example\r\n";
    let answer = ask_with(edge(&gate), "GET /console/api/apps", origin, "").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://console.example")
    );
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let plain = ask(edge(&gate), "GET /console/api/apps").await;
    assert_eq!(plain.header("access-control-allow-origin"), None);
    let hidden = format!("{origin}X-Forwarded-For: 203.0.113.7\r\n");
    let hidden = ask_with(edge(&gate), "GET /healthz", &hidden, "").await;
    assert_eq!(
        (hidden.status, hidden.header("access-control-allow-origin")),
        (404, None)
    );
}
