//! The servers under test, which `make servers` installs, each with the application of `app.py`.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::client::Ask;
use crate::launch::Process;

/// A server and its options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    program: &'static str,
    /// `PORT` stands for its port.
    options: &'static str,
    /// How many connections or requests it takes at a time; nothing where it sets no limit.
    pub(crate) places: Option<usize>,
}

/// Dify's own `GUNICORN_TIMEOUT`; by its default of 30 s gunicorn ends a sync worker that has a quiet stream.
const GUNICORN: &str = "-b 127.0.0.1:PORT --no-control-socket --timeout 360";

/// A pool of ten places wherever a server can be told so, which is what a Dify has by default.
pub(crate) const PROGRAMS: [Program; 9] = [
    Program {
        name: "gunicorn sync, 10 workers",
        program: "gunicorn",
        options: "-k sync -w 10 app:wsgi",
        places: Some(10),
    },
    Program {
        name: "gunicorn gthread, 10 threads",
        program: "gunicorn",
        options: "-k gthread --threads 10 app:wsgi",
        places: Some(10),
    },
    Program {
        name: "gunicorn gevent, 10 connections (Dify's)",
        program: "gunicorn",
        options: "-k gevent --worker-connections 10 app:wsgi",
        places: Some(10),
    },
    Program {
        name: "gunicorn asgi, 10 connections",
        program: "gunicorn",
        options: "-k asgi --worker-connections 10 app:asgi",
        places: Some(10),
    },
    Program {
        name: "gunicorn with uvicorn's worker",
        program: "gunicorn",
        options: "-k uvicorn_worker.UvicornWorker app:asgi",
        places: None,
    },
    Program {
        name: "uvicorn --limit-concurrency 10",
        program: "uvicorn",
        options: "--host 127.0.0.1 --port PORT --limit-concurrency 10 app:asgi",
        places: Some(9),
    },
    Program {
        name: "uvicorn --workers 2",
        program: "uvicorn",
        options: "--host 127.0.0.1 --port PORT --workers 2 app:asgi",
        places: None,
    },
    Program {
        name: "granian --backpressure 10",
        program: "granian",
        options: "--interface asgi --host 127.0.0.1 --port PORT --backpressure 10 app:asgi",
        places: Some(10),
    },
    Program {
        name: "hypercorn",
        program: "hypercorn",
        options: "-b 127.0.0.1:PORT app:asgi",
        places: None,
    },
];

/// A server that runs, with the files that its application uses.
pub(crate) struct Server {
    program: Program,
    pub(crate) address: SocketAddr,
    folder: PathBuf,
    process: Option<Process>,
}

/// The path of an installed server, or the way to install it.
pub(crate) fn installed(program: &str) -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/servers/bin")
        .join(program);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing: run `make servers`", path.display()))
    }
}

impl Server {
    /// Starts one whose files are in `folder`.
    pub(crate) fn start(program: Program, address: SocketAddr, folder: &Path) -> Result<Self, String> {
        let mut server = Self {
            program,
            address,
            folder: folder.join(address.port().to_string()),
            process: None,
        };
        std::fs::create_dir_all(&server.folder).map_err(|e| e.to_string())?;
        server.start_again(Duration::ZERO)?;
        Ok(server)
    }

    /// Starts it, which takes so long.
    pub(crate) fn start_again(&mut self, boot: Duration) -> Result<(), String> {
        self.boots_for(boot);
        let port = self.address.port().to_string();
        let options = format!("{GUNICORN} {}", self.program.options);
        let options = if self.program.program == "gunicorn" {
            &options
        } else {
            self.program.options
        };
        let said = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("said"));
        let said = said.map_err(|e| e.to_string())?;
        let mut command = Command::new(installed(self.program.program)?);
        command
            .args(options.split(' ').map(|option| option.replace("PORT", &port)))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/servers"))
            .env("LAB_LEDGER", self.folder.join("ledger"))
            .env("LAB_BOOT", self.folder.join("boot"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .process_group(0);
        let child = command.spawn().map_err(|e| format!("{}: {e}", self.program.program))?;
        self.process = Some(Process(child));
        Ok(())
    }

    /// Its next starts take so long.
    pub(crate) fn boots_for(&self, boot: Duration) {
        std::fs::write(self.folder.join("boot"), boot.as_secs_f64().to_string()).expect("a file");
    }

    /// The queries of the prompts that it has begun to run.
    pub(crate) fn ran(&self) -> Vec<String> {
        let ledger = std::fs::read_to_string(self.folder.join("ledger")).unwrap_or_default();
        ledger.lines().map(str::to_owned).collect()
    }

    fn pid(&self) -> Option<Pid> {
        let process = self.process.as_ref()?;
        Some(Pid::from_raw(process.0.id().try_into().ok()?))
    }

    /// Sends a signal to its main process.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, signal);
        }
    }

    /// Sends a signal to all of its processes.
    pub(crate) fn signal_all(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = killpg(pid, signal);
        }
    }

    /// Ends all of its processes at once.
    pub(crate) fn kill(&mut self) {
        self.signal_all(Signal::SIGKILL);
        self.process = None;
    }

    /// Whether its main process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_none_or(|process| process.0.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Waits until its main process has ended; returns after how long, or nothing where it has not by then.
    pub(crate) async fn ended(&mut self, patience: Duration) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < patience {
            if self.has_ended() {
                return Some(began.elapsed());
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Waits until it answers.
    pub(crate) async fn answers(&self) -> Result<(), String> {
        let (began, at) = (Instant::now(), self.address.to_string());
        while began.elapsed() < Duration::from_secs(30) {
            let answer = Ask::get("/health").whole(&at, Duration::from_secs(1)).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        let said = std::fs::read_to_string(self.folder.join("said")).unwrap_or_default();
        Err(format!("{} does not answer within 30 s: {said}", self.program.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
