//! The commands that speak to a running gate.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{Exit, LoadingArgs, OverrideArgs, block_on, complain, render, say};
use crate::admin::overrides::{Outcome, Put};
use crate::admin::view::{Explanation, Status};
use crate::client;
use crate::reload::Loaded;

/// Shows the gate's status. Unhealthy is an upstream of which nothing may serve.
pub(super) fn status(admin: &str, json: bool, watch: bool) -> anyhow::Result<Exit> {
    block_on(async {
        loop {
            let (raw, status) = ask::<Status>(admin, "/api/v1/status").await?;
            if json {
                say(&raw)?;
            } else if watch {
                // Clears the screen and goes to its first line (ECMA-48: ED, CUP).
                say(&format!("\x1b[2J\x1b[H{}", render::status(&status)))?;
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            } else {
                say(&render::status(&status))?;
            }
            return Ok(if serves(&status) { Exit::Done } else { Exit::Failed });
        }
    })?
}

fn serves(status: &Status) -> bool {
    status.upstreams.iter().all(|upstream| {
        let active = upstream.pools.iter().filter(|pool| pool.name == upstream.active);
        active
            .flat_map(|pool| &pool.endpoints)
            .any(|endpoint| endpoint.routable)
    })
}

/// Shows why an endpoint is in its state.
pub(super) fn explain(admin: &str, endpoint: &str, json: bool) -> anyhow::Result<Exit> {
    block_on(async {
        let (raw, explained) = ask::<Vec<Explanation>>(admin, &format!("/api/v1/endpoints/{endpoint}")).await?;
        if json {
            return say(&raw);
        }
        say(&explained
            .iter()
            .map(render::explanation)
            .collect::<Vec<_>>()
            .join("\n\n"))
    })?
}

/// Puts the operator's word on an endpoint, or takes it back.
pub(super) fn endpoint(args: &OverrideArgs, put: Option<Put>) -> anyhow::Result<Exit> {
    let pairs = [
        ("upstream", args.upstream.as_deref()),
        ("pool", args.pool.as_deref()),
        ("dry_run", args.dry_run.then_some("true")),
    ];
    let query: Vec<String> = pairs
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", (*value)?)))
        .collect();
    let path = format!("/api/v1/overrides/{}?{}", args.endpoint, query.join("&"));
    let (method, body) = match put {
        Some(put) => (http::Method::PUT, serde_json::to_vec(&put)?),
        None => (http::Method::DELETE, Vec::new()),
    };
    let admin = &args.admin.url;
    block_on(async {
        let answer = client::send(method, admin, &path, &[], body.into()).await?;
        let (raw, outcome) = read::<Outcome>(admin, answer)?;
        for warning in &outcome.warnings {
            complain(&format!("difygate: {warning}"));
        }
        if args.json {
            return say(&raw);
        }
        say(&render::overridden(&outcome))
    })?
}

/// Shows what the gate would change if it loaded this file.
pub(super) fn diff(path: &Path, args: &LoadingArgs) -> anyhow::Result<Exit> {
    let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    load(args, "/api/v1/config:diff", text, "nothing would change")
}

/// Makes the gate load its file again.
pub(super) fn reload(args: &LoadingArgs) -> anyhow::Result<Exit> {
    load(args, "/api/v1/config:reload", Vec::new(), "nothing has changed")
}

fn load(args: &LoadingArgs, path: &str, text: Vec<u8>, nothing: &str) -> anyhow::Result<Exit> {
    let admin = &args.admin.url;
    block_on(async {
        let answer = client::send(http::Method::POST, admin, path, &[], text.into()).await?;
        let (raw, loaded) = read::<Loaded>(admin, answer)?;
        if args.json {
            return say(&raw);
        }
        if loaded.changes.is_empty() {
            return say(nothing);
        }
        let lines: Vec<String> = loaded.changes.iter().map(ToString::to_string).collect();
        say(&lines.join("\n"))
    })?
}

pub(super) async fn ask<T: DeserializeOwned>(admin: &str, path: &str) -> anyhow::Result<(String, T)> {
    let answer = client::get(admin, path).await?;
    read(admin, answer)
}

/// What the gate answered, unless it refused.
fn read<T: DeserializeOwned>(admin: &str, answer: (http::StatusCode, Bytes)) -> anyhow::Result<(String, T)> {
    let (status, body) = answer;
    let raw = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        let answer: serde_json::Value = serde_json::from_str(&raw).unwrap_or_default();
        let why = answer.get("error").and_then(serde_json::Value::as_str).unwrap_or(&raw);
        bail!("{why}");
    }
    let value = serde_json::from_str(&raw)
        .with_context(|| format!("{admin} does not answer like a difygate of this version"))?;
    Ok((raw, value))
}
