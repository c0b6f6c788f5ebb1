//! Every disguise of a guarded path that some server sees through, and every URL of Dify that must stay open.

use std::net::IpAddr;

use super::*;
use crate::gate::path::{Form, Malformed, OriginForm};

pub(super) fn guarded() -> GuardedPaths {
    GuardedPaths::new(DEFAULT_PATHS)
}

/// What happens to a raw target.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    Refused(Malformed),
    Plain,
    Evasion,
    Open,
}

pub(super) fn fate(raw: &[u8]) -> Fate {
    match OriginForm::parse(raw, true) {
        Err(malformed) => Fate::Refused(malformed),
        Ok(Form::Asterisk) => Fate::Open,
        Ok(Form::Origin(form)) => match guarded().find(form.path()) {
            None => Fate::Open,
            Some(Match { evasion: true, .. }) => Fate::Evasion,
            Some(Match { evasion: false, .. }) => Fate::Plain,
        },
    }
}

#[test]
fn the_plain_spellings_are_guarded() {
    let targets = [
        "/healthz",
        "/healthz?x",
        "/healthz/",
        "/healthz/x",
        "/healthz/.",
        "/healthz//..",
        "/healthz/../apps",
        "/health/check",
        "/inner/api/invoke/llm",
        "/metrics",
        "/debug/pprof/heap",
        "http://h/healthz",
        "HTTP://h/healthz?x",
    ];
    for target in targets {
        assert_eq!(fate(target.as_bytes()), Fate::Plain, "{target}");
    }
}

/// Spellings of guarded paths, each of which some server sees through.
const DISGUISES: &[&str] = &[
    // Percent-encoding, once and again.
    "/%68ealthz",
    "/h%65althz",
    "/%68%65%61%6C%74%68%7a",
    "/%2568ealthz",
    "/%25%36%38ealthz",
    "/%252568ealthz",
    "/%25252568ealthz",
    "/inner%2fapi/x",
    "/inner%252Fapi",
    // Slashes.
    "//healthz",
    "///healthz",
    "/%2fhealthz",
    "/%2Fhealthz",
    "//inner///api/x",
    "http://h//healthz",
    "/healthz%2f",
    // Case and width.
    "/HEALTHZ",
    "/HealthZ/x",
    "/%48EALTHZ",
    "/%EF%BD%88ealthz",
    "/%EF%BC%A8ealthz",
    "/%EF%BC%8Fhealthz",
    "/%E2%93%97ealthz",
    "/%F0%9D%90%A1ealthz",
    "/d%C4%B0agnostics/../healthz",
    "/metr%C4%B1cs",
    "/metric%C5%BF",
    "/%E2%84%AA/../healthz",
    "/%EF%BC%852568ealthz",
    // Dot segments.
    "/./healthz",
    "/a/../healthz",
    "/a/%2e%2e/healthz",
    "/a/.%2E/healthz",
    "/a/%252e%252e/healthz",
    "/../healthz",
    "/..%2fhealthz",
    "/x/..%2fhealthz",
    "/a//../healthz",
    "/a/b/..//../healthz",
    "/a/../healthz//..",
    "/a/../healthz//..;",
    "/inner/x/../api",
    // Dots resolved before what they leave is decoded.
    "/%3f%2f%25/../%68ealthz",
    "/a%2fb/../%68ealthz",
    "/a%252fb%2fc/../../healt%2568z",
    // Path parameters.
    "/healthz;a",
    "/healthz;a=b/x",
    "/healthz%3ba",
    "/;/healthz",
    "/;a/healthz",
    "/foo/..;/healthz",
    "/foo/..;x=y/healthz",
    "/foo/.;/../healthz",
    "/foo/%2e%2e%3b/healthz",
    "/a/..;/../healthz",
    // Each seen through by one reading alone.
    "/a/..;/healthz//..",
    "/a//../healthz/x/..;/..",
    "/a/../healthz/..;//..//..",
    "/inner;a/api;b",
    // Backslashes.
    "/%5chealthz",
    "/x/..%5chealthz",
    "/a%5cb/%2e%2e/healthz",
    "/inner%5Capi",
    "/x%255c..%255c..%255chealthz",
    // Terminators.
    "/healthz%20",
    "/healthz%20%20",
    "/%20healthz",
    "/healthz%20HTTP/1.1",
    "/healthz%3f",
    "/healthz%3fx",
    "/healthz%3f/../x",
    "/healthz%23",
    "/healthz%23x",
    "/x%23/../healthz",
    "/x%3f/../healthz",
    "/x/%20/..%3f/../../healthz",
    "/healthz%2500",
    "/healthz%2500.png",
    "/healthz%250a",
    "/healthz%250d%250ax",
    "/healthz%2509",
    "/a%20b/../healthz%3fx",
    // Endings that Windows drops.
    "/healthz.",
    "/healthz..",
    "/healthz.%20.",
    "/healthz%E3%80%80",
    "/healthz%C2%A0",
];

#[test]
fn every_disguise_that_some_server_sees_through_is_guarded() {
    for target in DISGUISES {
        assert_eq!(fate(target.as_bytes()), Fate::Evasion, "{target}");
    }
}

#[test]
fn what_is_no_path_never_gets_so_far() {
    let targets: [&[u8]; 16] = [
        b"foo://h/healthz",
        b"x:/healthz",
        b"x:healthz",
        b"healthz",
        b"%2fhealthz",
        b"/healthz%0a",
        b"/healthz%0d",
        b"/healthz%00",
        b"/healthz%09",
        b"/healthz#x",
        b"/healthz\t",
        b"/%c0%afhealthz",
        b"/%u0068ealthz",
        b"/x\\healthz",
        b"http://u@h/healthz",
        b"",
    ];
    for target in targets {
        assert!(matches!(fate(target), Fate::Refused(_)), "{}", target.escape_ascii());
    }
}

/// What browsers, clients and webhooks of a real Dify send.
const DIFY: [&str; 66] = [
    "/",
    "/apps",
    "/apps?category=chat",
    "/apps/health-check-demo",
    "/apps/healthz",
    "/healthzfoo",
    "/healthy",
    "/healthcheck",
    "/metrics-dashboard",
    "/thread",
    "/inner",
    "/inner/apis",
    "/install",
    "/signin?redirect_url=%2Fapps",
    "/explore/installed/0f4a3f58-7d2b-4a7e-9c35-7a3e5ba6ce3b",
    "/chat/AbCdEfGh12345678",
    "/workflow/hK3fZxQ9vT2mLp8B",
    "/app/8c1b2a4e-77cd-4f29-a2ee-0f4a1c9b7d11/workflow",
    "/datasets/create?step=1",
    "/_next/static/chunks/main-app-9f8e7d6c5b4a3f2e.js",
    "/_next/static/chunks/app/(commonLayout)/app/(appDetailLayout)/%5BappId%5D/layout-0a1b2c.js",
    "/_next/static/chunks/app/(shareLayout)/chat/%5Btoken%5D/page-77aa.js",
    "/_next/static/chunks/app/%5B...slug%5D/page-1.js",
    "/_next/static/aB3dE_fGh-1jK/_buildManifest.js",
    "/_next/static/media/0aa834ed78bf6d07-s.p.woff2",
    "/_next/image?url=%2Flogo%2Flogo.svg&w=64&q=75",
    "/logo/logo-embedded-chat-header@2x.png",
    "/favicon.ico",
    "/.well-known/acme-challenge/xYz_123-AbC",
    "/socket.io/?EIO=4&transport=websocket&sid=AbC",
    "/console/api/apps?page=1&name=a%20b",
    "/console/api/apps?page=1&limit=30&name=%E6%B5%8B%E8%AF%95",
    "/console/api/apps/8c1b2a4e-77cd-4f29-a2ee-0f4a1c9b7d11/workflows/draft/run",
    "/console/api/remote-files/https%3A%2F%2Fexample.com%2Fa%2Fb.png",
    "/console/api/remote-files/https%3A%2F%2Fexample.com%2Fhealthz",
    "/api/remote-files/http%3A%2F%2F10.0.0.1%2Fmetrics%3Fx%3D1%23top",
    "/api/remote-files/https%3A%2F%2Fexample.com%2F%25E6%25B5%258B.pdf",
    "/console/api/workspaces/current/model-providers/langgenius%2Fopenai%2Fopenai/icon_small/en_US",
    "/console/api/workspaces/current/tool-provider/builtin/langgenius/google/google/icon",
    "/console/api/workspaces/current/plugin/icon?tenant_id=1&filename=a.svg",
    "/console/api/oauth/authorize/github?code=4%2F0Ab&state=x%3Dy",
    "/console/api/datasets/1/documents/2/segments?page=1&limit=10&keyword=a%2Fb%25",
    "/console/api/installed-apps/9/messages?conversation_id=&limit=20",
    "/console/api/system-features",
    "/files/0f4a3f58-7d2b-4a7e-9c35-7a3e5ba6ce3b/file-preview?timestamp=1721&nonce=ab12&sign=Zm9v%2BYmFy_-%3D",
    "/files/0f4a3f58-7d2b-4a7e-9c35-7a3e5ba6ce3b/image-preview?timestamp=1721&nonce=ab&sign=a/b+c==",
    "/files/tools/3c2d.png?timestamp=1&nonce=2&sign=3",
    "/files/upload/for-plugin?user_id=u&tenant_id=t&filename=r%C3%A9sum%C3%A9%20(1).pdf",
    "/files/workspaces/1/webapp-logo",
    "/v1",
    "/v1/healthy",
    "/v1/parameters",
    "/v1/chat-messages",
    "/v1/chat-messages/5b1c/stop",
    "/v1/workflows/run",
    "/v1/workflow/5b1c/events?user=a%40b.c&include_state_snapshot=true",
    "/v1/messages?user=abc-123&conversation_id=&first_id=",
    "/v1/datasets/1f2e/documents/2a/segments/3b/child_chunks",
    "/v1/datasets/1f2e/metadata/built-in/enable",
    "/v1/datasets/tags?name=%E7%9F%A5%E8%AF%86%E5%BA%93",
    "/v1/apps/annotations/%E4%BD%A0%E5%A5%BD%20world",
    "/mcp/server/AbCdEf012345/mcp",
    "/triggers/webhook/aB3dE6gH9?x=[1]&y={2}",
    "/triggers/webhook/aB3dE6gH9//double/./slash",
    "/e/q1w2e3/hooks/slack.events?text=50%&q=a|b",
    "http://dify.example/v1/info",
];

#[test]
fn no_legitimate_dify_url_is_guarded_or_refused() {
    for target in DIFY {
        assert_eq!(fate(target.as_bytes()), Fate::Open, "{target}");
    }
}

#[test]
fn the_most_specific_guarded_path_is_named() {
    let guarded = guarded();
    assert_eq!(guarded.find("/health/check/x").unwrap().path, "/health/check");
    assert_eq!(guarded.find("/health/x").unwrap().path, "/health");
}

#[test]
fn a_configured_path_is_normalised_like_a_request() {
    let guarded = GuardedPaths::new(["//Ready%2FCheck/", "/a/../ready/check", ""]);
    assert_eq!(guarded.iter().collect::<Vec<_>>(), ["/ready/check", "/"]);
    assert!(guarded.find("/ready/check/1").is_some());
}

#[test]
fn the_root_guards_only_itself() {
    let guarded = GuardedPaths::new(["/"]);
    for (path, expected) in [
        ("/", true),
        ("//", true),
        ("/a/..", true),
        ("/a", false),
        ("/%61", false),
    ] {
        assert_eq!(guarded.find(path).is_some(), expected, "{path}");
    }
}

#[test]
fn nothing_is_guarded_by_no_paths() {
    assert_eq!(GuardedPaths::default().find("/healthz"), None);
}

#[test]
fn only_a_client_that_is_known_to_be_internal_is_admitted() {
    let guard = Guard {
        paths: guarded(),
        allow: CidrSet::parse_one("private").unwrap().into_iter().collect(),
        deny_status: 404,
        answer: GuardAnswer::Summary,
    };
    let inside = Client::direct(IpAddr::from([10, 0, 0, 1]));
    let outside = Client::direct(IpAddr::from([192, 0, 2, 1]));
    let hidden = Client { hidden: true, ..inside };
    let unknown = Client {
        address: None,
        via_trusted: true,
        hidden: false,
    };
    let path = "/healthz";
    let deny = |reason| Admission::Deny { reason, path };
    let cases = [
        (inside, "/healthz", Admission::Internal { path }),
        (inside, "//healthz", Admission::Internal { path }),
        (inside, "/apps", Admission::Open),
        (outside, "/healthz", deny(DenyReason::External)),
        (outside, "//healthz", deny(DenyReason::Evasion)),
        (outside, "/apps", Admission::Open),
        (hidden, "/healthz", deny(DenyReason::Hidden)),
        (hidden, "/apps", Admission::Open),
        (unknown, "/healthz", deny(DenyReason::Unidentified)),
        (unknown, "/%68ealthz", deny(DenyReason::Evasion)),
    ];
    for (client, path, expected) in cases {
        assert_eq!(guard.admit(&client, path), expected, "{client:?} {path}");
    }
}

#[test]
fn a_path_built_to_have_no_end_of_readings_is_taken_for_a_guarded_one() {
    let nested = format!("/%{}41", "25".repeat(40));
    assert_eq!(fate(nested.as_bytes()), Fate::Evasion);
}
