//! Real servers behind the gate: gunicorn, uvicorn, granian and hypercorn with a small application of Dify's shape, each full, frozen, booting, told to stop
//! and told to reload while users ask: `cargo bench --bench servers`. `make servers` installs them. Words after `--` choose rows by a part of the server's or
//! the state's name; `ending` prints how each behaves at its end without a gate.
//!
//! `cargo bench --bench servers -- --replica URL --replica URL --key K` puts a gate before a Dify that runs, and prints the acceptance list.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

mod acceptance;
mod before;
mod client;
mod ending;
#[path = "../launch/mod.rs"]
mod launch;
mod load;
mod program;
mod states;

use std::io::Write as _;
use std::process::ExitCode;

use acceptance::Finding;
use acceptance::arguments::Arguments;
use program::PROGRAMS;
use states::{Row, STATES};

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("a reader");
}

fn note(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("a reader");
}

/// Whether a row is asked for: every word names its server, its state, or nobody's.
fn is_chosen(words: &[String], server: &str, state: &str) -> bool {
    let names_a_state = |word: &String| STATES.iter().any(|(_, name)| name == word);
    let states: Vec<&String> = words.iter().filter(|word| names_a_state(word)).collect();
    let servers: Vec<&String> = words.iter().filter(|word| !names_a_state(word)).collect();
    (states.is_empty() || states.iter().any(|word| *word == state))
        && (servers.is_empty() || servers.iter().any(|word| server.contains(word.as_str())))
}

/// Prints a row for each server and state.
async fn rows(words: &[String]) -> Result<(), String> {
    say(Row::HEAD);
    let mut missing = 0;
    for program in PROGRAMS {
        for (state, name) in STATES {
            if !is_chosen(words, program.name, name) {
                continue;
            }
            match states::run(program, state).await {
                Ok(Some(row)) => {
                    say(&row.line(program.name, name));
                    for (cause, count) in &row.causes {
                        note(&format!("  {count} × {cause}"));
                    }
                    row.said.iter().for_each(|line| note(&format!("  {line}")));
                }
                Ok(None) => {}
                Err(why) => {
                    missing += 1;
                    note(&format!("{}, {name}: {why}", program.name));
                }
            }
        }
    }
    if missing > 0 {
        return Err(format!("{missing} rows are missing"));
    }
    Ok(())
}

/// Prints how each server ends, all of them at once.
async fn endings() -> Result<(), String> {
    let all: Vec<_> = PROGRAMS.map(|program| tokio::spawn(ending::observe(program))).into();
    say(ending::HEAD);
    for observed in all {
        say(&observed.await.map_err(|e| e.to_string())??);
    }
    Ok(())
}

/// Prints the acceptance list. It fails where an item does, and ends with 2 where it is asked for wrongly.
async fn accept(words: &[String]) -> ExitCode {
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(why) => {
            note(&why);
            return ExitCode::from(2);
        }
    };
    say("| item | result | measured |\n|---|---|---|");
    let items = acceptance::run(arguments, |item| say(&item.line())).await;
    let failed = items
        .iter()
        .filter(|item| matches!(item.finding, Finding::Failed(_)))
        .count();
    if failed > 0 {
        note(&format!("{failed} items failed"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.iter().any(|word| word.starts_with("--")) {
        return accept(&words).await;
    }
    let done = if words.iter().any(|word| word == "ending") {
        endings().await
    } else {
        rows(&words).await
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            note(&why);
            ExitCode::FAILURE
        }
    }
}
