//! `/api/v1/cutovers`: moving users from one pool to another. A verb is answered once its step is kept and requests are directed; how it goes on is
//! seen by asking again.
//!
//! `If-Match` with the epoch lets a verb count only for what its sender has seen, `Idempotency-Key` lets it be repeated, `?dry_run=true` tells what it
//! would do and does nothing.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::terms::{self, LONGEST};
use super::{Admin, refusal, stopping};
use crate::clock::Clock;
use crate::cutover::document::{GateDoc, RecordDoc};
use crate::cutover::{Alert, Done, Order, Standing, Unmoved, Wanted};
use crate::gate::cutover::RefusalKind;
use crate::gate::names::PoolName;

/// Where one name stands: `GET /api/v1/cutovers/{name}`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CutoverView {
    /// The deployment, or the upstream that moves alone.
    pub name: String,
    /// What moves.
    pub upstreams: Vec<String>,
    /// Where its cutover stands.
    pub phase: String,
    /// Each pool's share of new requests, in percent.
    pub weights: BTreeMap<String, u32>,
    /// Requests that each pool serves, streams included.
    pub in_flight: BTreeMap<String, u32>,
    /// What must hold before anything moves, as it was last seen.
    pub gates: Vec<GateDoc>,
    /// Reasons to go back, as they were last seen.
    pub triggers: Vec<GateDoc>,
    /// Why steps cannot be taken, while they cannot.
    pub trouble: Option<String>,
    /// What is kept.
    #[serde(flatten)]
    pub record: RecordDoc,
}

impl CutoverView {
    /// A standing in writing.
    pub fn of(standing: &Standing, pools: &[PoolName], clock: &Clock) -> Self {
        let direction = standing.record.direction(&standing.deployment.name);
        let in_flight = standing
            .in_flight
            .iter()
            .map(|(pool, count)| (pool.to_string(), *count));
        let upstreams = &standing.deployment.upstreams;
        let mut record = RecordDoc::of(&standing.record, clock);
        // Keys are for those who sent them.
        record.done.clear();
        Self {
            name: standing.deployment.name.clone(),
            upstreams: upstreams.iter().map(ToString::to_string).collect(),
            phase: standing.record.phase().to_string(),
            weights: pools
                .iter()
                .map(|pool| (pool.to_string(), direction.weight(pool)))
                .collect(),
            in_flight: in_flight.collect(),
            gates: standing.seen.gates.iter().map(GateDoc::from).collect(),
            triggers: standing.seen.triggers.iter().map(GateDoc::from).collect(),
            trouble: standing.trouble.clone(),
            record,
        }
    }
}

/// What a verb came to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OrderView {
    /// Whether it was only asked.
    pub dry_run: bool,
    /// Whether there was anything to do.
    pub changed: bool,
    /// Whether it was carried out before, under the same key.
    pub repeated: bool,
    /// The epoch that it led to then; of a start the number of its cutover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    /// Where the name stands now, or would stand.
    #[serde(flatten)]
    pub cutover: CutoverView,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manner {
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Most {
    limit: Option<usize>,
}

/// Where everything stands.
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    let standings = admin.cutovers.standings().borrow().clone();
    let views: Vec<CutoverView> = standings.values().map(|standing| admin.cutover(standing)).collect();
    Json(views).into_response()
}

/// Where one name stands.
pub(super) async fn one(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    let standing = admin.cutovers.standings().borrow().get(&name).cloned();
    match standing {
        Some(standing) => tagged(StatusCode::OK, &standing, Json(admin.cutover(&standing))),
        None => unknown(&admin, &name),
    }
}

/// What is answered where nothing has this name.
pub(super) fn unknown(admin: &Admin, name: &str) -> Response {
    let names: Vec<String> = admin.cutovers.standings().borrow().keys().cloned().collect();
    let message = format!("nothing is called `{name}` here; there are: {}", names.join(", "));
    refusal(StatusCode::NOT_FOUND, &message)
}

/// A verb.
pub(super) async fn order(
    State(admin): State<Admin>,
    Path(target): Path<String>,
    Query(manner): Query<Manner>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (name, verb) = target.rsplit_once(':').unwrap_or((&target, "start"));
    let order = match terms::read(name, verb, manner.dry_run, &headers, &body) {
        Ok(order) => order,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, &message),
    };
    let dry_run = order.dry_run;
    match admin.cutovers.order(order).await {
        Ok(Done {
            standing,
            repeated,
            changed,
        }) => {
            let view = OrderView {
                dry_run,
                changed,
                repeated: repeated.is_some(),
                repeats: repeated,
                cutover: admin.cutover(&standing),
            };
            tagged(StatusCode::OK, &standing, Json(view))
        }
        Err(unmoved) => admin.refuse(unmoved),
    }
}

/// What Alertmanager posts, as much of it as matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Alerts {
    #[serde(default)]
    alerts: Vec<Posted>,
}

#[derive(Debug, Deserialize)]
struct Posted {
    #[serde(default)]
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    fingerprint: String,
}

impl Posted {
    /// What is said, shortened to what is worth keeping.
    fn alert(&self) -> Alert {
        let named = self.labels.get("alertname");
        let name = named.map_or("an alert", String::as_str);
        let is_named = !self.fingerprint.is_empty() || named.is_some();
        let key = if self.fingerprint.is_empty() {
            self.labels
                .iter()
                .map(|(name, value)| format!("{name}={value} "))
                .collect()
        } else {
            self.fingerprint.clone()
        };
        let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
        Alert {
            key: is_named.then(|| short(&key)),
            name: short(name),
            firing: self.status == "firing",
        }
    }
}

/// Alerts name a deployment by their label `cutover`. While one fires, nothing moves there, and what has moved and is watched goes back.
pub(super) async fn alert(State(admin): State<Admin>, body: Bytes) -> Response {
    let alerts: Alerts = match serde_json::from_slice(&body) {
        Ok(alerts) => alerts,
        Err(e) => {
            let message = format!("{e}; this takes what Alertmanager's webhook_config sends");
            return refusal(StatusCode::BAD_REQUEST, &message);
        }
    };
    let (mut heeded, mut ignored) = (Vec::new(), Vec::new());
    for posted in alerts.alerts {
        if !["firing", "resolved"].contains(&posted.status.as_str()) {
            ignored.push("an alert that is neither firing nor resolved".to_owned());
            continue;
        }
        let Some(name) = posted.labels.get("cutover").cloned() else {
            ignored.push("an alert without the label `cutover`".to_owned());
            continue;
        };
        let order = Order {
            name: name.clone(),
            wanted: Wanted::Alert(posted.alert()),
            by: "alertmanager".to_owned(),
            reason: String::new(),
            if_epoch: None,
            key: None,
            asked: String::new(),
            dry_run: false,
        };
        match admin.cutovers.order(order).await {
            Ok(_) => heeded.push(name),
            Err(Unmoved::Unknown(message)) => ignored.push(message),
            // Alertmanager sends again what was not taken.
            Err(_) => return stopping(),
        }
    }
    Json(json!({"heeded": heeded, "ignored": ignored})).into_response()
}

/// The last entries of the audit trail.
pub(super) async fn audit(State(admin): State<Admin>, Query(most): Query<Most>) -> Response {
    let Some(log) = admin.audit.clone() else {
        return refusal(
            StatusCode::NOT_FOUND,
            "nothing is kept here: `server.state_dir` is off or cannot be used",
        );
    };
    let limit = most.limit.unwrap_or(100).clamp(1, 1_000);
    match tokio::task::spawn_blocking(move || log.tail(limit)).await {
        Ok(Ok(entries)) => Json(entries).into_response(),
        Ok(Err(e)) => refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("the audit trail cannot be read: {e}"),
        ),
        Err(_) => stopping(),
    }
}

fn tagged(status: StatusCode, standing: &Standing, body: impl IntoResponse) -> Response {
    let tag = format!("\"{}\"", standing.record.epoch);
    (status, [(header::ETAG, tag)], body).into_response()
}

impl Admin {
    fn cutover(&self, standing: &Standing) -> CutoverView {
        let roster = self.roster.borrow().clone();
        let first = standing.deployment.upstreams.first();
        let known = first.and_then(|name| roster.upstream(name));
        let pools: Option<Vec<PoolName>> =
            known.map(|known| known.settings.pools.iter().map(|pool| pool.name.clone()).collect());
        CutoverView::of(standing, &pools.unwrap_or_default(), &self.clock)
    }

    fn refuse(&self, unmoved: Unmoved) -> Response {
        let say = |status, kind: &str, message: String, standing: Option<&Standing>| {
            let current = standing.map(|standing| self.cutover(standing));
            let body = Json(json!({"error": message, "kind": kind, "current": current}));
            match standing {
                Some(standing) => tagged(status, standing, body),
                None => (status, body).into_response(),
            }
        };
        match unmoved {
            Unmoved::Unknown(message) => say(StatusCode::NOT_FOUND, "unknown", message, None),
            Unmoved::Refused(refused, standing) => {
                let (status, kind) = match refused.kind {
                    RefusalKind::Conflict => (StatusCode::CONFLICT, "conflict"),
                    RefusalKind::Gate => (StatusCode::CONFLICT, "gate"),
                    RefusalKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
                };
                say(status, kind, refused.message, Some(&standing))
            }
            Unmoved::Stale(standing) => {
                let message = format!(
                    "the epoch is {} by now: look again before you decide",
                    standing.record.epoch
                );
                say(StatusCode::PRECONDITION_FAILED, "stale", message, Some(&standing))
            }
            Unmoved::KeyReused => {
                let message = "this `Idempotency-Key` was used for something else".to_owned();
                say(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", message, None)
            }
            Unmoved::Unkept(why) => {
                let message = format!("the step cannot be kept, so nothing has moved: {why}");
                say(StatusCode::SERVICE_UNAVAILABLE, "unkept", message, None)
            }
            Unmoved::Busy => {
                let message = "too much is said of this at once; say it again in a moment".to_owned();
                say(StatusCode::SERVICE_UNAVAILABLE, "busy", message, None)
            }
            Unmoved::Stopping => {
                let message =
                    "the gate is stopping, or another process takes over; say it again in a moment".to_owned();
                say(StatusCode::SERVICE_UNAVAILABLE, "stopping", message, None)
            }
        }
    }
}
