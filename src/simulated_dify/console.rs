//! The console API as far as a release pipeline uses it: a login, and apps that are created, listed and deleted.
//! Accounts and apps are in the database, so every instance of a cluster knows them; tokens are signed and need no
//! memory, so an instance takes those of every other one with the same secret key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::{COOKIE, HeaderValue, SET_COOKIE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::api::not_found;
use super::body::{Body, Cut, failure, object, received, whole};
use super::instance::App;

/// Who may log in to the console.
pub const EMAIL: &str = "ops@dify.test";
/// The password for it. JSON and shells each have something to quote in it.
pub const PASSWORD: &str = r#"pass "word" $HOME \ 'n' 1"#;

/// What an installation with `ADMIN_API_KEY_ENABLE` takes instead of a login, together with [`WORKSPACE`].
pub const ADMIN_KEY: &str = "admin-api-key";
/// The workspace that it acts in, as `X-WORKSPACE-ID`.
pub const WORKSPACE: &str = "00000009-0000-4000-8000-000000000001";

/// How long the console's cookies live, in seconds.
const COOKIE_AGE: u32 = 3_600;
const MODES: [&str; 5] = ["chat", "agent-chat", "advanced-chat", "workflow", "completion"];

/// What the console keeps.
#[derive(Default)]
pub(crate) struct Console {
    created: u64,
    pub(crate) apps: Vec<ConsoleApp>,
}

/// An app that somebody created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleApp {
    /// Its id.
    pub id: String,
    /// What its creator called it.
    pub name: String,
    /// What kind of app it is.
    pub mode: String,
    /// The instance that was asked to create it.
    pub instance: String,
}

impl ConsoleApp {
    fn detail(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "description": "", "mode": self.mode, "icon_type": null, "icon": null,
            "enable_site": true, "enable_api": true, "model_config": {"id": "00000008-0000-4000-8000-000000000001"},
            "tags": [],
        })
    }
}

/// `POST /console/api/login`. Newer releases want the password in base64, older ones as it is.
pub(crate) async fn login(app: &App, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let Some(body) = received(request).await? else {
        return Ok(invalid("The body must be a JSON object."));
    };
    let field = |name: &str| body.get(name).and_then(Value::as_str);
    let (Some(email), Some(password)) = (field("email"), field("password")) else {
        return Ok(invalid("Field required"));
    };
    if email != EMAIL || (password != PASSWORD && password != STANDARD.encode(PASSWORD)) {
        return Ok(failure(
            StatusCode::UNAUTHORIZED,
            "authentication_failed",
            "Invalid email or password.",
        ));
    }
    let mut response = object(StatusCode::OK, &json!({"result": "success"}));
    for (kind, hidden) in [("access", "; HttpOnly"), ("refresh", "; HttpOnly"), ("csrf", "")] {
        let token = token(app, kind);
        let cookie = format!("{kind}_token={token}; Max-Age={COOKIE_AGE}; Path=/; SameSite=Lax{hidden}");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
    Ok(response)
}

/// `/console/api/apps` and what is below it.
pub(crate) async fn apps(app: &App, request: Request<Incoming>, rest: &[&str]) -> Result<Response<Body>, Cut> {
    if let Some(refused) = stranger(app, request.headers()) {
        return Ok(refused);
    }
    Ok(match (rest, request.method()) {
        ([], &Method::POST) => create(app, received(request).await?),
        ([], &Method::GET) => list(app, request.uri().query().unwrap_or_default()),
        ([id], &Method::DELETE) => delete(app, id),
        _ => not_found(),
    })
}

fn create(app: &App, body: Option<Value>) -> Response<Body> {
    let field = |name: &str| body.as_ref()?.get(name)?.as_str();
    let (Some(name), Some(mode)) = (field("name"), field("mode").filter(|mode| MODES.contains(mode))) else {
        return invalid("Field required");
    };
    let mut console = app.cluster.console();
    console.created += 1;
    let created = ConsoleApp {
        id: format!("00000007-0000-4000-8000-{:012x}", console.created),
        name: name.to_owned(),
        mode: mode.to_owned(),
        instance: app.name.clone(),
    };
    console.apps.push(created.clone());
    object(StatusCode::CREATED, &created.detail())
}

/// The newest first, and only those whose names have `name` in them.
fn list(app: &App, query: &str) -> Response<Body> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let wanted = pairs.find(|(key, _)| *key == "name");
    let wanted = wanted.map_or_else(String::new, |(_, value)| value.replace("%20", " ").replace('+', " "));
    let console = app.cluster.console();
    let found = console.apps.iter().rev().filter(|app| app.name.contains(&wanted));
    let data: Vec<Value> = found.map(ConsoleApp::detail).collect();
    object(
        StatusCode::OK,
        &json!({"page": 1, "limit": 100, "total": data.len(), "has_more": false, "data": data}),
    )
}

fn delete(app: &App, id: &str) -> Response<Body> {
    let mut console = app.cluster.console();
    let before = console.apps.len();
    console.apps.retain(|app| app.id != id);
    if console.apps.len() == before {
        return failure(StatusCode::NOT_FOUND, "app_not_found", "App not found.");
    }
    whole(StatusCode::NO_CONTENT, "application/json", "")
}

/// The refusal of whoever is not logged in, or cannot show that its request comes from the console's own page.
fn stranger(app: &App, headers: &HeaderMap) -> Option<Response<Body>> {
    let plain = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = plain("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if bearer == Some(ADMIN_KEY) && plain("x-workspace-id") == Some(WORKSPACE) {
        return None;
    }
    if cookie(headers, "access_token").or(bearer) != Some(&*token(app, "access")) {
        return Some(unauthorized("Invalid Authorization token."));
    }
    let sent = plain("x-csrf-token");
    let expected = token(app, "csrf");
    if sent != Some(&*expected) || cookie(headers, "csrf_token") != sent {
        return Some(unauthorized("CSRF token is missing or invalid."));
    }
    None
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines
        .flat_map(|line| line.split("; "))
        .filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn token(app: &App, kind: &str) -> String {
    app.board.read(|switches| format!("{kind}.{}", switches.secret_key))
}

fn unauthorized(message: &str) -> Response<Body> {
    failure(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

fn invalid(message: &str) -> Response<Body> {
    failure(StatusCode::BAD_REQUEST, "invalid_param", message)
}
