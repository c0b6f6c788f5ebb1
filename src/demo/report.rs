//! The outcome of the story: a table for people, the same as data, and whether it is good.

use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::demo::load::Outcome;

/// What happened in all.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) requests_per_second: u32,
    pub(super) chapters: Vec<Chapter>,
    pub(super) outsiders: Outsiders,
}

/// What happened in one chapter.
#[derive(Debug, Serialize)]
pub(super) struct Chapter {
    what: &'static str,
    /// How the gate put it.
    cause: Option<String>,
    /// Seconds from the fault to the last request that could go there.
    noticed_seconds: Option<f64>,
    /// Seconds from the mending to the first request that could go there.
    back_seconds: Option<f64>,
    served: usize,
    /// Requests without a good answer.
    failed: usize,
    /// Prompts that ran on an instance when it died. Nobody knows whether they were done, so they are not sent again.
    lost_with_it: usize,
    /// Attempts that the bad instance got.
    wasted: u64,
    /// The longest wait of a request that was served, in milliseconds.
    slowest_ms: u64,
}

/// What became of outsiders' requests for the probe path.
#[derive(Debug, Serialize)]
pub(super) struct Outsiders {
    pub(super) asked: usize,
    pub(super) denied: usize,
    pub(super) arrived: u64,
}

impl Chapter {
    /// A chapter without a fault.
    pub(super) fn calm(what: &'static str, outcomes: &[Outcome]) -> Self {
        let served = outcomes.iter().filter(|outcome| outcome.is_served());
        Self {
            what,
            cause: None,
            noticed_seconds: None,
            back_seconds: None,
            served: served.clone().count(),
            failed: outcomes.len() - served.clone().count(),
            lost_with_it: 0,
            wasted: 0,
            slowest_ms: served.map(|outcome| outcome.took.as_millis() as u64).max().unwrap_or(0),
        }
    }

    /// A chapter with a fault.
    pub(super) fn fault(
        what: &'static str,
        outcomes: &[Outcome],
        takes_prompts: bool,
        noticed: Duration,
        back: Duration,
    ) -> Self {
        let calm = Self::calm(what, outcomes);
        let cut = |outcome: &&Outcome| takes_prompts && outcome.prompt && outcome.status == Some(502);
        let lost_with_it = outcomes.iter().filter(cut).count();
        let seconds = |time: Duration| Some((time.as_secs_f64() * 1e3).round() / 1e3);
        Self {
            noticed_seconds: seconds(noticed),
            back_seconds: seconds(back),
            failed: calm.failed - lost_with_it,
            lost_with_it,
            ..calm
        }
    }
}

impl Chapter {
    /// With the gate's words for the fault, and the attempts that were wasted on it.
    pub(super) fn explained(self, cause: String, wasted: u64) -> Self {
        Self {
            cause: Some(cause),
            wasted,
            ..self
        }
    }
}

impl Report {
    /// Whether nothing failed that should not have.
    pub(super) fn good(&self) -> bool {
        let Outsiders { asked, denied, arrived } = self.outsiders;
        self.chapters
            .iter()
            .all(|chapter| chapter.failed == 0 && chapter.served > 0)
            && denied == asked
            && arrived == 0
    }

    /// A table for people.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header([
            "WHAT HAPPENED",
            "NOTICED",
            "BACK",
            "SERVED",
            "FAILED",
            "LOST WITH IT",
            "WASTED",
            "SLOWEST",
        ]);
        let seconds = |time: Option<f64>| time.map(|time| format!("{time:.2} s")).unwrap_or_default();
        for chapter in &self.chapters {
            table.add_row([
                chapter.what.to_owned(),
                seconds(chapter.noticed_seconds),
                seconds(chapter.back_seconds),
                chapter.served.to_string(),
                chapter.failed.to_string(),
                chapter.lost_with_it.to_string(),
                chapter.wasted.to_string(),
                format!("{} ms", chapter.slowest_ms),
            ]);
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        let Outsiders { asked, denied, arrived } = self.outsiders;
        let verdict = if self.good() {
            "Nothing failed that should not have."
        } else {
            "Something failed that should not have."
        };
        format!(
            "\n{}\n\nOutsiders: {asked} asked for /healthz, {denied} were denied, {arrived} arrived.\n{verdict}",
            lines.join("\n")
        )
    }
}
