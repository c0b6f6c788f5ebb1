//! What `difygate healthz` runs on: a file of its own, read as carefully as the gate's, or Dify's own environment.

mod databases;
mod environment;
mod presence;
mod services;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::error::ConfigErrors;
use super::parse::{Findings, cidrs, longer_than_zero, socket, time};
use super::raw::healthz as raw;
use super::scalars::Cidr;
use super::{Environment, finish, read_as, read_file};
use crate::gate::names::Address;
use crate::healthz::{Check, Kind, Needed, Settings};

pub use environment::{FromEnvironment, of_environment};
pub use presence::concerns;

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
    read(text, path, environment, |_, _| {})
}

/// Reads `text` as [`parse`] does, and looks for the files that it names: a service may start before its models arrive, but who writes a
/// configuration wants to hear of a wrong path.
///
/// # Errors
/// Everything that is wrong with it, and every file that is missing or of no use.
pub fn inspect(text: &str, path: &Path, environment: Environment<'_>) -> Result<Settings, ConfigErrors> {
    read(text, path, environment, presence::look)
}

fn read(
    text: &str,
    path: &Path,
    environment: Environment<'_>,
    look: impl FnOnce(&Settings, &mut Findings<'_>),
) -> Result<Settings, ConfigErrors> {
    finish(path, |secrets, errors| {
        let (raw, _, marks) = read_as(text, environment, &schema(), secrets, errors)?;
        let findings = &mut Findings { marks: &marks, errors };
        let settings = settings(raw, findings);
        look(&settings, findings);
        Some(settings)
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
    let checks = checks.filter_map(|(name, raw)| check(&format!("checks.{name}"), name, raw, cache, findings));
    Settings {
        checks: checks.collect(),
        live: raw
            .live
            .and_then(|raw| check("live", "live".to_owned(), raw, cache, findings)),
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

fn check(key: &str, name: String, raw: raw::Check, cache: Duration, findings: &mut Findings<'_>) -> Option<Check> {
    let timeout = time(raw.timeout, Duration::from_millis(800));
    longer_than_zero(&format!("{key}.timeout"), timeout, findings);
    let slow = raw.slow.map(|slow| slow.0);
    if slow.is_some_and(|slow| slow >= timeout) {
        findings.error(
            &format!("{key}.slow"),
            format!("is never reached, for the timeout is {timeout:?}"),
        );
    }
    let interval = raw.interval.map(|interval| interval.0);
    if interval.is_some_and(|interval| interval < cache) {
        let message = format!("is shorter than the {cache:?} of `cache`, for which every answer serves");
        findings.error(&format!("{key}.interval"), message);
    }
    let usual = raw.http.as_ref().and_then(|http| services::interval(http.preset?));
    let critical = raw.critical.unwrap_or(true);
    Some(Check {
        kind: kind(key, raw, timeout, findings)?,
        name,
        critical,
        timeout,
        slow,
        interval: interval.or(usual).unwrap_or(Duration::ZERO),
    })
}

fn kind(key: &str, raw: raw::Check, timeout: Duration, findings: &mut Findings<'_>) -> Option<Kind> {
    let at = |kind: &str| format!("{key}.{kind}");
    let mut kinds = Vec::new();
    let postgres = raw
        .postgres
        .map(|raw| databases::postgres(&at("postgres"), raw, timeout, findings));
    kinds.extend(postgres.map(|postgres| Some(Kind::Postgres(Box::new(postgres)))));
    let mysql = raw.mysql.map(|raw| databases::mysql(&at("mysql"), raw, findings));
    kinds.extend(mysql.map(|mysql| Some(Kind::Mysql(Box::new(mysql)))));
    let redis = raw.redis.map(|raw| databases::redis(&at("redis"), raw, findings));
    kinds.extend(redis.map(|redis| Some(Kind::Redis(Box::new(redis?)))));
    kinds.extend(raw.http.map(|raw| services::http(&at("http"), raw, timeout, findings)));
    kinds.extend(raw.tcp.map(|text| address(&at("tcp"), &text, findings).map(Kind::Tcp)));
    kinds.extend(raw.files.map(|raw| files(&at("files"), raw, findings)));
    kinds.extend(raw.exec.map(|words| exec(&at("exec"), words, findings)));
    if kinds.len() != 1 {
        findings.error(key, "names one of postgres, mysql, redis, http, tcp, files and exec");
    }
    kinds.pop()?
}

fn address(key: &str, text: &str, findings: &mut Findings<'_>) -> Option<Address> {
    let parsed = Address::parse(text);
    parsed.map_err(|e| findings.error(key, e.to_string())).ok()
}

fn files(key: &str, raw: Vec<raw::File>, findings: &mut Findings<'_>) -> Option<Kind> {
    if raw.is_empty() {
        findings.error(key, "is empty; name a file");
    }
    let needed = raw.into_iter().enumerate().map(|(index, file)| match file {
        raw::File::Path(path) => Needed {
            path: path.into(),
            min_size: 1,
            sha256: None,
        },
        raw::File::Terms(terms) => {
            let sha256 = terms.sha256.map(|text| text.parse());
            if sha256 == Some(Err(())) {
                let message = "is no SHA-256; write the 64 hexadecimal digits that `sha256sum` prints";
                findings.error(&format!("{key}[{index}].sha256"), message);
            }
            Needed {
                path: terms.path.into(),
                min_size: terms.min_size.map_or(1, |size| size.0),
                sha256: sha256.and_then(Result::ok),
            }
        }
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
