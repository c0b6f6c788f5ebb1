//! The story: healthy, a database fails, an instance freezes, one dies and comes back, outsiders knock.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::demo::fault::Fault;
use crate::demo::load::{Load, RATE, exchange};
use crate::demo::report::{Chapter, Outsiders, Report};
use crate::demo::stage::Stage;

/// How long each state of the world is watched once the gate has seen it.
const SCENE: Duration = Duration::from_millis(1_500);

/// Ways to write the probe path that outsiders try.
const SPELLINGS: [&str; 8] = [
    "/healthz",
    "//healthz",
    "/%68ealthz",
    "/healthz/",
    "/HEALTHZ",
    "/x/..%2fhealthz",
    "/healthz;a=b",
    "/health%7A?x=1",
];

/// Tells people what happens.
pub(super) struct Narrator {
    pub(super) silent: bool,
}

impl Narrator {
    /// Says a line. With nobody to hear it, nothing is lost.
    pub(super) fn say(&self, line: &str) {
        if !self.silent {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

/// Whom it befalls, and how the story puts it.
const FAULTS: [(Fault, usize, &str, &str); 3] = [
    (
        Fault::DatabaseFails,
        1,
        "dify-2: database fails",
        "2. dify-2 loses its database: /healthz and traffic answer 503.",
    ),
    (
        Fault::Freezes,
        2,
        "dify-3: frozen",
        "3. dify-3 freezes: it accepts connections and says nothing.",
    ),
    (Fault::Dies, 0, "dify-1: dies", "4. dify-1 dies: its port is closed."),
];

/// Plays all of it.
pub(super) async fn tell(stage: &Stage, narrator: &Narrator) -> anyhow::Result<Report> {
    let clock = Clock::start();
    let load = Load::start(stage.listener());
    narrator.say("\n1. All is well.");
    let start = clock.now();
    sleep(SCENE).await;
    let mut chapters = vec![Chapter::calm("all is well", &load.since(start))];
    for (fault, index, title, line) in FAULTS {
        narrator.say(&format!("\n{line}"));
        chapters.push(play(stage, narrator, &clock, &load, fault, index, title).await?);
    }
    narrator.say("\n5. Outsiders ask for /healthz, in many spellings.");
    let outsiders = knock(stage).await?;
    let Outsiders { asked, denied, arrived } = outsiders;
    narrator.say(&format!(
        "   {asked} asked, {denied} got 404, {arrived} reached an instance."
    ));
    Ok(Report {
        requests_per_second: RATE,
        chapters,
        outsiders,
    })
}

async fn play(
    stage: &Stage,
    narrator: &Narrator,
    clock: &Clock,
    load: &Load,
    fault: Fault,
    index: usize,
    title: &'static str,
) -> anyhow::Result<Chapter> {
    let dify = stage
        .instances
        .get(index)
        .context("the story names an instance that is not on the stage")?;
    let retried = stage.retries().await?;
    let broke = clock.now();
    fault.strike(dify).await;
    let noticed = stage.until(index, false).await?.saturating_duration_since(broke);
    let cause = stage.verdict(index).await?;
    narrator.say(&format!(
        "   out of rotation after {:.2} s: {cause}",
        noticed.as_secs_f64()
    ));
    sleep(SCENE).await;
    let mended = clock.now();
    fault.mend(dify).await?;
    let back = stage.until(index, true).await?.saturating_duration_since(mended);
    narrator.say(&format!(
        "   mended; back in rotation after {:.2} s",
        back.as_secs_f64()
    ));
    sleep(SCENE).await;
    load.settled(clock.now()).await;
    let outcomes = load.since(broke);
    let stuck = outcomes
        .iter()
        .filter(|o| o.sent < mended && o.instance.as_deref() == Some(dify.name()));
    // What was sent again had been wasted on the instance, and so had what it answered after the fault began.
    let wasted = stage.retries().await? - retried + stuck.count() as u64;
    let chapter = Chapter::fault(title, &outcomes, fault == Fault::Dies, noticed, back);
    Ok(chapter.explained(cause, wasted))
}

/// A forwarding header from a peer that is no trusted proxy makes a client external, as one from the internet would be.
async fn knock(stage: &Stage) -> anyhow::Result<Outsiders> {
    let mut denied = 0;
    for spelling in SPELLINGS {
        let request = format!(
            "GET {spelling} HTTP/1.1\r\nHost: demo\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n"
        );
        let answer = exchange(stage.listener(), &request).await?;
        denied += usize::from(answer.starts_with("HTTP/1.1 404"));
    }
    // The gate's own probes ask for the plain path, so any other spelling at an instance came from outside.
    let arrived = stage.instances.iter().map(|dify| {
        let counts = dify.tally().counts();
        let spelled = SPELLINGS
            .iter()
            .skip(1)
            .map(|spelling| spelling.split('?').next().unwrap_or_default());
        spelled.map(|path| counts.requests(path)).sum::<u64>()
    });
    Ok(Outsiders {
        asked: SPELLINGS.len(),
        denied,
        arrived: arrived.sum(),
    })
}
