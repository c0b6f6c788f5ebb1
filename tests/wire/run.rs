//! Runs the table: many trials at once, judged when all of them are over, so that also what arrives late counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use difygate::server::Gate;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::ledger::Arrival;
use crate::peers;
use crate::report;
use crate::rules::{Trial, Verdict, judge};
use crate::stage::{Origins, Stage, gate};
use crate::table::{Case, Expect};
use crate::ways::{WAYS, Way};
use crate::{patience, seed};

/// So many trials run at a time.
const AT_ONCE: usize = 48;

/// A trial that was judged.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) way: Way,
    pub(crate) verdict: Verdict,
}

/// Runs rows through the gate, prints what they come to, and fails if any is wrong.
pub(crate) async fn through_the_gate(title: &str, cases: Vec<Case>) {
    let (seed, start) = (seed(), Instant::now());
    let origins = Origins::start(seed).await;
    let (first, first_door) = gate(&origins, false).await;
    let (second, second_door) = gate(&origins, true).await;
    let stage = Arc::new(Stage::new(origins, [first_door, second_door]));
    let cases = chosen(cases);
    let mut trials = trials(&cases, &stage, &WAYS, seed).await;
    send_again(&mut trials, &stage, seed).await;
    until_idle(&[first, second]).await;
    let arrived = stage.origins.ledger.by_trial();
    let mut rows = judged(&trials, &arrived, true);
    rows.extend(strays(&arrived));
    report::summary(title, &rows, seed, start.elapsed());
    report::wrong(&rows);
    peers::compare(&cases, &rows, seed).await;
    let wrong = rows.iter().filter(|row| row.verdict.is_err()).count();
    assert_eq!(wrong, 0, "of {} trials; DIFYGATE_SEED={seed} repeats them", rows.len());
}

/// Sends once more what was lost on a kept connection. Some rows have the origin close its connection unannounced, and a request that is written on it at
/// that moment arrives nowhere and is 502, since only a request that can be repeated is sent on another one (RFC 9112 section 9.3.1).
async fn send_again(trials: &mut [Sent], stage: &Stage, seed: u64) {
    let arrived = stage.origins.ledger.by_trial();
    for (number, case, way, requests, talk) in trials {
        let is_lost = talk.answers.last().is_some_and(|answer| answer.status == 502) && case.expect != Expect::Bad;
        if is_lost && !arrived.contains_key(&Some(*number)) {
            *talk = stage.send(case, *way, requests, *number, seed).await;
        }
    }
}

/// The rows that `DIFYGATE_WIRE` names, or all.
pub(crate) fn chosen(cases: Vec<Case>) -> Arc<Vec<Case>> {
    let wanted = std::env::var("DIFYGATE_WIRE").unwrap_or_default();
    let named = |case: &Case| format!("{}: {}", case.group, case.name).contains(&wanted);
    Arc::new(cases.into_iter().filter(named).collect())
}

async fn until_idle(gates: &[Gate]) {
    let waiting = async {
        while gates.iter().any(|gate| gate.in_flight() > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Requests that never end are found by their rows.
    let _ = tokio::time::timeout(patience(), waiting).await;
}

/// A trial that has been sent: its number, its row, its way, its requests and what its client saw.
pub(crate) type Sent = (u64, Case, Way, Vec<crate::message::Message>, crate::client::Talk);

/// Sends every row on every way that it fits.
pub(crate) async fn trials(cases: &Arc<Vec<Case>>, stage: &Arc<Stage>, ways: &[Way], seed: u64) -> Vec<Sent> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (row, case) in cases.iter().enumerate() {
        for (column, way) in ways.iter().enumerate() {
            let Some(requests) = case.on(*way) else {
                continue;
            };
            let trial = (row * WAYS.len() + column + 1) as u64;
            let (case, stage, way) = (case.clone(), stage.clone(), *way);
            let permit = room.clone().acquire_owned().await.unwrap();
            running.spawn(async move {
                let talk = stage.send(&case, way, &requests, trial, seed).await;
                drop(permit);
                (trial, case, way, requests, talk)
            });
        }
    }
    let mut sent = running.join_all().await;
    sent.sort_by_key(|sent| sent.0);
    sent
}

pub(crate) fn judged(sent: &[Sent], arrived: &HashMap<Option<u64>, Vec<Arrival>>, is_gate: bool) -> Vec<Row> {
    let rows = sent.iter().map(|(number, case, way, requests, talk)| {
        let trial = Trial {
            number: *number,
            case,
            way: *way,
            requests: requests.clone(),
            talk: talk.clone(),
            is_gate,
        };
        let own = arrived.get(&Some(*number)).map(Vec::as_slice).unwrap_or_default();
        Row {
            group: case.group,
            name: case.name.clone(),
            way: *way,
            verdict: judge(&trial, own),
        }
    });
    rows.collect()
}

/// What arrived and belongs to nobody: a rest of a request that was taken for the next one.
fn strays(arrived: &HashMap<Option<u64>, Vec<Arrival>>) -> Vec<Row> {
    let strays = arrived.get(&None).map(Vec::as_slice).unwrap_or_default();
    let rows = strays.iter().map(|stray| Row {
        group: "strays",
        name: stray.line.clone(),
        way: WAYS[0],
        verdict: Err(format!("behind {:?}: {stray:?}", stray.before)),
    });
    rows.collect()
}
