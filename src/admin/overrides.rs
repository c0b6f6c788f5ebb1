//! `/api/v1/overrides`: the operator's word on endpoints. A dry run tells what it would do and does nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use super::view::OverrideView;
use super::{Admin, refusal, stopping};
use crate::config;
use crate::gate::names::EndpointId;
use crate::gate::overrides::{Picture, Wish};
use crate::mailbox::Word;

/// The longest reason that is kept, in characters.
const LONGEST_REASON: usize = 500;

/// What to put: `PUT /api/v1/overrides/{address}`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// `draining` or `maintenance`.
    pub state: String,
    /// Why, for the others who look.
    pub reason: String,
    /// When it ends by itself, such as `30m`; left out: when it is taken back.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
}

/// Which of the endpoints at an address are meant, and whether it is only asked what would happen.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    upstream: Option<String>,
    pool: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

impl Choice {
    fn word(&self, address: String, wish: Option<(Wish, String, Option<Duration>)>) -> Word {
        Word {
            address,
            upstream: self.upstream.clone(),
            pool: self.pool.clone(),
            wish,
            dry_run: self.dry_run,
        }
    }
}

/// What an override did, or would do.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Outcome {
    /// Whether it was only asked.
    pub dry_run: bool,
    /// Each endpoint at the address.
    pub endpoints: Vec<Effect>,
    /// What to think of.
    pub warnings: Vec<String>,
}

/// What an override does to one endpoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Effect {
    /// Its upstream.
    pub upstream: String,
    /// Its pool.
    pub pool: String,
    /// Where it listens.
    pub address: String,
    /// Its state afterwards.
    pub state: String,
    /// Endpoints of its pool that took traffic before.
    pub routable_before: usize,
    /// How many do so afterwards.
    pub routable_after: usize,
    /// Whether failing traffic alone could have held it back.
    pub traffic_may_eject: bool,
    /// Requests that it is still serving.
    pub in_flight: u32,
}

/// Every override that stands.
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    let Some(known) = admin.mailbox.known().await else {
        return stopping();
    };
    let all = known
        .iter()
        .filter_map(|one| OverrideView::of(&one.known, &admin.clock));
    Json(all.collect::<Vec<_>>()).into_response()
}

pub(super) async fn put(
    State(admin): State<Admin>,
    Path(address): Path<String>,
    Query(choice): Query<Choice>,
    body: Bytes,
) -> Response {
    let wish = match wish(&body) {
        Ok(wish) => wish,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, &message),
    };
    say(&admin, choice.word(address, Some(wish))).await
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    Path(address): Path<String>,
    Query(choice): Query<Choice>,
) -> Response {
    say(&admin, choice.word(address, None)).await
}

fn wish(body: &[u8]) -> Result<(Wish, String, Option<Duration>), String> {
    const FORM: &str = "send {\"state\": \"draining\" or \"maintenance\", \"reason\": \"...\", \"for\": \"30m\"}";
    let put: Put = serde_json::from_slice(body).map_err(|e| format!("{e}; {FORM}"))?;
    let wish = Wish::for_state(&put.state).ok_or_else(|| {
        format!(
            "`state` is \"{}\"; an operator can say \"draining\" or \"maintenance\"",
            put.state
        )
    })?;
    let reason = put.reason.trim();
    if reason.is_empty() || reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control) {
        return Err(format!(
            "`reason` is one line of 1 to {LONGEST_REASON} characters for the others who look"
        ));
    }
    let lasts = put.lasts.as_deref().map(config::duration).transpose();
    let lasts = lasts.map_err(|e| format!("`for`: {e}"))?;
    if lasts.is_some_and(|lasts| lasts.is_zero()) {
        return Err("`for` is no time at all; leave it out if it has no end".to_owned());
    }
    Ok((wish, reason.to_owned(), lasts))
}

async fn say(admin: &Admin, word: Word) -> Response {
    if !word.dry_run && admin.handing_over.load(Ordering::Relaxed) {
        // The process that takes over knows only what was said before.
        let message = "another process of the gate is taking over; say it again in a moment";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, message);
    }
    let (address, dry_run) = (word.address.clone(), word.dry_run);
    let Some(pictures) = admin.mailbox.say(word).await else {
        return stopping();
    };
    if pictures.is_empty() {
        return refusal(
            StatusCode::NOT_FOUND,
            &format!("no endpoint has the address {address} there; `difygate status` lists them"),
        );
    }
    let warnings = pictures.iter().filter_map(|(id, picture)| admin.warning(id, *picture));
    Json(Outcome {
        dry_run,
        warnings: warnings.collect(),
        endpoints: pictures
            .iter()
            .map(|(id, picture)| admin.effect(id, *picture))
            .collect(),
    })
    .into_response()
}

impl Admin {
    fn warning(&self, id: &EndpointId, picture: Picture) -> Option<String> {
        let upstreams = self.roster.borrow().upstreams.clone();
        let serving = upstreams.iter().map(|upstream| &upstream.settings);
        let active = serving
            .filter(|settings| settings.name == id.upstream)
            .any(|settings| settings.active == id.pool);
        let last = picture.routable_then == 0 && picture.routable_now > 0;
        (active && last).then(|| {
            format!(
                "nothing is left to serve upstream {}: {} was the last endpoint of pool {} that takes traffic",
                id.upstream, id.address, id.pool
            )
        })
    }

    fn effect(&self, id: &EndpointId, picture: Picture) -> Effect {
        let endpoints = self.roster.borrow().endpoints.clone();
        let endpoint = endpoints.iter().find(|endpoint| endpoint.id == *id);
        Effect {
            upstream: id.upstream.to_string(),
            pool: id.pool.to_string(),
            address: id.address.to_string(),
            state: picture.state.to_string(),
            routable_before: picture.routable_now,
            routable_after: picture.routable_then,
            traffic_may_eject: picture.traffic_may_eject,
            in_flight: endpoint.map_or(0, |endpoint| endpoint.in_flight.get()),
        }
    }
}
