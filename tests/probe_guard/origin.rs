//! Real web servers with guarded routes that count who reaches them.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::message::Message;
use crate::origins::{installed, script};

/// A web server in a process of its own, which is killed with all its children when this is dropped.
pub(crate) struct Origin {
    process: Child,
    address: SocketAddr,
}

impl Origin {
    /// Flask in gunicorn's sync worker, which believes the loopback addresses by default.
    pub(crate) fn gunicorn() -> Self {
        let mut command = Command::new(installed("bin/python"));
        command.args([
            "-m",
            "gunicorn",
            "--bind",
            "fd://0",
            "--log-level",
            "critical",
            "--forwarded-allow-ips",
            "127.0.0.1",
        ]);
        command.arg("--chdir").arg(script("")).arg("flask_app:app");
        Self::start(command)
    }

    /// FastAPI in uvicorn with h11.
    pub(crate) fn uvicorn() -> Self {
        let mut command = Command::new(installed("bin/python"));
        command.arg(script("fastapi_app.py"));
        Self::start(command)
    }

    /// Flask in Werkzeug's development server.
    pub(crate) fn werkzeug() -> Self {
        let mut command = Command::new(installed("bin/python"));
        command.arg(script("flask_app.py")).stderr(Stdio::null());
        Self::start(command)
    }

    /// Gives the program a listening socket as its standard input: clients may connect at once and are answered when it is up.
    fn start(mut command: Command) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        command
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .process_group(0);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let process = command.spawn().unwrap();
        let origin = Self { process, address };
        assert_eq!(origin.arrivals(), 0, "a fresh server has seen nobody");
        origin
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have run a guarded route, asked of the server directly.
    pub(crate) fn arrivals(&self) -> u64 {
        let answer = Message::get(b"/arrivals").send(self.address);
        answer.json()["guarded"].as_u64().unwrap()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let group = i32::try_from(self.process.id()).map(Pid::from_raw);
        // It may be gone already, and then there is nothing to kill.
        let _ = group.map(|group| killpg(group, Signal::SIGKILL));
        let _ = self.process.wait();
    }
}
