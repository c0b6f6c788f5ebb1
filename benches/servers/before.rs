//! The gate before two servers: a process of its own on its defaults, what its admin API says, and where its access log says that requests went.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::client::Ask;
use super::launch::builds::Build;
use super::launch::{Process, free_port};

const PATIENCE: Duration = Duration::from_secs(5);

/// A gate that runs.
pub(crate) struct Before {
    folder: tempfile::TempDir,
    _process: Process,
    pub(crate) edge: String,
    admin: String,
}

/// One attempt at an endpoint as the access log tells it.
#[derive(Debug)]
pub(crate) struct Sent {
    /// When the request came.
    pub(crate) at: SystemTime,
    pub(crate) endpoint: String,
    pub(crate) attempts: u64,
}

impl Before {
    /// Starts it before `endpoints` (`host:port`), with further keys of the upstream. Returns once all endpoints take traffic.
    pub(crate) async fn start(endpoints: &[String], keys: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (edge, admin) = (free_port().to_string(), free_port().to_string());
        let listed: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
        let text = format!(
            "listeners: [{{address: \"{edge}\"}}]\nadmin: {{address: \"{admin}\"}}\nserver: {{state_dir: \"off\"}}\n\
             log: {{access: {}}}\nupstreams: {{dify: {{{keys}, pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
            folder.path().join("access.log").display(),
            listed.join(", ")
        );
        let said = std::fs::File::create(folder.path().join("gate.log")).map_err(|e| e.to_string())?;
        let command = Build::under_test().command(folder.path(), &text);
        let mut command = command.ok_or("the configuration cannot be written")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let process = command.spawn().map_err(|e| format!("the gate does not start: {e}"))?;
        let gate = Self {
            folder,
            _process: Process(process),
            edge,
            admin,
        };
        for endpoint in endpoints {
            let wait = Duration::from_secs(20);
            gate.until_routable(endpoint, true, wait)
                .await
                .ok_or_else(|| format!("the gate does not find {endpoint} fit within {wait:?}"))?;
        }
        Ok(gate)
    }

    /// `GET` of its admin API.
    pub(crate) async fn admin(&self, path: &str) -> Result<Value, String> {
        Ok(Ask::get(path).whole(&self.admin, PATIENCE).await?.json())
    }

    pub(crate) async fn metrics(&self) -> Result<String, String> {
        Ok(Ask::get("/metrics").whole(&self.admin, PATIENCE).await?.text)
    }

    /// What its status says of an endpoint.
    pub(crate) async fn endpoint(&self, endpoint: &str) -> Option<Value> {
        let status = self.admin("/api/v1/status").await.ok()?;
        let all = status["upstreams"][0]["pools"][0]["endpoints"].as_array()?;
        all.iter().find(|one| one["address"] == endpoint).cloned()
    }

    /// Waits until an endpoint takes traffic, or none any more; returns after how long.
    pub(crate) async fn until_routable(&self, endpoint: &str, wanted: bool, patience: Duration) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < patience {
            if self
                .endpoint(endpoint)
                .await
                .is_some_and(|one| one["routable"] == wanted)
            {
                return Some(began.elapsed());
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Waits until an endpoint is in one of these states; returns after how long.
    pub(crate) async fn until_state(&self, endpoint: &str, wanted: &[&str], patience: Duration) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < patience {
            let is_there = |one: Value| wanted.iter().any(|state| one["state"] == *state);
            if self.endpoint(endpoint).await.is_some_and(is_there) {
                return Some(began.elapsed());
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Lets an endpoint drain, or enables it again.
    pub(crate) async fn drain(&self, endpoint: &str, drains: bool) -> Result<(), String> {
        let path = format!("/api/v1/overrides/{endpoint}");
        let put = serde_json::json!({"state": "draining", "reason": "lab"});
        let ask = if drains {
            Ask {
                method: http::Method::PUT,
                ..Ask::post(&path, &put)
            }
        } else {
            Ask {
                method: http::Method::DELETE,
                ..Ask::get(&path)
            }
        };
        let answer = ask.whole(&self.admin, PATIENCE).await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(format!("{path}: {} {}", answer.status, answer.text))
        }
    }

    /// How often an endpoint was taken out by what was seen of it.
    pub(crate) async fn ejections(&self, endpoint: &str) -> Result<u64, String> {
        let named = format!("endpoint=\"{endpoint}\"");
        let metrics = self.metrics().await?;
        let lines = metrics.lines().filter(|line| {
            line.starts_with("difygate_state_changes_total{")
                && line.contains(&named)
                && (line.contains("to=\"down\"") || line.contains("to=\"ejected\""))
        });
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }

    /// What it has logged of its endpoints.
    pub(crate) fn said(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("gate.log")).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains("endpoint"))
            .map(str::to_owned)
            .collect()
    }

    /// Every request that the access log tells of so far.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        let text = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let ended: jiff::Timestamp = line["time"].as_str()?.parse().ok()?;
                let took = Duration::from_secs_f64(line["duration_ms"].as_f64()? / 1_000.0);
                Some(Sent {
                    at: SystemTime::UNIX_EPOCH + Duration::from_millis(ended.as_millisecond().try_into().ok()?) - took,
                    endpoint: line["endpoint"].as_str()?.to_owned(),
                    attempts: line["attempts"].as_u64()?,
                })
            })
            .collect()
    }
}
