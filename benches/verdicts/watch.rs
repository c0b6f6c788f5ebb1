//! Which endpoints each proxy keeps traffic away from, asked of the proxy itself: the gate's API, HAProxy's and Envoy's and Caddy's own pages, and the
//! logs of nginx and Caddy.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How long nginx keeps away from a server that has failed (`fail_timeout`).
const KEPT_AWAY: Duration = Duration::from_secs(10);

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Gate,
    HaProxy,
    Envoy,
    Nginx,
    Caddy,
}

/// One proxy that is watched.
pub(crate) struct Watch {
    pub(crate) whom: Whom,
    pub(crate) admin: SocketAddr,
    pub(crate) origins: Vec<SocketAddr>,
    folder: PathBuf,
    /// How many lines of its log have been read.
    read: usize,
    /// Until when nginx keeps away from each, or whether Caddy's checks have taken it out.
    away: Vec<Option<Instant>>,
}

impl Watch {
    pub(crate) fn over(whom: Whom, admin: SocketAddr, origins: &[SocketAddr], folder: &Path) -> Self {
        Self {
            whom,
            admin,
            origins: origins.to_vec(),
            folder: folder.to_owned(),
            read: 0,
            away: vec![None; origins.len()],
        }
    }

    /// Who is out at this moment; nothing where the proxy did not tell.
    pub(crate) async fn out(&mut self) -> Option<BTreeSet<usize>> {
        let text = match self.whom {
            Whom::Gate => get(self.admin, "/api/v1/status").await?,
            Whom::HaProxy => ask(self.admin, "show stat\n").await?,
            Whom::Envoy => get(self.admin, "/clusters").await?,
            Whom::Nginx => String::new(),
            Whom::Caddy => get(self.admin, "/reverse_proxy/upstreams").await?,
        };
        match self.whom {
            Whom::Nginx => self.follow("nginx.log"),
            Whom::Caddy => self.follow("caddy.log"),
            Whom::Gate | Whom::HaProxy | Whom::Envoy => {}
        }
        let mut out: BTreeSet<usize> = (0..self.origins.len())
            .filter(|index| self.is_out(*index, &text))
            .collect();
        // Where too many are out these send requests to all of them: Envoy as it panics, nginx where none is left.
        let serves_all = match self.whom {
            Whom::Envoy => out.len() * 2 > self.origins.len(),
            Whom::Nginx => out.len() == self.origins.len(),
            Whom::Gate | Whom::HaProxy | Whom::Caddy => false,
        };
        if serves_all {
            out.clear();
        }
        Some(out)
    }

    /// Whether an endpoint is out, by what the proxy tells.
    fn is_out(&self, index: usize, text: &str) -> bool {
        let origin = self.origins[index].to_string();
        let is_listed = |all: &serde_json::Value, holds: fn(&serde_json::Value) -> bool| {
            let mut all = all.as_array().into_iter().flatten();
            all.any(|one| one["address"] == origin && holds(one))
        };
        let json = || serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
        match self.whom {
            // One that is `busy` or `degraded` takes requests that find no room elsewhere.
            Whom::Gate => is_listed(&json()["upstreams"][0]["pools"][0]["endpoints"], |one| {
                matches!(one["state"].as_str(), Some("unknown" | "suspect" | "ejected" | "down"))
            }),
            Whom::HaProxy => {
                let name = format!("b,o{index},");
                let line = text.lines().find(|line| line.starts_with(&name));
                line.is_some_and(|line| line.split(',').nth(17).is_some_and(|status| status.starts_with("DOWN")))
            }
            Whom::Envoy => text.contains(&format!("dify::{origin}::health_flags::/failed_")),
            Whom::Nginx => self.away[index].is_some_and(|until| Instant::now() < until),
            Whom::Caddy => self.away[index].is_some() || is_listed(&json(), |one| one["fails"].as_u64() > Some(0)),
        }
    }

    /// Why the gate has taken an endpoint out.
    pub(crate) async fn why(&self, index: usize) -> Option<String> {
        if self.whom != Whom::Gate {
            return None;
        }
        let text = get(self.admin, &format!("/api/v1/endpoints/{}", self.origins[index])).await?;
        let known: serde_json::Value = serde_json::from_str(&text).ok()?;
        let endpoint = &known[0]["endpoint"];
        Some(format!(
            "{} {}, {}",
            endpoint["address"], endpoint["state"], endpoint["cause"]
        ))
    }

    /// Reads on in a log.
    fn follow(&mut self, name: &str) {
        let text = std::fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.get(self.read..).unwrap_or_default() {
            let about = self
                .origins
                .iter()
                .position(|origin| line.contains(&origin.to_string()));
            let Some(index) = about else {
                continue;
            };
            if self.whom == Whom::Nginx && line.contains("temporarily disabled") {
                self.away[index] = Some(Instant::now() + KEPT_AWAY);
            }
            if self.whom == Whom::Caddy && line.contains("health_checker.active") {
                let is_back = line.contains("host is up");
                self.away[index] = (!is_back).then(Instant::now);
            }
        }
        self.read = lines.len();
    }
}

/// The body of an answer.
async fn get(at: SocketAddr, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    let answer = ask(at, &request).await?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

async fn ask(at: SocketAddr, request: &str) -> Option<String> {
    let asking = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(Duration::from_secs(1), asking).await.ok()?.ok()
}
