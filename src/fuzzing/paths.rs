//! Targets, and the guard of the probe paths.

use crate::gate::guard::{DEFAULT_PATHS, GuardedPaths};
use crate::gate::path::{Form, OriginForm, canonical, decode};

/// What is forwarded is what came; and what plainly is a guarded path after any number of decodings is guarded.
pub fn path_and_guard(data: &[u8]) {
    let options = data.len().is_multiple_of(2);
    let form = match OriginForm::parse(data, options) {
        Ok(Form::Origin(form)) => form,
        Ok(Form::Asterisk) => {
            assert_eq!(data, b"*");
            return;
        }
        Err(malformed) => {
            assert!(matches!(malformed.status(), 400 | 414));
            return;
        }
    };
    let (path, target) = (form.path(), form.target());
    assert!(path.starts_with('/') && target.starts_with(path.as_bytes()));
    if data.starts_with(b"/") {
        assert_eq!(target, data, "a path is forwarded as it came");
    } else {
        assert!(data.ends_with(target) || target == b"/" || target.starts_with(b"/?"));
    }
    assert!(!target.iter().any(|byte| byte.is_ascii_control() || *byte == b' '));
    let clean = canonical(path).into_owned();
    assert_eq!(canonical(&clean.replace('%', "%25")), clean, "canonical is canonical");
    let guard = GuardedPaths::new(DEFAULT_PATHS);
    if is_guarded(path) {
        assert!(guard.find(path).is_some(), "{path} reaches the instance");
    }
}

/// Whether a path is a guarded one after it was decoded any number of times, in any case and with slashes merged.
fn is_guarded(path: &str) -> bool {
    let mut reading = path.to_owned();
    for _ in 0..8 {
        let plain = canonical(&reading).to_ascii_lowercase();
        let below = |guarded: &str| {
            let rest = plain.strip_prefix(guarded);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if DEFAULT_PATHS.iter().any(|guarded| below(guarded)) {
            return true;
        }
        let decoded = decode(&reading).into_owned();
        if decoded == reading {
            return false;
        }
        reading = decoded;
    }
    false
}
