//! The terms of a cutover's verbs, as requests send them and commands write them.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config;
use crate::cutover::{Order, Wanted, Wishes};
use crate::gate::cutover::{Step, Verb};
use crate::gate::direction::Traffic;

/// The longest text of an operator that is kept, in characters.
pub(super) const LONGEST: usize = 500;

/// What a verb is sent with; each takes what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Why, for the others who look.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// start: the pool to move to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub to: String,
    /// start: the version that every endpoint must name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_version: Option<String>,
    /// start: whether it goes on by itself once it is ready.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
    /// start: whether one that is under way is given up for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub supersede: bool,
    /// start: `compatible` or `barrier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
    /// start: shares on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<StepTerms>>,
    /// start: the length of the bake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake: Option<String>,
    /// start: how long the old pool stays ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// start: how long it drains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
    /// start: whether what is left then is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<bool>,
    /// start: fewer samples judge nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_samples: Option<u64>,
    /// rollback: also where that may do harm.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// traffic: `run`, `pause` or `stop`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// traffic: what users read while it is stopped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A share on the way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StepTerms {
    /// Of a hundred new requests.
    pub percent: u32,
    /// How long at least, such as `60s`.
    pub hold: Option<String>,
}

/// The order that a request is.
///
/// # Errors
/// It is none; the message says what is wrong with it.
pub(super) fn read(name: &str, verb: &str, dry_run: bool, headers: &HeaderMap, body: &[u8]) -> Result<Order, String> {
    let body: Terms = if body.is_empty() {
        Terms::default()
    } else {
        serde_json::from_slice(body).map_err(|e| format!("{e}; send the verb's terms as JSON, see docs/cutover.md"))?
    };
    for (key, text) in [("reason", &body.reason), ("by", &body.by), ("message", &body.message)] {
        if text.chars().count() > LONGEST || text.chars().any(char::is_control) {
            return Err(format!("`{key}` is one line of at most {LONGEST} characters"));
        }
    }
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default().to_owned())
    };
    let key = text("idempotency-key");
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 200) {
        return Err("`Idempotency-Key` has 1 to 200 characters".to_owned());
    }
    let if_epoch = text(header::IF_MATCH.as_str()).filter(|tag| tag != "*");
    let if_epoch = if_epoch.map(|tag| {
        let epoch = tag.trim_matches('"').parse::<u64>();
        epoch.map_err(|_| format!("`If-Match` is {tag}; it is the epoch that was seen, such as \"5\""))
    });
    // Who says it again, and why, makes it nothing else.
    let terms = Terms {
        by: String::new(),
        reason: String::new(),
        ..body.clone()
    };
    let asked = json!({"verb": verb, "terms": terms}).to_string();
    let (reason, by) = (body.reason.clone(), body.by.clone());
    Ok(Order {
        name: name.to_owned(),
        wanted: wanted(verb, body)?,
        by: if by.is_empty() { "operator".to_owned() } else { by },
        reason,
        if_epoch: if_epoch.transpose()?,
        key,
        asked,
        dry_run,
    })
}

fn wanted(verb: &str, body: Terms) -> Result<Wanted, String> {
    Ok(Wanted::Verb(match verb {
        "start" => return Ok(Wanted::Start(Box::new(wishes(body)?))),
        "promote" => Verb::Promote,
        "pause" => Verb::Pause,
        "resume" => Verb::Resume,
        "abort" => Verb::Abort,
        "rollback" => Verb::Rollback { force: body.force },
        "traffic" => Verb::Traffic(match body.state.as_str() {
            "run" => Traffic::Run,
            "pause" => Traffic::Pause,
            "stop" => Traffic::Stop { message: body.message },
            other => return Err(format!("`state` is \"{other}\"; traffic is run, pause or stop")),
        }),
        other => {
            return Err(format!(
                "`{other}` is no verb; there are start, promote, pause, resume, abort, rollback and traffic"
            ));
        }
    }))
}

fn wishes(body: Terms) -> Result<Wishes, String> {
    let time = |key: &str, text: Option<String>| {
        let time = text.as_deref().map(config::duration).transpose();
        time.map_err(|e| format!("`{key}`: {e}"))
    };
    if body.to.is_empty() {
        return Err("`to` is missing: the pool to move to".to_owned());
    }
    if body
        .expect_version
        .as_ref()
        .is_some_and(|version| version.is_empty() || version.len() > 64)
    {
        return Err("`expect_version` has 1 to 64 characters".to_owned());
    }
    let barrier = match body.migration.as_deref() {
        None => None,
        Some("compatible") => Some(false),
        Some("barrier") => Some(true),
        Some(other) => return Err(format!("`migration` is \"{other}\"; it is compatible or barrier")),
    };
    let mut steps: Option<Vec<Step>> = None;
    for (index, step) in body.steps.into_iter().flatten().enumerate() {
        let steps = steps.get_or_insert_default();
        let grows = steps.last().is_none_or(|last| last.percent < step.percent);
        if !(1..=100).contains(&step.percent) || !grows {
            return Err(format!(
                "`steps[{index}].percent` is {}; shares grow from 1 to 100",
                step.percent
            ));
        }
        steps.push(Step {
            percent: step.percent,
            hold: time("steps", step.hold)?.unwrap_or(Duration::from_secs(60)),
        });
    }
    Ok(Wishes {
        to: body.to,
        expect_version: body.expect_version,
        auto: body.auto,
        supersede: body.supersede,
        barrier,
        steps,
        bake: time("bake", body.bake)?,
        hold: time("hold", body.hold)?,
        drain: time("drain", body.drain)?,
        cut: body.cut,
        min_samples: body.min_samples,
    })
}
