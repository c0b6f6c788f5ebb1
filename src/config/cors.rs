//! What the file says about pages of other origins.

use std::time::Duration;

use http::HeaderName;

use super::parse::Findings;
use super::raw::RouteCors;
use crate::gate::cors::{Cors, OriginPattern};

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
/// What Dify lets its own pages read, and the gate's own.
const EXPOSED: &str = "X-Request-Id, X-Version, X-Env, X-Trace-Id";
const MAX_AGE: Duration = Duration::from_secs(600);

pub(super) fn cors(key: &str, raw: RouteCors, findings: &mut Findings<'_>) -> Cors {
    if raw.origins.is_empty() {
        findings.error(
            &format!("{key}.origins"),
            "is empty; name an origin, or leave `cors` out to leave it to the endpoints",
        );
    }
    let mut origins = Vec::new();
    for origin in &raw.origins {
        match OriginPattern::parse(origin) {
            Ok(pattern) => origins.push(pattern),
            Err(message) => findings.error(&format!("{key}.origins"), message),
        }
    }
    let credentials = raw.credentials.unwrap_or(false);
    if credentials && origins.contains(&OriginPattern::Any) {
        let message = "with `origins: [\"*\"]` every page of the world could act as its visitor; name the origins";
        findings.error(&format!("{key}.credentials"), message);
    }
    let methods = raw.methods.map(|methods| {
        let names: Vec<String> = methods.into_iter().map(|method| method.0).collect();
        names.join(", ")
    });
    Cors {
        origins,
        credentials,
        methods: methods.unwrap_or_else(|| METHODS.to_owned()),
        headers: raw
            .headers
            .map(|names| listed(&format!("{key}.headers"), &names, findings)),
        expose: match raw.expose {
            Some(names) => listed(&format!("{key}.expose"), &names, findings),
            None => EXPOSED.to_owned(),
        },
        max_age: raw.max_age.map_or(MAX_AGE, |time| time.0),
    }
}

fn listed(key: &str, names: &[String], findings: &mut Findings<'_>) -> String {
    for name in names.iter().filter(|name| name.parse::<HeaderName>().is_err()) {
        findings.error(key, format!("`{name}` is no name of a header"));
    }
    names.join(", ")
}
