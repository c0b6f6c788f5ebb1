//! What each verb and each event comes to in each phase, as two tables of text. `WRITE_SCENARIOS=1` writes them anew.
//!
//! A cell is the next phase, or `noted` (the same phase, one epoch further), `new` (another cutover), `same` (nothing to do), or the kind of the
//! refusal. Every phase is reached by what people say and the machine does.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use difygate::gate::cutover::{Phase, Record, RefusalKind, Verdict};

use crate::story::{Story, gates, good, verb};

/// How each phase is reached; a phase that comes in kinds has a row for each.
const ROUTES: [(&str, &str); 14] = [
    ("steady", ""),
    ("preparing", "prepared no; START"),
    ("verifying", "gates health=inconclusive; START; step"),
    ("ready", "START; step; step"),
    (
        "ready auto",
        "gates health=inconclusive; START; promote; step; gates health=pass; step",
    ),
    ("shifting", "START; step; step; promote"),
    ("baking", "START; step; step; promote; promote"),
    ("committed", "START; step; step; promote; promote; promote"),
    (
        "retired",
        "START; step; step; promote; promote; promote; promote; step; step",
    ),
    ("failed", "START; abort"),
    ("rolling_back", "START; step; step; promote; rollback force"),
    ("rolled_back", "START; step; step; promote; rollback force; step"),
    (
        "frozen share",
        "START; step; step; promote; old_fit 0; triggers errors=fail; step",
    ),
    (
        "frozen bake",
        "START; step; step; promote; promote; old_fit 0; triggers errors=fail; step",
    ),
];

const VERBS: [(&str, &str); 11] = [
    ("start", "start red"),
    ("supersede", "start red supersede"),
    ("promote", "promote"),
    ("pause", "pause"),
    ("resume", "resume"),
    ("abort", "abort"),
    ("rollback", "rollback"),
    ("force", "rollback force"),
    ("wait", "traffic pause"),
    ("stop", "traffic stop"),
    ("run", "traffic run"),
];

/// A world for the verbs: its name, how a cutover is started in it, and what is seen when the verb is said.
const WORLDS: [(&str, &str, &str); 6] = [
    ("all is well", "start green steps=10:60s", ""),
    ("a gate fails", "start green steps=10:60s", "gates health=fail"),
    ("nothing measured", "start green steps=10:60s", "gates none"),
    ("migration: barrier", "start green steps=10:60s barrier", ""),
    ("old pool unfit", "start green steps=10:60s", "old_fit 0"),
    ("paused", "start green steps=10:60s", "pause"),
];

/// What happens without a verb: `late` is when every clock has run out.
const EVENTS: [(&str, &str); 13] = [
    ("good", ""),
    ("inconclusive", "prepared no; gates health=inconclusive"),
    ("fail", "prepared no; gates health=fail"),
    ("unmeasured", "prepared no; gates none"),
    ("trigger", "triggers errors=fail"),
    ("held trigger", "pause; triggers errors=fail"),
    ("late", "LATE"),
    ("late held", "pause; LATE"),
    (
        "late unclear",
        "prepared no; gates health=inconclusive; bake inconclusive; LATE",
    ),
    ("late fail", "prepared no; gates health=fail; bake fail; LATE"),
    ("late alive", "alive yes; LATE"),
    ("empty", "in_flight 0"),
    ("late empty", "in_flight 0; LATE"),
];

/// A story that stands in a row of the table, with all well.
fn reach(route: &str, start: &str) -> Story {
    let mut story = Story::default();
    play(&mut story, &route.replace("START", start));
    story.seen = good();
    story.seen.old_in_flight = 1;
    story
}

fn play(story: &mut Story, lines: &str) {
    for line in lines.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        if line == "LATE" {
            story.now += Duration::from_secs(1_000_000);
        } else {
            story.take(line);
        }
    }
}

fn outcome(before: &Record, after: &Record) -> String {
    let id = |record: &Record| record.cutover.as_ref().map(|cutover| cutover.id);
    if after == before {
        return "same".to_owned();
    }
    assert_eq!(after.epoch, before.epoch + 1);
    if id(after) != id(before) {
        "new".to_owned()
    } else if after.phase() == before.phase() {
        "noted".to_owned()
    } else {
        after.phase().to_string()
    }
}

fn said(story: &Story, line: &str) -> String {
    let verb = verb(line).unwrap();
    match story.record.command(&verb, "ann", "", &story.seen, story.now) {
        Ok(next) => outcome(&story.record, &next),
        Err(refusal) => {
            assert!(!refusal.message.is_empty());
            match refusal.kind {
                RefusalKind::Conflict => "conflict".to_owned(),
                RefusalKind::Gate => "gate".to_owned(),
                RefusalKind::Invalid => "invalid".to_owned(),
            }
        }
    }
}

/// One table: its name and its columns, and a row a route.
fn table(name: &str, columns: &[&str], cell: impl Fn(&str, usize) -> String) -> String {
    let mut text = format!("{name:<20}");
    columns.iter().for_each(|column| write!(text, "{column:<14}").unwrap());
    for (row, route) in ROUTES {
        write!(text, "\n{row:<20}").unwrap();
        (0..columns.len()).for_each(|column| write!(text, "{:<14}", cell(route, column)).unwrap());
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

fn check(name: &str, found: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cutover").join(name);
    if std::env::var_os("WRITE_SCENARIOS").is_some() {
        std::fs::write(&file, found).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), found, "{name}:\n{found}");
}

#[test]
fn every_phase_has_its_row_and_is_reached_as_it_is_named() {
    let mut reached = BTreeSet::new();
    for (row, route) in ROUTES {
        let story = reach(route, WORLDS[0].1);
        assert_eq!(story.record.phase().as_str(), row.split(' ').next().unwrap());
        reached.insert(story.record.phase());
    }
    assert_eq!(reached, BTreeSet::from(Phase::ALL), "every phase");
}

#[test]
fn every_verb_has_an_outcome_in_every_phase() {
    let columns = VERBS.map(|(name, _)| name);
    let tables = WORLDS.map(|(name, start, seen)| {
        table(name, &columns, |route, column| {
            let mut story = reach(route, start);
            play(&mut story, seen);
            said(&story, VERBS[column].1)
        })
    });
    check("verbs.txt", &tables.join("\n"));
}

#[test]
fn every_event_has_an_outcome_in_every_phase() {
    let columns = EVENTS.map(|(name, _)| name);
    let found = table("by itself", &columns, |route, column| {
        let mut story = reach(route, WORLDS[0].1);
        play(&mut story, EVENTS[column].1);
        let next = story.record.advance(&story.seen, story.now);
        next.map_or_else(|| "-".to_owned(), |next| outcome(&story.record, &next))
    });
    check("events.txt", &found);
}

#[test]
fn a_gate_that_is_not_among_those_that_pass_moves_nobody() {
    for verdicts in ["a=fail b=pass", "a=pass b=inconclusive", "none"] {
        let mut story = reach(ROUTES[3].1, WORLDS[0].1);
        story.seen.gates = gates(verdicts);
        assert_eq!(said(&story, "promote"), "gate", "{verdicts}");
    }
    assert_eq!(
        Verdict::default(),
        Verdict::Inconclusive,
        "nothing is passed by being forgotten"
    );
}
