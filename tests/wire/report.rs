//! The summary of a run: how many trials of each group went right on each way, and every one that did not.

#![allow(clippy::print_stdout)] // it is what the run is for

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::run::Row;
use crate::ways::{WAYS, name};

/// Prints a table of groups and ways, `right/all`.
pub(crate) fn summary(title: &str, rows: &[Row], seed: u64, took: Duration) {
    let mut cells: BTreeMap<(&str, usize), (usize, usize)> = BTreeMap::new();
    for row in rows {
        let column = WAYS.iter().position(|way| *way == row.way).unwrap_or(0);
        for group in [row.group, "~ all"] {
            let (right, all) = cells.entry((group, column)).or_default();
            *right += usize::from(row.verdict.is_ok());
            *all += 1;
        }
    }
    let columns: Vec<String> = WAYS.iter().map(|way| name(*way)).collect();
    println!("\n| {title} | {} |", columns.join(" | "));
    println!("|---|{}", "---|".repeat(WAYS.len()));
    let mut groups: Vec<&str> = cells.keys().map(|(group, _)| *group).collect();
    groups.dedup();
    for group in groups {
        let cell = |column| match cells.get(&(group, column)) {
            None => "–".to_owned(),
            Some((right, all)) => format!("{right}/{all}"),
        };
        let line: Vec<String> = (0..WAYS.len()).map(cell).collect();
        println!("| {} | {} |", group.trim_start_matches("~ "), line.join(" | "));
    }
    let right = rows.iter().filter(|row| row.verdict.is_ok()).count();
    let distinct: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row.group, row.name.as_str())).collect();
    let (count, took) = (distinct.len(), took.as_secs_f64());
    println!(
        "\n{title}: {right} of {} trials of {count} rows right, seed {seed}, {took:.1} s",
        rows.len()
    );
}

/// Prints the rows that are wrong.
pub(crate) fn wrong(rows: &[Row]) {
    for row in rows {
        if let Err(why) = &row.verdict {
            println!("wrong: {}: {} ({}): {why:.500}", row.group, row.name, name(row.way));
        }
    }
}
