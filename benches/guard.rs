//! What the guard costs each request, and proof that a plain one allocates nothing: `cargo bench --bench guard`.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

mod counting;

use std::hint::black_box;
use std::net::IpAddr;

use counting::assert_allocates_nothing;
use criterion::{Criterion, criterion_group, criterion_main};
use difygate::gate::cidr::CidrSet;
use difygate::gate::client::{Client, identify};
use difygate::gate::guard::{Admission, DEFAULT_PATHS, Guard, GuardAnswer, GuardedPaths};
use difygate::gate::hygiene::{HttpVersion, check_request, is_claim, is_dropped};
use difygate::gate::path::{Form, MAX_TARGET, OriginForm};
use difygate::gate::route::{RouteRow, RouteTable};

fn guard() -> Guard {
    let paths = DEFAULT_PATHS;
    let allow = ["loopback", "private"]
        .iter()
        .filter_map(|preset| CidrSet::parse_one(preset).ok());
    Guard {
        paths: GuardedPaths::new(paths),
        allow: allow.flatten().collect(),
        deny_status: 404,
        answer: GuardAnswer::Summary,
    }
}

/// The whole of what the guard does to one request; whether it stays open.
fn passes(guard: &Guard, client: &Client, raw: &[u8]) -> bool {
    match OriginForm::parse(black_box(raw), false) {
        Ok(Form::Origin(form)) => guard.admit(client, form.path()) == Admission::Open,
        Ok(Form::Asterisk) | Err(_) => false,
    }
}

/// The dearest target: as long as allowed, changed by every decoding, with dots, and with two places to cut it.
fn dearest_target() -> String {
    let ending = "%3f%20/%2525252561";
    let filling = "/x/..";
    let repeats = (MAX_TARGET - ending.len()) / filling.len();
    format!("{}{ending}", filling.repeat(repeats))
}

fn targets(c: &mut Criterion) {
    let (guard, client) = (guard(), Client::direct(IpAddr::from([192, 0, 2, 1])));
    let dearest = dearest_target();
    let plain = [
        ("plain", "/console/api/apps/8c1b2a4e-77cd/workflows?page=1"),
        ("plain_short", "/v1/chat-messages"),
        ("static_file", "/_next/static/chunks/main-app-9f8e7d6c5b4a3f2e.js"),
    ];
    for (name, target) in plain {
        assert!(passes(&guard, &client, target.as_bytes()));
        assert_allocates_nothing(name, || passes(&guard, &client, target.as_bytes()));
    }
    let disguised = [
        (
            "encoded_url",
            "/console/api/remote-files/https%3A%2F%2Fexample.com%2Fa%2Fb.png",
        ),
        ("encoded_name", "/v1/apps/annotations/%E4%BD%A0%E5%A5%BD%20world"),
        ("dearest", &dearest),
    ];
    let mut group = c.benchmark_group("guard");
    for (name, target) in plain.into_iter().chain(disguised) {
        group.bench_function(name, |bencher| {
            bencher.iter(|| passes(&guard, &client, target.as_bytes()))
        });
    }
    group.finish();
}

fn routes(c: &mut Criterion) {
    let prefixes = [
        "/console/api",
        "/api",
        "/v1",
        "/files",
        "/mcp",
        "/triggers",
        "/socket.io/",
        "/explore",
        "/e/",
        "/",
    ];
    let rows = prefixes.iter().enumerate();
    let row = |(index, path): (usize, &&str)| RouteRow {
        hosts: Vec::new(),
        path: (*path).to_owned(),
        exact: false,
        index,
    };
    let table = RouteTable::new(rows.map(row));
    let find = || table.find(black_box("dify.example:443"), black_box("/v1/datasets/1f2e/documents"));
    assert_eq!(find(), Some(2));
    assert_allocates_nothing("route", find);
    c.bench_function("route", |bencher| bencher.iter(find));
}

fn headers(c: &mut Criterion) {
    let headers: [(&str, &[u8]); 12] = [
        ("host", b"dify.example"),
        ("user-agent", b"Mozilla/5.0"),
        ("accept", b"*/*"),
        ("accept-language", b"en"),
        ("accept-encoding", b"gzip, br"),
        ("referer", b"https://dify.example/apps"),
        ("content-type", b"application/json"),
        ("content-length", b"120"),
        ("authorization", b"Bearer app-0123456789"),
        ("x-csrf-token", b"0123456789abcdef"),
        ("cookie", b"locale=en-US"),
        ("x-request-id", b"5b1c"),
    ];
    let (trusted, peer) = (CidrSet::default(), IpAddr::from([192, 0, 2, 1]));
    let identified = || identify(black_box(peer), &trusted, black_box(headers).into_iter());
    let checked = || check_request(HttpVersion::Http11, black_box("POST"), black_box(headers).into_iter());
    let dropped = || {
        black_box(headers)
            .iter()
            .filter(|(name, _)| is_dropped(name) || is_claim(name))
            .count()
    };
    assert_allocates_nothing("identify", identified);
    assert_allocates_nothing("check_request", checked);
    assert_allocates_nothing("drop_headers", dropped);
    let mut group = c.benchmark_group("12_headers");
    group.bench_function("identify", |bencher| bencher.iter(identified));
    group.bench_function("check_request", |bencher| bencher.iter(checked));
    group.bench_function("drop_headers", |bencher| bencher.iter(dropped));
    group.finish();
}

criterion_group!(benches, targets, routes, headers);
criterion_main!(benches);
