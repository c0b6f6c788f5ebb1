//! The items that start runs: blocking and streaming, many at once, stopped and shown again by another replica, and a drain meanwhile.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::client::{Ask, Reply};
use super::{Failed, Finding, NotApplicable, PATIENCE, Passed, Trial, brief, passes};

/// Runs that are started at once.
const AT_ONCE: usize = 10;
const USER: &str = "difygate";
/// How a run ends.
const ENDS: [&str; 3] = ["\"message_end\"", "\"workflow_finished\"", "\"event\": \"error\""];

type Named = (&'static str, Finding);

const BLOCKING: &str = "a blocking prompt is answered";
const STREAMING: &str = "a stream begins with `event: ping` and is whole";
const UNBUFFERED: &str = "a stream says `X-Accel-Buffering: no` and `Cache-Control: no-cache`";
const MANY: &str = "ten prompts at once are all answered";
const STOPPED: &str = "a stop sent to another replica ends a stream";
const AGAIN: &str = "a run is shown again by another replica";
const DRAINED: &str = "a drain cuts no stream and fails no read";

impl Trial {
    pub(super) async fn prompts(&self) -> Vec<Named> {
        let names = [BLOCKING, STREAMING, UNBUFFERED, MANY, STOPPED, AGAIN, DRAINED];
        if self.arguments.key.is_none() {
            return names
                .map(|name| (name, NotApplicable("without --key".to_owned())))
                .into();
        }
        let mut done = vec![(BLOCKING, self.blocking().await)];
        let (streaming, unbuffered) = self.streaming().await;
        done.extend([(STREAMING, streaming), (UNBUFFERED, unbuffered)]);
        done.push((MANY, self.many().await));
        done.push((STOPPED, limited(self.stopped()).await));
        done.push((AGAIN, limited(self.again()).await));
        done.push((DRAINED, limited(self.drained()).await));
        done
    }

    fn prompt(&self, mode: &str) -> Ask {
        let body = json!({
            "query": "Say yes.", "inputs": self.arguments.inputs, "user": USER, "response_mode": mode,
        });
        self.keyed(Ask::post("/v1/chat-messages", &body))
    }

    /// Some apps refuse to answer at once (400); so they do without the gate.
    async fn blocking(&self) -> Finding {
        let answer = self.prompt("blocking").whole(&self.gate.edge, PATIENCE).await;
        match &answer {
            Ok(whole) if whole.status == 200 => {
                let is_whole = whole.json()["message_id"].is_string();
                passes(is_whole, format!("200 after {:.2} s", whole.took.as_secs_f64()))
            }
            Ok(whole) if whole.status == 400 => NotApplicable(format!("the app refuses: {}", whole.text)),
            Ok(_) | Err(_) => Failed(brief(&answer)),
        }
    }

    async fn streaming(&self) -> (Finding, Finding) {
        let answer = self.prompt("streaming").whole(&self.gate.edge, PATIENCE).await;
        let whole = match &answer {
            Ok(whole) if whole.status == 200 => whole,
            Ok(_) | Err(_) => return (Failed(brief(&answer)), NotApplicable("no stream".to_owned())),
        };
        let is_whole = whole.text.starts_with("event: ping") && ENDS.iter().any(|end| whole.text.contains(end));
        let measured = format!(
            "first byte after {:.0} ms, end after {:.2} s, {} bytes",
            super::millis(whole.first_byte),
            whole.took.as_secs_f64(),
            whole.text.len()
        );
        let (accel, cache) = (whole.header("x-accel-buffering"), whole.header("cache-control"));
        let unbuffered = passes(accel == "no" && cache.contains("no-cache"), format!("{accel}; {cache}"));
        (passes(is_whole, measured), unbuffered)
    }

    async fn many(&self) -> Finding {
        let asked: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (ask, edge) = (self.prompt("streaming"), self.gate.edge.clone());
                tokio::spawn(async move { ask.whole(&edge, PATIENCE).await })
            })
            .collect();
        let (mut served, mut longest, mut why) = (0, Duration::ZERO, String::new());
        for asked in asked {
            let answer = asked.await.unwrap_or_else(|e| Err(e.to_string()));
            match &answer {
                Ok(whole) if whole.status == 200 && ENDS.iter().any(|end| whole.text.contains(end)) => {
                    (served, longest) = (served + 1, longest.max(whole.took));
                }
                Ok(_) | Err(_) => why = brief(&answer),
            }
        }
        let measured = format!("{served} of {AT_ONCE}, longest {:.2} s {why}", longest.as_secs_f64());
        passes(served == AT_ONCE, measured)
    }

    /// Begins a stream on the first replica; returns it with the last object that it has told.
    async fn begun(&self) -> Result<(Reply, Value), Finding> {
        let Some(first) = self.arguments.replicas.first() else {
            return Err(NotApplicable("no replica".to_owned()));
        };
        let mut reply = self.prompt("streaming").send(first).await.map_err(Failed)?;
        let text = reply.until("\"task_id\"").await.map_err(Failed)?;
        let data = text.lines().rev().find_map(|line| line.strip_prefix("data: "));
        let told = data
            .and_then(|data| serde_json::from_str(data).ok())
            .unwrap_or_default();
        Ok((reply, told))
    }

    fn another(&self) -> Result<&str, Finding> {
        let second = self.arguments.replicas.get(1).map(String::as_str);
        second.ok_or_else(|| NotApplicable("there is one replica".to_owned()))
    }

    async fn stopped(&self) -> Result<Finding, Finding> {
        let another = self.another()?;
        let (reply, told) = self.begun().await?;
        let task = told["task_id"].as_str().unwrap_or_default();
        let ask = Ask::post(&format!("/v1/chat-messages/{task}/stop"), &json!({"user": USER}));
        let stop = self.keyed(ask).whole(another, PATIENCE).await;
        let said = stop.as_ref().is_ok_and(|stop| stop.status == 200);
        let asked = tokio::time::Instant::now();
        let rest = reply.rest().await.map_err(Failed)?;
        let measured = format!(
            "{}; ended {:.2} s later, {} bytes",
            brief(&stop),
            asked.elapsed().as_secs_f64(),
            rest.text.len()
        );
        Ok(passes(said && asked.elapsed() < super::TOO_LONG, measured))
    }

    async fn again(&self) -> Result<Finding, Finding> {
        let another = self.another()?;
        let (reply, told) = self.begun().await?;
        let Some(run) = told["workflow_run_id"].as_str() else {
            return Ok(NotApplicable("the app is no workflow".to_owned()));
        };
        // The client goes away.
        drop(reply);
        let path = format!("/v1/workflow/{run}/events?user={USER}&include_state_snapshot=true");
        let shown = self.keyed(Ask::get(&path)).whole(another, PATIENCE).await;
        Ok(match &shown {
            Ok(whole) if whole.status == 404 => NotApplicable("404: not known to this release".to_owned()),
            Ok(whole) if whole.status == 200 && whole.text.contains("\"workflow_finished\"") => {
                Passed(format!("whole after {:.2} s", whole.took.as_secs_f64()))
            }
            Ok(_) | Err(_) => Failed(brief(&shown)),
        })
    }

    async fn drained(&self) -> Result<Finding, Finding> {
        self.another()?;
        let first = &self.arguments.replicas[0];
        let streams: Vec<_> = (0..2)
            .map(|_| {
                let (ask, edge) = (self.prompt("streaming"), self.gate.edge.clone());
                tokio::spawn(async move { ask.whole(&edge, PATIENCE).await })
            })
            .collect();
        self.gate.drain(first, true).await.map_err(Failed)?;
        let reads = self.reads().await;
        self.gate.drain(first, false).await.map_err(Failed)?;
        let mut whole = 0;
        for stream in streams {
            let answer = stream.await.unwrap_or_else(|e| Err(e.to_string()));
            whole += usize::from(answer.is_ok_and(|answer| ENDS.iter().any(|end| answer.text.contains(end))));
        }
        let (Passed(told) | Failed(told) | NotApplicable(told)) = &reads;
        let measured = format!("{whole} of 2 streams whole; {told}");
        Ok(passes(whole == 2 && matches!(reads, Passed(_)), measured))
    }
}

/// An item that takes no longer than it may.
async fn limited(item: impl Future<Output = Result<Finding, Finding>>) -> Finding {
    let done = timeout(PATIENCE, item).await;
    done.map_or_else(
        |_| Failed(format!("not over within {PATIENCE:?}")),
        |result| result.unwrap_or_else(|result| result),
    )
}
