//! Configurations over the API: checked, held against the one in force, loaded.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use super::{Admin, refusal, stopping};
use crate::reload::{Loaded, Wanted};

/// Whether a configuration is valid, by the environment of the gate.
pub(super) async fn check(admin: State<Admin>, text: String) -> Response {
    answer(ask(admin, Wanted::Diff(text)).await, |_| json!({"valid": true}))
}

/// What a configuration would change.
pub(super) async fn diff(admin: State<Admin>, text: String) -> Response {
    answer(ask(admin, Wanted::Diff(text)).await, |loaded| json!(loaded))
}

/// Loads the file again.
pub(super) async fn reload(admin: State<Admin>) -> Response {
    answer(ask(admin, Wanted::Reload).await, |loaded| json!(loaded))
}

async fn ask(State(admin): State<Admin>, wanted: Wanted) -> Option<Result<Loaded, String>> {
    admin.loader.ask(wanted).await
}

fn answer(loaded: Option<Result<Loaded, String>>, tell: impl Fn(&Loaded) -> serde_json::Value) -> Response {
    match loaded {
        None => stopping(),
        Some(Ok(loaded)) => Json(tell(&loaded)).into_response(),
        Some(Err(why)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &why),
    }
}
