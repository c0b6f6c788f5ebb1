//! Real databases, started for a test on loopback and stopped after it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tokio::process::{Child, Command};

use crate::support::{nobody, soon, until};

/// A server in a process of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Server {
    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().and_then(Child::id).unwrap();
        kill(Pid::from_raw(process.try_into().unwrap()), signal).unwrap();
    }

    pub(crate) async fn stop(&mut self) {
        // Fast shutdown for PostgreSQL, and the end for Redis.
        self.signal(Signal::SIGINT);
        let mut process = self.process.take().unwrap();
        soon("a server to stop", process.wait()).await.unwrap();
    }

    async fn listens(&self) {
        until("a server to listen", async || {
            tokio::net::TcpStream::connect(self.address).await.is_ok()
        })
        .await;
    }
}

fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true);
    command
}

/// A program of PostgreSQL, which refuses to run as root.
fn postgres_program(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL, which `make tools` installs");
    let newest = versions.map(|version| version.unwrap().path()).max().unwrap();
    let mut command = quiet(Command::new(newest.join("bin").join(name)));
    if let Some(user) = unprivileged() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn unprivileged() -> Option<User> {
    nix::unistd::geteuid()
        .is_root()
        .then(|| User::from_name("postgres").unwrap().unwrap())
}

/// A PostgreSQL with the user `postgres`, whose password is `secret`.
pub(crate) async fn postgres() -> Server {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "secret").unwrap();
    if let Some(user) = unprivileged() {
        std::os::unix::fs::chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let password = folder.path().join("password");
        std::os::unix::fs::chown(password, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    let data = folder.path().join("data");
    let mut initdb = postgres_program("initdb");
    initdb.args(["-U", "postgres", "-A", "scram-sha-256", "--no-sync", "--pwfile"]);
    initdb.arg(folder.path().join("password")).arg("-D").arg(&data);
    assert!(soon("initdb", initdb.status()).await.unwrap().success());
    let mut server = Server {
        address: nobody(),
        folder,
        process: None,
    };
    start_postgres(&mut server).await;
    server
}

pub(crate) async fn start_postgres(server: &mut Server) {
    let mut command = postgres_program("postgres");
    command.arg("-D").arg(server.folder.path().join("data"));
    command.args(["-p", &server.address.port().to_string()]);
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
        command.args(["-c", setting]);
    }
    server.process = Some(command.spawn().unwrap());
    let mut login = tokio_postgres::Config::new();
    login.host("127.0.0.1").port(server.address.port());
    login.user("postgres").password("secret");
    // It listens before it takes anybody in.
    until("PostgreSQL to take somebody in", async || {
        login.connect(tokio_postgres::NoTls).await.is_ok()
    })
    .await;
}

/// A Redis whose password is `secret`.
pub(crate) async fn redis() -> Server {
    let mut server = Server {
        address: nobody(),
        folder: tempfile::tempdir().unwrap(),
        process: None,
    };
    start_redis(&mut server).await;
    server
}

pub(crate) async fn start_redis(server: &mut Server) {
    let mut command = quiet(Command::new("redis-server"));
    command.args(["--port", &server.address.port().to_string(), "--bind", "127.0.0.1"]);
    command.args(["--requirepass", "secret", "--save", "", "--dir"]);
    let folder: PathBuf = server.folder.path().to_owned();
    server.process = Some(command.arg(folder).spawn().unwrap());
    server.listens().await;
}
