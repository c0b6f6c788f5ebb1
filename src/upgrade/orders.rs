//! What operators have ordered, as the process that took over tells it to the one before, which still serves kept connections and waiting requests.
//! All of it is told each time, so nothing depends on what was told before.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::memory::{Moment, Who};
use crate::gate::direction::{Direction, Share, Split, Traffic};
use crate::gate::names::{EndpointId, PoolName, UpstreamName};
use crate::gate::overrides::{Override, Wish};

/// What operators have ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Where requests of upstreams go.
    pub directions: Vec<(UpstreamName, Direction)>,
    /// Overrides of endpoints; those that are missing were taken back.
    pub overrides: Vec<(EndpointId, Override)>,
    /// Pools whose drain is over, so that what they still serve is to end.
    pub cuts: Vec<Cut>,
}

/// A pool whose drain is over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cut {
    /// The deployment.
    pub deployment: String,
    /// The cutover's id. A pool is cut once in each.
    pub cutover: u64,
    /// Upstreams that move.
    pub upstreams: Vec<String>,
    /// The pool.
    pub pool: String,
}

/// All of it on its way.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Told {
    directions: Vec<Directed>,
    overrides: Vec<Overridden>,
    cuts: Vec<Cut>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Directed {
    upstream: String,
    active: String,
    share: Option<Shared>,
    spare: Option<String>,
    /// `run`, `pause` or `stop`.
    traffic: String,
    #[serde(default)]
    message: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Shared {
    pool: String,
    percent: u32,
    /// `cookie`, `request`, or `header:` and a name.
    split: String,
    deployment: String,
    cutover: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Overridden {
    who: Who,
    state: String,
    reason: String,
    since: Moment,
    until: Option<Moment>,
}

impl Told {
    pub(super) fn of(orders: &Orders, now: Instant) -> Self {
        let directions = orders.directions.iter();
        let overrides = orders.overrides.iter();
        Self {
            directions: directions
                .map(|(upstream, direction)| Directed::of(upstream, direction))
                .collect(),
            overrides: overrides
                .map(|(id, word)| Overridden {
                    who: Who::of(id),
                    state: word.wish.to_string(),
                    reason: word.reason.clone(),
                    since: Moment::of(word.since, now),
                    until: word.until.map(|until| Moment::of(until, now)),
                })
                .collect(),
            cuts: orders.cuts.clone(),
        }
    }

    /// What was ordered; what means nothing here is left out.
    pub(super) fn orders(self, now: Instant) -> Orders {
        let overrides = self.overrides.into_iter().filter_map(|told| {
            let word = Override {
                wish: Wish::for_state(&told.state)?,
                reason: told.reason,
                since: told.since.at(now),
                until: told.until.map(|until| until.at(now)),
            };
            Some((told.who.id()?, word))
        });
        Orders {
            directions: self.directions.into_iter().filter_map(Directed::read).collect(),
            overrides: overrides.collect(),
            cuts: self.cuts,
        }
    }
}

impl Directed {
    fn of(upstream: &UpstreamName, direction: &Direction) -> Self {
        let share = direction.share.as_ref().map(|share| Shared {
            pool: share.pool.to_string(),
            percent: share.percent,
            split: match &share.split {
                Split::Cookie => "cookie".to_owned(),
                Split::Request => "request".to_owned(),
                Split::Header(name) => format!("header:{name}"),
            },
            deployment: share.deployment.clone(),
            cutover: share.cutover,
        });
        Self {
            upstream: upstream.to_string(),
            active: direction.active.to_string(),
            share,
            spare: direction.spare.as_ref().map(ToString::to_string),
            traffic: direction.traffic.as_str().to_owned(),
            message: match &direction.traffic {
                Traffic::Stop { message } => message.clone(),
                Traffic::Run | Traffic::Pause => String::new(),
            },
        }
    }

    fn read(self) -> Option<(UpstreamName, Direction)> {
        let share = match self.share {
            None => None,
            Some(share) => Some(Share {
                pool: PoolName::new(&share.pool),
                percent: share.percent,
                split: match share.split.as_str() {
                    "cookie" => Split::Cookie,
                    "request" => Split::Request,
                    other => Split::Header(other.strip_prefix("header:")?.to_owned()),
                },
                deployment: share.deployment,
                cutover: share.cutover,
            }),
        };
        let traffic = match self.traffic.as_str() {
            "run" => Traffic::Run,
            "pause" => Traffic::Pause,
            "stop" => Traffic::Stop { message: self.message },
            _ => return None,
        };
        let direction = Direction {
            active: PoolName::new(&self.active),
            share,
            spare: self.spare.as_deref().map(PoolName::new),
            traffic,
        };
        Some((UpstreamName::new(&self.upstream), direction))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::names::Address;

    #[test]
    fn what_is_ordered_arrives_as_it_was() {
        let now = Instant::now();
        let share = |split| Share {
            pool: PoolName::new("green"),
            percent: 25,
            split,
            deployment: "dify".to_owned(),
            cutover: 7,
        };
        let direction = |share, spare: Option<&str>, traffic| Direction {
            active: PoolName::new("blue"),
            share,
            spare: spare.map(PoolName::new),
            traffic,
        };
        let message = "Back at \"noon\"\n".to_owned();
        let directions = [
            direction(None, None, Traffic::Run),
            direction(Some(share(Split::Cookie)), Some("blue"), Traffic::Pause),
            direction(Some(share(Split::Request)), None, Traffic::Stop { message }),
            direction(Some(share(Split::Header("x-user".to_owned()))), None, Traffic::Run),
        ];
        let upstream = UpstreamName::new("api");
        let word = |wish, until| Override {
            wish,
            reason: "a new disk".to_owned(),
            since: now,
            until,
        };
        let id = EndpointId {
            upstream: upstream.clone(),
            pool: PoolName::new("blue"),
            address: Address::parse("[::1]:5001").unwrap(),
        };
        let orders = Orders {
            directions: directions.map(|direction| (upstream.clone(), direction)).to_vec(),
            overrides: vec![
                (id.clone(), word(Wish::Drain, None)),
                (id, word(Wish::Maintain, Some(now + Duration::from_secs(60)))),
            ],
            cuts: vec![Cut {
                deployment: "dify".to_owned(),
                cutover: 7,
                upstreams: vec!["api".to_owned()],
                pool: "blue".to_owned(),
            }],
        };
        let written = serde_json::to_string(&Told::of(&orders, now)).unwrap();
        let told: Told = serde_json::from_str(&written).unwrap();
        assert_eq!(told.orders(now), orders);
        let strange = written.replace("\"run\"", "\"walk\"").replace("draining", "dancing");
        let told: Told = serde_json::from_str(&strange).unwrap();
        let left = told.orders(now);
        assert_eq!((left.directions.len(), left.overrides.len()), (2, 1));
    }
}
