//! What an answer to a probe means. Pure: an answer and what was expected of it go in, a verdict comes out.

use std::collections::BTreeMap;

use http::HeaderName;
use http::header::RETRY_AFTER;
use serde_json::Value;

use crate::gate::health::{FailureClass, Outcome};
use crate::http1::Head;
use crate::probe::spec::{Expect, ProbeSpec};

/// The most of a body that is read; a probe's answer is a few hundred bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Components that are followed for one endpoint; their names become labels of metrics.
const MAX_COMPONENTS: usize = 32;

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub outcome: Outcome,
    /// Components that the body names, and whether each is well.
    pub components: BTreeMap<String, bool>,
    /// Those for which it fails.
    pub failed: Vec<String>,
    /// The version that the body or the header `X-Version` names.
    pub version: Option<String>,
}

/// Judges an answer. `body` is `None` if it was larger than [`MAX_BODY`].
pub fn judge(spec: &ProbeSpec, head: &Head, body: Option<&[u8]>) -> Judgement {
    let json: Option<Value> = body.and_then(|body| serde_json::from_slice(body).ok());
    let components = json.as_ref().map(components).unwrap_or_default();
    let failed = json.as_ref().map(|json| failed(json, &components)).unwrap_or_default();
    let header = || head.all(HeaderName::from_static("x-version")).next()?.to_str().ok();
    let version = json
        .as_ref()
        .and_then(|json| json.get("version")?.as_str())
        .or_else(header);
    Judgement {
        outcome: outcome(spec, head, body, json.as_ref(), &failed),
        version: version.filter(|text| text.len() <= 64).map(str::to_owned),
        components,
        failed,
    }
}

fn outcome(spec: &ProbeSpec, head: &Head, body: Option<&[u8]>, json: Option<&Value>, failed: &[String]) -> Outcome {
    let status = head.status.as_u16();
    if let Some(sign) = leaving(head, json) {
        let detail = format!("{sign} in its answer");
        return Outcome::Leaving { detail };
    }
    if !spec.expect.status.iter().any(|range| range.contains(&status)) {
        return wrong_status(spec, head, failed);
    }
    let Some(body) = body else {
        return fail(format!("the body is larger than {} KiB", MAX_BODY / 1024));
    };
    if json.and_then(|json| json.get("status")?.as_str()) == Some("unhealthy") {
        return fail(format!(
            "status {status} with a body that says `unhealthy`{}",
            named(failed)
        ));
    }
    match mismatch(&spec.expect, head, body, json) {
        Some(detail) => fail(detail),
        None => Outcome::Pass,
    }
}

/// Envoy's way of saying it (`envoy.filters.http.health_check`).
const IMMEDIATE_FAIL: &str = "x-envoy-immediate-health-check-fail";

/// How an answer says that the endpoint is about to stop, if it does.
fn leaving(head: &Head, json: Option<&Value>) -> Option<&'static str> {
    let says = |key, value: Value| json.and_then(|json| json.get(key)) == Some(&value);
    if says("draining", Value::Bool(true)) {
        Some("`draining`: true")
    } else if says("status", "draining".into()) {
        Some("`status`: draining")
    } else {
        let mut given = head.all(HeaderName::from_static(IMMEDIATE_FAIL));
        given.next().map(|_| IMMEDIATE_FAIL)
    }
}

fn fail(detail: String) -> Outcome {
    Outcome::Fail {
        class: FailureClass::Body,
        detail,
    }
}

/// An endpoint is spared for so long that asks for it without saying how long, and at the most.
const SPARED: u32 = 5;
const LONGEST_SPARED: u32 = 30;

/// For how long the endpoint wants to be spared (RFC 9110 section 10.2.3); a date is as good as no word.
fn retry_after(head: &Head) -> u32 {
    let value = head
        .all(RETRY_AFTER)
        .next()
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    value.unwrap_or(SPARED).clamp(1, LONGEST_SPARED)
}

fn wrong_status(spec: &ProbeSpec, head: &Head, failed: &[String]) -> Outcome {
    let status = head.status.as_u16();
    let asked = format!("{} {}", spec.method, spec.path);
    match status {
        404 => Outcome::Misconfigured {
            detail: format!(
                "{asked} answers 404: this service has no such path. Dify's api has /health (preset: dify-api); set \
                 `probe.path` or `probe.preset`"
            ),
        },
        301 | 302 | 303 | 307 | 308 => Outcome::Misconfigured {
            detail: format!(
                "{asked} answers {status}, a redirect, which is not followed; set `probe.path` to where it leads"
            ),
        },
        401 | 403 | 405 => Outcome::Misconfigured {
            detail: format!(
                "{asked} answers {status}; set `probe.headers` or `probe.method` to what this service wants"
            ),
        },
        429 => Outcome::Sheds {
            seconds: retry_after(head),
        },
        _ => Outcome::Fail {
            class: FailureClass::Status,
            detail: format!("status {status}{}", named(failed)),
        },
    }
}

fn named(failed: &[String]) -> String {
    if failed.is_empty() {
        return String::new();
    }
    format!(", failed: {}", failed.join(", "))
}

fn mismatch(expect: &Expect, head: &Head, body: &[u8], json: Option<&Value>) -> Option<String> {
    for (name, pattern) in &expect.headers {
        let mut values = head.all(name.clone());
        if !values.any(|value| pattern.is_match(&String::from_utf8_lossy(value.as_bytes()))) {
            return Some(format!("header `{name}` does not match `{pattern}`"));
        }
    }
    if let Some(pattern) = &expect.body
        && !pattern.is_match(&String::from_utf8_lossy(body))
    {
        return Some(format!("the body does not match `{pattern}`"));
    }
    expect.json.iter().find_map(|(pointer, wanted)| match json {
        None => Some(format!("the body is not JSON, and `{pointer}` is expected in it")),
        Some(json) => match json.pointer(pointer) {
            Some(found) if found == wanted => None,
            Some(found) => Some(format!("`{pointer}` is {}, not {wanted}", brief(found))),
            None => Some(format!("`{pointer}` is missing from the body")),
        },
    })
}

fn brief(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

/// Reads `details`, a map of component to whether it is well, and `failed`, a list of those that are not.
fn components(json: &Value) -> BTreeMap<String, bool> {
    let details = json.get("details").and_then(Value::as_object).into_iter().flatten();
    let told = details.filter_map(|(name, value)| Some((name.clone(), value.as_bool()?)));
    let failed = json.get("failed").and_then(Value::as_array).into_iter().flatten();
    let failed = failed.filter_map(|name| Some((name.as_str()?.to_owned(), false)));
    told.chain(failed)
        .filter(|(name, _)| is_name(name))
        .take(MAX_COMPONENTS)
        .collect()
}

/// The components for which an answer fails. What `details` calls false and `failed` does not name is told and fails nothing: it is not critical.
fn failed(json: &Value, components: &BTreeMap<String, bool>) -> Vec<String> {
    let listed = json.get("failed").and_then(Value::as_array);
    let is_listed = |name: &str| listed.is_none_or(|listed| listed.iter().any(|one| one.as_str() == Some(name)));
    let failed = components.iter().filter(|(name, up)| !**up && is_listed(name));
    failed.map(|(name, _)| name.clone()).collect()
}

fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(spec: &ProbeSpec, status: u16, body: &str) -> Judgement {
        let version = (HeaderName::from_static("x-version"), "1.14.2".parse().unwrap());
        let head = Head {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: vec![version],
        };
        judge(spec, &head, Some(body.as_bytes()))
    }

    /// The outcome in a word: `pass`, a class, or `misconfigured`.
    fn word(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Misconfigured { .. } => "misconfigured",
            Outcome::Leaving { .. } => "leaving",
            Outcome::Sheds { .. } => "sheds",
            Outcome::Fail { class, .. } => class.as_str(),
            Outcome::Pass | Outcome::Absent { .. } | Outcome::Unknown { .. } => outcome.as_str(),
        }
    }

    #[test]
    fn an_answer_is_judged_by_status_first_and_body_then() {
        for (status, body, expected) in [
            (200, r#"{"status":"healthy"}"#, "pass"),
            (200, "ok", "pass"),
            (200, "", "pass"),
            (200, "\u{feff}{\"status\":\"unhealthy\"}", "pass"),
            (200, r#"{"status":"unhealthy","failed":["cache"]}"#, "body"),
            (503, r#"{"status":"unhealthy","failed":["database"]}"#, "status"),
            (503, r#"{"status":"healthy"}"#, "status"),
            (200, r#"{"status":"draining"}"#, "leaving"),
            (503, r#"{"status":"unhealthy","draining":true}"#, "leaving"),
            (200, r#"{"status":"healthy","draining":false}"#, "pass"),
            (500, "", "status"),
            (429, "", "sheds"),
            (404, "<html>", "misconfigured"),
            (302, "", "misconfigured"),
            (401, "", "misconfigured"),
        ] {
            assert_eq!(
                word(&judged(&ProbeSpec::default(), status, body).outcome),
                expected,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn failing_components_are_named() {
        let body =
            r#"{"status":"unhealthy","failed":["database"],"details":{"database":false,"cache":true,"note":"x"}}"#;
        let judgement = judged(&ProbeSpec::default(), 503, body);
        assert_eq!(
            judgement.components,
            [("cache".into(), true), ("database".into(), false)].into()
        );
        assert_eq!(judgement.version.as_deref(), Some("1.14.2"));
        let Outcome::Fail { detail, .. } = judgement.outcome else {
            panic!("a 503 fails");
        };
        assert_eq!(detail, "status 503, failed: database");
    }

    #[test]
    fn what_is_not_critical_is_told_and_blamed_for_nothing() {
        let body = r#"{"status":"unhealthy","failed":["database"],"details":{"database":false,"search":false}}"#;
        let judgement = judged(&ProbeSpec::default(), 503, body);
        assert_eq!(judgement.components.get("search"), Some(&false));
        assert_eq!(judgement.failed, ["database"]);
        let Outcome::Fail { detail, .. } = judgement.outcome else {
            panic!("a 503 fails");
        };
        assert_eq!(detail, "status 503, failed: database");
        let without = judged(
            &ProbeSpec::default(),
            503,
            r#"{"details":{"database":false,"cache":true}}"#,
        );
        assert_eq!(without.failed, ["database"], "no list says which are critical");
    }

    #[test]
    fn json_pointers_patterns_and_headers_are_all_expected() {
        let mut spec = ProbeSpec::default();
        spec.expect.json = [("/status".into(), Value::from("ok"))].into();
        spec.expect.body = Some(regex::Regex::new("pid").unwrap());
        spec.expect.headers = vec![("x-version".parse().unwrap(), regex::Regex::new("^1\\.").unwrap())];
        for (body, expected) in [
            (r#"{"pid":1,"status":"ok"}"#, "pass"),
            (r#"{"status":"ok"}"#, "body"),
            (r#"{"pid":1,"status":"starting"}"#, "body"),
            (r#"{"pid":1}"#, "body"),
            ("pid", "body"),
        ] {
            assert_eq!(word(&judged(&spec, 200, body).outcome), expected, "{body}");
        }
        spec.expect.headers[0].1 = regex::Regex::new("^2\\.").unwrap();
        assert_eq!(word(&judged(&spec, 200, r#"{"pid":1,"status":"ok"}"#).outcome), "body");
    }

    #[test]
    fn an_endpoint_says_for_how_long_it_wants_to_be_spared() {
        for (value, seconds) in [
            (None, 5),
            (Some("12"), 12),
            (Some("0"), 1),
            (Some("3600"), 30),
            (Some("Fri, 31 Dec"), 5),
        ] {
            let headers = value.map(|value| (RETRY_AFTER, value.parse().unwrap()));
            let head = Head {
                status: http::StatusCode::TOO_MANY_REQUESTS,
                headers: headers.into_iter().collect(),
            };
            let judgement = judge(&ProbeSpec::default(), &head, Some(b""));
            assert_eq!(judgement.outcome, Outcome::Sheds { seconds }, "{value:?}");
        }
    }

    #[test]
    fn a_body_over_the_limit_fails() {
        let head = Head {
            status: http::StatusCode::OK,
            headers: Vec::new(),
        };
        let judgement = judge(&ProbeSpec::default(), &head, None);
        assert_eq!(word(&judgement.outcome), "body");
    }

    #[test]
    fn component_names_that_could_not_be_labels_are_left_out() {
        let long = "x".repeat(41);
        let body = format!(r#"{{"failed":["data base","{long}","","ok-1",7]}}"#);
        assert_eq!(
            judged(&ProbeSpec::default(), 503, &body).components,
            [("ok-1".into(), false)].into()
        );
    }
}
