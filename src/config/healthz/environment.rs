//! Dify's own environment, as its compose file and its image name the variables, and what of it can be asked.

use std::fmt::Write;
use std::path::Path;

use crate::config::error::{ConfigError, ConfigErrors};
use crate::url::HttpUrl;

/// A configuration that Dify's environment comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromEnvironment {
    /// Its text, with `${NAME}` in place of every value that the environment has.
    pub text: String,
    /// What Dify has and nobody asks, and why.
    pub unasked: Vec<String>,
}

/// The configuration by Dify's own environment. The database and Redis are critical; the vector store, the plugin daemon and the sandbox fail nobody,
/// for most of Dify works without them.
///
/// # Errors
/// Neither a database nor Redis is named, or one that cannot be asked.
pub fn of_environment(environment: &dyn Fn(&str) -> Option<String>) -> Result<FromEnvironment, ConfigErrors> {
    let mut dify = Dify {
        environment,
        text: "checks:\n".to_owned(),
        unasked: Vec::new(),
    };
    match dify.write() {
        Ok(()) => Ok(FromEnvironment {
            text: dify.text,
            unasked: dify.unasked,
        }),
        Err(message) => {
            let error = ConfigError::nowhere(message);
            Err(ConfigErrors::new(Path::new("environment"), vec![error]))
        }
    }
}

struct Dify<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    text: String,
    unasked: Vec<String>,
}

/// A key of a check, and its value as YAML; none is left out.
type Pair = (&'static str, Option<String>);

impl Dify<'_> {
    fn write(&mut self) -> Result<(), String> {
        let (has_database, has_cache) = (self.database()?, self.cache()?);
        if !has_database && !has_cache {
            return Err(
                "neither DB_HOST nor REDIS_HOST is set: this is not the environment of a Dify api or worker".to_owned(),
            );
        }
        self.vector_store();
        self.service("plugin_daemon", "plugin-daemon", "PLUGIN_DAEMON_URL", None);
        self.service("sandbox", "sandbox", "CODE_EXECUTION_ENDPOINT", None);
        self.service(
            "local_sandbox",
            "local-sandbox",
            "DIFY_AGENT_LOCAL_SANDBOX_ENDPOINT",
            None,
        );
        self.agent_backend();
        match self.of("MODE").as_deref() {
            None | Some("api") => {
                let port = self.number("DIFY_PORT", "5001");
                let url = format!("\"http://127.0.0.1:{port}\"");
                // A process that is full does not answer and is not sick, so that this only tells. Half a second, so that the others are not held up.
                let _ = write!(
                    self.text,
                    "  process:\n    http:\n      preset: dify-api\n      url: {url}\n    timeout: 500ms\n    critical: false\n"
                );
                let _ = write!(
                    self.text,
                    "live:\n  http:\n    preset: dify-api\n    url: {url}\n  timeout: 3s\n"
                );
            }
            Some(mode) => {
                let message = format!("MODE is `{mode}`, which answers no HTTP: /livez asks nobody");
                self.unasked.push(message);
            }
        }
        Ok(())
    }

    fn of(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    fn is_on(&self, name: &str) -> bool {
        let value = self.of(name).unwrap_or_default().to_ascii_lowercase();
        ["true", "1", "yes", "on", "t", "y"].contains(&value.as_str())
    }

    /// The variable where it is set.
    fn given(&self, name: &str) -> Option<String> {
        self.of(name).map(|_| format!("\"${{{name}}}\""))
    }

    fn or(&self, name: &str, default: &str) -> Option<String> {
        self.given(name).or_else(|| Some(default.to_owned()))
    }

    /// A number is one only where it is not quoted.
    fn number(&self, name: &str, default: &str) -> String {
        self.of(name)
            .map_or_else(|| default.to_owned(), |_| format!("${{{name}}}"))
    }

    fn check(&mut self, name: &str, kind: &str, pairs: &[Pair], is_critical: bool) {
        let _ = writeln!(self.text, "  {name}:\n    {kind}:");
        for (key, value) in pairs {
            if let Some(value) = value {
                let _ = writeln!(self.text, "      {key}: {value}");
            }
        }
        if !is_critical {
            self.text += "    critical: false\n";
        }
    }

    fn database(&mut self) -> Result<bool, String> {
        let Some(host) = self.given("DB_HOST") else {
            return Ok(false);
        };
        let kind = match self.of("DB_TYPE").as_deref() {
            None | Some("postgresql") => "postgres",
            // Dify itself speaks to all of them by its driver for MySQL.
            Some("mysql" | "oceanbase" | "seekdb") => "mysql",
            Some(other) => {
                return Err(format!(
                    "DB_TYPE is `{other}`, of which nobody knows how to ask; it is one of postgresql, mysql, oceanbase and seekdb"
                ));
            }
        };
        let is_postgres = kind == "postgres";
        let pairs = [
            ("host", Some(host)),
            (
                "port",
                Some(self.number("DB_PORT", if is_postgres { "5432" } else { "3306" })),
            ),
            (
                "user",
                self.or("DB_USERNAME", if is_postgres { "postgres" } else { "root" }),
            ),
            ("password", self.given("DB_PASSWORD")),
            ("database", self.or("DB_DATABASE", "dify")),
            ("tls", self.database_tls(is_postgres)),
        ];
        self.check("database", kind, &pairs, true);
        Ok(true)
    }

    /// What `DB_EXTRAS` says of TLS, as libpq and PyMySQL name it. Where it says nothing, libpq's default is in force, which is `prefer`.
    fn database_tls(&self, is_postgres: bool) -> Option<String> {
        let extras = self.of("DB_EXTRAS").unwrap_or_default();
        let of = |name: &str| {
            let pairs = extras.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value)
                .next_back()?;
            Some(format!("{:?}", value.replace("%2F", "/").replace("%2f", "/")))
        };
        let names = if is_postgres {
            match of("sslmode").as_deref() {
                Some("\"disable\"") => return None,
                Some("\"require\"" | "\"verify-ca\"" | "\"verify-full\"") => ["sslrootcert", "sslcert", "sslkey"],
                // `allow` ends where `prefer` does wherever a login is possible at all.
                _ => return Some("prefer".to_owned()),
            }
        } else {
            of("ssl_ca")?;
            ["ssl_ca", "ssl_cert", "ssl_key"]
        };
        Some(tls(names.map(of)))
    }

    fn cache(&mut self) -> Result<bool, String> {
        if self.is_on("REDIS_USE_CLUSTERS") {
            return Err(
                "REDIS_USE_CLUSTERS is set, and a cluster cannot be asked; write a file with a check `redis` for each of REDIS_CLUSTERS"
                    .to_owned(),
            );
        }
        let is_watched = self.is_on("REDIS_USE_SENTINEL");
        let host = self.given("REDIS_HOST");
        if host.is_none() && !is_watched {
            return Ok(false);
        }
        let mut pairs = if is_watched {
            vec![("sentinel", Some(self.sentinel()?))]
        } else {
            vec![("host", host), ("port", Some(self.number("REDIS_PORT", "6379")))]
        };
        pairs.extend([
            ("user", self.given("REDIS_USERNAME")),
            ("password", self.given("REDIS_PASSWORD")),
            ("database", Some(self.number("REDIS_DB", "0"))),
        ]);
        // Dify speaks to what Sentinels name in the clear, whatever this says.
        if self.is_on("REDIS_USE_SSL") && !is_watched {
            let names = ["REDIS_SSL_CA_CERTS", "REDIS_SSL_CERTFILE", "REDIS_SSL_KEYFILE"];
            pairs.push(("tls", Some(tls(names.map(|name| self.given(name))))));
        }
        self.check("cache", "redis", &pairs, true);
        Ok(true)
    }

    fn sentinel(&self) -> Result<String, String> {
        let (Some(service), Some(addresses)) = (self.given("REDIS_SENTINEL_SERVICE_NAME"), self.of("REDIS_SENTINELS"))
        else {
            return Err(
                "REDIS_USE_SENTINEL is set, and REDIS_SENTINELS or REDIS_SENTINEL_SERVICE_NAME is not".to_owned(),
            );
        };
        let addresses: Vec<String> = addresses.split(',').map(|one| format!("{:?}", one.trim())).collect();
        let mut text = format!(
            "\n        service: {service}\n        addresses: [{}]",
            addresses.join(", ")
        );
        for (key, name) in [
            ("user", "REDIS_SENTINEL_USERNAME"),
            ("password", "REDIS_SENTINEL_PASSWORD"),
        ] {
            if let Some(value) = self.given(name) {
                text += &format!("\n        {key}: {value}");
            }
        }
        Ok(text)
    }

    fn service(&mut self, name: &str, preset: &str, url: &str, key: Option<&str>) {
        let Some(url) = self.given(url) else {
            return;
        };
        let pairs = [
            ("preset", Some(preset.to_owned())),
            ("url", Some(url)),
            ("api_key", key.and_then(|key| self.given(key))),
        ];
        self.check(name, "http", &pairs, false);
    }

    fn vector_store(&mut self) {
        const NAME: &str = "vector_store";
        let Some(store) = self.of("VECTOR_STORE") else {
            return;
        };
        let before = self.text.len();
        match store.as_str() {
            "weaviate" => self.service(NAME, "weaviate", "WEAVIATE_ENDPOINT", Some("WEAVIATE_API_KEY")),
            "qdrant" => self.service(NAME, "qdrant", "QDRANT_URL", Some("QDRANT_API_KEY")),
            "milvus" => self.milvus(NAME),
            "pgvector" => {
                if let Some(host) = self.given("PGVECTOR_HOST") {
                    let pairs = [
                        ("host", Some(host)),
                        ("port", Some(self.number("PGVECTOR_PORT", "5432"))),
                        ("user", self.or("PGVECTOR_USER", "postgres")),
                        ("password", self.given("PGVECTOR_PASSWORD")),
                        ("database", self.or("PGVECTOR_DATABASE", "dify")),
                        ("tls", Some("prefer".to_owned())),
                    ];
                    self.check(NAME, "postgres", &pairs, false);
                }
            }
            _ => {}
        }
        if self.text.len() == before {
            let message = format!(
                "VECTOR_STORE is `{store}`, of which the environment does not tell how to ask; write a check for it in a file"
            );
            self.unasked.push(message);
        }
    }

    /// The backend of agents has no path that tells how it is, so that a connection must do.
    fn agent_backend(&mut self) {
        let url = self.of("AGENT_BACKEND_BASE_URL");
        if let Some(url) = url.and_then(|url| HttpUrl::parse(&url)) {
            let _ = writeln!(
                self.text,
                "  agent_backend:\n    tcp: \"{}\"\n    critical: false",
                url.address
            );
        }
    }

    /// Milvus says how it is on a port of its own. What is reached by https is somebody else's, who opens one port alone.
    fn milvus(&mut self, name: &str) {
        let Some(url) = self.of("MILVUS_URI").and_then(|uri| HttpUrl::parse(&uri)) else {
            return;
        };
        let host = url.address.host();
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        if url.secure {
            let _ = writeln!(
                self.text,
                "  {name}:\n    tcp: \"{}\"\n    critical: false",
                url.address
            );
        } else {
            let pairs = [
                ("preset", Some("milvus".to_owned())),
                ("url", Some(format!("\"http://{host}:9091\""))),
            ];
            self.check(name, "http", &pairs, false);
        }
    }
}

fn tls([ca, cert, key]: [Option<String>; 3]) -> String {
    let named = [("ca", ca), ("cert", cert), ("key", key)];
    let named: Vec<String> = named
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}: {}", value?)))
        .collect();
    if named.is_empty() {
        "true".to_owned()
    } else {
        format!("{{{}}}", named.join(", "))
    }
}
