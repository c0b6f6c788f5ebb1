//! The routes of an instance: what nginx would send to `api` and, for everything else, a page of `web`.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONNECTION, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::body::{Body, Cut, failure, file, object, page, received, whole};
use super::connection::Connection;
use super::instance::App;
use super::journal::{Deed, EXCHANGE, exchange_of};
use super::run::Kind;
use super::switches::Traffic;
use super::{console, probe, stream, websocket};

/// Dify's limit for documents; its api checks it when the whole body has arrived.
const UPLOAD_LIMIT: u64 = 15 * 1024 * 1024;
/// How long a failed query takes on an instance without its database.
const DATABASE_ERROR_AFTER: Duration = Duration::from_millis(20);

/// Answers one request, whatever it is. An error closes the connection.
pub(crate) async fn answer(connection: Arc<Connection>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let app = connection.app.clone();
    let path = request.uri().path().to_owned();
    let exchange = exchange_of(request.headers());
    app.cluster.journal().note(exchange, &app.name, Deed::Arrived);
    let limit = app.board.read(|switches| switches.limit_concurrency);
    let is_full = usize::try_from(app.tally.counts().connections).is_ok_and(|connections| connections >= limit);
    if !is_full {
        app.tally.arrival(&path, probe::is_probe(&path));
    }
    let mut response = if is_full {
        probe::too_many()
    } else if probe::is_probe(&path) {
        probe::answer(&app, &path).await?
    } else {
        traffic(connection, request, &path).await?
    };
    if let Ok(name) = HeaderValue::from_str(&app.name) {
        response.headers_mut().insert("x-instance", name);
    }
    if let Some(exchange) = exchange {
        response.headers_mut().insert(EXCHANGE, exchange.into());
    }
    Ok(response)
}

/// Applies the switches for traffic, then the route.
async fn traffic(connection: Arc<Connection>, request: Request<Incoming>, path: &str) -> Result<Response<Body>, Cut> {
    let app = connection.app.clone();
    app.board.hold(|switches| switches.latency).await;
    let _ = app
        .board
        .watch()
        .wait_for(|switches| switches.traffic != Traffic::Hang)
        .await;
    match app.board.read(|switches| switches.traffic) {
        Traffic::Status(status) => return Ok(probe::plain_status(status)),
        Traffic::DatabaseDown if asks_database(path) => {
            tokio::time::sleep(DATABASE_ERROR_AFTER).await;
            let message = "Internal Server Error";
            return Ok(failure(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_server_error",
                message,
            ));
        }
        Traffic::Close => return Err(Cut),
        Traffic::Cut => return Ok(stream::cut_short(&connection)),
        Traffic::Normal | Traffic::DatabaseDown | Traffic::RedisDown(_) | Traffic::Hang => {}
    }
    if websocket::is_upgrade(&request) && (path == "/socket.io/" || app.board.read(|switches| switches.websocket)) {
        return Ok(websocket::answer(connection, request));
    }
    route(&connection, request, path).await
}

fn asks_database(path: &str) -> bool {
    let queries = ["/v1", "/api", "/console/api", "/files", "/mcp", "/triggers"];
    let harmless = [
        "/api/system-features",
        "/console/api/system-features",
        "/console/api/ping",
    ];
    queries.iter().any(|prefix| path.starts_with(prefix)) && !harmless.contains(&path)
}

/// What may be asked of the API, `/v1` for keys and `/api` for web apps alike.
async fn route(connection: &Connection, request: Request<Incoming>, path: &str) -> Result<Response<Body>, Cut> {
    let app = &*connection.app;
    let method = request.method().clone();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    Ok(match segments.as_slice() {
        ["v1" | "api", rest @ ..] => match (kind_of(rest), method) {
            (Some(kind), Method::POST) => start(connection, request, kind).await?,
            (_, method) => {
                stream::redis_answers(app).await;
                api(connection, request, &method, rest).await?
            }
        },
        ["triggers", "webhook", ..] => {
            execute(app, Kind::Workflow, &Value::Null, exchange_of(request.headers()));
            object(
                StatusCode::OK,
                &json!({"status": "success", "message": "Webhook processed successfully"}),
            )
        }
        ["console", "api", "ping"] => object(StatusCode::OK, &json!({"result": "pong"})),
        ["console", "api", "setup"] => object(StatusCode::OK, &json!({"step": "finished", "setup_at": null})),
        ["console", "api", "system-features"] => object(StatusCode::OK, &json!({"branding": {"enabled": false}})),
        ["console", "api", "login"] if method == Method::POST => console::login(app, request).await?,
        ["console", "api", "apps", rest @ ..] => console::apps(app, request, rest).await?,
        ["files", "size", size] => {
            let exchange = exchange_of(request.headers());
            size.parse().map_or_else(|_| not_found(), |size| file(size, exchange))
        }
        ["_next", "static", build, ..] => asset(app, build),
        ["console", "api", ..] | ["files" | "triggers" | "mcp", ..] => not_found(),
        _ => page(StatusCode::OK, "Dify"),
    })
}

/// A file of a release.
fn asset(app: &App, build: &str) -> Response<Body> {
    let has_it = app
        .board
        .read(|switches| switches.build.as_deref().is_none_or(|own| own == build));
    if has_it {
        whole(StatusCode::OK, "text/javascript", format!("// of {build}"))
    } else {
        page(StatusCode::NOT_FOUND, "404")
    }
}

fn kind_of(segments: &[&str]) -> Option<Kind> {
    match segments {
        ["chat-messages"] => Some(Kind::Chat),
        ["completion-messages"] => Some(Kind::Completion),
        ["workflows", "run"] | ["workflows", _, "run"] => Some(Kind::Workflow),
        _ => None,
    }
}

async fn api(
    connection: &Connection,
    request: Request<Incoming>,
    method: &Method,
    segments: &[&str],
) -> Result<Response<Body>, Cut> {
    let cluster = &connection.app.cluster;
    let reads = matches!(*method, Method::GET | Method::HEAD);
    Ok(match segments {
        ["chat-messages" | "completion-messages", task, "stop"] | ["workflows", "tasks", task, "stop"] if !reads => {
            if let Some(run) = cluster.find(task) {
                run.stop();
            }
            success()
        }
        ["workflow", id, "events"] if reads => show_again(connection, &request, id),
        ["workflows", "run", id] if reads => match cluster.find(id) {
            Some(run) => object(StatusCode::OK, &run.summary()),
            None => not_found(),
        },
        ["parameters"] if reads => object(StatusCode::OK, &parameters()),
        ["info"] if reads => object(
            StatusCode::OK,
            &json!({"name": "simulated", "mode": "advanced-chat", "tags": []}),
        ),
        ["system-features"] if reads => object(StatusCode::OK, &json!({"branding": {"enabled": false}})),
        ["messages" | "conversations"] if reads => {
            object(StatusCode::OK, &json!({"limit": 20, "has_more": false, "data": []}))
        }
        ["messages", _, "feedbacks"] if !reads => success(),
        ["conversations", id, "name"] if !reads => object(
            StatusCode::OK,
            &json!({"id": id, "name": "renamed", "inputs": {}, "status": "normal"}),
        ),
        ["files", "upload"] if *method == Method::POST => upload(connection, request).await?,
        _ => not_found(),
    })
}

/// Starts a run and answers in the mode that the request asks for.
async fn start(connection: &Connection, request: Request<Incoming>, kind: Kind) -> Result<Response<Body>, Cut> {
    let app = &*connection.app;
    let exchange = exchange_of(request.headers());
    let Some(body) = received(request).await? else {
        return Ok(failure(
            StatusCode::BAD_REQUEST,
            "invalid_param",
            "The body must be a JSON object.",
        ));
    };
    let streaming = body.get("response_mode").and_then(Value::as_str) == Some("streaming");
    if streaming
        && app
            .board
            .read(|switches| matches!(switches.traffic, Traffic::RedisDown(_)))
    {
        return Ok(stream::lone_ping(connection));
    }
    stream::redis_answers(app).await;
    let run = execute(app, kind, &body, exchange);
    Ok(if streaming {
        stream::show(connection, run, 0)
    } else {
        object(StatusCode::OK, &run.outcome().await)
    })
}

fn execute(app: &App, kind: Kind, request: &Value, exchange: Option<u64>) -> Arc<super::run::Run> {
    app.tally.add(|counts| counts.executed += 1);
    app.cluster.journal().note(exchange, &app.name, Deed::Executed([0; 20]));
    app.cluster.start(kind, request, app.board.watch())
}

/// Attaches to a run that some instance started: from its first event if the client asks for the snapshot,
/// else from this moment on, for what nobody heard is lost.
fn show_again(connection: &Connection, request: &Request<Incoming>, id: &str) -> Response<Body> {
    let Some(run) = connection.app.cluster.find(id) else {
        return not_found();
    };
    let asked = |pair: &str| pair == "include_state_snapshot=true";
    let snapshot = request.uri().query().is_some_and(|query| query.split('&').any(asked));
    let from = if snapshot { 0 } else { run.watch().borrow().events.len() };
    let mut response = stream::show(connection, run, from);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    response
}

/// Receives a whole body, counting, and only then says whether it was too large.
async fn upload(connection: &Connection, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let exchange = exchange_of(request.headers());
    let mut body = request.into_body();
    let (mut size, mut hash) = (0, sha1_smol::Sha1::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Cut)?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        let length = data.len() as u64;
        hash.update(data);
        size += length;
        connection.app.tally.add(|counts| counts.uploaded_bytes += length);
    }
    if size > UPLOAD_LIMIT {
        return Ok(failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            "file_too_large",
            "File size exceeded.",
        ));
    }
    let deed = Deed::Executed(hash.digest().bytes());
    connection
        .app
        .cluster
        .journal()
        .note(exchange, &connection.app.name, deed);
    let id = format!("00000006-0000-4000-8000-{size:012x}");
    let content = json!({"id": id, "name": "upload.txt", "size": size, "extension": "txt", "mime_type": "text/plain"});
    Ok(object(StatusCode::CREATED, &content))
}

fn parameters() -> Value {
    json!({
        "opening_statement": "", "suggested_questions": [], "user_input_form": [],
        "file_upload": {"enabled": true}, "system_parameters": {"file_size_limit": 15},
    })
}

fn success() -> Response<Body> {
    object(StatusCode::OK, &json!({"result": "success"}))
}

pub(crate) fn not_found() -> Response<Body> {
    failure(
        StatusCode::NOT_FOUND,
        "not_found",
        "The requested URL was not found on this instance.",
    )
}
