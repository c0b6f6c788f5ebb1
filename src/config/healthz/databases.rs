//! Databases and caches as a file of `difygate healthz` names them, and as whom they are asked.

use std::sync::Arc;
use std::time::Duration;

use super::address;
use crate::config::parse::Findings;
use crate::config::probes;
use crate::config::raw::healthz as raw;
use crate::gate::names::Address;
use crate::healthz::{Login, Mysql, Postgres, Redis, Security, Sentinels, Whereabouts};

/// What a server that shows its sessions calls this one.
const NAME: &str = "difygate healthz";

pub(super) fn postgres(key: &str, raw: raw::Database, timeout: Duration, findings: &mut Findings<'_>) -> Postgres {
    let mut login = tokio_postgres::Config::new();
    login
        .host(&raw.host)
        .port(raw.port.unwrap_or(5432))
        .user(&raw.user)
        .application_name(NAME)
        .connect_timeout(timeout);
    if let Some(password) = &raw.password {
        login.password(password);
    }
    if let Some(database) = &raw.database {
        login.dbname(database);
    }
    let security = match raw.tls {
        Some(raw::DatabaseTls::Word(raw::Prefer::Prefer)) => Security::Prefer,
        tls => {
            let terms = tls.and_then(raw::DatabaseTls::verified);
            probes::tls(&format!("{key}.tls"), terms, findings).map_or(Security::Clear, Security::Verified)
        }
    };
    Postgres {
        login,
        host: raw.host,
        security,
    }
}

pub(super) fn mysql(key: &str, raw: raw::Database, findings: &mut Findings<'_>) -> Mysql {
    let tls = match raw.tls {
        Some(raw::DatabaseTls::Word(raw::Prefer::Prefer)) => {
            findings.error(
                &format!("{key}.tls"),
                "`prefer` is what PostgreSQL's own clients do; for MySQL it is true, false or the terms",
            );
            None
        }
        tls => tls.and_then(raw::DatabaseTls::verified),
    };
    let login = mysql_async::OptsBuilder::default()
        .ip_or_hostname(raw.host)
        .tcp_port(raw.port.unwrap_or(3306))
        .user(Some(raw.user))
        .pass(raw.password)
        .db_name(raw.database)
        .connect_attribute("program_name", NAME)
        // The driver would ask for these three before it lets anybody else ask.
        .prefer_socket(false)
        .max_allowed_packet(Some(64 * 1024))
        .wait_timeout(Some(60));
    Mysql {
        login: login.into(),
        tls: probes::tls(&format!("{key}.tls"), tls, findings),
        secured: Arc::default(),
    }
}

pub(super) fn redis(key: &str, raw: raw::Redis, findings: &mut Findings<'_>) -> Option<Redis> {
    let tls = probes::tls(&format!("{key}.tls"), raw.tls, findings);
    let at = match (raw.host, raw.sentinel) {
        (Some(host), None) => {
            let bracketed = host.contains(':') && !host.starts_with('[');
            let host = if bracketed { format!("[{host}]") } else { host };
            let at = format!("{host}:{}", raw.port.unwrap_or(6379));
            Whereabouts::Address(address(&format!("{key}.host"), &at, findings)?)
        }
        (None, Some(raw)) => Whereabouts::Sentinels(sentinels(&format!("{key}.sentinel"), raw, findings)?),
        (None, None) | (Some(_), Some(_)) => {
            findings.error(key, "names one of `host` and `sentinel`");
            return None;
        }
    };
    if raw.port.is_some() && matches!(at, Whereabouts::Sentinels(_)) {
        findings.error(
            &format!("{key}.port"),
            "goes with `host`; the Sentinels tell the master's",
        );
    }
    Some(Redis {
        at,
        login: Login {
            user: raw.user,
            password: raw.password,
        },
        database: raw.database.unwrap_or(0),
        tls,
        write: raw.write.unwrap_or(false),
    })
}

fn sentinels(key: &str, raw: raw::Sentinel, findings: &mut Findings<'_>) -> Option<Sentinels> {
    if raw.addresses.is_empty() {
        findings.error(
            &format!("{key}.addresses"),
            "is empty; name a Sentinel, such as sentinel:26379",
        );
    }
    let named = raw.addresses.iter().enumerate();
    let addresses: Vec<Address> = named
        .filter_map(|(index, text)| address(&format!("{key}.addresses[{index}]"), text, findings))
        .collect();
    Some(Sentinels {
        service: raw.service,
        addresses,
        login: Login {
            user: raw.user,
            password: raw.password,
        },
        tls: probes::tls(&format!("{key}.tls"), raw.tls, findings),
    })
}
