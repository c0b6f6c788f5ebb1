//! The configuration: one YAML file in, one complete [`Config`] out, or every error in it at once.
//!
//! A [`Config`] exists only if it is valid. What the file says (`raw`) and what it means (`Config`) are two types, and the second can be built only from the first.

pub mod changes;
mod check;
mod cors;
mod cutover;
mod document;
mod error;
pub mod healthz;
mod listeners;
mod parse;
mod probes;
mod raw;
mod routes;
mod scalars;
pub mod secrets;
mod trust;
mod upstreams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::acme;
use crate::cutover::{CutoverSettings, DeploymentSettings};
use crate::files::text_without_mark;
use crate::gate::alarm::AlarmRules;
use crate::gate::cidr::CidrSet;
use crate::gate::guard::Guard;
use crate::gate::hygiene::Bounds;
use crate::log;
use crate::upstream::settings::UpstreamSettings;

pub use error::{ConfigError, ConfigErrors, Mark};
pub use routes::{HeaderEdits, Place, RouteSettings, Target, Template};
use secrets::Secrets;
pub use trust::Mistrust;

/// Everything the gate runs on.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// The process.
    pub server: ServerSettings,
    /// Where the admin API listens; loopback.
    pub admin: SocketAddr,
    /// What is logged.
    pub log: LogSettings,
    /// Where clients connect; never empty.
    pub listeners: Vec<ListenerSettings>,
    /// Peers whose word about the client's address is believed.
    pub trusted_proxies: CidrSet,
    /// Who may ask for guarded paths, and what is answered. Its paths include every configured probe path.
    pub guard: Guard,
    /// When requests for guarded paths are abnormally frequent.
    pub alarm: AlarmRules,
    /// Services behind the gate, in the order of the file; never empty.
    pub upstreams: Vec<UpstreamSettings>,
    /// What goes where, in the order of the file; never empty (one catch-all is made when the file has none and one upstream).
    pub routes: Vec<RouteSettings>,
    /// How users are moved from one pool to another.
    pub cutover: CutoverSettings,
    /// What moves together; an upstream that is in no deployment moves alone.
    pub deployments: Vec<DeploymentSettings>,
    /// The file's own keys and values, the environment put in; two configurations are held against each other by them.
    pub document: serde_json::Value,
    /// What of it came from elsewhere.
    pub secrets: Secrets,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Threads that proxy; 0 is one a core.
    pub threads: usize,
    /// How long requests may go on after a stop signal.
    pub drain_timeout: Duration,
    /// How long the gate goes on accepting after a stop signal while it already says that it is not ready.
    pub lame_duck: Duration,
    /// Where a new process asks this one to hand over.
    pub upgrade_socket: Option<PathBuf>,
    /// Where what outlives the process is kept, if anywhere.
    pub state_dir: Option<StateDir>,
}

/// Where what outlives the process is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    /// The folder.
    pub path: PathBuf,
    /// Whether the file names it, or needs it; a gate does without the one that nobody asked for.
    pub wanted: bool,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// The least severe level that is written.
    pub level: tracing::level_filters::LevelFilter,
    /// Text for people or JSON for machines.
    pub format: log::Format,
    /// Where access lines go.
    pub access: AccessSink,
    /// The share of access lines that is written, from 0.0 to 1.0; refusals and failures are always written.
    pub sample: f64,
}

/// Where access lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessSink {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// The address it binds.
    pub address: SocketAddr,
    /// Connections at one time; more are closed at once. 0 is no limit.
    pub max_connections: usize,
    /// From the first byte expected of a request to the end of its headers.
    pub header_timeout: Duration,
    /// How long a kept-alive connection may wait for its next request.
    pub idle_timeout: Duration,
    /// The largest request body, in bytes; more is 413.
    pub body_limit: u64,
    /// What a client may ask of it.
    pub limits: ClientLimits,
    /// Whether a load balancer tells whom each connection is from.
    pub proxy_protocol: ProxyProtocol,
    /// What it shows; it speaks cleartext where absent.
    pub tls: Option<Arc<TlsSettings>>,
    /// Whether HTTP/2 is offered, within TLS.
    pub http2: bool,
    /// Whether clients in the clear may speak it.
    pub http2_in_clear: bool,
    /// Whether clients are sent to https.
    pub redirect_to_https: bool,
}

/// What a client may ask of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// How large a request may be before its body.
    pub bounds: Bounds,
    /// Bytes a second that a client must send of a body or take of an answer while it is waited for; 0 is no limit.
    pub min_rate: u64,
    /// For so long a client is waited for whatever its rate.
    pub grace: Duration,
    /// Connections of one client at one time; 0 is no limit while there is room.
    pub client_connections: usize,
    /// How often each client may ask.
    pub client_rate: Option<Rate>,
}

/// How often somebody may ask (GCRA, as ITU-T I.371 has it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time between two requests of somebody who asks steadily.
    pub every: Duration,
    /// So many at once, after a pause.
    pub burst: NonZeroU32,
}

/// How a listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// What it shows, the first one to whoever names no known host; empty only where it gets one itself.
    pub certificates: Vec<CertificateSettings>,
    /// What it gets itself.
    pub acme: Option<Arc<acme::Wanted>>,
    /// Whether TLS 1.2 is refused; older versions always are (RFC 8996).
    pub only_1_3: bool,
    /// A PEM file with the authorities whose client certificates are believed.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must show one.
    pub client_required: bool,
}

/// A certificate and the hosts that it is shown to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSettings {
    /// A PEM file with the certificate and its chain.
    pub cert: PathBuf,
    /// A PEM file with its private key.
    pub key: PathBuf,
    /// The hosts; those that the certificate names, where empty.
    pub hosts: Vec<String>,
}

/// The versions of the PROXY protocol that a listener expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None: the peer of the socket is the client.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
    /// Either.
    Any,
}

/// Looks a name of the environment up, or says why there is no value of it.
pub type Environment<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// The environment of this process, and the text of a file under `file:` and its path, without the end of its last line.
///
/// # Errors
/// The variable is not set, or the file cannot be read or is too large.
pub fn environment(name: &str) -> Result<String, String> {
    match name.strip_prefix(secrets::FILE) {
        None => std::env::var(name).or_else(|_| unset(name)),
        Some(path) => secrets::read(Path::new(path)).map_err(|e| format!("the file `{path}` cannot be read: {e}")),
    }
}

/// The environment in which nothing is set.
///
/// # Errors
/// Always.
pub fn unset(name: &str) -> Result<String, String> {
    Err(format!("the environment variable `{name}` is not set"))
}

/// Reads the file at `path`.
///
/// # Errors
/// The file cannot be read, or everything that is wrong with it.
pub fn load(path: &Path, environment: Environment<'_>) -> Result<Config, ConfigErrors> {
    parse(&read_file(path)?, path, environment)
}

/// The text at `path`, of either kind of configuration.
///
/// # Errors
/// It cannot be read.
pub fn read_file(path: &Path) -> Result<String, ConfigErrors> {
    let text = std::fs::read_to_string(path).map(|text| text_without_mark(&text).to_owned());
    text.map_err(|e| {
        let message = format!("cannot be read: {e}; name a configuration with `-c FILE`");
        ConfigErrors::new(path, vec![ConfigError::nowhere(message)])
    })
}

/// Reads `text`, which came from `path`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, path: &Path, environment: Environment<'_>) -> Result<Config, ConfigErrors> {
    finish(path, |secrets, errors| {
        let (raw, value, marks) = read_as(text, environment, &schema(), secrets, errors)?;
        let findings = &mut parse::Findings { marks: &marks, errors };
        Some(parse::config(path, raw, value, secrets.clone(), findings))
    })
}

/// What is built, or everything that was found wrong meanwhile, without its secrets.
fn finish<T>(
    path: &Path,
    build: impl FnOnce(&mut Secrets, &mut Vec<ConfigError>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let (mut secrets, mut errors) = (Secrets::default(), Vec::new());
    match build(&mut secrets, &mut errors) {
        Some(config) if errors.is_empty() => Ok(config),
        Some(_) | None => {
            for error in &mut errors {
                error.message = secrets.hide(&error.message);
            }
            Err(ConfigErrors::new(path, errors))
        }
    }
}

/// A text in the shape that a schema has, with its own keys and values, and where each key stands.
fn read_as<T: serde::de::DeserializeOwned>(
    text: &str,
    environment: Environment<'_>,
    schema: &serde_json::Value,
    secrets: &mut Secrets,
    errors: &mut Vec<ConfigError>,
) -> Option<(T, serde_json::Value, BTreeMap<String, Mark>)> {
    let document = document::read(text, environment, secrets, errors)?;
    let strays = check::check(&document, schema, errors);
    let value = document.value(&strays);
    match serde_json::from_value(value.clone()) {
        Ok(raw) => Some((raw, value, document.marks())),
        Err(e) => {
            if errors.is_empty() {
                errors.push(ConfigError::nowhere(e.to_string()));
            }
            None
        }
    }
}

/// Reads a time such as `500ms`, `2s` or `30m`, as the file writes them.
///
/// # Errors
/// The text is no time; the message says what one looks like.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    text.parse::<scalars::Time>().map(|time| time.0)
}

/// The JSON Schema of the file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::Raw).into()
}
