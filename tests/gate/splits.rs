//! Who goes to which pool while users are moved: shares by chance, by header and by cookie, and previews for those who are internal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use difygate::gate::direction::{Direction, Share, Split, Traffic};
use difygate::gate::names::{PoolName, UpstreamName};
use difygate::server::Gate;
use tokio::task::JoinSet;

use crate::authority::Authority;
use crate::endpoints_http2::client;
use crate::routes::got;
use crate::support::{Arrived, Upstream, blue_green, direct, edge, gate, instances, nobody, soon, until_idle};
use crate::tls::listener;
use crate::wire::{Answer, ask, ask_with, chat};

/// An endpoint that answers with its pool's name, a space, and the head that it got.
async fn named(pool: &'static str) -> Upstream {
    Upstream::start(move |mut arrived: Arrived| async move {
        let text = format!("{pool} {}", arrived.head);
        arrived.answer("Connection: close\r\n", &text).await;
    })
    .await
}

/// A gate with one endpoint in each pool.
async fn two(more: &str) -> (Gate, [Upstream; 2]) {
    let pools = [named("blue").await, named("green").await];
    let text = blue_green(&[pools[0].address], &[pools[1].address], "");
    (gate(&format!("{text}{more}")).await, pools)
}

fn share(percent: u32, split: Split, cutover: u64) -> Direction {
    share_of("dify", percent, split, cutover)
}

fn share_of(deployment: &str, percent: u32, split: Split, cutover: u64) -> Direction {
    Direction {
        share: Some(Share {
            pool: PoolName::new("green"),
            percent,
            split,
            deployment: deployment.to_owned(),
            cutover,
        }),
        ..Direction::to(PoolName::new("blue"))
    }
}

/// The pool that answered.
fn pool(answer: &Answer) -> String {
    answer.text().split(' ').next().unwrap_or_default().to_owned()
}

async fn pool_of(gate: &Gate, headers: &str) -> String {
    pool(&ask_with(edge(gate), "GET /v1/info", headers, "").await)
}

/// The cookie that an answer brings, as a browser sends it back.
fn cookie(answer: &Answer) -> Option<String> {
    let line = answer.header("set-cookie")?;
    Some(line.split(';').next().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_requests_goes_to_the_other_pool() {
    let (gate, _pools) = two("").await;
    for (percent, at_least, at_most) in [(0, 0, 0), (50, 20, 80), (100, 100, 100)] {
        direct(&gate, share(percent, Split::Request, 1)).await;
        let mut green = 0;
        for _ in 0..100 {
            let answer = ask(edge(&gate), "GET /v1/info").await;
            assert_eq!(answer.header("set-cookie"), None);
            green += usize::from(pool(&answer) == "green");
        }
        assert!((at_least..=at_most).contains(&green), "{green} at {percent} %");
    }
    direct(&gate, Direction::to(PoolName::new("green"))).await;
    assert_eq!(pool_of(&gate, "").await, "green");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_headers_value_decides_and_without_it_nothing_does() {
    let (gate, _pools) = two("").await;
    direct(&gate, share(50, Split::Header("x-user".to_owned()), 1)).await;
    let mut green = Vec::new();
    for user in 0..40 {
        let header = format!("X-User: user-{user}\r\n");
        let first = pool_of(&gate, &header).await;
        assert_eq!(pool_of(&gate, &header).await, first, "the same again");
        green.push(first == "green");
        assert_eq!(pool_of(&gate, "").await, "blue");
    }
    assert!(green.contains(&true) && green.contains(&false));
    direct(&gate, share(50, Split::Header("x-user".to_owned()), 2)).await;
    let mut changed = false;
    for (user, before) in green.iter().enumerate() {
        changed |= (pool_of(&gate, &format!("X-User: user-{user}\r\n")).await == "green") != *before;
    }
    assert!(changed, "another cutover begins with other users");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_keeps_a_browser_where_it_is() {
    let (gate, _pools) = two("").await;
    direct(&gate, share(50, Split::Cookie, 7)).await;
    let mut seen = Vec::new();
    for _ in 0..30 {
        let first = ask(edge(&gate), "GET /v1/info").await;
        let given = first.header("set-cookie").unwrap().to_owned();
        assert!(given.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{given}");
        let own = cookie(&first).unwrap();
        let again = ask_with(edge(&gate), "GET /v1/info", &format!("Cookie: {own}\r\n"), "").await;
        assert_eq!(pool(&again), pool(&first));
        assert_eq!(again.header("set-cookie"), None, "it is given once");
        assert_eq!(got(&again, "cookie"), Vec::<String>::new(), "it is nobody else's");
        seen.push((pool(&first), own));
    }
    for name in ["blue", "green"] {
        let (_, own) = seen.iter().find(|(pool, _)| pool == name).unwrap();
        // The others pass as they are.
        let headers = format!("Cookie: a=\"1;2\";  {own}; b\r\nCookie: c=3\r\n");
        let answer = ask_with(edge(&gate), "GET /v1/info", &headers, "").await;
        assert_eq!(pool(&answer), name);
        assert_eq!(got(&answer, "cookie"), ["a=\"1;2\"; b; c=3"]);
        // A growing share takes nobody back, and one that shrinks keeps who is there.
        direct(&gate, share(1, Split::Cookie, 7)).await;
        assert_eq!(pool_of(&gate, &format!("Cookie: {own}\r\n")).await, name);
        direct(&gate, share(50, Split::Cookie, 7)).await;
    }
    let (_, own) = seen.iter().find(|(pool, _)| pool == "green").unwrap();
    direct(&gate, Direction::to(PoolName::new("blue"))).await;
    let answer = ask_with(edge(&gate), "GET /v1/info", &format!("Cookie: {own}\r\n"), "").await;
    assert_eq!((pool(&answer).as_str(), answer.header("set-cookie")), ("blue", None));
    assert_eq!(got(&answer, "cookie"), Vec::<String>::new(), "after a cutover neither");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_cutovers_on_one_host_each_keep_a_browser() {
    let mut ends = Vec::new();
    for name in ["blue", "green", "blue", "green"] {
        ends.push(named(name).await);
    }
    let pools = |blue: &Upstream, green: &Upstream| {
        format!(
            "{{active: blue, pools: {{blue: {{endpoints: [\"{}\"]}}, green: {{endpoints: [\"{}\"]}}}}}}",
            blue.address, green.address
        )
    };
    let text = format!(
        "routes: [{{path: /web, upstream: web}}, {{path: /, upstream: dify}}]\nupstreams: {{dify: {}, web: {}}}\n",
        pools(&ends[0], &ends[1]),
        pools(&ends[2], &ends[3])
    );
    let gate = gate(&text).await;
    let both = ["dify", "web"].map(|name| (UpstreamName::new(name), share_of(name, 50, Split::Cookie, 7)));
    gate.handle().mailbox.direct(both.to_vec()).await.unwrap();
    // As the same browser: each answer's cookie takes the place of the one of its name.
    for _ in 0..10 {
        let first = ask(edge(&gate), "GET /v1/info").await;
        let own = cookie(&first).unwrap();
        let second = ask_with(edge(&gate), "GET /web", &format!("Cookie: {own}\r\n"), "").await;
        let other = cookie(&second).unwrap();
        assert_ne!(own.split('=').next(), other.split('=').next());
        let jar = format!("Cookie: {own}; {other}\r\n");
        for (target, before) in [("GET /v1/info", &first), ("GET /web", &second)] {
            let again = ask_with(edge(&gate), target, &jar, "").await;
            assert_eq!((pool(&again), cookie(&again)), (pool(before), None), "{target}");
            assert_eq!(got(&again, "cookie"), Vec::<String>::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_the_gate_did_not_give_for_this_decides_nothing() {
    let (gate, _pools) = two("").await;
    direct(&gate, share(100, Split::Cookie, 6)).await;
    let old = cookie(&ask(edge(&gate), "GET /v1/info").await).unwrap();
    // From here on everybody is drawn into the active pool, unless a cookie says otherwise.
    direct(&gate, share(0, Split::Cookie, 7)).await;
    let mac = old.rsplit_once('.').unwrap().1.to_owned();
    for forged in [
        old,
        format!("difygate_pool_dify=green.7.{mac}"),
        "difygate_pool_dify=green.7.".to_owned(),
        "difygate_pool_dify=green".to_owned(),
        "difygate_pool_dify=".to_owned(),
        "difygate_pool_dify".to_owned(),
        format!("difygate_pool_dify={}", "x".repeat(4_000)),
        "difygate_pool_dify=green.7.x; ".repeat(100),
        "difygate_pool_dify=\u{e4}.7.x".to_owned(),
    ] {
        let answer = ask_with(edge(&gate), "GET /v1/info", &format!("Cookie: {forged}\r\n"), "").await;
        assert_eq!(pool(&answer), "blue", "{forged:.60}");
        let fresh = cookie(&answer).unwrap();
        assert!(fresh.starts_with("difygate_pool_dify=blue.7."), "{fresh}");
        assert!(!answer.text().contains("difygate_pool_dify="), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_tls_the_cookie_is_secure_and_http2_has_it_too() {
    let [blue, green] = instances().await;
    let authority = Authority::new();
    let certificate = authority.shown("gate", &["dify.example.com"]);
    let pools = blue_green(&[blue.address()], &[green.address()], "");
    let gate = gate(&format!("{}{pools}", listener(&certificate, ""))).await;
    direct(&gate, share(100, Split::Cookie, 7)).await;
    let mut client = client(edge(&gate), &authority).await;
    let request = http::Request::get("https://dify.example.com/v1/info");
    let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let answer = soon("the head", answer).await.unwrap();
    assert_eq!(answer.headers()["x-instance"], green.name());
    let given = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(given.ends_with("; SameSite=Lax; Secure"), "{given}");
    direct(&gate, share(0, Split::Cookie, 7)).await;
    let own = given.split(';').next().unwrap();
    let request = http::Request::get("https://dify.example.com/v1/info").header("cookie", own);
    let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let answer = soon("the head", answer).await.unwrap();
    assert_eq!(answer.headers()["x-instance"], green.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_a_pool_where_nobody_may_serve_stays_where_somebody_does() {
    let blue = named("blue").await;
    let gate = gate(&blue_green(&[blue.address], &[nobody()], "")).await;
    for split in [Split::Request, Split::Cookie] {
        direct(&gate, share(100, split, 1)).await;
        assert_eq!(pool_of(&gate, "").await, "blue");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_clients_see_the_pool_that_they_ask_for() {
    let (gate, _pools) = two("cutover: {preview: {hosts: {green.example: green}}}\n").await;
    let preview = "X-Difygate-Pool: green\r\n";
    let answer = ask_with(edge(&gate), "GET /v1/info", preview, "").await;
    assert_eq!(pool(&answer), "green");
    assert_eq!(got(&answer, "x-difygate-pool"), Vec::<String>::new());
    let mut wire = crate::wire::Wire::to(edge(&gate)).await;
    wire.send("GET / HTTP/1.1\r\nHost: Green.Example:8080\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(pool(&wire.answer().await), "green");
    assert_eq!(pool_of(&gate, "X-Difygate-Pool: blue\r\n").await, "blue");
    assert_eq!(pool_of(&gate, "").await, "blue");

    for (stranger, host) in [("203.0.113.7", "dify.example"), ("203.0.113.7", "green.example")] {
        let headers = format!("X-Forwarded-For: {stranger}\r\n{preview}");
        let mut wire = crate::wire::Wire::to(edge(&gate)).await;
        wire.send(format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
        ))
        .await;
        let answer = wire.answer().await;
        assert_eq!(pool(&answer), "blue", "what a stranger says of pools is nothing");
        assert_eq!(got(&answer, "x-difygate-pool"), Vec::<String>::new());
    }
    // A large request goes by the framework's way.
    let body = "b".repeat(100_000);
    let answer = ask_with(edge(&gate), "POST /v1/x", preview, &body).await;
    assert_eq!(
        (pool(&answer).as_str(), got(&answer, "x-difygate-pool").len()),
        ("green", 0)
    );
    until_idle(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_of_what_is_not_there_is_told() {
    let blue = named("blue").await;
    let gate = gate(&blue_green(&[blue.address], &[nobody()], "")).await;
    for unknown in ["red", "", "blue, green"] {
        let answer = ask_with(edge(&gate), "GET /", &format!("X-Difygate-Pool: {unknown}\r\n"), "").await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "no_pool"), "{unknown}");
    }
    let answer = ask_with(edge(&gate), "GET /", "X-Difygate-Pool: green\r\n", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_endpoint"));
    assert_eq!(blue.arrivals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_only_endpoint_of_a_share_fails_is_asked_of_who_serves() {
    let blue = named("blue").await;
    let green = Upstream::start(async |_: Arrived| {}).await;
    let gate = gate(&blue_green(
        &[blue.address],
        &[green.address],
        "outlier: {eject: false}",
    ))
    .await;
    direct(&gate, share(100, Split::Request, 1)).await;
    assert_eq!(pool_of(&gate, "").await, "blue");
    assert_eq!(green.arrivals(), 1, "it was asked first");
    let answer = ask_with(edge(&gate), "POST /v1/chat-messages", "", "{}").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_failed"),
        "it may be running"
    );
    assert_eq!(blue.arrivals(), 1);
    let preview = ask_with(edge(&gate), "GET /v1/info", "X-Difygate-Pool: green\r\n", "").await;
    assert_eq!(preview.status, 502, "who asks for a pool gets no other one");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_and_no_event_is_lost_while_everybody_is_moved_to_and_fro() {
    let [blue, green] = instances().await;
    let gate = gate(&blue_green(&[blue.address()], &[green.address()], "")).await;
    let edge = edge(&gate);
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..8 {
        let over = over.clone();
        clients.spawn(async move {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = match number % 2 {
                    0 => ask(edge, "GET /v1/info").await,
                    _ => ask_with(edge, "POST /v1/chat-messages", "", &chat("streaming", 20, 2)).await,
                };
                assert!(answer.status == 200 && answer.whole, "{}", answer.head);
                assert_eq!(
                    answer.text().matches("part ").count() >= 20,
                    number % 2 == 1,
                    "{}",
                    answer.text()
                );
                asked += 1;
            }
            asked
        });
    }
    for turn in 0..20_u64 {
        let split = if turn % 3 == 0 { Split::Cookie } else { Split::Request };
        direct(&gate, share(50, split, turn)).await;
        ask(edge, "GET /v1/info").await;
        let paused = Direction {
            traffic: Traffic::Pause,
            ..Direction::to(PoolName::new("blue"))
        };
        direct(&gate, paused).await;
        let pool = if turn % 2 == 0 { "green" } else { "blue" };
        direct(&gate, Direction::to(PoolName::new(pool))).await;
        ask(edge, "GET /v1/info").await;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(asked) = soon("a client to end", clients.join_next()).await {
        assert!(asked.unwrap() > 0);
    }
    assert!(blue.tally().traffic() > 0 && green.tally().traffic() > 0);
    until_idle(&gate).await;
}
