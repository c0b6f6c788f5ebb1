//! The house rules that a compiler does not hold: floors, the purity of decisions, and sizes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rooms from the lowest up. A file may name rooms below its own, and its own.
const ROOMS: &[&str] = &[
    "gate",
    "clock",
    "lines",
    "log",
    "metrics",
    "files",
    "client",
    "access_log",
    "store",
    "audit",
    "url",
    "wire",
    "tls",
    "http1",
    "acme",
    "probe",
    "restart",
    "upstream",
    "upgrade",
    "mailbox",
    "cutover",
    "healthz",
    "config",
    "reload",
    "discovery",
    "edge",
    "driver",
    "warden",
    "conductor",
    "admin",
    "proxy",
    "server",
    "simulated_dify",
    "demo",
    "cli",
];

/// Neighbours that never name each other: they speak by snapshots, counters and the mailbox.
const NEIGHBOURS: &[&str] = &["driver", "warden", "conductor", "proxy", "admin"];

fn sources() -> BTreeMap<PathBuf, String> {
    fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.insert(path, text);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    walk(&root, &mut found);
    assert!(found.len() > 30, "the sources were not found");
    found
        .into_iter()
        .map(|(path, text)| (path.strip_prefix(&root).unwrap().to_owned(), text))
        .collect()
}

/// The room that a file is in: its folder below `src`, or its own name.
fn room(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The part of a file above its inline tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn is_test(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "tests.rs")
}

/// Rooms that a text names by `crate::`.
fn named(text: &str) -> impl Iterator<Item = String> {
    text.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

#[test]
fn imports_only_point_downward() {
    let floor = |name: &str| ROOMS.iter().position(|room| *room == name);
    let mut checked = 0;
    for (file, text) in sources() {
        let own = room(&file);
        let Some(height) = floor(&own) else {
            continue;
        };
        for other in named(production(&text)).filter(|other| *other != own) {
            let Some(depth) = floor(&other) else {
                panic!("{} names crate::{other}, which has no floor", file.display());
            };
            assert!(depth < height, "{} is below {other} and names it", file.display());
            let neighbours = [&own, &other].iter().all(|room| NEIGHBOURS.contains(&room.as_str()));
            assert!(!neighbours, "{} names its neighbour {other}", file.display());
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} imports were checked");
}

#[test]
fn decisions_are_pure() {
    const FOREIGN: &[&str] = &[
        "tokio",
        "pingora",
        "prometheus",
        "serde",
        "tracing",
        "std::fs",
        "std::io",
        "std::env",
        "Instant::now",
        "SystemTime",
        "fastrand",
    ];
    let mut checked = 0;
    for (file, text) in sources()
        .into_iter()
        .filter(|(file, _)| room(file) == "gate" && !is_test(file))
    {
        for line in production(&text)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            for word in FOREIGN {
                assert!(!line.contains(word), "{} names {word}: {line}", file.display());
            }
        }
        checked += 1;
    }
    assert!(checked >= 14, "only {checked} files were checked");
}

#[test]
fn the_simulated_dify_knows_nothing_of_the_gate() {
    for (file, text) in sources().into_iter().filter(|(file, _)| room(file) == "simulated_dify") {
        for other in named(&text) {
            assert_eq!(other, "simulated_dify", "{}", file.display());
        }
    }
}

#[test]
fn every_file_says_why_it_exists_and_fits_a_head() {
    for (file, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{} does not open with its reason",
            file.display()
        );
        let lines = text.lines().count();
        assert!(lines <= 450, "{} has {lines} lines", file.display());
        let name = file.file_stem().unwrap().to_str().unwrap();
        let junk = ["common", "util", "utils", "helper", "helpers", "misc"];
        assert!(
            !junk.contains(&name),
            "{} is not named for a noun of the field",
            file.display()
        );
    }
}

#[test]
fn nothing_is_left_undone() {
    for (file, text) in sources() {
        for word in ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{} has {word}", file.display());
        }
    }
}

#[test]
fn the_locked_versions_are_not_below_those_with_known_holes() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let version = |name: &str| -> Vec<u32> {
        let entry = format!("name = \"{name}\"\nversion = \"");
        let start = lock.find(&entry).unwrap_or_else(|| panic!("{name} is not locked")) + entry.len();
        let text = lock[start..].split('"').next().unwrap();
        text.split('.').map(|part| part.parse().unwrap()).collect()
    };
    for (name, least) in [
        ("pingora", [0, 9, 1]),
        ("h2", [0, 4, 16]),
        ("http", [1, 5, 0]),
        ("zstd", [0, 14, 3]),
    ] {
        assert!(
            version(name) >= least.to_vec(),
            "{name} {:?} is below {least:?}",
            version(name)
        );
    }
}
