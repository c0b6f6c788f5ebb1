//! The rules: what must hold of a trial, from what the client saw and what arrived at the origin.

mod answer;
mod arrival;
mod fields;

use crate::client::{Answer, Talk};
use crate::ledger::{Arrival, NEXT};
use crate::message::{Field, Message};
use crate::rules::answer::{broken, kept, well_formed, whole};
use crate::rules::arrival::{arrived_well, passed};
use crate::rules::fields::same;
use crate::table::{Case, Expect};
use crate::ways::{Client, Way};

/// What a trial came to.
pub(crate) type Verdict = Result<(), String>;

/// A trial that is over.
#[derive(Debug)]
pub(crate) struct Trial<'t> {
    pub(crate) number: u64,
    pub(crate) case: &'t Case,
    pub(crate) way: Way,
    pub(crate) requests: Vec<Message>,
    pub(crate) talk: Talk,
    /// Whether the proxy is the gate, whose own answers have a shape.
    pub(crate) is_gate: bool,
}

fn require(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(why()) }
}

/// Judges a trial.
pub(crate) fn judge(trial: &Trial<'_>, arrivals: &[Arrival]) -> Verdict {
    let own: Vec<&Arrival> = arrivals
        .iter()
        .filter(|arrival| !arrival.target.ends_with(NEXT))
        .collect();
    let talk = &trial.talk;
    for answer in talk.answers.iter().chain(talk.next.iter().flatten()) {
        well_formed(trial, answer).map_err(|why| format!("answer {}: {why}", answer.status))?;
    }
    for arrival in &own {
        arrived_well(arrival)?;
    }
    require(talk.unasked.is_empty() || talk.end.is_some(), || {
        format!("after the answers came {:?}", talk.unasked.escape_ascii().to_string())
    })?;
    if trial.case.frames.is_some() {
        return frames(trial, &own);
    }
    let before = trial.requests.len() - 1;
    let (first, last) = (
        own.get(..before.min(own.len())).unwrap_or_default(),
        own.get(before..).unwrap_or_default(),
    );
    for (index, request) in trial.requests[..before].iter().enumerate() {
        let answer = talk.answers.get(index);
        let arrival = first.get(index);
        passed(trial, request, arrival.copied(), answer).map_err(|why| format!("request {}: {why}", index + 1))?;
    }
    let verdict = final_one(trial, last, talk.answers.get(before));
    verdict.map_err(|why| match talk.answers.get(before).is_none() {
        true => format!("{why} (no answer; connection {:?})", talk.end),
        false => why,
    })
}

fn final_one(trial: &Trial<'_>, arrivals: &[&Arrival], answer: Option<&Answer>) -> Verdict {
    let Some(request) = trial.requests.last() else {
        return Err("no request".to_owned());
    };
    let success = answer.is_some_and(|answer| answer.status < 400 && answer.read.fault.is_none());
    match trial.case.expect {
        Expect::Same => {
            passed(trial, request, arrivals.first().copied(), answer)?;
            require(arrivals.len() == 1, || format!("it arrived {} times", arrivals.len()))?;
            kept(trial, answer)
        }
        Expect::Refused(statuses) => refused(trial, arrivals, answer, statuses),
        Expect::SameOr(_) | Expect::SameOrCut(_) if success => {
            passed(trial, request, arrivals.first().copied(), answer)?;
            require(arrivals.len() == 1, || format!("it arrived {} times", arrivals.len()))?;
            kept(trial, answer)
        }
        Expect::SameOr(statuses) => refused(trial, arrivals, answer, statuses),
        Expect::Cut(statuses) | Expect::SameOrCut(statuses) => {
            let whole = arrivals.iter().find(|arrival| arrival.fault.is_none());
            require(whole.is_none(), || {
                format!("it arrived as a whole one of {} bytes", whole.map_or(0, |w| w.length))
            })?;
            said(trial, answer, statuses)
        }
        Expect::Lost => {
            let whole = arrivals.iter().find(|arrival| arrival.fault.is_none());
            require(whole.is_none(), || {
                format!("it arrived as a whole one of {} bytes", whole.map_or(0, |w| w.length))
            })?;
            require(!success, || {
                format!("it was answered {}", answer.map_or(0, |answer| answer.status))
            })
        }
        Expect::Own(statuses) => {
            require(arrivals.is_empty(), || "it arrived".to_owned())?;
            require(answer.is_some_and(|answer| statuses.contains(&answer.status)), || {
                status_of(answer)
            })
        }
        Expect::Whole => {
            whole(trial, answer)?;
            kept(trial, answer)
        }
        Expect::Bad => said(trial, answer, &[502]),
        Expect::Broken => broken(trial, answer),
        Expect::WholeOrBroken if success => whole(trial, answer),
        Expect::WholeOrBroken => broken(trial, answer),
    }
}

fn status_of(answer: Option<&Answer>) -> String {
    answer.map_or("no answer".to_owned(), |answer| format!("answered {}", answer.status))
}

/// The gate answered with one of these statuses, and nothing arrived.
fn refused(trial: &Trial<'_>, arrivals: &[&Arrival], answer: Option<&Answer>, statuses: &[u16]) -> Verdict {
    let arrived = arrivals.first();
    require(arrived.is_none(), || {
        format!(
            "it arrived, for {}; {}",
            arrived.map_or(String::new(), |a| a.line.clone()),
            status_of(answer)
        )
    })?;
    said(trial, answer, statuses)
}

/// An error of the gate's own: its JSON has a code, a message and the status, and a request id stands beside it.
fn said(trial: &Trial<'_>, answer: Option<&Answer>, statuses: &[u16]) -> Verdict {
    let Some(answer) = answer else {
        // A peer may close instead, and so may HTTP/2 reset what is malformed (RFC 9113 section 8.1.1).
        let may = !trial.is_gate || trial.way.0 == Client::Http2;
        return require(may, || format!("no answer; connection {:?}", trial.talk.end));
    };
    let may = trial.way.0 == Client::Http2 && answer.read.fault.is_some();
    require(may || statuses.contains(&answer.status), || {
        format!("answered {}", answer.status)
    })?;
    require(may || answer.read.fault.is_none(), || {
        format!("the error broke off: {:?}", answer.read.fault)
    })?;
    let is_head = trial.requests.last().is_some_and(|request| request.method() == "HEAD");
    if !trial.is_gate || may || is_head {
        return Ok(());
    }
    // The library that reads HTTP/2 answers 431 before the gate sees the request.
    if answer.status == 431 && trial.way.0 == Client::Http2 {
        return Ok(());
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.read.body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().is_some_and(|text| !text.is_empty());
    require(
        text("code") && text("message") && body["status"] == answer.status,
        || {
            format!(
                "{} without our JSON: {:?}",
                answer.status,
                answer.read.body.escape_ascii().to_string()
            )
        },
    )?;
    require(answer.head.one("x-request-id").is_some_and(|id| !id.is_empty()), || {
        format!("{} without a request id", answer.status)
    })
}

/// What became of frames: refused by a reset or 400 with nothing whole arriving, or served.
fn frames(trial: &Trial<'_>, arrivals: &[&Arrival]) -> Verdict {
    let status = trial.talk.answers.first().map(|answer| answer.status);
    let whole = arrivals.iter().any(|arrival| arrival.fault.is_none());
    match trial.case.expect {
        Expect::Same | Expect::Whole => {
            require(status == Some(200) && whole, || {
                format!("answered {status:?}, arrived {whole}")
            })?;
            arrivals
                .iter()
                .try_for_each(|arrival| same(trial, &[], &expected_only(trial, arrival), &[]))
        }
        Expect::SameOr(_) if status == Some(200) => require(whole, || "nothing arrived".to_owned()),
        _ => {
            require(!whole, || format!("it arrived; answered {status:?}"))?;
            require(status.is_none_or(|status| (400..500).contains(&status)), || {
                format!("answered {status:?}")
            })
        }
    }
}

/// The fields that a row of frames speaks of.
fn expected_only(trial: &Trial<'_>, arrival: &Arrival) -> Vec<Field> {
    let named = |name: &[u8]| {
        trial
            .case
            .arrive
            .iter()
            .any(|(own, _)| own.as_bytes().eq_ignore_ascii_case(name))
    };
    arrival.fields.iter().filter(|(name, _)| named(name)).cloned().collect()
}
