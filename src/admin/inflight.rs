//! `/api/v1/cutovers/{name}/inflight`: who is left in each pool. A pool may be stopped once nobody is.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use super::Admin;
use super::cutovers::unknown;
use crate::clock::Clock;
use crate::upstream::streams::Stream;

/// What each pool of a name still serves.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InFlightView {
    /// Requests under way in each pool, streams included.
    pub in_flight: BTreeMap<String, u32>,
    /// Event streams and WebSockets, the oldest first.
    pub streams: Vec<StreamView>,
}

/// A stream under way.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StreamView {
    /// Its upstream.
    pub upstream: String,
    /// Its pool.
    pub pool: String,
    /// Its endpoint.
    pub endpoint: String,
    /// `sse` or `websocket`.
    pub kind: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// For so long no byte has come, in milliseconds.
    pub silent_ms: u64,
    /// The client.
    pub client: Option<String>,
    /// The method of its request.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// Its request's id, as in the access log.
    pub request_id: String,
    /// The task that it tells of.
    pub task: Option<String>,
}

impl StreamView {
    fn of(stream: &Stream, clock: &Clock) -> Self {
        let about = &stream.about;
        Self {
            upstream: about.endpoint.upstream.to_string(),
            pool: about.endpoint.pool.to_string(),
            endpoint: about.endpoint.address.to_string(),
            kind: about.kind.as_str().to_owned(),
            since: clock.tell(about.since),
            silent_ms: u64::try_from(stream.silent_for().as_millis()).unwrap_or(u64::MAX),
            client: about.client.map(|client| client.to_string()),
            method: about.method.clone(),
            path: about.path.clone(),
            request_id: about.request_id.clone(),
            task: stream.task().map(str::to_owned),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    pool: Option<String>,
}

/// Who is left.
pub(super) async fn list(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(choice): Query<Choice>,
) -> Response {
    let Some(standing) = admin.cutovers.standings().borrow().get(&name).cloned() else {
        return unknown(&admin, &name);
    };
    let roster = admin.roster.borrow().clone();
    let moves = &standing.deployment.upstreams;
    let members = roster
        .upstreams
        .iter()
        .filter(|upstream| moves.contains(&upstream.settings.name));
    let mut streams: Vec<_> = members.flat_map(|upstream| upstream.flow.streams.list()).collect();
    let is_wanted = |pool: &str| choice.pool.as_ref().is_none_or(|wanted| wanted == pool);
    streams.retain(|stream| is_wanted(stream.about.endpoint.pool.as_str()));
    streams.sort_by_key(|stream| stream.about.since);
    let counts = standing.in_flight.iter().filter(|(pool, _)| is_wanted(pool.as_str()));
    let view = InFlightView {
        in_flight: counts.map(|(pool, count)| (pool.to_string(), *count)).collect(),
        streams: streams
            .iter()
            .map(|stream| StreamView::of(stream, &admin.clock))
            .collect(),
    };
    Json(view).into_response()
}
