//! Fields that pass a proxy: compared line by line for each name, since their order among other names tells nothing (RFC 9110 section 5.3).

use crate::message::{Field, values};
use crate::rules::{Trial, Verdict, require};

/// Fields of one hop (RFC 9110 section 7.6.1), and what frames a message.
const ONE_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "upgrade",
    "transfer-encoding",
    "content-length",
    "proxy-authorization",
];
/// Fields of requests that every proxy may add, change or answer itself.
pub(super) const OWN: [&str; 13] = [
    "host",
    ":authority",
    "expect",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-real-ip",
    "x-request-id",
    "trailer",
];
/// The same of answers; what marks an event stream stands among them.
pub(super) const OWN_OF_ANSWERS: [&str; 8] = [
    "date",
    "server",
    "via",
    "x-request-id",
    "x-trial",
    "trailer",
    "x-accel-buffering",
    "cache-control",
];

/// Whether what came is what was sent, but for what the row says, what belongs to one hop, and what is a proxy's own.
pub(super) fn same(trial: &Trial<'_>, sent: &[Field], come: &[Field], own: &[&str]) -> Verdict {
    let nominated: Vec<String> = values(sent, "connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|member| lower_name(member.trim_ascii()))
        .collect();
    let mut names: Vec<String> = sent.iter().chain(come).map(|(name, _)| lower_name(name)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let lines: Vec<_> = values(come, &name).collect();
        let expected = trial.case.arrive.iter().find(|(own, _)| *own == name);
        let fits = match expected {
            Some((_, expected)) => expected.iter().map(Vec::as_slice).eq(lines.iter().copied()),
            None if own.contains(&name.as_str()) || ONE_HOP.contains(&name.as_str()) => true,
            None if nominated.contains(&name) => lines.is_empty(),
            None => values(sent, &name).eq(lines.iter().copied()),
        };
        let shown: Vec<String> = lines.iter().map(|value| value.escape_ascii().to_string()).collect();
        require(fits, || format!("{name} passed as {:.200}", format!("{shown:?}")))?;
    }
    Ok(())
}

fn lower_name(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

/// Fields as they are compared where their order does tell something.
pub(super) fn lower(fields: &[Field]) -> Vec<(String, Vec<u8>)> {
    let fields = fields.iter();
    fields
        .map(|(name, value)| (lower_name(name), value.trim_ascii().to_vec()))
        .collect()
}

/// Fields as they are shown.
pub(super) fn show(fields: &[Field]) -> String {
    let lines = fields.iter();
    let lines: Vec<String> = lines
        .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    format!("{lines:?}")
}
