//! What `difygate healthz` runs on: a file of its own, read as carefully as the gate's, or Dify's own environment.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{ConfigError, ConfigErrors};
use super::parse::{Findings, cidrs, longer_than_zero, socket, time};
use super::raw::healthz as raw;
use super::scalars::Cidr;
use super::{Environment, finish, probes, read_as, read_file};
use crate::gate::health::ProbePlan;
use crate::gate::names::Address;
use crate::healthz::{Check, Kind, Needed, Settings};
use crate::probe::spec::ProbeSpec;
use crate::tls::{TlsFiles, TlsTerms};
use crate::url::HttpUrl;

/// Reads the file at `path`.
///
/// # Errors
/// The file cannot be read, or everything that is wrong with it.
pub fn load(path: &Path, environment: Environment<'_>) -> Result<Settings, ConfigErrors> {
    parse(&read_file(path)?, path, environment)
}

/// Reads `text`, which came from `path`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, path: &Path, environment: Environment<'_>) -> Result<Settings, ConfigErrors> {
    finish(path, |secrets, errors| {
        let (raw, _, marks) = read_as(text, environment, &schema(), secrets, errors)?;
        let findings = &mut Findings { marks: &marks, errors };
        Some(settings(raw, findings))
    })
}

/// The JSON Schema of the file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::Healthz).into()
}

/// Whether a text is meant for `difygate healthz` rather than for the gate: it names checks.
pub fn is_meant(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("checks:"))
}

fn settings(raw: raw::Healthz, findings: &mut Findings<'_>) -> Settings {
    let default = ["loopback", "private"].map(|preset| Cidr(preset.to_owned()));
    let internal = raw.internal.as_deref().unwrap_or(&default);
    if raw.checks.is_empty() {
        findings.error("checks", "is empty; name what the instance needs, such as its database");
    }
    let cache = time(raw.cache, Duration::from_secs(1));
    let checks = raw.checks.into_iter();
    let checks = checks.filter_map(|(name, raw)| check(&format!("checks.{name}"), name, raw, findings));
    Settings {
        checks: checks.collect(),
        live: raw.live.and_then(|raw| check("live", "live".to_owned(), raw, findings)),
        listen: raw
            .listen
            .as_ref()
            .map_or(SocketAddr::from(([0, 0, 0, 0], 9901)), socket),
        internal: cidrs("internal", internal, findings),
        cache,
        startup_grace: time(raw.startup_grace, Duration::from_secs(30)),
        drain: time(raw.drain, Duration::from_secs(15)),
    }
}

fn check(key: &str, name: String, raw: raw::Check, findings: &mut Findings<'_>) -> Option<Check> {
    let timeout = time(raw.timeout, Duration::from_millis(800));
    longer_than_zero(&format!("{key}.timeout"), timeout, findings);
    let slow = raw.slow.map(|slow| slow.0);
    if slow.is_some_and(|slow| slow >= timeout) {
        findings.error(
            &format!("{key}.slow"),
            format!("is never reached, for the timeout is {timeout:?}"),
        );
    }
    let at = |kind: &str| format!("{key}.{kind}");
    let mut kinds = Vec::new();
    kinds.extend(
        raw.postgres
            .map(|raw| Some(Kind::Postgres(Box::new(postgres(raw, timeout))))),
    );
    kinds.extend(raw.redis.map(|raw| redis(&at("redis"), raw, findings)));
    kinds.extend(raw.http.map(|raw| http(&at("http"), raw, timeout, findings)));
    kinds.extend(raw.tcp.map(|text| address(&at("tcp"), &text, findings).map(Kind::Tcp)));
    kinds.extend(raw.files.map(|raw| files(&at("files"), raw, findings)));
    kinds.extend(raw.exec.map(|words| exec(&at("exec"), words, findings)));
    if kinds.len() != 1 {
        findings.error(key, "names one of postgres, redis, http, tcp, files and exec");
    }
    Some(Check {
        kind: kinds.pop().flatten()?,
        name,
        critical: raw.critical.unwrap_or(true),
        timeout,
        slow,
    })
}

fn postgres(raw: raw::Postgres, timeout: Duration) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&raw.host)
        .port(raw.port.unwrap_or(5432))
        .user(&raw.user)
        .application_name("difygate healthz")
        .connect_timeout(timeout);
    if let Some(password) = &raw.password {
        config.password(password);
    }
    if let Some(database) = &raw.database {
        config.dbname(database);
    }
    config
}

fn redis(key: &str, raw: raw::Redis, findings: &mut Findings<'_>) -> Option<Kind> {
    let mut info = redis::RedisConnectionInfo::default().set_db(raw.database.unwrap_or(0).into());
    if let Some(user) = raw.user {
        info = info.set_username(user);
    }
    if let Some(password) = raw.password {
        info = info.set_password(password);
    }
    let to = redis::ConnectionAddr::Tcp(raw.host, raw.port.unwrap_or(6379));
    let to = redis::IntoConnectionInfo::into_connection_info(to);
    match to.and_then(|to| redis::Client::open(to.set_redis_settings(info))) {
        Ok(client) => Some(Kind::Redis {
            client: Box::new(client),
            write: raw.write.unwrap_or(false),
        }),
        Err(e) => {
            findings.error(key, e.to_string());
            None
        }
    }
}

fn http(key: &str, raw: raw::Http, timeout: Duration, findings: &mut Findings<'_>) -> Option<Kind> {
    let Some(url) = HttpUrl::parse(&raw.url) else {
        let wrong = format!("\"{}\" is no URL, such as http://127.0.0.1:5001/health", raw.url);
        findings.error(&format!("{key}.url"), wrong);
        return None;
    };
    let defaults = ProbeSpec::default();
    let spec = ProbeSpec {
        plan: Arc::new(ProbePlan {
            timeout,
            ..ProbePlan::default()
        }),
        path: url.target,
        method: raw
            .method
            .and_then(|method| super::scalars::method(&method.0).ok())
            .unwrap_or(defaults.method),
        tls: url.secure.then(|| TlsTerms {
            server_name: None,
            files: TlsFiles {
                ca: raw.ca.map(Into::into),
                identity: None,
            },
        }),
        headers: probes::headers(key, raw.headers.unwrap_or_default(), findings),
        expect: probes::expect(key, raw.expect.unwrap_or_default(), findings),
        host: None,
        port: None,
        reuse: false,
    };
    Some(Kind::Http {
        address: url.address,
        spec: Box::new(spec),
    })
}

fn address(key: &str, text: &str, findings: &mut Findings<'_>) -> Option<Address> {
    let parsed = Address::parse(text);
    parsed.map_err(|e| findings.error(key, e.to_string())).ok()
}

fn files(key: &str, raw: Vec<raw::File>, findings: &mut Findings<'_>) -> Option<Kind> {
    if raw.is_empty() {
        findings.error(key, "is empty; name a file");
    }
    let needed = raw.into_iter().map(|file| match file {
        raw::File::Path(path) => Needed {
            path: path.into(),
            min_size: 1,
        },
        raw::File::Terms(terms) => Needed {
            path: terms.path.into(),
            min_size: terms.min_size.map_or(1, |size| size.0),
        },
    });
    Some(Kind::Files(needed.collect()))
}

fn exec(key: &str, words: Vec<String>, findings: &mut Findings<'_>) -> Option<Kind> {
    let Some(program) = words.first().filter(|program| !program.is_empty()) else {
        findings.error(key, "is empty; name a program and its arguments");
        return None;
    };
    let found = if program.contains('/') {
        Path::new(program).is_file()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    if !found {
        findings.error(key, format!("there is no program `{program}`"));
    }
    Some(Kind::Exec(words))
}

/// The text of a configuration by Dify's own environment, as its compose file and image name the variables. What it asks beside the database and
/// Redis is the vector store, which fails nobody: most of Dify works without it.
///
/// # Errors
/// Neither a database nor Redis is named.
pub fn of_environment(environment: &dyn Fn(&str) -> Option<String>) -> Result<String, ConfigErrors> {
    let has = |name: &str| environment(name).is_some_and(|value| !value.is_empty());
    let or = |name: &str, default: &str| {
        environment(name)
            .filter(|value| !value.is_empty())
            .unwrap_or(default.to_owned())
    };
    let mut checks = String::new();
    let secret = |name: &str| {
        if has(name) {
            format!(", password: \"${{{name}}}\"")
        } else {
            String::new()
        }
    };
    if has("DB_HOST") {
        let _ = writeln!(
            checks,
            "  database: {{postgres: {{host: \"${{DB_HOST}}\", port: {}, user: {:?}, database: {:?}{}}}}}",
            or("DB_PORT", "5432"),
            or("DB_USERNAME", "postgres"),
            or("DB_DATABASE", "dify"),
            secret("DB_PASSWORD")
        );
    }
    if has("REDIS_HOST") {
        let user = if has("REDIS_USERNAME") {
            ", user: \"${REDIS_USERNAME}\""
        } else {
            ""
        };
        let _ = writeln!(
            checks,
            "  cache: {{redis: {{host: \"${{REDIS_HOST}}\", port: {}, database: {}{user}{}}}}}",
            or("REDIS_PORT", "6379"),
            or("REDIS_DB", "0"),
            secret("REDIS_PASSWORD")
        );
    }
    if checks.is_empty() {
        let message = "neither DB_HOST nor REDIS_HOST is set: this is not the environment of a Dify api or worker";
        return Err(ConfigErrors::new(
            Path::new("environment"),
            vec![ConfigError::nowhere(message)],
        ));
    }
    if let Some(store) = vector_store(environment) {
        let _ = writeln!(checks, "  vector_store: {store}");
    }
    let port = or("DIFY_PORT", "5001");
    Ok(format!(
        "checks:\n{checks}live: {{http: {{url: \"http://127.0.0.1:{port}/health\"}}, timeout: 3s}}\n"
    ))
}

/// The check of Dify's vector store, where its variables tell how it is reached.
fn vector_store(environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let of = |name: &str| environment(name).filter(|value| !value.is_empty());
    let or = |name: &str, default: &str| of(name).unwrap_or(default.to_owned());
    let ready =
        |base: &str, path: &str| of(base).map(|_| format!("{{http: {{url: \"${{{base}}}{path}\"}}, critical: false}}"));
    match of("VECTOR_STORE")?.as_str() {
        "weaviate" => ready("WEAVIATE_ENDPOINT", "/v1/.well-known/ready"),
        "qdrant" => ready("QDRANT_URL", "/readyz"),
        "pgvector" => {
            of("PGVECTOR_HOST")?;
            let password = of("PGVECTOR_PASSWORD").map_or("", |_| ", password: \"${PGVECTOR_PASSWORD}\"");
            Some(format!(
                "{{postgres: {{host: \"${{PGVECTOR_HOST}}\", port: {}, user: {:?}, database: {:?}{password}}}, critical: false}}",
                or("PGVECTOR_PORT", "5432"),
                or("PGVECTOR_USER", "postgres"),
                or("PGVECTOR_DATABASE", "dify")
            ))
        }
        _ => None,
    }
}
