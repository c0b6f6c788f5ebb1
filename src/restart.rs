//! How a restart is asked for: by a command or by a webhook. Never by a shell, always within a deadline.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::{ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::gate::names::EndpointId;
use crate::http1::{Connection, WireError};
use crate::tls::{Authorities, TlsTerms};
use crate::url::HttpUrl;

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A program and its arguments; `{endpoint}`, `{host}`, `{port}`, `{upstream}` and `{pool}` are put in.
    Command(Vec<String>),
    /// A URL that gets a JSON body.
    Webhook(Webhook),
}

/// Where a JSON body is posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook(HttpUrl);

/// How long a hook may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// So many bytes of what a command complains are told.
const TOLD: usize = 500;
/// How long the rest of what a command complains is waited for after it has ended.
const REST: Duration = Duration::from_millis(250);

impl Webhook {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none of the form `http://host:port/path` or `https://...`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let parsed = HttpUrl::parse(url);
        parsed
            .map(Self)
            .ok_or_else(|| format!("`{url}` is no URL of the form https://host/path"))
    }

    /// Posts `body`; the answer must be 2xx.
    ///
    /// # Errors
    /// It is not, or there is none; the message says which.
    pub(crate) async fn post(&self, authorities: &Authorities, body: &str) -> Result<(), String> {
        let HttpUrl {
            secure,
            address,
            target,
        } = &self.0;
        let said = |e: &dyn std::fmt::Display| e.to_string();
        let stream = TcpStream::connect((address.host(), address.port()))
            .await
            .map_err(|e| said(&e))?;
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: difygate/{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            target,
            address.without_dot(),
            env!("CARGO_PKG_VERSION"),
            body.len()
        );
        let status = if *secure {
            let stream = authorities.secure(stream, address.host(), &TlsTerms::default()).await;
            exchange(stream.map_err(|e| said(&e))?, &request).await
        } else {
            exchange(stream, &request).await
        };
        let status = status.map_err(|e| said(&e))?;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answered {status}"))
        }
    }
}

/// Sends a request and reads the status of its answer.
async fn exchange<S>(stream: S, request: &str) -> Result<StatusCode, WireError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection::over(stream);
    connection.send(request.as_bytes()).await?;
    Ok(connection.head(false).await?.status)
}

impl Hook {
    /// Asks for the restart of an endpoint, for this reason.
    ///
    /// # Errors
    /// The hook could not be run, failed, or took too long; the message says which.
    pub(crate) async fn ask(&self, authorities: &Authorities, id: &EndpointId, reason: &str) -> Result<(), String> {
        let asking = async {
            match self {
                Self::Command(words) => command(words, id, reason).await,
                Self::Webhook(webhook) => {
                    let body = json!({
                        "event": "restart_wanted",
                        "upstream": id.upstream.as_str(),
                        "pool": id.pool.as_str(),
                        "endpoint": id.address.as_str(),
                        "reason": reason,
                    });
                    webhook.post(authorities, &body.to_string()).await
                }
            }
        };
        let asked = tokio::time::timeout(DEADLINE, asking).await;
        asked.unwrap_or_else(|_| Err(format!("it took longer than {DEADLINE:?}")))
    }
}

async fn command(words: &[String], id: &EndpointId, reason: &str) -> Result<(), String> {
    let port = id.address.port().to_string();
    let fill = |word: &String| {
        let pairs = [
            ("{endpoint}", id.address.as_str()),
            ("{host}", id.address.host()),
            ("{port}", &port),
            ("{upstream}", id.upstream.as_str()),
            ("{pool}", id.pool.as_str()),
        ];
        pairs
            .iter()
            .fold(word.clone(), |word, (name, value)| word.replace(name, value))
    };
    let filled: Vec<String> = words.iter().map(fill).collect();
    let Some((program, arguments)) = filled.split_first() else {
        return Err("the command is empty".to_owned());
    };
    let started = Command::new(program)
        .args(arguments)
        .env("DIFYGATE_REASON", reason)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|e| format!("`{program}` cannot be run: {e}"))?;
    let complaint = child.stderr.take().map(Complaint::read);
    // What it complains is for people; its exit code decides, whoever still holds its standard error then.
    let status = child.wait().await.map_err(|e| e.to_string())?;
    if status.success() {
        return Ok(());
    }
    let complaint = match complaint {
        Some(complaint) => complaint.told().await,
        None => String::new(),
    };
    Err(format!("`{program}` ended with {status}: {complaint}"))
}

/// The standard error of a command. It is read to its end, though only its beginning is kept: whoever writes to a pipe that nobody reads waits, and
/// dies of SIGPIPE once it is closed. A service that the command has started may hold it for as long as it runs.
struct Complaint {
    beginning: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Complaint {
    fn read(mut stderr: ChildStderr) -> Self {
        let beginning = Arc::new(Mutex::new(Vec::new()));
        let kept = beginning.clone();
        let reading = tokio::spawn(async move {
            let mut part = vec![0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut part).await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let room = TOLD.saturating_sub(kept.len());
                kept.extend(part.iter().take(length.min(room)));
            }
        });
        Self { beginning, reading }
    }

    /// Its beginning, once the command has ended. What the command itself has written is in the pipe by then.
    async fn told(mut self) -> String {
        // Where the end does not come, a service of the command's holds the pipe.
        let _ = tokio::time::timeout(REST, &mut self.reading).await;
        let beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&beginning).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::names::{Address, PoolName, UpstreamName};

    fn id() -> EndpointId {
        EndpointId {
            upstream: UpstreamName::new("dify"),
            pool: PoolName::new("blue"),
            address: Address::parse("10.0.0.1:5001").unwrap(),
        }
    }

    async fn run(words: &[&str]) -> Result<(), String> {
        let hook = Hook::Command(words.iter().map(|word| (*word).to_owned()).collect());
        hook.ask(&Authorities::default(), &id(), "three failures").await
    }

    #[test]
    fn a_url_is_read_or_refused() {
        for url in [
            "http://127.0.0.1:9000/restart?who=1",
            "https://hooks.example.com/x",
            "http://ops",
        ] {
            assert!(Webhook::parse(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "ftp://x/",
            "hooks.example.com/x",
            "https://user:secret@x/",
            "http://",
        ] {
            assert!(Webhook::parse(url).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_command_is_run_without_a_shell() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("{pool}-{port}").display().to_string();
        assert_eq!(run(&["touch", &path]).await, Ok(()));
        assert!(folder.path().join("blue-5001").exists());
        let odd = run(&[
            "sh",
            "-c",
            "echo \"$DIFYGATE_REASON; $0\" >&2; exit 3",
            "{endpoint}; true",
        ])
        .await;
        assert_eq!(
            odd,
            Err("`sh` ended with exit status: 3: three failures; 10.0.0.1:5001; true".to_owned())
        );
        let missing = run(&["/nowhere/restart"]).await.unwrap_err();
        assert!(
            missing.contains("/nowhere/restart") && missing.contains("cannot be run"),
            "{missing}"
        );
    }

    #[tokio::test]
    async fn a_command_may_complain_at_length() {
        assert_eq!(run(&["sh", "-c", "exec head -c 300000 /dev/zero >&2"]).await, Ok(()));
        let told = run(&[
            "sh",
            "-c",
            "echo the first line >&2; head -c 300000 /dev/zero >&2; exit 3",
        ])
        .await;
        let told = told.unwrap_err();
        assert!(
            told.starts_with("`sh` ended with exit status: 3: the first line\n"),
            "{told}"
        );
        assert!(told.len() < 600, "{}", told.len());
    }

    #[tokio::test]
    async fn a_command_is_over_when_it_has_ended_whatever_it_leaves_behind() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        // A service that holds standard error until it is told to write, and longer than a command may take.
        let service =
            "(while [ -e $0 ] && [ ! -e $1 ]; do sleep 0.05; done; head -c 300000 /dev/zero >&2 && touch $2) &";
        let (lives, go, done) = (at("lives"), at("go"), at("done"));
        std::fs::write(&lives, "").unwrap();
        for (end, expected) in [
            ("exit 0", Ok(())),
            (
                "echo why >&2; exit 4",
                Err("`sh` ended with exit status: 4: why".to_owned()),
            ),
        ] {
            let script = format!("{service} {end}");
            assert_eq!(run(&["sh", "-c", &script, &lives, &go, &done]).await, expected);
        }
        std::fs::write(&go, "").unwrap();
        let wrote = async {
            while !std::path::Path::new(&done).exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let wrote = tokio::time::timeout(Duration::from_secs(20), wrote).await;
        assert!(wrote.is_ok(), "the service was killed when it wrote");
    }
}
