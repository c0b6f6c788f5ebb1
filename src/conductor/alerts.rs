//! Alerts about a name: each counts from when it fires until it is resolved, whatever phase the cutover is in.
//!
//! Alertmanager posts an alert when it begins to fire and repeats it only after `repeat_interval` (4 h), so one that was not remembered would not be
//! heard again before the flip.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cutover::Alert;
use crate::cutover::counted::AlertDoc;
use crate::gate::cutover::{Gate, Verdict};

/// An alert that is neither resolved nor repeated for so long counts no more: its end was lost, and it would hold every cutover for ever. An hour more
/// than Alertmanager's usual `repeat_interval`.
const FORGOTTEN: Duration = Duration::from_secs(5 * 3_600);

/// So many are remembered of a name; of more the oldest go.
const MOST: usize = 100;

/// See the module's own words.
#[derive(Debug, Default)]
pub(super) struct Alerts(BTreeMap<String, Firing>);

#[derive(Debug)]
struct Firing {
    name: String,
    /// When it was said last.
    at: Instant,
}

impl Alerts {
    /// Hears of one.
    pub(super) fn hear(&mut self, alert: Alert, now: Instant) {
        let Alert { key, name, firing } = alert;
        match (key, firing) {
            (Some(key), false) => {
                self.0.remove(&key);
            }
            (None, false) => self.0.clear(),
            (key, true) => {
                let key = key.unwrap_or_else(|| name.clone());
                self.0.insert(key, Firing { name, at: now });
            }
        }
        while self.0.len() > MOST {
            let oldest = self.0.iter().min_by_key(|(_, firing)| firing.at);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.0.remove(&key);
        }
    }

    /// What they say of a cutover; none while none fires.
    pub(super) fn gate(&mut self, now: Instant) -> Option<Gate> {
        self.0
            .retain(|_, firing| now.saturating_duration_since(firing.at) < FORGOTTEN);
        let first = self.0.values().min_by_key(|firing| firing.at)?;
        let more = match self.0.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let detail = format!("alertmanager: {}{more}", first.name);
        Some(Gate::new("alarm", Verdict::Fail, detail))
    }

    /// All of them in writing.
    pub(super) fn told(&self, clock: &Clock) -> Vec<AlertDoc> {
        let all = self.0.iter();
        all.map(|(key, firing)| AlertDoc {
            key: key.clone(),
            name: firing.name.clone(),
            at: clock.tell(firing.at),
        })
        .collect()
    }

    /// Those that were written.
    pub(super) fn read(told: Vec<AlertDoc>, clock: &Clock) -> Self {
        let all = told.into_iter().filter_map(|told| {
            let at = clock.hear(&told.at)?;
            Some((told.key, Firing { name: told.name, at }))
        });
        Self(all.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(key: Option<&str>, firing: bool) -> Alert {
        Alert {
            key: key.map(str::to_owned),
            name: format!("Alert{}", key.unwrap_or_default()),
            firing,
        }
    }

    #[test]
    fn one_counts_until_it_is_resolved_or_long_forgotten() {
        let (mut alerts, now) = (Alerts::default(), Instant::now());
        assert_eq!(alerts.gate(now), None);
        alerts.hear(alert(Some("a"), true), now);
        alerts.hear(alert(Some("b"), true), now + Duration::from_secs(1));
        alerts.hear(alert(Some("c"), false), now);
        let at = now + Duration::from_secs(2);
        assert_eq!(alerts.gate(at).unwrap().detail, "alertmanager: Alerta and 1 more");
        alerts.hear(alert(Some("a"), false), at);
        assert_eq!(alerts.gate(at).unwrap().detail, "alertmanager: Alertb");
        alerts.hear(alert(Some("b"), true), at + FORGOTTEN / 2);
        assert!(alerts.gate(at + FORGOTTEN).is_some(), "it was repeated");
        assert_eq!(alerts.gate(at + 2 * FORGOTTEN), None);
        alerts.hear(alert(Some("a"), true), at);
        alerts.hear(alert(None, false), at);
        assert_eq!(alerts.gate(at), None);
    }

    #[test]
    fn they_are_read_as_they_were_written_and_bounded() {
        let (mut alerts, clock) = (Alerts::default(), Clock::start());
        for number in 0..2 * MOST {
            alerts.hear(alert(Some(&number.to_string()), true), clock.now());
        }
        let told = alerts.told(&clock);
        assert_eq!(told.len(), MOST);
        assert_eq!(Alerts::read(told.clone(), &clock).told(&clock), told);
    }
}
