//! Redis: a connection, a login and PING, and where asked for a value that is written and read again. A single one, or the master that Sentinels
//! name at this moment; in the clear or within TLS.

use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisConnectionInfo, cmd};
use tokio::task::JoinSet;

use super::check::Tools;
use super::connection::connect;
use crate::gate::names::Address;
use crate::tls::TlsTerms;

/// A server and how it is reached.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Where.
    pub at: Whereabouts,
    /// As whom.
    pub login: Login,
    /// The number of the database.
    pub database: u32,
    /// TLS; cleartext where absent.
    pub tls: Option<TlsTerms>,
    /// Whether a value is written.
    pub write: bool,
}

/// Where a Redis is.
#[derive(Clone, Debug)]
pub enum Whereabouts {
    /// At an address.
    Address(Address),
    /// Where Sentinels say.
    Sentinels(Sentinels),
}

/// Those who know which Redis is the master.
#[derive(Clone, Debug)]
pub struct Sentinels {
    /// The name that they know it by.
    pub service: String,
    /// Where they are; never empty.
    pub addresses: Vec<Address>,
    /// As whom they are asked.
    pub login: Login,
    /// TLS to them.
    pub tls: Option<TlsTerms>,
}

/// Who asks.
#[derive(Clone, Default)]
pub struct Login {
    /// The name, for a server that knows several.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
}

/// The password is nobody's business.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Redis {
    pub(super) async fn ask(&self, tools: &Tools) -> Result<(), String> {
        let mut talk = match &self.at {
            Whereabouts::Address(address) => Talk::start(address, self.tls.as_ref(), &self.login, tools).await?,
            Whereabouts::Sentinels(sentinels) => {
                let master = sentinels.master(tools).await?;
                let mut talk = Talk::start(&master, self.tls.as_ref(), &self.login, tools).await?;
                let role: Vec<redis::Value> = talk.say(cmd("ROLE")).await?;
                let role = role.into_iter().next().map(String::from_redis_value);
                match role {
                    Some(Ok(role)) if role == "master" => talk,
                    // A failover is under way: nobody can write there.
                    Some(Ok(role)) => return Err(format!("{master} should be the master, and is {role}")),
                    Some(Err(_)) | None => return Err(format!("{master} does not tell its role")),
                }
            }
        };
        if self.database != 0 {
            talk.say::<()>(cmd("SELECT").arg(self.database).to_owned()).await?;
        }
        talk.say::<()>(cmd("PING")).await?;
        if self.write {
            write(&mut talk).await?;
        }
        Ok(())
    }
}

async fn write(talk: &mut Talk) -> Result<(), String> {
    const KEY: &str = "difygate:healthz";
    let value = fastrand::u64(..).to_string();
    // It goes by itself, should nobody ask again.
    talk.say::<()>(cmd("SET").arg(KEY).arg(&value).arg("EX").arg(60).to_owned())
        .await?;
    let read: Option<String> = talk.say(cmd("GET").arg(KEY).to_owned()).await?;
    // Another instance may have written its own meanwhile.
    read.map(drop).ok_or("what was written is not there".to_owned())
}

impl Sentinels {
    /// The master, by whoever answers first: one that is frozen holds nobody up.
    async fn master(&self, tools: &Tools) -> Result<Address, String> {
        let mut asked = JoinSet::new();
        for address in &self.addresses {
            let (this, address, tools) = (self.clone(), address.clone(), tools.clone());
            asked.spawn(async move {
                let known = this.known_by(&address, &tools).await;
                known.map_err(|e| format!("Sentinel {address}: {e}"))
            });
        }
        let mut last = "no Sentinel is named".to_owned();
        while let Some(known) = asked.join_next().await {
            match known {
                Ok(Ok(master)) => return Ok(master),
                Ok(Err(why)) => last = why,
                Err(e) => last = e.to_string(),
            }
        }
        Err(last)
    }

    async fn known_by(&self, sentinel: &Address, tools: &Tools) -> Result<Address, String> {
        let mut talk = Talk::start(sentinel, self.tls.as_ref(), &self.login, tools).await?;
        let ask = cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(&self.service)
            .to_owned();
        let known: Option<(String, String)> = talk.say(ask).await?;
        let (host, port) = known.ok_or_else(|| format!("it knows no service `{}`", self.service))?;
        let at = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        Address::parse(&at).map_err(|e| format!("`{at}` {e}"))
    }
}

/// A connection with somebody logged in, which ends with it.
struct Talk {
    connection: MultiplexedConnection,
    driven: tokio::task::JoinHandle<()>,
}

impl Talk {
    async fn start(address: &Address, tls: Option<&TlsTerms>, login: &Login, tools: &Tools) -> Result<Self, String> {
        let stream = connect(address, tls, tools).await?;
        // The check's own deadline is the only one; the driver's half a second would cut a longer one short.
        let patient = AsyncConnectionConfig::new().set_response_timeout(None);
        // The driver would tell its own name and version on every connection, for nobody; and whatever came of its login, it would call it a wrong
        // password, also where a server has no room.
        let nobody = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) = MultiplexedConnection::new_with_config(&nobody, stream, patient)
            .await
            .map_err(|e| e.to_string())?;
        let mut talk = Self {
            connection,
            driven: tokio::spawn(driver),
        };
        if let Some(password) = &login.password {
            let mut auth = cmd("AUTH");
            if let Some(user) = &login.user {
                auth.arg(user);
            }
            talk.say::<()>(auth.arg(password).to_owned()).await?;
        }
        Ok(talk)
    }

    async fn say<T: FromRedisValue>(&mut self, what: Cmd) -> Result<T, String> {
        what.query_async(&mut self.connection).await.map_err(|e| e.to_string())
    }
}

impl Drop for Talk {
    /// What hangs ends with its check.
    fn drop(&mut self) {
        self.driven.abort();
    }
}
