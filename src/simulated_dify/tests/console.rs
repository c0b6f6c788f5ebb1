//! The console: who may do what, and that instances of a cluster know the same apps.

use serde_json::json;

use super::{ask, content, post, status};
use crate::simulated_dify::{ADMIN_KEY, Cluster, EMAIL, PASSWORD, SimulatedDify, WORKSPACE};

/// A request with these header lines.
fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: dify\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// The value of a cookie that an answer sets.
fn cookie(answer: &str, name: &str) -> String {
    let start = answer.split_once(&format!("set-cookie: {name}=")).unwrap().1;
    start.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_login_gives_cookies_and_only_the_right_password_does() {
    let dify = super::one().await;
    // The second is the password in base64, as newer consoles send it.
    for password in [PASSWORD, "cGFzcyAid29yZCIgJEhPTUUgXCAnbicgMQ=="] {
        let answer = ask(
            &dify,
            &post("/console/api/login", &json!({"email": EMAIL, "password": password})),
        )
        .await;
        assert_eq!(content(&answer)["result"], "success");
        assert_eq!(answer.matches("; HttpOnly").count(), 2, "{answer}");
        for name in ["access_token", "refresh_token", "csrf_token"] {
            assert!(!cookie(&answer, name).is_empty());
        }
    }
    let wrong = ask(
        &dify,
        &post("/console/api/login", &json!({"email": EMAIL, "password": "no"})),
    )
    .await;
    assert_eq!(
        (status(&wrong), &content(&wrong)["code"]),
        (401, &"authentication_failed".into())
    );
    assert_eq!(
        status(&ask(&dify, &post("/console/api/login", &json!({"email": EMAIL}))).await),
        400
    );
}

#[tokio::test]
async fn an_app_is_created_once_for_all_instances_by_who_is_logged_in() {
    let cluster = Cluster::new();
    let one = SimulatedDify::start(&cluster, "dify-1").await.unwrap();
    let two = SimulatedDify::start(&cluster, "dify-2").await.unwrap();
    let login = ask(
        &one,
        &post("/console/api/login", &json!({"email": EMAIL, "password": PASSWORD})),
    )
    .await;
    let (access, csrf) = (cookie(&login, "access_token"), cookie(&login, "csrf_token"));
    let body = json!({"name": "check 1", "mode": "chat"}).to_string();
    let cookies = format!("Cookie: access_token={access}; csrf_token={csrf}\r\n");
    let bearer = format!("Authorization: Bearer {access}\r\nCookie: csrf_token={csrf}\r\n");
    let header = format!("X-CSRF-Token: {csrf}\r\n");
    for (headers, message) in [
        (header.clone(), "Invalid Authorization token."),
        (cookies.clone(), "CSRF token is missing or invalid."),
    ] {
        let refused = ask(&one, &request("POST", "/console/api/apps", &headers, &body)).await;
        assert_eq!(
            (status(&refused), &content(&refused)["message"]),
            (401, &message.into())
        );
    }
    let made = ask(&one, &request("POST", "/console/api/apps", &(cookies + &header), &body)).await;
    assert_eq!(status(&made), 201);
    let id = content(&made)["id"].as_str().unwrap().to_owned();
    let headers = bearer + &header;
    let listed = ask(
        &two,
        &request("GET", "/console/api/apps?page=1&name=check%201", &headers, ""),
    )
    .await;
    assert_eq!(
        (content(&listed)["total"].as_u64(), &content(&listed)["data"][0]["id"]),
        (Some(1), &id.as_str().into())
    );
    assert_eq!(cluster.apps()[0].instance, "dify-1");
    let path = format!("/console/api/apps/{id}");
    assert_eq!(status(&ask(&two, &request("DELETE", &path, &headers, "")).await), 204);
    assert_eq!(status(&ask(&one, &request("DELETE", &path, &headers, "")).await), 404);
    let key = format!("Authorization: Bearer {ADMIN_KEY}\r\nX-WORKSPACE-ID: {WORKSPACE}\r\n");
    assert_eq!(
        status(&ask(&two, &request("GET", "/console/api/apps", &key, "")).await),
        200
    );
    two.set(|switches| switches.secret_key = "other".to_owned());
    assert_eq!(
        status(&ask(&two, &request("GET", "/console/api/apps", &headers, "")).await),
        401
    );
}
