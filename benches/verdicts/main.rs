//! Verdicts that are easily wrong, before the gate and before its peers: silence, a failure that all share, a process and the service beside it, fullness,
//! slowness, and an end that goes on accepting. `cargo bench --bench verdicts`.
//!
//! Words after `--` choose rows by a part of their names; `VERDICTS_RUNS` sets the runs a row (3). All proxies of a row run at the same time, each
//! before instances of its own, and each story happens to all of them at the same moment. A peer that is not installed is said to be absent; `make peers`
//! installs them.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

#[path = "../launch/mod.rs"]
mod launch;
#[path = "../peers/proxies.rs"]
#[allow(dead_code)] // the other benchmark has one column more
mod proxies;
mod stage;
mod stories;
mod users;
mod watch;

use std::io::Write as _;
use std::time::Duration;

use proxies::{CADDY, ENVOY, GATE, HAPROXY, NGINX, Proxy};
use stage::{Figures, Stage};
use stories::{STORIES, Story};
use tokio::time::{Instant, sleep};
use watch::Whom;

const PROXIES: [(Proxy, Whom); 5] = [
    (GATE, Whom::Gate),
    (HAPROXY, Whom::HaProxy),
    (ENVOY, Whom::Envoy),
    (NGINX, Whom::Nginx),
    (CADDY, Whom::Caddy),
];
const COLUMNS: [&str; 4] = ["failed", "waited more than 5 s", "ran for nobody", "ejected wrongly"];

/// One run of one row: what each proxy shows, in their order.
async fn run(story: &'static Story) -> Vec<Option<Figures>> {
    let mut stages = Vec::new();
    for (proxy, whom) in PROXIES {
        stages.push(Stage::set(story, proxy, whom).await);
    }
    // Everybody has been seen to pass by then, and no two runs have the same phase of the probes.
    sleep(Duration::from_millis(fastrand::u64(4_000..6_000))).await;
    let start = Instant::now() + Duration::from_secs(2);
    let playing: Vec<_> = stages
        .into_iter()
        .map(|stage| tokio::spawn(async move { Some(stage?.play(story, start).await) }))
        .collect();
    let mut figures = Vec::new();
    for playing in playing {
        figures.push(playing.await.expect("a story"));
    }
    figures
}

fn cell(sum: Option<Figures>) -> String {
    sum.map_or_else(
        || "absent".to_owned(),
        |sum| sum.columns.map(|column| column.to_string()).join(" / "),
    )
}

/// Adds up several runs.
fn add(sums: &mut Vec<Option<Figures>>, run: Vec<Option<Figures>>) {
    if sums.is_empty() {
        *sums = run;
        return;
    }
    for (sum, figures) in sums.iter_mut().zip(run) {
        *sum = sum.zip(figures).map(|(mut sum, figures)| {
            sum.asked += figures.asked;
            let columns = sum.columns.iter_mut().zip(figures.columns);
            columns.for_each(|(sum, figure)| *sum += figure);
            sum
        });
    }
}

/// Where a peer has less of something than the gate.
fn better(sums: &[Option<Figures>]) -> Vec<String> {
    let Some(Some(own)) = sums.first() else {
        return Vec::new();
    };
    let mut better = Vec::new();
    for (((name, _), _), peer) in PROXIES.iter().zip(sums).skip(1) {
        let columns = peer.iter().flat_map(|peer| peer.columns);
        for ((column, peer), own) in COLUMNS.iter().zip(columns).zip(own.columns) {
            if peer < own {
                better.push(format!("{name}: {column} {peer}, the gate {own}"));
            }
        }
    }
    better
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if std::env::args().any(|word| word == "--test") {
        return;
    }
    let runs = std::env::var("VERDICTS_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(3);
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let is_chosen = |story: &&Story| words.is_empty() || words.iter().any(|word| story.name.contains(word));
    let say = |line: String| writeln!(std::io::stdout(), "{line}").expect("a reader");
    let tell = |line: String| writeln!(std::io::stderr(), "{line}").expect("a reader");
    let names: Vec<&str> = PROXIES.iter().map(|((name, _), _)| *name).collect();
    say(format!("{} each, sums of {runs} runs a row", COLUMNS.join(" / ")));
    say(format!("| what befalls them | asked | {} |", names.join(" | ")));
    say(format!("|---|---|{}", "---|".repeat(names.len())));
    let mut notes = Vec::new();
    for story in STORIES.iter().filter(is_chosen) {
        let mut sums = Vec::new();
        for _ in 0..runs {
            let figures = run(story).await;
            let cells: Vec<String> = figures.iter().map(|one| cell(*one)).collect();
            tell(format!("{}: {}", story.name, cells.join(" | ")));
            add(&mut sums, figures);
        }
        let cells: Vec<String> = sums.iter().map(|one| cell(*one)).collect();
        let asked = sums.first().copied().flatten().map_or(0, |own| own.asked);
        say(format!("| {} | {asked} | {} |", story.name, cells.join(" | ")));
        notes.extend(better(&sums).into_iter().map(|line| format!("{}: {line}", story.name)));
    }
    say(format!("Where a peer has less: {}", notes.len()));
    notes.into_iter().for_each(say);
}
