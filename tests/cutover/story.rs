//! A cutover told line by line: who says what, what is seen, how much time passes; and the picture of every step that came of it.
//!
//! ```text
//! start POOL [auto] [supersede] [barrier] [keep] [steps=10:60s,50:60s] [-- REASON]    by ann, like every verb
//! promote | pause | resume | abort | rollback [force] [-- REASON]
//! traffic run | pause | stop [MESSAGE]
//! gates none | NAME=VERDICT ...        triggers none | NAME=VERDICT ...
//! prepared yes|no    old_fit N    in_flight N    alive yes|no    bake VERDICT
//! step                                 one step that is due is taken, before anything else is seen
//! pass 90s                             the clock goes second by second, and every step that is due is taken
//! ```
//!
//! At first `blue` is active, and all that is seen is good. A plan has the usual clocks; `keep` cuts nothing at the end of the drain.

use std::time::{Duration, Instant};

use difygate::gate::cutover::triggers::Tally;
use difygate::gate::cutover::{Gate, Plan, Record, RefusalKind, Seen, Start, Step, Verb, Verdict};
use difygate::gate::direction::Traffic;
use difygate::gate::names::PoolName;

/// More steps than this at one moment would never end.
const ENDLESS: usize = 16;

#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) record: Record,
    pub(crate) seen: Seen,
    pub(crate) now: Instant,
    began: Instant,
    /// What has been told since it was last asked for.
    told: Vec<String>,
}

impl Default for Story {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            record: Record::new(PoolName::new("blue")),
            seen: good(),
            now,
            began: now,
            told: Vec::new(),
        }
    }
}

/// All is well: it could go on at once.
pub(crate) fn good() -> Seen {
    Seen {
        gates: gates("health=pass version=pass"),
        triggers: Vec::new(),
        prepared: true,
        old_fit: 1,
        old_in_flight: 0,
        old_alive: false,
        bake: baked(Verdict::Pass),
        usual: Tally::default(),
    }
}

/// What a bake comes to.
fn baked(verdict: Verdict) -> Gate {
    Gate::new("bake", verdict, "measured")
}

/// Gates, or triggers, by their names and verdicts.
pub(crate) fn gates(text: &str) -> Vec<Gate> {
    let words = text.split_whitespace().filter(|word| *word != "none");
    words
        .map(|word| {
            let (name, verdict) = word.split_once('=').unwrap_or((word, "fail"));
            Gate::new(name, Verdict::parse(verdict).expect(word), "measured")
        })
        .collect()
}

pub(crate) fn seconds(text: &str) -> Duration {
    let number = text.strip_suffix('s').and_then(|number| number.parse().ok());
    Duration::from_secs(number.unwrap_or_else(|| panic!("`{text}` is no time: 90s")))
}

/// What a verb's words mean.
pub(crate) fn verb(line: &str) -> Option<Verb> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(match words.as_slice() {
        ["start", to, options @ ..] => Verb::Start(Box::new(Start {
            to: PoolName::new(to),
            plan: plan(options),
            supersede: options.contains(&"supersede"),
        })),
        ["promote"] => Verb::Promote,
        ["pause"] => Verb::Pause,
        ["resume"] => Verb::Resume,
        ["abort"] => Verb::Abort,
        ["rollback"] => Verb::Rollback { force: false },
        ["rollback", "force"] => Verb::Rollback { force: true },
        ["traffic", "run"] => Verb::Traffic(Traffic::Run),
        ["traffic", "pause"] => Verb::Traffic(Traffic::Pause),
        ["traffic", "stop", message @ ..] => Verb::Traffic(Traffic::Stop {
            message: message.join(" "),
        }),
        _ => return None,
    })
}

fn plan(options: &[&str]) -> Plan {
    let mut plan = Plan::default();
    for option in options {
        match option.split_once('=') {
            Some(("steps", steps)) => {
                let step = |step: &str| {
                    let (percent, hold) = step.split_once(':').expect("10:60s");
                    Step {
                        percent: percent.parse().unwrap(),
                        hold: seconds(hold),
                    }
                };
                plan.steps = steps.split(',').map(step).collect();
            }
            Some(_) => panic!("`{option}` is no option"),
            None => match *option {
                "auto" => plan.auto = true,
                "barrier" => plan.barrier = true,
                "keep" => plan.cut = false,
                "supersede" => {}
                _ => panic!("`{option}` is no option"),
            },
        }
    }
    plan
}

impl Story {
    /// Does what a line says.
    pub(crate) fn take(&mut self, line: &str) {
        let (what, reason) = line.split_once(" -- ").unwrap_or((line, ""));
        if let Some(verb) = verb(what) {
            self.say(&verb, reason);
            return;
        }
        let (first, rest) = what.split_once(' ').unwrap_or((what, ""));
        match first {
            "gates" => self.seen.gates = gates(rest),
            "triggers" => self.seen.triggers = gates(rest),
            "prepared" => self.seen.prepared = rest == "yes",
            "alive" => self.seen.old_alive = rest == "yes",
            "old_fit" => self.seen.old_fit = rest.parse().unwrap(),
            "in_flight" => self.seen.old_in_flight = rest.parse().unwrap(),
            "bake" => self.seen.bake = baked(Verdict::parse(rest).unwrap()),
            "step" => self.step(),
            "pass" => self.pass(seconds(rest)),
            _ => panic!("`{line}` says nothing"),
        }
    }

    fn say(&mut self, verb: &Verb, reason: &str) {
        match self.record.command(verb, "ann", reason, &self.seen, self.now) {
            Ok(next) if next == self.record => self.told.push(format!("{} nothing to do", self.stamp())),
            Ok(next) => self.become_next(next),
            Err(refusal) => {
                let kind = match refusal.kind {
                    RefusalKind::Conflict => "conflict",
                    RefusalKind::Gate => "gate",
                    RefusalKind::Invalid => "invalid",
                };
                self.told.push(format!("{} refused ({kind}): {refusal}", self.stamp()));
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while self.now < end {
            self.now += Duration::from_secs(1);
            self.settle();
        }
    }

    fn step(&mut self) {
        if let Some(next) = self.record.advance(&self.seen, self.now) {
            self.become_next(next);
        }
    }

    /// Takes every step that is due.
    pub(crate) fn settle(&mut self) {
        let mut steps = 0;
        while let Some(next) = self.record.advance(&self.seen, self.now) {
            self.become_next(next);
            steps += 1;
            assert!(steps < ENDLESS, "it does not come to rest: {:#?}", self.record);
        }
    }

    fn become_next(&mut self, next: Record) {
        let before = std::mem::replace(&mut self.record, next);
        assert_eq!(self.record.epoch, before.epoch + 1, "one step, one epoch");
        let why = if before.traffic == self.record.traffic {
            let entry = self.record.cutover.as_ref().and_then(|cutover| cutover.log.back());
            let entry = entry.expect("every step is logged");
            format!("{}: {}", entry.by, entry.why)
        } else {
            format!("traffic: {}", self.record.traffic.as_str())
        };
        self.told.push(format!("{} {}; {why}", self.stamp(), self.standing()));
    }

    fn stamp(&self) -> String {
        format!("{:>6}", format!("{}s", (self.now - self.began).as_secs()))
    }

    /// Where it stands, as text.
    pub(crate) fn standing(&self) -> String {
        let cutover = self.record.cutover.as_ref();
        let percent = cutover.map_or(0, |cutover| cutover.percent);
        let paused = cutover.is_some_and(|cutover| cutover.paused.is_some());
        format!(
            "#{} {}{} {percent}% {}",
            self.record.epoch,
            self.record.phase(),
            if paused { " (paused)" } else { "" },
            self.record.active
        )
    }

    /// What has been told since the last time; where it stands if that is nothing.
    pub(crate) fn picture(&mut self) -> Vec<String> {
        if self.told.is_empty() {
            self.told
                .push(format!("{} {}; as it was", self.stamp(), self.standing()));
        }
        std::mem::take(&mut self.told)
    }
}
