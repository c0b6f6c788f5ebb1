//! Keeps the probe paths away from the outside.
//!
//! `/healthz` has no login, so only the internal network may reach it. A path can be written in more ways than any one server
//! reads it, so the guard reads it in every way that some server is known to: decoded again and again, dots before slashes
//! and after, with and without `;` parameters, cut where a string may end, in any case and width. One guarded reading is
//! enough. Nothing is rewritten: what goes on is what came in.

use crate::gate::cidr::CidrSet;
use crate::gate::client::Client;

mod reading;

use reading::{Found, find_reading, is_plain, normalise};

/// Paths that are guarded where nothing else is named: probes of Dify, of its image's contract and of Kubernetes, and Dify's
/// diagnostics and internal API.
pub const DEFAULT_PATHS: &[&str] = &[
    "/healthz",
    "/health",
    "/health/check",
    "/livez",
    "/readyz",
    "/startupz",
    "/metrics",
    "/threads",
    "/db-pool-stat",
    "/inner/api",
    "/debug/pprof",
];

/// The paths that only internal clients may reach, each with everything below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardedPaths {
    /// Normalised; the most specific first. The root is the empty string.
    paths: Vec<String>,
}

/// A guarded path that a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'a> {
    /// The guarded path, normalised.
    pub path: &'a str,
    /// Whether it was written in another way than plainly: somebody tries the lock.
    pub evasion: bool,
}

impl GuardedPaths {
    /// Guards `paths`, each as a prefix of whole segments: `/healthz` guards `/healthz/x` and not `/healthzfoo`. The root
    /// guards only itself.
    pub fn new<P: AsRef<str>>(paths: impl IntoIterator<Item = P>) -> Self {
        let mut paths: Vec<String> = paths.into_iter().map(|path| normalise(path.as_ref())).collect();
        paths.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        paths.dedup();
        Self { paths }
    }

    /// The guarded paths, normalised, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(|path| spelled(path))
    }

    /// The guarded path that some server could take `path` (still encoded, without its query) for.
    pub fn find(&self, path: &str) -> Option<Match<'_>> {
        let guarded = if is_plain(path) {
            self.covering(path)?
        } else {
            self.find_disguised(path)?
        };
        Some(Match {
            path: spelled(guarded),
            evasion: !covers(guarded, path, <[u8]>::eq),
        })
    }

    fn find_disguised(&self, path: &str) -> Option<&str> {
        let longest = self.paths.first()?;
        match find_reading(path, longest.len(), |reading| self.covering(reading)) {
            Found::Here(guarded) => Some(guarded),
            Found::NoEnd => Some(longest),
            Found::Nothing => None,
        }
    }

    fn covering(&self, path: &str) -> Option<&str> {
        let covers = |guarded: &&String| covers(guarded, path, <[u8]>::eq_ignore_ascii_case);
        self.paths.iter().find(covers).map(String::as_str)
    }
}

fn spelled(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// Whether `path` is `guarded` or below it.
fn covers(guarded: &str, path: &str, same: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    if guarded.is_empty() {
        return matches!(path, "" | "/");
    }
    match path.as_bytes().split_at_checked(guarded.len()) {
        Some((start, [] | [b'/', ..])) => same(start, guarded.as_bytes()),
        Some(_) | None => false,
    }
}

/// What an internal client gets on a guarded path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardAnswer {
    /// The gate's own summary of its upstreams.
    #[default]
    Summary,
    /// What the instance behind it answers.
    Forward,
}

/// The rule for guarded paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// What is guarded.
    pub paths: GuardedPaths,
    /// Who may reach it.
    pub allow: CidrSet,
    /// The HTTP status that everybody else gets.
    pub deny_status: u16,
    /// What internal clients get.
    pub answer: GuardAnswer,
}

/// What the guard says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// The path is not guarded.
    Open,
    /// The path is guarded and the client internal.
    Internal {
        /// The guarded path.
        path: &'a str,
    },
    /// The path is guarded, and the client is not known to be internal.
    Deny {
        /// Why.
        reason: DenyReason,
        /// The guarded path.
        path: &'a str,
    },
}

/// Why a client may not reach a guarded path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DenyReason {
    /// Its address is outside the allowed networks.
    External,
    /// It came through something that hides its address.
    Hidden,
    /// A trusted proxy gave an address that cannot be read.
    Unidentified,
    /// Whoever it is, it disguised the path.
    Evasion,
}

impl DenyReason {
    /// The stable word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Hidden => "hidden",
            Self::Unidentified => "unidentified",
            Self::Evasion => "evasion",
        }
    }
}

impl Guard {
    /// Judges a request by its path (still encoded, without its query) and its client. The method plays no part: `HEAD` and
    /// `OPTIONS` reach the same route.
    pub fn admit(&self, client: &Client, path: &str) -> Admission<'_> {
        let Some(Match { path, evasion }) = self.paths.find(path) else {
            return Admission::Open;
        };
        match self.objection(client) {
            None => Admission::Internal { path },
            Some(_) if evasion => Admission::Deny {
                reason: DenyReason::Evasion,
                path,
            },
            Some(reason) => Admission::Deny { reason, path },
        }
    }

    /// Whether a client is internal: it may reach what is guarded.
    pub fn is_internal(&self, client: &Client) -> bool {
        self.objection(client).is_none()
    }

    fn objection(&self, client: &Client) -> Option<DenyReason> {
        match client.address {
            None => Some(DenyReason::Unidentified),
            Some(_) if client.hidden => Some(DenyReason::Hidden),
            Some(address) if !self.allow.contains(address) => Some(DenyReason::External),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
