//! Real databases, started for a test on loopback and stopped after it: up, stopped, frozen, full, slow.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::authority::Authority;
use crate::support::{nobody, soon, until};

/// The password of everybody on every server.
pub(crate) const PASSWORD: &str = "hush-4c1d";

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Mariadb,
    Redis,
}

impl Kind {
    /// The check that asks such a server, with further keys.
    pub(crate) fn check(self, at: SocketAddr, password: &str, keys: &str) -> String {
        let port = at.port();
        match self {
            Self::Postgres => format!(
                "postgres: {{host: 127.0.0.1, port: {port}, user: dify, password: {password}, database: postgres{keys}}}"
            ),
            Self::Mariadb => {
                format!("mysql: {{host: 127.0.0.1, port: {port}, user: dify, password: {password}{keys}}}")
            }
            Self::Redis => format!("redis: {{host: 127.0.0.1, port: {port}, password: {password}, write: true{keys}}}"),
        }
    }

    /// PostgreSQL and MariaDB refuse to run as root.
    fn user(self) -> Option<User> {
        let name = match self {
            Self::Postgres => "postgres",
            Self::Mariadb => "mysql",
            Self::Redis => return None,
        };
        nix::unistd::geteuid()
            .is_root()
            .then(|| User::from_name(name).unwrap().unwrap())
    }

    fn program(self, path: impl AsRef<Path>) -> Command {
        let mut command = Command::new(path.as_ref());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.kill_on_drop(true);
        if let Some(user) = self.user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }
}

/// A server in a process of its own.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    folder: tempfile::TempDir,
    process: Option<Child>,
    /// Options beside those that every such server has.
    options: Vec<String>,
}

impl Server {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::prepare(kind, "", Vec::new()).await
    }

    /// One that speaks TLS alone, and wants a certificate of this authority from whoever comes as `dify`.
    pub(crate) async fn within_tls(kind: Kind, authority: &Authority) -> Self {
        let shown = |ending: &str| authority.path(&format!("server.{ending}")).display().to_string();
        authority.sign(authority.folder.path(), "server", &["127.0.0.1"]);
        std::fs::copy(authority.ca(), shown("ca")).unwrap();
        let (ca, cert, key) = (shown("ca"), shown("crt"), shown("key"));
        if let Some(user) = kind.user() {
            for path in [authority.folder.path(), Path::new(&key)] {
                give(path, &user);
            }
        }
        restrict(Path::new(&key));
        let (demand, options) = match kind {
            Kind::Postgres => (
                "hostssl all dify 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\nhost all postgres 127.0.0.1/32 scram-sha-256\n",
                vec![
                    "-cssl=on".to_owned(),
                    format!("-cssl_ca_file={ca}"),
                    format!("-cssl_cert_file={cert}"),
                    format!("-cssl_key_file={key}"),
                ],
            ),
            Kind::Mariadb => (
                "REQUIRE X509",
                vec![
                    format!("--ssl-ca={ca}"),
                    format!("--ssl-cert={cert}"),
                    format!("--ssl-key={key}"),
                ],
            ),
            Kind::Redis => {
                let pairs = [
                    ("--tls-ca-cert-file", ca),
                    ("--tls-cert-file", cert),
                    ("--tls-key-file", key),
                ];
                let pairs = pairs.into_iter().flat_map(|(name, path)| [name.to_owned(), path]);
                ("", pairs.collect())
            }
        };
        Self::prepare(kind, demand, options).await
    }

    /// A PostgreSQL that takes `dify` within TLS alone, or in the clear alone, by a certificate that nobody knows.
    pub(crate) async fn choosing(authority: &Authority, word: &str) -> Self {
        let shown = |ending: &str| authority.path(&format!("server.{ending}")).display().to_string();
        authority.sign(authority.folder.path(), "server", &["db.internal"]);
        let key = shown("key");
        if let Some(user) = Kind::Postgres.user() {
            give(authority.folder.path(), &user);
            give(Path::new(&key), &user);
        }
        restrict(Path::new(&key));
        let demand =
            format!("{word} all dify 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 scram-sha-256\n");
        let options = vec![
            "-cssl=on".to_owned(),
            format!("-cssl_cert_file={}", shown("crt")),
            format!("-cssl_key_file={key}"),
        ];
        Self::prepare(Kind::Postgres, &demand, options).await
    }

    /// A Redis that copies another one.
    pub(crate) async fn replica_of(master: &Self) -> Self {
        let port = master.address.port().to_string();
        let options = ["--replicaof", "127.0.0.1", &port];
        Self::prepare(Kind::Redis, "", options.map(str::to_owned).to_vec()).await
    }

    async fn prepare(kind: Kind, demand: &str, options: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (data, words) = (folder.path().join("data"), folder.path().join("words"));
        if let Some(user) = kind.user() {
            give(folder.path(), &user);
        }
        match kind {
            Kind::Postgres => {
                std::fs::write(&words, PASSWORD).unwrap();
                let mut initdb = kind.program(postgres_folder().join("initdb"));
                initdb.args(["-U", "postgres", "-A", "scram-sha-256", "--no-sync", "--pwfile"]);
                initdb.arg(&words).arg("-D").arg(&data);
                assert!(soon("initdb", initdb.status()).await.unwrap().success());
                if !demand.is_empty() {
                    std::fs::write(data.join("pg_hba.conf"), demand).unwrap();
                }
            }
            Kind::Mariadb => {
                let users = format!(
                    "CREATE USER IF NOT EXISTS admin@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION;\nCREATE USER IF NOT EXISTS dify@'%' IDENTIFIED BY '{PASSWORD}' {demand};\n"
                );
                std::fs::write(&words, users).unwrap();
                let mut install = kind.program("mariadb-install-db");
                install.args(["--no-defaults", "--skip-test-db"]);
                install.arg(format!("--datadir={}", data.display()));
                assert!(soon("mariadb-install-db", install.status()).await.unwrap().success());
            }
            Kind::Redis => {}
        }
        let mut server = Self {
            kind,
            address: nobody(),
            folder,
            process: None,
            options,
        };
        server.go_on().await;
        if kind == Kind::Postgres {
            let role = format!("CREATE ROLE dify LOGIN PASSWORD '{PASSWORD}'");
            let admin = postgres_client(server.address, "postgres").await.unwrap();
            admin.batch_execute(&role).await.unwrap();
        }
        server
    }

    /// Starts it, again as before.
    pub(crate) async fn go_on(&mut self) {
        let port = self.address.port().to_string();
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = match self.kind {
            Kind::Postgres => {
                let mut command = self.kind.program(postgres_folder().join("postgres"));
                command.args(["-D", &path("data"), "-p", &port]);
                command.args([
                    "-clisten_addresses=127.0.0.1",
                    "-cunix_socket_directories=",
                    "-cfsync=off",
                ]);
                command
            }
            Kind::Mariadb => {
                let mut command = self.kind.program("/usr/sbin/mariadbd");
                command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
                command.args([format!("--port={port}"), format!("--datadir={}", path("data"))]);
                command.args([
                    format!("--socket={}", path("socket")),
                    format!("--pid-file={}", path("pid")),
                ]);
                command.arg(format!("--init-file={}", path("words")));
                command
            }
            Kind::Redis => {
                let mut command = self.kind.program("redis-server");
                let is_secure = self.options.iter().any(|option| option.starts_with("--tls"));
                let ports = if is_secure { ["0", &port] } else { [&port, "0"] };
                command.args(["--port", ports[0], "--tls-port", ports[1], "--bind", "127.0.0.1"]);
                command.args(["--requirepass", PASSWORD, "--masterauth", PASSWORD]);
                command.args(["--save", "", "--dir", &path("")]);
                command
            }
        };
        self.process = Some(command.args(&self.options).spawn().unwrap());
        // It listens before it takes anybody in.
        until("a server to take somebody in", async || match self.kind {
            Kind::Postgres => postgres_client(self.address, "postgres").await.is_ok(),
            Kind::Mariadb => mariadb_client(self.address, "admin").await.is_ok(),
            Kind::Redis => TcpStream::connect(self.address).await.is_ok(),
        })
        .await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().and_then(Child::id).unwrap();
        kill(Pid::from_raw(process.try_into().unwrap()), signal).unwrap();
    }

    pub(crate) async fn stop(&mut self) {
        // PostgreSQL ends at once for the one, MariaDB for the other, and Redis for either.
        self.signal(match self.kind {
            Kind::Postgres | Kind::Redis => Signal::SIGINT,
            Kind::Mariadb => Signal::SIGTERM,
        });
        let mut process = self.process.take().unwrap();
        soon("a server to stop", process.wait()).await.unwrap();
    }

    /// Takes its last connection away.
    pub(crate) async fn fill(&self) -> Full {
        match self.kind {
            Kind::Postgres => {
                let held = postgres_client(self.address, "dify").await.unwrap();
                let admin = postgres_client(self.address, "postgres").await.unwrap();
                admin.batch_execute("ALTER ROLE dify CONNECTION LIMIT 1").await.unwrap();
                Full::Postgres {
                    admin: Box::new(admin),
                    _held: Box::new(held),
                }
            }
            Kind::Mariadb => {
                let mut admin = mariadb_client(self.address, "admin").await.unwrap();
                admin.query_drop(most_connections(1)).await.unwrap();
                // Those from before the limit do not count, and a check may have the only one for a moment.
                let mut held = None;
                until("the last connection", async || {
                    held = mariadb_client(self.address, "dify").await.ok();
                    held.is_some()
                })
                .await;
                let _held = held.unwrap();
                Full::Mariadb { admin, _held }
            }
            Kind::Redis => {
                let url = format!("redis://:{PASSWORD}@{}", self.address);
                let client = redis::Client::open(url).unwrap();
                let mut held = client.get_multiplexed_async_connection().await.unwrap();
                redis_clients(&mut held, 1).await;
                Full::Redis(held)
            }
        }
    }
}

/// A server that has no room for another connection.
pub(crate) enum Full {
    Postgres {
        admin: Box<tokio_postgres::Client>,
        _held: Box<tokio_postgres::Client>,
    },
    Mariadb {
        admin: mysql_async::Conn,
        _held: mysql_async::Conn,
    },
    Redis(MultiplexedConnection),
}

impl Full {
    /// Gives it room.
    pub(crate) async fn free(&mut self) {
        match self {
            Self::Postgres { admin, .. } => admin
                .batch_execute("ALTER ROLE dify CONNECTION LIMIT -1")
                .await
                .unwrap(),
            Self::Mariadb { admin, .. } => admin.query_drop(most_connections(0)).await.unwrap(),
            Self::Redis(held) => redis_clients(held, 100).await,
        }
    }
}

fn most_connections(most: u32) -> String {
    format!("GRANT USAGE ON *.* TO dify@'%' WITH MAX_USER_CONNECTIONS {most}")
}

async fn redis_clients(connection: &mut MultiplexedConnection, most: u32) {
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("maxclients").arg(most);
    set.query_async::<()>(connection).await.unwrap();
}

async fn postgres_client(at: SocketAddr, user: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut login = tokio_postgres::Config::new();
    login.host("127.0.0.1").port(at.port()).dbname("postgres");
    login.user(user).password(PASSWORD);
    let (client, connection) = login.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn mariadb_client(at: SocketAddr, user: &str) -> mysql_async::Result<mysql_async::Conn> {
    let login = mysql_async::OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(at.port())
        .prefer_socket(false)
        .user(Some(user))
        .pass(Some(PASSWORD));
    mysql_async::Conn::new(login).await
}

fn postgres_folder() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL, which `make tools` installs");
    let newest = versions.map(|version| version.unwrap().path()).max().unwrap();
    newest.join("bin")
}

fn give(path: &Path, user: &User) {
    std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
}

/// Servers read no private key that others could read.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A Sentinel that watches a master as `dify`, and takes little time to give it up.
pub(crate) struct Sentinel {
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
    _process: Child,
}

impl Sentinel {
    pub(crate) async fn watching(master: &Server) -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), nobody());
        let path = folder.path().join("sentinel.conf");
        let (port, watched) = (address.port(), master.address.port());
        let text = format!(
            "port {port}\nbind 127.0.0.1\nrequirepass {PASSWORD}\nsentinel monitor dify 127.0.0.1 {watched} 1\nsentinel auth-pass dify {PASSWORD}\nsentinel down-after-milliseconds dify 300\nsentinel failover-timeout dify 2000\n"
        );
        std::fs::write(&path, text).unwrap();
        let mut command = Kind::Redis.program("redis-server");
        let process = command.arg(&path).arg("--sentinel").spawn().unwrap();
        until("a Sentinel to listen", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self {
            address,
            _folder: folder,
            _process: process,
        }
    }
}

/// A way to a server on which answers can be held back for five seconds.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    slow: Arc<AtomicBool>,
}

impl Relay {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, slow) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let is_slow = slow.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, is_slow.clone()));
            }
        });
        Self { address, slow }
    }

    pub(crate) fn set_slow(&self, is_slow: bool) {
        self.slow.store(is_slow, Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: SocketAddr, slow: Arc<AtomicBool>) -> std::io::Result<()> {
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = [0; 4096];
    loop {
        let read = from_server.read(&mut buffer).await?;
        if slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        if read == 0 {
            return Ok(());
        }
        to_client.write_all(&buffer[..read]).await?;
    }
}
