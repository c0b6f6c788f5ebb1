//! What the commands about cutovers print: for people at a terminal, and as Markdown for a pipeline's artifacts.

use std::fmt::Write;

use super::render::{table, time_of_day, trimmed};
use crate::admin::cutovers::{CutoverView, OrderView};
use crate::admin::inflight::InFlightView;
use crate::cutover::document::{CutoverDoc, EntryDoc, GateDoc};

fn weights(view: &CutoverView) -> String {
    let parts = view.weights.iter().map(|(pool, weight)| {
        let left = view.in_flight.get(pool).copied().unwrap_or_default();
        format!("{pool} {weight} % ({left} under way)")
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// What a verb came to.
pub(super) fn ordered(order: &OrderView) -> String {
    let head = match (order.dry_run, order.repeated, order.changed) {
        (true, _, true) => "this would happen",
        (true, _, false) => "nothing would happen",
        (false, true, _) => "done before, under the same key",
        (false, false, true) => "done",
        (false, false, false) => "there was nothing to do",
    };
    format!("{head}\n{}", status(&order.cutover))
}

/// Who is left in each pool.
pub(super) fn left(view: &InFlightView) -> String {
    let counts = view
        .in_flight
        .iter()
        .map(|(pool, count)| format!("{pool}: {count} under way"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    if view.streams.is_empty() {
        return counts;
    }
    let mut rows = table(&[
        "POOL", "ENDPOINT", "KIND", "SINCE", "SILENT", "CLIENT", "REQUEST", "TASK",
    ]);
    for stream in &view.streams {
        rows.add_row([
            stream.pool.clone(),
            stream.endpoint.clone(),
            stream.kind.clone(),
            time_of_day(&stream.since),
            format!("{:.1} s", stream.silent_ms as f64 / 1e3),
            stream.client.clone().unwrap_or_default(),
            format!("{} {}", stream.method, stream.path),
            stream.task.clone().unwrap_or_default(),
        ]);
    }
    format!("{counts}\n{}", trimmed(&rows))
}

/// Where a name stands.
pub(super) fn status(view: &CutoverView) -> String {
    let mut text = format!(
        "{} ({}): {}, active pool {}, epoch {}\n  {}",
        view.name,
        view.upstreams.join(", "),
        view.phase,
        view.record.active,
        view.record.epoch,
        weights(view)
    );
    let traffic = &view.record.traffic;
    if traffic.state != "run" {
        let _ = write!(text, "\n  traffic: {} {}", traffic.state, traffic.message);
    }
    if let Some(trouble) = &view.trouble {
        let _ = write!(text, "\n  stuck: {trouble}");
    }
    let Some(cutover) = &view.record.cutover else {
        return text;
    };
    let _ = write!(
        text,
        "\n  cutover {} from {} to {}",
        cutover.id, cutover.from, cutover.to
    );
    let _ = write!(text, ", by {} since {}", cutover.by, cutover.started);
    if cutover.paused.is_some() {
        text.push_str(", paused");
    }
    for (what, until) in [("drain ends", &cutover.drain_ends), ("hold ends", &cutover.hold_ends)] {
        if let Some(until) = until.as_ref().filter(|_| cutover.phase == "committed") {
            let _ = write!(text, "\n  {what}: {until}");
        }
    }
    let (gates, triggers) = shown(view, cutover);
    for gate in gates.iter().chain(triggers) {
        let _ = write!(text, "\n  {:<12} {:<12} {}", gate.name, gate.verdict, gate.detail);
    }
    for entry in &cutover.log {
        let _ = write!(text, "\n  {} {:<12} {}: {}", entry.at, entry.phase, entry.by, entry.why);
    }
    text
}

/// What is judged at present: gates, and reasons to go back.
fn shown<'a>(view: &'a CutoverView, cutover: &CutoverDoc) -> (&'a [GateDoc], &'a [GateDoc]) {
    match cutover.phase.as_str() {
        "preparing" | "verifying" | "ready" => (&view.gates, &[]),
        "shifting" => (&view.gates, &view.triggers),
        "baking" | "frozen" => (&[], &view.triggers),
        _ => (&[], &[]),
    }
}

/// The whole story, for whoever approves releases.
pub(super) fn markdown(view: &CutoverView) -> String {
    let Some(cutover) = &view.record.cutover else {
        return format!(
            "# {}\n\nNo cutover was ever started. The active pool is {}.",
            view.name, view.record.active
        );
    };
    let mut text = format!(
        "# Cutover {} of {}: {}\n\n| | |\n|---|---|\n",
        cutover.id, view.name, cutover.phase
    );
    let or = |value: &Option<String>, none: &str| value.clone().unwrap_or_else(|| none.to_owned());
    let steps = cutover.plan.steps.iter().map(|step| format!("{} %", step.percent));
    let steps = steps.chain(["100 %".to_owned()]).collect::<Vec<_>>().join(", ");
    for (what, value) in [
        ("upstreams", view.upstreams.join(", ")),
        ("from, to", format!("{}, {}", cutover.from, cutover.to)),
        ("active now", view.record.active.clone()),
        ("expected version", or(&cutover.plan.expect_version, "none")),
        ("shares", steps),
        ("migration", cutover.plan.migration.clone()),
        ("by", cutover.by.clone()),
        ("reason", cutover.reason.clone()),
        ("started", cutover.started.clone()),
        ("flipped", or(&cutover.flipped, "not")),
        ("drained", or(&cutover.drained, "not yet")),
        ("cut", or(&cutover.cut, "nothing")),
        ("under way", weights(view)),
    ] {
        let _ = writeln!(text, "| {what} | {} |", cell(&value));
    }
    text.push_str("\n| time | phase | share | by | why |\n|---|---|---|---|---|\n");
    for entry in &cutover.log {
        let EntryDoc {
            at,
            phase,
            percent,
            by,
            why,
            ..
        } = entry;
        let _ = writeln!(text, "| {at} | {phase} | {percent} % | {} | {} |", cell(by), cell(why));
    }
    let evidence = cutover
        .log
        .iter()
        .flat_map(|entry| entry.evidence.iter().map(move |gate| (entry, gate)));
    text.push_str("\n| for | gate | verdict | measured |\n|---|---|---|---|\n");
    for (entry, gate) in evidence {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            entry.phase,
            gate.name,
            gate.verdict,
            cell(&gate.detail)
        );
    }
    text.push_str("\nWorkers that take jobs from a shared queue move when they are deployed, not with this.");
    text
}

/// A text that ends no cell and begins no markup.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace(['\n', '\r'], " ")
}
