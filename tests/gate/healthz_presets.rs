//! What is known of the services around Dify: what each preset asks, with which key, and what it takes for well; and what Dify's own environment
//! comes to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use difygate::config;
use difygate::config::healthz::{self, FromEnvironment};
use difygate::healthz::Service;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::soon;
use crate::wire::ask;

/// A server that gives every request this answer, and tells what came.
async fn service(answer: &'static str, body: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (mut stream, mut head) = (BufReader::new(stream), String::new());
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {}
            tell.send(head).unwrap();
            let length = body.len();
            let text = format!("HTTP/1.1 {answer}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    });
    (address, told)
}

/// Whether a check with these keys passes before a server that answers so, and the request that it sent.
async fn asked(keys: &str, answer: &'static str, body: &'static str) -> (bool, String) {
    let (address, mut told) = service(answer, body).await;
    let keys = keys.replace("URL", &format!("http://{address}"));
    let text = format!("listen: \"127.0.0.1:9901\"\nchecks:\n  it: {{http: {{{keys}}}}}\n");
    let read = healthz::parse(&text, Path::new("healthz.yaml"), &config::unset);
    let mut settings = read.unwrap_or_else(|e| panic!("{e}"));
    settings.listen.set_port(0);
    let service = Service::bind(settings).await.unwrap();
    let at = service.address().unwrap();
    let served = tokio::spawn(service.serve(std::future::pending()));
    let answer = ask(at, "GET /healthz").await;
    served.abort();
    assert!(!answer.text().contains("hush"), "{}", answer.text());
    (
        answer.status == 200,
        soon("a request", told.recv()).await.unwrap().to_lowercase(),
    )
}

const OK: &str = "200 OK";
const FAULT: &str = "503 Service Unavailable";
const STATUS: &str = r#"{"status": "ok"}"#;
const MODELS: &str = r#"{"object": "list", "data": []}"#;

/// The keys, what is asked, a header of it, a good answer and a bad one.
type Case = (&'static str, &'static str, &'static str, Said, Said);

/// A status and a body.
type Said = (&'static str, &'static str);

const CASES: &[Case] = &[
    (
        "preset: dify-api, url: URL",
        "/health",
        "",
        (OK, STATUS),
        (OK, r#"{"status": "starting"}"#),
    ),
    (
        "preset: plugin-daemon, url: URL",
        "/health/check",
        "",
        (OK, STATUS),
        (FAULT, STATUS),
    ),
    (
        "preset: dify-web, url: URL",
        "/apps",
        "accept-language: en",
        ("307 Temporary Redirect", ""),
        (FAULT, ""),
    ),
    (
        "preset: sandbox, url: URL",
        "/health",
        "",
        (OK, r#""ok""#),
        (OK, r#""busy""#),
    ),
    (
        "preset: weaviate, url: URL, api_key: hush",
        "/v1/.well-known/ready",
        "authorization: bearer hush",
        (OK, ""),
        (FAULT, ""),
    ),
    (
        "preset: qdrant, url: URL/, api_key: hush",
        "/readyz",
        "api-key: hush",
        (OK, "all shards are ready"),
        (FAULT, ""),
    ),
    (
        "preset: milvus, url: URL",
        "/healthz",
        "",
        (OK, "OK"),
        ("500 Internal Server Error", ""),
    ),
    (
        "preset: pinecone, url: URL, api_key: hush",
        "/indexes",
        "api-key: hush",
        (OK, "{}"),
        ("401 Unauthorized", ""),
    ),
    (
        "preset: openai, url: URL, api_key: hush",
        "/v1/models",
        "authorization: bearer hush",
        (OK, MODELS),
        (OK, "{}"),
    ),
    (
        "preset: openai, url: URL/compatible-mode/v1",
        "/compatible-mode/v1/models",
        "",
        (OK, MODELS),
        (FAULT, ""),
    ),
    (
        "preset: openai, url: URL, path: /v2/models, method: HEAD, expect: {status: 204}",
        "/v2/models",
        "",
        ("204 No Content", ""),
        (OK, MODELS),
    ),
    (
        "preset: dify-web, url: URL, headers: {Accept-Language: de}",
        "/apps",
        "accept-language: de",
        (OK, ""),
        (FAULT, ""),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_preset_asks_its_service_and_knows_a_good_answer_from_a_bad_one() {
    for (keys, path, header, good, bad) in CASES {
        let (passes, head) = asked(keys, good.0, good.1).await;
        assert!(passes, "{keys}: {head}");
        assert!(head.contains(&format!(" {path} http/1.1\r\n")), "{keys}: {head}");
        assert!(head.contains(header), "{keys}: {head}");
        assert_eq!(
            head.matches("accept-language").count(),
            usize::from(keys.contains("dify-web")),
            "{head}"
        );
        assert!(!asked(keys, bad.0, bad.1).await.0, "{keys}: {bad:?}");
    }
}

/// What an environment comes to, read as a configuration.
fn of(environment: &[(&str, &str)]) -> Result<FromEnvironment, String> {
    let known: BTreeMap<&str, &str> = environment.iter().copied().collect();
    let found =
        healthz::of_environment(&|name| known.get(name).map(|value| (*value).to_owned())).map_err(|e| e.to_string())?;
    let look = |name: &str| {
        known
            .get(name)
            .map(|value| (*value).to_owned())
            .ok_or(format!("{name} is unset"))
    };
    healthz::parse(&found.text, Path::new("environment"), &look).unwrap_or_else(|e| panic!("{e}\n{}", found.text));
    for (name, value) in environment
        .iter()
        .filter(|(name, _)| name.contains("PASSWORD") || name.contains("KEY"))
    {
        assert!(!found.text.contains(value), "{name}: {}", found.text);
    }
    Ok(found)
}

const POSTGRES: [(&str, &str); 3] = [("DB_HOST", "db"), ("DB_PORT", "5433"), ("DB_PASSWORD", "hush-hush")];

const WHOLE: &str = r#"checks:
  database:
    mysql:
      host: "${DB_HOST}"
      port: 3306
      user: root
      password: "${DB_PASSWORD}"
      database: dify
      tls: {ca: "/tls/ca.pem"}
  cache:
    redis:
      host: "${REDIS_HOST}"
      port: 6379
      password: "${REDIS_PASSWORD}"
      database: 0
      tls: {ca: "${REDIS_SSL_CA_CERTS}"}
  vector_store:
    http:
      preset: qdrant
      url: "${QDRANT_URL}"
      api_key: "${QDRANT_API_KEY}"
    critical: false
  plugin_daemon:
    http:
      preset: plugin-daemon
      url: "${PLUGIN_DAEMON_URL}"
    critical: false
  sandbox:
    http:
      preset: sandbox
      url: "${CODE_EXECUTION_ENDPOINT}"
    critical: false
  local_sandbox:
    http:
      preset: local-sandbox
      url: "${DIFY_AGENT_LOCAL_SANDBOX_ENDPOINT}"
    critical: false
  agent_backend:
    tcp: "agent_backend:5050"
    critical: false
  process:
    http:
      preset: dify-api
      url: "http://127.0.0.1:5001"
    timeout: 500ms
    critical: false
live:
  http:
    preset: dify-api
    url: "http://127.0.0.1:5001"
  timeout: 3s
"#;

#[test]
fn everything_that_difys_environment_names_is_asked() {
    let whole = of(&[
        ("DB_TYPE", "mysql"),
        ("DB_HOST", "db_mysql"),
        ("DB_PASSWORD", "hush-hush"),
        ("DB_EXTRAS", "charset=utf8mb4&ssl_ca=%2Ftls%2Fca.pem"),
        ("REDIS_HOST", "redis"),
        ("REDIS_PASSWORD", "hush-hush"),
        ("REDIS_USE_SSL", "True"),
        ("REDIS_SSL_CA_CERTS", "/tls/redis.pem"),
        ("VECTOR_STORE", "qdrant"),
        ("QDRANT_URL", "http://qdrant:6333"),
        ("QDRANT_API_KEY", "hush-hush"),
        ("PLUGIN_DAEMON_URL", "http://plugin_daemon:5002"),
        ("CODE_EXECUTION_ENDPOINT", "http://sandbox:8194"),
        ("DIFY_AGENT_LOCAL_SANDBOX_ENDPOINT", "http://local_sandbox:5004"),
        ("AGENT_BACKEND_BASE_URL", "http://agent_backend:5050"),
    ]);
    assert_eq!(whole.unwrap().text, WHOLE);
    let sentinels = of(&[
        ("REDIS_USE_SENTINEL", "true"),
        ("REDIS_SENTINELS", "s1:26379, s2:26379"),
        ("REDIS_SENTINEL_SERVICE_NAME", "mymaster"),
        ("REDIS_SENTINEL_PASSWORD", "hush-hush"),
        ("REDIS_PASSWORD", "hush-hush"),
    ]);
    let text = sentinels.unwrap().text;
    assert!(text.contains(r#"addresses: ["s1:26379", "s2:26379"]"#), "{text}");
    assert!(text.contains(r#"password: "${REDIS_SENTINEL_PASSWORD}""#), "{text}");
}

#[test]
fn every_vector_store_is_asked_or_told() {
    let with = |more: &[(&'static str, &'static str)]| of(&[&POSTGRES, more].concat()).unwrap();
    for (more, expected) in [
        (
            &[
                ("VECTOR_STORE", "weaviate"),
                ("WEAVIATE_ENDPOINT", "http://weaviate:8080"),
            ][..],
            "preset: weaviate",
        ),
        (
            &[("VECTOR_STORE", "milvus"), ("MILVUS_URI", "http://milvus:19530")],
            "url: \"http://milvus:9091\"",
        ),
        (
            &[
                ("VECTOR_STORE", "milvus"),
                ("MILVUS_URI", "https://in01.zilliz.example:19530"),
            ],
            "tcp: \"in01.zilliz.example:19530\"",
        ),
        (
            &[
                ("VECTOR_STORE", "pgvector"),
                ("PGVECTOR_HOST", "pgvector"),
                ("PGVECTOR_PASSWORD", "hush-hush"),
            ],
            "host: \"${PGVECTOR_HOST}\"",
        ),
        (&[("DB_EXTRAS", "keepalives=1&sslmode=require")], "tls: true"),
    ] {
        let found = with(more);
        assert!(found.text.contains(expected) && found.unasked.is_empty(), "{found:?}");
    }
    for (more, expected) in [
        (&[("VECTOR_STORE", "chroma")][..], "VECTOR_STORE is `chroma`"),
        (&[("VECTOR_STORE", "qdrant")], "VECTOR_STORE is `qdrant`"),
        (&[("MODE", "worker")], "MODE is `worker`"),
    ] {
        let found = with(more);
        assert!(
            found.unasked[0].contains(expected) && !found.text.contains("vector_store"),
            "{found:?}"
        );
        assert_eq!(found.text.contains("live:"), !expected.contains("MODE"), "{found:?}");
    }
    for (extras, expected) in [
        ("sslmode=prefer", true),
        ("keepalives=1", true),
        ("", true),
        ("sslmode=disable", false),
    ] {
        let text = with(&[("DB_EXTRAS", extras)]).text;
        assert_eq!(text.contains("tls: prefer"), expected, "{extras}: {text}");
    }
}

#[test]
fn what_cannot_be_asked_is_an_error_that_says_so() {
    for (environment, expected) in [
        (&[][..], "neither DB_HOST nor REDIS_HOST is set"),
        (&[("DB_HOST", "db"), ("DB_TYPE", "oracle")], "DB_TYPE is `oracle`"),
        (
            &[("REDIS_HOST", "redis"), ("REDIS_USE_CLUSTERS", "true")],
            "a cluster cannot be asked",
        ),
        (
            &[("DB_HOST", "db"), ("REDIS_USE_SENTINEL", "1")],
            "REDIS_SENTINELS or REDIS_SENTINEL_SERVICE_NAME is not",
        ),
    ] {
        let error = of(environment).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
