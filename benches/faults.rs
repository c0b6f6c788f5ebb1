//! The fault lab: three simulated Dify instances, the gate on its default settings, 200 requests a second, one fault after the other:
//! `cargo bench --bench faults`. Prints one row a fault, medians and extremes over runs with a random phase.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

mod launch;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use difygate::demo::fault::Fault;
use difygate::demo::load::{Load, Outcome};
use difygate::demo::stage::Stage;
use difygate::simulated_dify::SimulatedDify;
use tokio::time::sleep;

use launch::free_port;

const RUNS: usize = 5;

/// One run of one fault: seconds to notice, seconds to return, failed requests, attempts wasted.
async fn run(stage: &Stage, fault: Fault, load: Option<&Load>) -> anyhow::Result<[f64; 4]> {
    let index = fastrand::usize(..stage.instances.len());
    let dify = &stage.instances[index];
    let now = || tokio::time::Instant::now().into_std();
    sleep(Duration::from_millis(fastrand::u64(500..2_500))).await;
    let before = stage.retries().await?;
    let broke = now();
    fault.strike(dify).await;
    let noticed = stage.until(index, false).await?.saturating_duration_since(broke);
    sleep(Duration::from_millis(1_000)).await;
    let mended = now();
    fault.mend(dify).await?;
    let back = stage.until(index, true).await?.saturating_duration_since(mended);
    sleep(Duration::from_millis(500)).await;
    let mut outcomes = Vec::new();
    if let Some(load) = load {
        load.settled(now()).await;
        outcomes = load.since(broke);
    }
    let served_by_it = |o: &&Outcome| o.sent < mended && o.instance.as_deref() == Some(dify.name());
    // With passing traffic what it serves is no waste.
    let stuck = if fault == Fault::HealthFails {
        0
    } else {
        outcomes.iter().filter(served_by_it).count()
    };
    let failed = outcomes.iter().filter(|outcome| !outcome.is_served()).count();
    let wasted = stage.retries().await? - before + stuck as u64;
    Ok([noticed.as_secs_f64(), back.as_secs_f64(), failed as f64, wasted as f64])
}

fn text(listener: &str, endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "{more}listeners: [{{address: \"{listener}\"}}]\nlog: {{access: \"off\"}}\nupstreams: {{dify: {{pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        endpoints.join(", ")
    )
}

fn spread(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (least, middle, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
}

/// Milliseconds from the start of the process to its first served request.
async fn first_request(folder: &Path, endpoints: &[SocketAddr]) -> f64 {
    let listener = free_port();
    let path = folder.join("start.yaml");
    let admin = format!("admin: {{address: \"{}\"}}\n", free_port());
    std::fs::write(&path, text(&listener.to_string(), endpoints, &admin)).expect("a file");
    let start = tokio::time::Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_difygate"))
        .args(["run", "-c"])
        .arg(&path)
        .stderr(Stdio::null())
        .spawn()
        .expect("the gate");
    let request = "GET /v1/parameters HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
    let took = loop {
        match difygate::demo::load::exchange(listener, request).await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => break start.elapsed(),
            Ok(_) | Err(_) if start.elapsed() > Duration::from_secs(10) => panic!("the gate does not serve"),
            Ok(_) | Err(_) => sleep(Duration::from_millis(1)).await,
        }
    };
    child.kill().expect("a process");
    child.wait().expect("a process");
    took.as_secs_f64() * 1_000.0
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut out = std::io::stdout();
    let mut say = |line: String| writeln!(out, "{line}").expect("a reader");
    say(format!("{RUNS} runs a row, median (least–most); 3 instances, defaults"));
    say("| fault | load | out of rotation, s | back, s | failed | wasted |".into());
    say("|---|---|---|---|---|---|".into());
    let rows = [
        (Fault::DatabaseFails, "503 on /healthz and in traffic", true),
        (Fault::HealthFails, "503 on /healthz, traffic well", true),
        (Fault::TrafficFails, "503 in traffic, /healthz well", true),
        (
            Fault::TrafficBreaks,
            "traffic cut before an answer, /healthz well",
            true,
        ),
        (Fault::Freezes, "frozen, keeps accepting", true),
        (Fault::Freezes, "frozen, keeps accepting", false),
        (Fault::Dies, "port closed", true),
    ];
    for (fault, name, loaded) in rows {
        let mut figures: [Vec<f64>; 4] = Default::default();
        for _ in 0..RUNS {
            // A gate that has seen nothing yet: holds grow with every ejection.
            let stage = Stage::set().await.expect("a stage");
            let load = loaded.then(|| Load::start(stage.listener()));
            let run = run(&stage, fault, load.as_ref())
                .await
                .expect("a fault that comes and goes");
            figures
                .iter_mut()
                .zip(run)
                .for_each(|(column, figure)| column.push(figure));
        }
        let [noticed, back, failed, wasted] = &mut figures;
        let rate = if loaded { "200/s" } else { "idle" };
        let cells = [
            spread(noticed, 2),
            spread(back, 2),
            spread(failed, 0),
            spread(wasted, 0),
        ];
        say(format!("| {name} | {rate} | {} |", cells.join(" | ")));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::set().await.expect("a stage");
    let endpoints: Vec<SocketAddr> = stage.instances.iter().map(SimulatedDify::address).collect();
    let mut starts = Vec::new();
    for _ in 0..RUNS {
        starts.push(first_request(folder.path(), &endpoints).await);
    }
    say(format!(
        "start to first request served, 3 endpoints: {} ms",
        spread(&mut starts, 0)
    ));
}
