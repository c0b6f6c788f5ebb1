//! The guard against independent readers, on paths made of the pieces that disguises are made of.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::DEFAULT_PATHS;
use super::reading::{is_plain, normalise};
use super::tests::{fate, guarded};
use crate::gate::path::{OriginForm, decode};

fn decoded(path: &str) -> String {
    decode(path).into_owned()
}

/// What Flask routes: decoded once, slashes at the start dropped.
fn werkzeug(path: &str) -> String {
    format!("/{}", decoded(path).trim_start_matches('/'))
}

/// What FastAPI routes: decoded once, and `$` matches before a final newline.
fn starlette(path: &str) -> String {
    let path = decoded(path);
    path.strip_suffix('\n').map(str::to_owned).unwrap_or(path)
}

/// RFC 3986 section 5.2.4, step by step, after decoding.
fn rfc3986(path: &str) -> String {
    let (mut input, mut output) = (decoded(path), String::new());
    while !input.is_empty() {
        if input.starts_with("/../") || input == "/.." {
            input.replace_range(..input.len().min(4), "/");
            output.truncate(output.rfind('/').unwrap_or(0));
        } else if input.starts_with("/./") || input == "/." {
            input.replace_range(..input.len().min(3), "/");
        } else {
            let end = input[1..].find('/').map_or(input.len(), |slash| slash + 1);
            output.extend(input.drain(..end));
        }
    }
    output
}

/// The URL Standard's path state for `http`, decoded at the end.
fn whatwg(path: &str) -> String {
    let path = path.replace(['\t', '\n', '\r'], "").replace('\\', "/");
    let mut segments = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part.to_ascii_lowercase().replace("%2e", ".").as_str() {
            ".." => {
                segments.pop();
                segments.extend(is_last.then_some(""));
            }
            "." => segments.extend(is_last.then_some("")),
            _ => segments.push(part),
        }
    }
    decoded(&format!("/{}", segments.join("/")))
}

/// A proxy that resolves, before a server that decodes and resolves once more.
fn chained(path: &str) -> String {
    rfc3986(&whatwg(path))
}

/// A proxy that decodes and resolves, before one that resolves and decodes.
fn chained_the_other_way(path: &str) -> String {
    whatwg(&rfc3986(path))
}

const READERS: [fn(&str) -> String; 6] = [werkzeug, starlette, rfc3986, whatwg, chained, chained_the_other_way];

/// Paths made of the pieces that disguises are made of.
fn suspicious_path() -> impl Strategy<Value = String> {
    const PIECES: [&str; 40] = [
        "/",
        "//",
        ".",
        "..",
        "/../",
        "/./",
        "%2e",
        "%2E%2e",
        "%2f",
        "%5c",
        "\\",
        "%25",
        "%32%66",
        ";",
        ";a",
        "%3b",
        "%0a",
        "\n",
        "\t",
        "%00",
        "%20",
        "%3f",
        "%23",
        "x",
        "/x/..",
        "healthz",
        "/healthz",
        "%68ealthz",
        "heal",
        "thz",
        "HEALTHZ",
        "inner",
        "api",
        "/inner/api",
        "/inner",
        "/api",
        "threads",
        "\u{ff48}",
        "%EF%BD%88",
        "%ff",
    ];
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..7).prop_map(|pieces| format!("/{}", pieces.concat()))
}

#[test]
fn whatever_some_server_reads_as_guarded_is_guarded_or_refused() {
    let (guarded, hits) = (guarded(), Cell::new([0u32; READERS.len()]));
    let config = Config::default();
    let mut runner = TestRunner::new(Config {
        cases: config.cases.max(20_000),
        failure_persistence: None,
        ..config
    });
    let outcome = runner.run(&suspicious_path(), |path| {
        let found = guarded.find(&path).is_some();
        let kept = found || OriginForm::parse(path.as_bytes(), false).is_err();
        for (reader, read) in READERS.iter().enumerate() {
            if DEFAULT_PATHS.contains(&read(&path).as_str()) {
                let mut counts = hits.get();
                counts[reader] += 1;
                hits.set(counts);
                prop_assert!(kept, "reader {reader} takes {path:?} for {}", read(&path));
                prop_assert!(found || decoded(&path).contains(['\t', '\n']), "{path:?}");
            }
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(
        hits.get().iter().all(|hits| *hits > 20),
        "the property was hardly tried: {:?}",
        hits.get()
    );
}

proptest! {
    #[test]
    fn normalising_twice_is_normalising_once(path in prop_oneof![suspicious_path(), any::<String>()]) {
        let once = normalise(&path);
        prop_assert_eq!(normalise(&once), once);
    }

    #[test]
    fn a_plain_path_is_read_alike_by_the_fast_and_the_slow_way(path in "(/[a-zA-Z.]{0,3}|/healthz|/HEALTH|/check){1,4}/?") {
        let guarded = guarded();
        if is_plain(&path) {
            prop_assert_eq!(guarded.covering(&path), guarded.find_disguised(&path));
        }
    }

    #[test]
    fn no_bytes_make_the_guard_panic(raw in prop::collection::vec(any::<u8>(), 0..64), path in any::<String>()) {
        fate(&raw);
        guarded().find(&path);
    }
}
