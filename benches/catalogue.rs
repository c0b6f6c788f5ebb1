//! The catalogue of faults: every wrong way to answer a probe, and what can befall a whole pool, each before the gate on its default settings with
//! 200 requests a second: `cargo bench --bench catalogue`.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

use std::io::Write as _;
use std::time::Duration;

use difygate::demo::load::{Load, Outcome, exchange};
use difygate::demo::stage::Stage;
use difygate::simulated_dify::{BrokenAnswer, Health, SimulatedDify, Traffic};
use tokio::time::{Instant, sleep};

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("a reader");
}

/// Words after `--` choose rows by a part of their names.
fn is_chosen(name: &str) -> bool {
    let mut words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

fn spread(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (least, middle, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
}

fn failed(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| !outcome.is_served()).count()
}

/// Each instance has the fault once, so that no hold has grown.
async fn answer(name: &str, health: &Health) -> anyhow::Result<()> {
    if !is_chosen(name) {
        return Ok(());
    }
    let stage = Stage::set().await?;
    let load = Load::start(stage.listener());
    let mut figures: [Vec<f64>; 3] = Default::default();
    for (index, dify) in stage.instances.iter().enumerate() {
        sleep(Duration::from_millis(fastrand::u64(500..2_500))).await;
        let broke = Instant::now().into_std();
        dify.set(|switches| switches.health = health.clone());
        let out = stage.until(index, false).await?.saturating_duration_since(broke);
        sleep(Duration::from_millis(500)).await;
        let mended = Instant::now().into_std();
        dify.set(|switches| switches.health = Health::Passing);
        let back = stage.until(index, true).await?.saturating_duration_since(mended);
        load.settled(Instant::now().into_std()).await;
        let lost = failed(&load.since(broke));
        let run = [out.as_secs_f64(), back.as_secs_f64(), lost as f64];
        figures
            .iter_mut()
            .zip(run)
            .for_each(|(column, figure)| column.push(figure));
    }
    let [out, back, lost] = &mut figures;
    say(&format!(
        "| {name} | {} | {} | {} |",
        spread(out, 2),
        spread(back, 2),
        spread(lost, 0)
    ));
    Ok(())
}

/// Something befalls every instance at once for `lasts`, and ends. Tells what became of the requests meanwhile, and when all were served again.
async fn all(name: &str, lasts: Duration, strike: fn(&SimulatedDify), mend: fn(&SimulatedDify)) -> anyhow::Result<()> {
    if !is_chosen(name) {
        return Ok(());
    }
    let stage = Stage::set().await?;
    let load = Load::start(stage.listener());
    sleep(Duration::from_millis(1_500)).await;
    let before = changes(&stage).await?;
    let broke = Instant::now().into_std();
    stage.instances.iter().for_each(strike);
    sleep(lasts).await;
    let mended = Instant::now().into_std();
    stage.instances.iter().for_each(mend);
    sleep(Duration::from_secs(6)).await;
    load.settled(Instant::now().into_std()).await;
    let outcomes = load.since(broke);
    let refused: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.is_served()).collect();
    let longest = refused.iter().map(|outcome| outcome.took).max().unwrap_or_default();
    let last = refused.iter().map(|outcome| outcome.sent).max();
    let again = last.map_or(Duration::ZERO, |sent| sent.saturating_duration_since(mended));
    say(&format!(
        "| {name} | {} of {} | {:.0} ms | {:.2} s | {} |",
        refused.len(),
        outcomes.len(),
        longest.as_secs_f64() * 1e3,
        again.as_secs_f64(),
        changes(&stage).await? - before,
    ));
    Ok(())
}

/// Changes of state so far.
async fn changes(stage: &Stage) -> anyhow::Result<u64> {
    let (_, text) = difygate::client::get(&format!("http://{}", stage.gate.admin()), "/metrics").await?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("difygate_state_changes_total{"));
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum())
}

/// So many threads do nothing but use the processors for ten seconds. Who is slow then is the machine, and nobody is to be blamed for it.
async fn starved(spinners: usize) -> anyhow::Result<()> {
    if !is_chosen("spin") {
        return Ok(());
    }
    let stage = Stage::set().await?;
    let load = Load::start(stage.listener());
    sleep(Duration::from_millis(1_500)).await;
    let (before, began) = (changes(&stage).await?, Instant::now());
    let until = began + Duration::from_secs(10);
    let threads: Vec<_> = (0..spinners)
        .map(|_| {
            std::thread::spawn(move || {
                while Instant::now() < until {
                    std::hint::spin_loop()
                }
            })
        })
        .collect();
    tokio::time::sleep_until(until).await;
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("a thread that spins"));
    load.settled(Instant::now().into_std()).await;
    let outcomes = load.since(began.into_std());
    let mut took: Vec<f64> = outcomes
        .iter()
        .map(|outcome| outcome.took.as_secs_f64() * 1e3)
        .collect();
    took.sort_by(f64::total_cmp);
    say(&format!(
        "| {spinners} threads spin on {} processors for 10 s | {} changes of state | {} of {} requests failed | 99 % within {:.0} ms |",
        std::thread::available_parallelism()?,
        changes(&stage).await? - before,
        failed(&outcomes),
        outcomes.len(),
        took.get(took.len() * 99 / 100).copied().unwrap_or_default(),
    ));
    Ok(())
}

const STREAM: &str =
    r#"{"inputs":{"events":400,"gap_ms":20},"query":"hello","response_mode":"streaming","user":"lab"}"#;

/// Ten streams fill every instance that holds ten connections, up to `full` of three.
async fn streams(full: usize) -> anyhow::Result<()> {
    if !is_chosen("streams") {
        return Ok(());
    }
    let stage = Stage::set().await?;
    for dify in stage.instances.iter().take(full) {
        dify.set(|switches| switches.slots = 10);
    }
    let listener = stage.listener();
    let head = "POST /v1/chat-messages HTTP/1.1\r\nHost: lab\r\nAuthorization: Bearer app-lab\r\nContent-Type: application/json";
    let request = format!(
        "{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{STREAM}",
        STREAM.len()
    );
    let mut under_way = Vec::new();
    while stage
        .instances
        .iter()
        .take(full)
        .any(|dify| dify.tally().streams() < 10)
    {
        let request = request.clone();
        under_way.push(tokio::spawn(async move { exchange(listener, &request).await }));
        sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now().into_std();
    let load = Load::start(listener);
    sleep(Duration::from_secs(5)).await;
    let mut ejected = 0;
    for index in 0..3 {
        ejected += usize::from(stage.known(index).await?.state.tier().is_none());
    }
    load.settled(Instant::now().into_std() - Duration::from_secs(1)).await;
    let outcomes = load.since(began);
    drop(load);
    let (mut whole, opened) = (0, under_way.len());
    for stream in under_way {
        whole += usize::from(stream.await?.is_ok_and(|answer| answer.contains("message_end")));
    }
    say(&format!(
        "| ten streams on {full} of 3 instances | {ejected} ejected | {} of {opened} streams cut | {} of {} requests refused |",
        opened - whole,
        failed(&outcomes),
        outcomes.len()
    ));
    Ok(())
}

fn answers() -> Vec<(&'static str, Health)> {
    use BrokenAnswer as Broken;
    vec![
        ("503", Health::failing(["database"])),
        ("500", Health::Status(500)),
        ("429, spared for 5 s", Health::Status(429)),
        ("404 on one instance", Health::Status(404)),
        ("301 on one instance", Health::Status(301)),
        ("200 whose body says unhealthy", Health::Unhealthy),
        ("silence", Health::Broken(Broken::HangBeforeHeaders)),
        ("silence within a header", Health::Broken(Broken::HangMidHeader)),
        ("silence within the body", Health::Broken(Broken::HangMidBody)),
        ("a byte each 200 ms", Health::Broken(Broken::Drip)),
        ("a body without end", Health::Broken(Broken::EndlessBody)),
        ("a body of 100 MB", Health::Broken(Broken::HugeBody)),
        ("a length beyond the body", Health::Broken(Broken::LengthTooLong)),
        ("a chunk size that is no number", Health::Broken(Broken::ChunkedGarbage)),
        ("no last chunk", Health::Broken(Broken::ChunkedWithoutEnd)),
        (
            "a chunk extension of 1 MB",
            Health::Broken(Broken::ChunkedHugeExtension),
        ),
        ("a body without a head", Health::Broken(Broken::Http09)),
        ("HTTP/9.9", Health::Broken(Broken::Http99)),
        ("an SSH banner", Health::Broken(Broken::SshBanner)),
        ("a TLS alert", Health::Broken(Broken::TlsAlert)),
        ("103 without end", Health::Broken(Broken::EarlyHintsFlood)),
        ("101 unasked", Health::Broken(Broken::UnaskedSwitch)),
        ("257 headers", Health::Broken(Broken::ManyHeaders)),
        ("a header of 2 MB", Health::Broken(Broken::HugeHeader)),
        ("reset on accept, traffic too", Health::Broken(Broken::ResetOnAccept)),
        ("closed on accept, traffic too", Health::Broken(Broken::CloseOnAccept)),
    ]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    if std::env::args().any(|word| word == "--test") {
        return Ok(());
    }
    say("| answer to probes | out of rotation, s | back, s | failed |");
    say("|---|---|---|---|");
    for (name, health) in answers() {
        answer(name, &health).await?;
    }
    say(
        "\n| all three at once, for 3 s | not served | the longest of them took | served again after | changes of state |",
    );
    say("|---|---|---|---|---|");
    let lasts = Duration::from_secs(3);
    let well: fn(&SimulatedDify) = |dify| {
        dify.set(|switches| {
            switches.health = Health::Passing;
            switches.traffic = Traffic::Normal;
        });
    };
    all(
        "503 on /healthz and in traffic",
        lasts,
        |dify| {
            dify.set(|switches| {
                switches.health = Health::failing(["database"]);
                switches.traffic = Traffic::Status(503);
            });
        },
        well,
    )
    .await?;
    all(
        "404 on /healthz, traffic well",
        lasts,
        |dify| dify.set(|switches| switches.health = Health::Real),
        well,
    )
    .await?;
    all(
        "probes silent, traffic well",
        lasts,
        |dify| {
            dify.set(|switches| switches.health = Health::Broken(BrokenAnswer::HangBeforeHeaders));
        },
        well,
    )
    .await?;
    all("frozen", lasts, SimulatedDify::freeze, SimulatedDify::thaw).await?;
    say("\n| streams | | | |");
    say("|---|---|---|---|");
    streams(1).await?;
    streams(3).await?;
    say("\n| the machine itself | | | |");
    say("|---|---|---|---|");
    starved(8).await?;
    starved(32).await?;
    Ok(())
}
