//! What is answered, by what the checks found. The shape is the contract of Dify's image, to which gates, Prometheus and people hold.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::Check;
use super::check::Finding;

/// An answer, written out once for everybody who asks within its time.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) healthy: bool,
    /// For everybody.
    pub(super) public: Bytes,
    /// With the reasons.
    pub(super) internal: Bytes,
}

impl Answer {
    /// The answer to what was found of each check, in their order.
    pub(super) fn of<'a>(found: impl IntoIterator<Item = (&'a Check, &'a Finding)>, draining: bool) -> Self {
        let found: Vec<_> = found.into_iter().collect();
        let failing = || found.iter().filter(|(_, finding)| finding.failure.is_some());
        let critical: Vec<&str> = failing()
            .filter(|(check, _)| check.critical)
            .map(|(check, _)| check.name.as_str())
            .collect();
        let healthy = critical.is_empty() && !draining;
        let details: Map<String, Value> = found
            .iter()
            .map(|(check, finding)| (check.name.clone(), finding.failure.is_none().into()))
            .collect();
        let reasons: Map<String, Value> = failing()
            .filter_map(|(check, finding)| Some((check.name.clone(), finding.failure.clone()?.into())))
            .collect();
        let mut body = Map::new();
        let status = match (draining, healthy) {
            (true, _) => "draining",
            (false, true) => "healthy",
            (false, false) => "unhealthy",
        };
        body.insert("status".to_owned(), status.into());
        if !healthy {
            body.insert("failed".to_owned(), json!(critical));
        }
        body.insert("details".to_owned(), details.into());
        let public = Value::from(body.clone()).to_string().into();
        if !reasons.is_empty() {
            body.insert("reasons".to_owned(), reasons.into());
        }
        Self {
            healthy,
            public,
            internal: Value::from(body).to_string().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::healthz::Kind;

    fn check(name: &str, critical: bool) -> Check {
        Check {
            name: name.to_owned(),
            kind: Kind::Exec(Vec::new()),
            critical,
            timeout: Duration::from_secs(1),
            slow: None,
            interval: Duration::ZERO,
        }
    }

    fn answer(failing: &[&str], draining: bool) -> (bool, String, String) {
        let checks = [check("database", true), check("cache", true), check("search", false)];
        let found = checks.each_ref().map(|check| Finding {
            failure: failing.contains(&check.name.as_str()).then(|| "refused".to_owned()),
            took: Duration::ZERO,
        });
        let answer = Answer::of(checks.iter().zip(&found), draining);
        let text = |body: &Bytes| String::from_utf8(body.to_vec()).unwrap();
        (answer.healthy, text(&answer.public), text(&answer.internal))
    }

    #[test]
    fn the_contract_is_held_to_the_letter() {
        let whole = r#"{"status":"healthy","details":{"database":true,"cache":true,"search":true}}"#;
        assert_eq!(answer(&[], false), (true, whole.to_owned(), whole.to_owned()));
        let (healthy, public, internal) = answer(&["database"], false);
        assert!(!healthy);
        assert_eq!(
            public,
            r#"{"status":"unhealthy","failed":["database"],"details":{"database":false,"cache":true,"search":true}}"#
        );
        assert_eq!(
            internal,
            r#"{"status":"unhealthy","failed":["database"],"details":{"database":false,"cache":true,"search":true},"reasons":{"database":"refused"}}"#
        );
    }

    #[test]
    fn what_is_not_critical_is_told_and_fails_nothing() {
        let (healthy, public, internal) = answer(&["search"], false);
        assert!(healthy);
        assert_eq!(
            public,
            r#"{"status":"healthy","details":{"database":true,"cache":true,"search":false}}"#
        );
        assert!(internal.ends_with(r#""reasons":{"search":"refused"}}"#), "{internal}");
    }

    #[test]
    fn who_is_about_to_stop_says_so() {
        let (healthy, public, _) = answer(&[], true);
        assert!(!healthy);
        assert!(public.starts_with(r#"{"status":"draining","failed":[],"#), "{public}");
    }
}
