//! Stories in files: lines of a story, a line of dashes, and every step that came of them. `WRITE_SCENARIOS=1` writes the pictures anew.

use std::fmt::Write;
use std::path::Path;

use crate::story::Story;

const DASHES: &str = "----";

/// The text of a story with the pictures that the machine gives.
fn told(text: &str) -> String {
    let mut story = Story::default();
    let mut written = String::new();
    let mut is_picture = false;
    for line in text.lines() {
        match line {
            DASHES => {
                is_picture = true;
                writeln!(written, "{DASHES}").unwrap();
                for line in story.picture() {
                    writeln!(written, "{line}").unwrap();
                }
            }
            "" => {
                is_picture = false;
                writeln!(written).unwrap();
            }
            _ if is_picture => {}
            _ => {
                writeln!(written, "{line}").unwrap();
                if !line.starts_with('#') {
                    story.take(line);
                }
            }
        }
    }
    written
}

#[test]
fn every_story_ends_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/cutover");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 54, "only {} stories were found", files.len());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with(".txt"), "{name} is no story");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# "), "{name} does not say what it shows");
        assert!(text.lines().any(|line| line == DASHES), "{name} expects nothing");
        let told = told(&text);
        if std::env::var_os("WRITE_SCENARIOS").is_some() {
            std::fs::write(&file, &told).unwrap();
            continue;
        }
        assert_eq!(text, told, "{name}:\n{told}");
    }
}
