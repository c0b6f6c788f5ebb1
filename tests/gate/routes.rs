//! Routes: hosts, whole paths, prefixes that are cut off, headers, redirects and answers of the gate's own.

use difygate::server::Gate;

use crate::support::{Arrived, Upstream, edge, gate};
use crate::wire::{Answer, Wire, ask, ask_with};

/// A gate with these routes before an upstream that answers with the head it got.
async fn routed(routes: &str) -> (Gate, Upstream) {
    let echo = Upstream::echo().await;
    let text = format!(
        "upstreams: {{dify: {{pools: {{main: {{endpoints: [\"{}\"]}}}}}}}}\nroutes: [{routes}]\n",
        echo.address
    );
    (gate(&text).await, echo)
}

/// Asks with a `Host` of its own.
async fn ask_host(gate: &Gate, request: &str, host: &str, headers: &str, body: &str) -> Answer {
    let mut wire = Wire::to(edge(gate)).await;
    let length = body.len();
    wire.send(format!(
        "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    ))
    .await;
    wire.answer().await
}

/// The first line of what the upstream got.
fn line(answer: &Answer) -> String {
    answer.text().lines().next().unwrap_or_default().to_owned()
}

/// The values that the upstream got under this name.
pub(crate) fn got(answer: &Answer, name: &str) -> Vec<String> {
    let text = answer.text();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let own = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    own.map(|(_, value)| value.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_cut_off_and_told_of() {
    let (gate, _echo) = routed("{path: /dify, strip_prefix: true, upstream: dify}").await;
    for (asked, sent) in [
        ("/dify/v1/info?a=%2F", "/v1/info?a=%2F"),
        ("/dify", "/"),
        ("/dify?x=1", "/?x=1"),
        ("/dify/", "/"),
        ("/dify//x", "//x"),
    ] {
        let answer = ask(edge(&gate), &format!("GET {asked}")).await;
        assert_eq!(line(&answer), format!("GET {sent} HTTP/1.1"), "{asked}");
        assert_eq!(got(&answer, "X-Forwarded-Prefix"), ["/dify"]);
    }
    for asked in ["/difygate", "/x/../dify/v1", "/%64ify/v1", "/v1"] {
        assert_eq!(ask(edge(&gate), &format!("GET {asked}")).await.status, 404, "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_behind_a_prefix_is_guarded_too() {
    let (gate, echo) = routed("{path: /dify, strip_prefix: true, upstream: dify}").await;
    let stranger = "X-Forwarded-For: 203.0.113.7\r\n";
    for asked in [
        "/dify/healthz",
        "/dify/%68ealthz",
        "/dify/x/../healthz",
        "/dify//healthz",
        "/dify/inner/api/x",
    ] {
        let answer = ask_with(edge(&gate), &format!("GET {asked}"), stranger, "").await;
        assert_eq!(answer.status, 404, "{asked}");
    }
    assert_eq!(echo.arrivals(), 0);
    let answer = ask_with(edge(&gate), "GET /dify/v1/info", stranger, "").await;
    assert_eq!(line(&answer), "GET /v1/info HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_set_and_removed_both_ways() {
    let routes = "{path: /, upstream: dify, headers: {\
        request: {set: {Dify-Hook-Url: \"{scheme}://{host}{uri}\", X-Forwarded-Proto: https, X-From: \"{client}\"}, remove: [X-Secret]}, \
        response: {set: {Strict-Transport-Security: max-age=1, X-Path: \"{path}\"}, remove: [Connection-Hint]}}}";
    let (gate, _echo) = routed(routes).await;
    let forged = "Dify-Hook-Url: http://evil/\r\nX-Secret: 1\r\nx-secret: 2\r\n";
    let answer = ask_host(&gate, "POST /e/hook?a=1", "dify.example:8080", forged, "{}").await;
    assert_eq!(got(&answer, "Dify-Hook-Url"), ["http://dify.example/e/hook?a=1"]);
    assert_eq!(got(&answer, "X-Forwarded-Proto"), ["https"]);
    assert_eq!(got(&answer, "X-From"), ["127.0.0.1"]);
    assert!(got(&answer, "X-Secret").is_empty());
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=1"));
    assert_eq!(answer.header("x-path"), Some("/e/hook"));
    // The same on the way of large uploads.
    let large = "x".repeat(100_000);
    let answer = ask_host(&gate, "POST /e/hook?a=1", "dify.example:8080", forged, &large).await;
    assert_eq!(got(&answer, "Dify-Hook-Url"), ["http://dify.example/e/hook?a=1"]);
    assert!(got(&answer, "X-Secret").is_empty());
    assert_eq!(answer.header("x-path"), Some("/e/hook"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_lead_elsewhere_or_answer_itself() {
    let routes = "{path: /, upstream: dify}, \
        {hosts: [\"*.old.example\"], redirect: {to: \"https://new.example{uri}\"}}, \
        {path: /apps/old, redirect: {to: /apps, status: 302}}, \
        {path: /robots.txt, exact: true, answer: {body: \"User-agent: *\\nDisallow: /\\n\"}}, \
        {path: /teapot, answer: {status: 418, content_type: application/json, body: \"{}\"}}, \
        {path: /empty, answer: {status: 204}}";
    let (gate, echo) = routed(routes).await;
    let answer = ask_host(&gate, "GET /a?b=c", "www.old.example:80", "", "").await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (308, Some("https://new.example/a?b=c"))
    );
    let answer = ask_with(edge(&gate), "POST /apps/old/x", "", "{}").await;
    assert_eq!((answer.status, answer.header("location")), (302, Some("/apps")));
    let answer = ask(edge(&gate), "GET /robots.txt").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "User-agent: *\nDisallow: /\n")
    );
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    let answer = ask(edge(&gate), "GET /teapot/x").await;
    assert_eq!((answer.status, answer.text().as_str()), (418, "{}"));
    assert_eq!(ask(edge(&gate), "GET /empty").await.status, 204);
    assert_eq!(echo.arrivals(), 0);
    assert_eq!(
        line(&ask(edge(&gate), "GET /robots.txt/x").await),
        "GET /robots.txt/x HTTP/1.1"
    );
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send("HEAD /robots.txt HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    let head = wire.head().await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("26")));
    assert!(wire.ended().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_does_not_uncover_guarded_paths() {
    let (gate, _echo) = routed("{path: /, redirect: {to: \"https://new.example{uri}\"}}").await;
    let answer = ask_with(edge(&gate), "GET /healthz", "X-Forwarded-For: 203.0.113.7\r\n", "").await;
    assert_eq!(answer.status, 404);
}

/// A gate with `cors` on its route, before an upstream that lets every page in, as Dify does.
async fn sharing(cors: &str) -> (Gate, Upstream) {
    let dify = Upstream::start(async |mut arrived: Arrived| {
        let own = "Access-Control-Allow-Origin: https://other.test\r\nAccess-Control-Allow-Credentials: true\r\nVary: Cookie\r\nConnection: close\r\n";
        arrived.answer(own, "{}").await;
    })
    .await;
    let text = format!(
        "upstreams: {{dify: {{pools: {{main: {{endpoints: [\"{}\"]}}}}}}}}\nroutes: [{{path: /v1, upstream: dify, {cors}}}, {{upstream: dify}}]\n",
        dify.address
    );
    (gate(&text).await, dify)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_which_pages_may_read_its_answers_whatever_the_endpoint_says() {
    let (gate, _dify) =
        sharing("cors: {origins: [\"https://*.example.com\"], credentials: true, expose: [X-Version]}").await;
    let from = |origin: &str| format!("Origin: {origin}\r\n");
    let answer = ask_with(edge(&gate), "GET /v1/info", &from("https://app.example.com"), "").await;
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://app.example.com")
    );
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("X-Version"));
    assert_eq!(
        answer
            .head
            .to_ascii_lowercase()
            .matches("access-control-allow-origin")
            .count(),
        1
    );
    assert!(
        answer.head.to_ascii_lowercase().contains("vary: origin"),
        "{}",
        answer.head
    );
    assert!(
        answer.head.to_ascii_lowercase().contains("vary: cookie"),
        "{}",
        answer.head
    );
    // A page of elsewhere is told nothing, and a route without the key leaves it to the endpoint.
    for (path, origin, expected) in [
        ("/v1/info", "https://other.test", None),
        ("/console", "https://other.test", Some("https://other.test")),
    ] {
        let answer = ask_with(edge(&gate), &format!("GET {path}"), &from(origin), "").await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (200, expected),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_answers_browsers_that_ask_before_a_request() {
    let (gate, dify) = sharing(
        "cors: {origins: [\"https://app.example.com\"], headers: [Authorization], methods: [GET, POST], max_age: 1m}",
    )
    .await;
    let asks = |origin: &str| {
        format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-evil\r\n")
    };
    let answer = ask_with(
        edge(&gate),
        "OPTIONS /v1/chat-messages",
        &asks("https://app.example.com"),
        "",
    )
    .await;
    assert_eq!(answer.status, 204);
    for (name, expected) in [
        ("origin", Some("https://app.example.com")),
        ("methods", Some("GET, POST")),
        ("headers", Some("Authorization")),
        ("credentials", None),
    ] {
        assert_eq!(answer.header(&format!("access-control-allow-{name}")), expected);
    }
    assert_eq!(answer.header("access-control-max-age"), Some("60"));
    let answer = ask_with(
        edge(&gate),
        "OPTIONS /v1/chat-messages",
        &asks("https://other.test"),
        "",
    )
    .await;
    assert_eq!((answer.status, answer.code()), (403, "cors".to_owned()));
    assert_eq!(dify.arrivals(), 0);
    // An OPTIONS that no browser asks is the endpoint's, and so is one on a route without the key.
    assert_eq!(ask(edge(&gate), "OPTIONS /v1/chat-messages").await.status, 200);
    assert_eq!(
        ask_with(edge(&gate), "OPTIONS /console", &asks("https://other.test"), "")
            .await
            .status,
        200
    );
    assert_eq!(dify.arrivals(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_gate_on_such_a_route_are_for_its_pages_alone() {
    let (gate, dify) = sharing("cors: {origins: [\"https://app.example.com\"]}, retry: unsafe, body_limit: 10B").await;
    drop(dify);
    for (origin, expected) in [
        ("https://app.example.com", Some("https://app.example.com")),
        ("https://other.test", None),
    ] {
        let answer = ask_with(
            edge(&gate),
            "POST /v1/files",
            &format!("Origin: {origin}\r\n"),
            "more than ten bytes",
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (413, expected)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_internal_page_of_elsewhere_reads_that_nobody_is_fit() {
    let text = "upstreams: {dify: {probe: {fall: 1}, pools: {main: {endpoints: [\"127.0.0.1:9\"]}}}}\n";
    let gate = gate(text).await;
    let answer = ask_with(edge(&gate), "GET /healthz", "Origin: https://ops.example.com\r\n", "").await;
    let told = answer.header("access-control-allow-origin");
    assert_eq!((answer.status, told), (503, Some("https://ops.example.com")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_only_looks_like_origin_keeps_no_answers_apart() {
    let dify = Upstream::start(async |mut arrived: Arrived| {
        arrived
            .answer("Vary: X-Origin-Group\r\nConnection: close\r\n", "{}")
            .await;
    })
    .await;
    let text = format!(
        "upstreams: {{dify: {{pools: {{main: {{endpoints: [\"{}\"]}}}}}}}}\nroutes: [{{upstream: dify, cors: {{origins: [\"https://a.test\"]}}}}]\n",
        dify.address
    );
    let gate = gate(&text).await;
    let head = ask(edge(&gate), "GET /v1/info").await.head.to_ascii_lowercase();
    assert!(head.lines().any(|line| line == "vary: origin"), "{head}");
}
