//! The answers to probes: the `/healthz` contract of the image, and the `/health` that real Dify has.

use std::collections::BTreeMap;

use hyper::header::{CONNECTION, HeaderValue, LOCATION};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::body::{Body, Cut, failure, object, page, whole};
use super::instance::App;
use super::switches::{Health, Switches};

/// What a healthy instance reports.
const COMPONENTS: [&str; 4] = ["database", "cache", "core", "model_loaded"];

/// Whether the path is one that probers ask.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/health")
}

/// The answer on a probe path.
pub(crate) async fn answer(app: &App, path: &str) -> Result<Response<Body>, Cut> {
    app.board.hold(|switches| switches.probe_latency).await;
    app.board.read(|switches| {
        Ok(match (&switches.health, path) {
            (Health::Status(status), _) => plain_status(*status),
            (_, "/health") if !switches.alive => plain_status(503),
            // On a connection that has carried HTTP already, the broken thing is that it ends.
            (Health::Broken(_), _) => return Err(Cut),
            (Health::Passing | Health::Failing(_) | Health::Unhealthy | Health::Real, "/health") => process(switches),
            (Health::Real, _) => page(StatusCode::NOT_FOUND, "404 Not Found"),
            (Health::Passing, _) => verdict(StatusCode::OK, &[], &switches.minor),
            (Health::Failing(failed), _) => verdict(StatusCode::SERVICE_UNAVAILABLE, failed, &switches.minor),
            (Health::Unhealthy, _) => verdict(StatusCode::OK, &["core".to_owned()], &switches.minor),
        })
    })
}

fn verdict(status: StatusCode, failed: &[String], minor: &[String]) -> Response<Body> {
    let mut details: BTreeMap<&str, bool> = COMPONENTS.into_iter().map(|name| (name, true)).collect();
    details.extend(failed.iter().chain(minor).map(|name| (name.as_str(), false)));
    if failed.is_empty() {
        return object(status, &json!({"status": "healthy", "details": details}));
    }
    object(
        status,
        &json!({"status": "unhealthy", "failed": failed, "details": details}),
    )
}

fn process(switches: &Switches) -> Response<Body> {
    let body = json!({"pid": std::process::id(), "status": "ok", "version": switches.version});
    let mut response = object(StatusCode::OK, &body);
    if let Ok(version) = HeaderValue::from_str(&switches.version) {
        response.headers_mut().insert("x-version", version);
    }
    response
        .headers_mut()
        .insert("x-env", HeaderValue::from_static("PRODUCTION"));
    response
}

/// What uvicorn answers that has as many connections as it may: it names no reason, and closes.
pub(crate) fn too_many() -> Response<Body> {
    let text = "Service Unavailable";
    let mut response = whole(
        StatusCode::SERVICE_UNAVAILABLE,
        "text/plain; charset=utf-8",
        text.to_owned(),
    );
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An answer of nothing but its status; a status that HTTP does not have becomes 500.
pub(crate) fn plain_status(status: u16) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = failure(status, "simulated", "This instance was told to answer so.");
    if status.is_redirection() {
        response
            .headers_mut()
            .insert(LOCATION, HeaderValue::from_static("/elsewhere"));
    }
    response
}
