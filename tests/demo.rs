//! The demo, as a newcomer runs it: the story is told to its end and nothing fails that should not.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_story_ends_well_and_is_told_as_data() {
    let told = Command::new(env!("CARGO_BIN_EXE_difygate"))
        .args(["demo", "--once", "--json"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&told.stderr)
    );
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let chapters = report["chapters"].as_array().unwrap();
    assert_eq!(chapters.len(), 4);
    for chapter in chapters {
        assert_eq!(chapter["failed"], 0, "{chapter}");
        assert!(chapter["served"].as_u64().unwrap() > 100, "{chapter}");
    }
    assert!(
        chapters[1]["cause"].as_str().unwrap().contains("failed: database"),
        "{}",
        chapters[1]
    );
    let outsiders = &report["outsiders"];
    assert_eq!(
        (&outsiders["denied"], &outsiders["arrived"]),
        (&outsiders["asked"], &0.into())
    );
}
