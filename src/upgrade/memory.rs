//! A memory on its way from one process to the next. Times travel as milliseconds from the moment of sending, for a monotonic clock means nothing
//! to another process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::gate::flapping::Flapping;
use crate::gate::health::Health;
use crate::gate::keeper::Memory;
use crate::gate::names::{Address, EndpointId, PoolName, UpstreamName};
use crate::gate::overrides::{Override, Wish};
use crate::gate::passive::{Passive, Standing, TrafficFailure};
use crate::gate::state::State;

/// Milliseconds from the moment of sending; what is past is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Moment(i64);

impl Moment {
    pub(super) fn of(at: Instant, now: Instant) -> Self {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self(match at.checked_duration_since(now) {
            Some(ahead) => millis(ahead),
            None => -millis(now - at),
        })
    }

    /// The same moment by another clock; `now` where it lies before all that the clock can tell.
    pub(super) fn at(self, now: Instant) -> Instant {
        let distance = Duration::from_millis(self.0.unsigned_abs());
        let moved = if self.0 < 0 {
            now.checked_sub(distance)
        } else {
            now.checked_add(distance)
        };
        moved.unwrap_or(now)
    }
}

/// Which endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Who {
    upstream: String,
    pool: String,
    address: String,
}

impl Who {
    pub(crate) fn of(id: &EndpointId) -> Self {
        Self {
            upstream: id.upstream.to_string(),
            pool: id.pool.to_string(),
            address: id.address.to_string(),
        }
    }

    /// None for what is no address.
    pub(crate) fn id(&self) -> Option<EndpointId> {
        Some(EndpointId {
            upstream: UpstreamName::new(&self.upstream),
            pool: PoolName::new(&self.pool),
            address: Address::parse(&self.address).ok()?,
        })
    }
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Health", rename_all = "snake_case")]
enum HealthTold {
    Unknown { fails: u32 },
    Up { fails: u32 },
    Down { passes: u32 },
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "TrafficFailure", rename_all = "snake_case")]
enum FailureTold {
    Connect,
    Reset,
    // A process of an older release may have accused an endpoint of a silent stream.
    #[serde(alias = "silent")]
    Timeout,
    Status(u16),
    Cut,
}

#[derive(Debug, Deserialize, Serialize)]
struct Verdict {
    probe: String,
    #[serde(with = "HealthTold")]
    health: Health,
}

/// What traffic holds against an endpoint.
#[derive(Debug, Deserialize, Serialize)]
struct Held {
    standing: Stand,
    #[serde(with = "FailureTold")]
    failure: TrafficFailure,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stand {
    Suspect(Moment),
    Ejected(Moment),
    OnTrial(Moment),
}

#[derive(Debug, Deserialize, Serialize)]
struct Word {
    state: String,
    reason: String,
    since: Moment,
    until: Option<Moment>,
}

/// All of an endpoint that decisions still need.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Told {
    who: Who,
    state: String,
    since: Moment,
    cause: String,
    verdicts: Vec<Verdict>,
    socket: Option<SocketAddr>,
    components: BTreeMap<String, bool>,
    shared: BTreeSet<String>,
    version: Option<String>,
    held: Option<Held>,
    doublings: u32,
    flaps: Vec<Moment>,
    flaps_until: Option<Moment>,
    degraded: bool,
    busy: bool,
    sheds: Option<Moment>,
    ramp: Option<Moment>,
    turn: Option<Moment>,
    word: Option<Word>,
}

impl Told {
    pub(super) fn of(memory: &Memory, now: Instant) -> Self {
        let moment = |at: Instant| Moment::of(at, now);
        let (standing, failure, doublings) = memory.passive.told();
        let stand = match standing {
            Standing::Clear => None,
            Standing::Suspect { since, .. } => Some(Stand::Suspect(moment(since))),
            Standing::Ejected { until } => Some(Stand::Ejected(moment(until))),
            Standing::OnTrial { since } => Some(Stand::OnTrial(moment(since))),
        };
        let (flaps, flaps_until) = memory.flapping.told();
        let verdicts = memory.verdicts.iter().map(|(probe, health)| Verdict {
            probe: probe.to_string(),
            health: *health,
        });
        Self {
            who: Who::of(&memory.id),
            state: memory.state.to_string(),
            since: moment(memory.since),
            cause: memory.cause.clone(),
            verdicts: verdicts.collect(),
            socket: memory.socket,
            components: memory.components.clone(),
            shared: memory.shared.clone(),
            version: memory.version.clone(),
            held: stand.zip(failure).map(|(standing, failure)| Held { standing, failure }),
            doublings,
            flaps: flaps.into_iter().map(moment).collect(),
            flaps_until: flaps_until.map(moment),
            degraded: memory.degraded,
            busy: memory.busy,
            sheds: memory.sheds.map(moment),
            ramp: memory.ramp.map(moment),
            turn: memory.turn.map(moment),
            word: memory.overridden.as_ref().map(|word| Word {
                state: word.wish.to_string(),
                reason: word.reason.clone(),
                since: moment(word.since),
                until: word.until.map(moment),
            }),
        }
    }

    /// None for what names no endpoint or no state.
    pub(super) fn memory(self, now: Instant) -> Option<Memory> {
        let at = |moment: Moment| moment.at(now);
        let verdicts = self.verdicts.into_iter();
        Some(Memory {
            id: self.who.id()?,
            state: State::ALL.into_iter().find(|state| state.as_str() == self.state)?,
            since: at(self.since),
            cause: self.cause,
            verdicts: verdicts.map(|told| (told.probe.into(), told.health)).collect(),
            socket: self.socket,
            components: self.components,
            shared: self.shared,
            version: self.version,
            passive: passive(self.held, self.doublings, now),
            flapping: Flapping::of((self.flaps.into_iter().map(at).collect(), self.flaps_until.map(at))),
            degraded: self.degraded,
            busy: self.busy,
            sheds: self.sheds.map(at),
            ramp: self.ramp.map(at),
            turn: self.turn.map(at),
            overridden: match self.word {
                None => None,
                Some(word) => Some(Override {
                    wish: Wish::for_state(&word.state)?,
                    reason: word.reason,
                    since: at(word.since),
                    until: word.until.map(at),
                }),
            },
        })
    }
}

/// Reads what another process tells of its endpoints, and tells it once more.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn retell(json: &[u8], now: Instant) -> Option<String> {
    let all: Vec<Told> = serde_json::from_slice(json).ok()?;
    let memories = all.into_iter().filter_map(|told| told.memory(now));
    let all: Vec<Told> = memories.map(|memory| Told::of(&memory, now)).collect();
    serde_json::to_string(&all).ok()
}

fn passive(held: Option<Held>, doublings: u32, now: Instant) -> Passive {
    let standing = held.as_ref().map_or(Standing::Clear, |held| match held.standing {
        Stand::Suspect(since) => Standing::Suspect {
            question: 0,
            since: since.at(now),
        },
        Stand::Ejected(until) => Standing::Ejected { until: until.at(now) },
        Stand::OnTrial(since) => Standing::OnTrial { since: since.at(now) },
    });
    Passive::of((standing, held.map(|held| held.failure), doublings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(now: Instant, standing: Standing, health: Health) -> Memory {
        let ago = |seconds| now - Duration::from_secs(seconds);
        let ahead = |seconds| now + Duration::from_secs(seconds);
        Memory {
            id: EndpointId {
                upstream: UpstreamName::new("dify"),
                pool: PoolName::new("main"),
                address: Address::parse("[::1]:5001").unwrap(),
            },
            state: State::Ejected,
            since: ago(9),
            cause: "traffic failed while the probe passes: answered 502".to_owned(),
            verdicts: vec![("default".into(), health), ("deep".into(), Health::START)],
            socket: Some(SocketAddr::from(([127, 0, 0, 1], 5001))),
            components: [("database".to_owned(), false)].into(),
            shared: ["database".to_owned()].into(),
            version: Some("1.14.2".to_owned()),
            passive: Passive::of((standing, Some(TrafficFailure::Status(502)), 3)),
            flapping: Flapping::of((vec![ago(30), ago(3)], Some(ahead(57)))),
            degraded: true,
            busy: true,
            sheds: Some(ahead(20)),
            ramp: Some(ago(2)),
            turn: Some(ahead(1)),
            overridden: Some(Override {
                wish: Wish::Maintain,
                reason: "a new \"disk\"".to_owned(),
                since: ago(60),
                until: Some(ahead(600)),
            }),
        }
    }

    #[test]
    fn nothing_is_lost_on_the_way() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        for standing in [
            Standing::Suspect {
                question: 0,
                since: now - second,
            },
            Standing::Ejected { until: now + second },
            Standing::OnTrial { since: now },
        ] {
            for health in [
                Health::Unknown { fails: 1 },
                Health::Up { fails: 1 },
                Health::Down { passes: 1 },
            ] {
                let memory = memory(now, standing, health);
                let json = serde_json::to_string(&Told::of(&memory, now)).unwrap();
                let told: Told = serde_json::from_str(&json).unwrap();
                assert_eq!(format!("{:?}", told.memory(now).unwrap()), format!("{memory:?}"));
            }
        }
    }

    #[test]
    fn the_clock_of_another_process_may_be_younger_than_what_it_is_told() {
        let now = Instant::now();
        let ages = Moment(-1_000 * 60 * 60 * 24 * 365 * 300);
        assert!(ages.at(now) <= now);
        assert_eq!(Moment(i64::MAX).at(now).max(now) - now, Moment(i64::MAX).at(now) - now);
    }

    #[test]
    fn what_names_no_endpoint_is_nobodys() {
        let now = Instant::now();
        let mut told = Told::of(&memory(now, Standing::Clear, Health::START), now);
        told.who.address = "nowhere".to_owned();
        assert!(told.memory(now).is_none());
    }
}
