//! What befalls the instances, row by row.

use std::sync::Arc;
use std::time::Duration;

use difygate::simulated_dify::{Health, SimulatedDify, Switches, Traffic};
use tokio::time::sleep;

use crate::stage::Stage;
use crate::users::{Kind, Load};

/// Something that is done to a stage at a moment of the story.
pub(crate) type Step = fn(&Arc<Stage>);

/// One row.
pub(crate) struct Story {
    pub(crate) name: &'static str,
    /// How many instances there are.
    pub(crate) instances: usize,
    pub(crate) weights: &'static [u32],
    /// Whether `/healthz` is answered by a service beside each instance.
    pub(crate) beside: bool,
    pub(crate) load: Load,
    /// How each instance is from the start, by its number.
    pub(crate) from_start: fn(usize, &mut Switches),
    /// Whose absence is right.
    pub(crate) sick: Option<usize>,
    /// What happens, and after how many seconds.
    pub(crate) steps: &'static [(f64, Step)],
    /// After how many seconds the story is over.
    pub(crate) ends: f64,
}

const OPEN: Load = Load::Open {
    rate: 40,
    prompts: true,
};
/// So long the component is away which all share.
const AWAY: f64 = 30.0;
/// So long a request hangs in an instance without its Redis.
const HANGS: Duration = Duration::from_secs(30);

fn as_ever(_: usize, _: &mut Switches) {}

/// As many connections as the worker of a default Dify holds; a question takes a while there.
fn ten_slots(_: usize, switches: &mut Switches) {
    switches.slots = 10;
    switches.latency = Duration::from_millis(50);
}

fn ten_slots_on_the_first(index: usize, switches: &mut Switches) {
    if index == 0 {
        ten_slots(index, switches);
    }
}

/// As uvicorn with `--limit-concurrency 12`, before requests that take half a second.
fn limited(_: usize, switches: &mut Switches) {
    switches.limit_concurrency = 12;
    switches.latency = Duration::from_millis(500);
}

fn slots_of_eight_on_the_heavy(index: usize, switches: &mut Switches) {
    switches.latency = Duration::from_millis(250);
    if index == 0 {
        switches.slots = 8;
    }
}

fn busy_slots(_: usize, switches: &mut Switches) {
    switches.slots = 10;
    switches.latency = Duration::from_millis(500);
}

fn streams(stage: &Arc<Stage>, count: usize) {
    for _ in 0..count {
        let users = stage.users.clone();
        tokio::spawn(async move { users.one(Kind::Stream).await });
    }
}

fn all(stage: &Arc<Stage>, change: impl Fn(&mut Switches)) {
    stage.instances.iter().for_each(|dify| dify.set(&change));
}

fn first(stage: &Arc<Stage>) -> &SimulatedDify {
    &stage.instances[0]
}

const NO_WORKERS: Step = |stage| {
    all(stage, |switches| switches.workers = false);
    streams(stage, 12);
};
const WORKERS: Step = |stage| all(stage, |switches| switches.workers = true);

const NO_DATABASE: Step = |stage| {
    let lost = |switches: &mut Switches| switches.health = Health::failing(["database"]);
    stage.services.iter().for_each(|service| service.set(lost));
    all(stage, |switches| switches.traffic = Traffic::DatabaseDown);
};
const NO_REDIS: Step = |stage| {
    let lost = |switches: &mut Switches| switches.health = Health::failing(["cache"]);
    stage.services.iter().for_each(|service| service.set(lost));
    all(stage, |switches| switches.traffic = Traffic::RedisDown(HANGS));
};
const RECOVER: Step = |stage| {
    let well = |switches: &mut Switches| switches.health = Health::Passing;
    stage.services.iter().for_each(|service| service.set(well));
    all(stage, |switches| switches.traffic = Traffic::Normal);
};

const FREEZE: Step = |stage| first(stage).freeze();
const THAW: Step = |stage| first(stage).thaw();

/// Streams are opened until ten of them fill the first instance.
const FILL_FIRST: Step = |stage| {
    let stage = stage.clone();
    tokio::spawn(async move {
        while first(&stage).tally().streams() < 10 {
            streams(&stage, 1);
            sleep(Duration::from_millis(20)).await;
        }
    });
};
const NINE_STREAMS_EACH: Step = |stage| streams(stage, 27);

const SLOW: Step = |stage| {
    all(stage, |switches| {
        switches.latency = Duration::from_millis(1_500);
        switches.probe_latency = Duration::from_millis(1_500);
    });
};
const QUICK: Step = |stage| {
    all(stage, |switches| {
        switches.latency = Duration::ZERO;
        switches.probe_latency = Duration::ZERO;
    });
};

const KILL: Step = |stage| {
    let stage = stage.clone();
    tokio::spawn(async move { first(&stage).kill().await });
};
const RESTART: Step = |stage| {
    let stage = stage.clone();
    tokio::spawn(async move { first(&stage).restart().await.expect("its port") });
};
/// SIGTERM while streams are under way, which end within ten seconds.
const STOP: Step = |stage| {
    streams(stage, 9);
    let stage = stage.clone();
    tokio::spawn(async move {
        first(&stage).set(|switches| {
            switches.drains_open = true;
            switches.last_call = Duration::from_secs(1);
            switches.grace = Duration::from_secs(20);
        });
        first(&stage).stop().await
    });
};
const NOTHING: Step = |_| {};

const BASE: Story = Story {
    name: "",
    instances: 3,
    weights: &[],
    beside: false,
    load: OPEN,
    from_start: as_ever,
    sick: None,
    steps: &[],
    ends: 0.0,
};

pub(crate) const STORIES: [Story; 11] = [
    Story {
        name: "12 queued runs: one ping, then silence for 40 s",
        load: Load::Open {
            rate: 40,
            prompts: false,
        },
        steps: &[(0.0, NO_WORKERS), (40.0, WORKERS)],
        ends: 43.0,
        ..BASE
    },
    Story {
        name: "a shared database is away for 30 s: 500",
        beside: true,
        steps: &[(0.0, NO_DATABASE), (AWAY, RECOVER)],
        ends: AWAY + 5.0,
        ..BASE
    },
    Story {
        name: "a shared Redis is away for 30 s: requests hang",
        beside: true,
        steps: &[(0.0, NO_REDIS), (AWAY, RECOVER)],
        ends: AWAY + 5.0,
        ..BASE
    },
    Story {
        name: "an api is frozen for 20 s, the service beside it is well",
        beside: true,
        sick: Some(0),
        steps: &[(0.0, FREEZE), (20.0, THAW)],
        ends: 23.0,
        ..BASE
    },
    Story {
        name: "1 of 3 is full (10 streams): its probe is not answered",
        from_start: ten_slots_on_the_first,
        steps: &[(0.0, FILL_FIRST)],
        ends: 14.0,
        ..BASE
    },
    Story {
        name: "3 of 3 are nearly full (9 streams of 10 connections)",
        from_start: ten_slots,
        load: Load::Open {
            rate: 10,
            prompts: true,
        },
        steps: &[(0.0, NINE_STREAMS_EACH)],
        ends: 14.0,
        ..BASE
    },
    Story {
        name: "2 of 2 at their limit: a probe too many gets 503",
        instances: 2,
        from_start: limited,
        load: Load::Closed { users: 21 },
        steps: &[(0.0, NOTHING)],
        ends: 15.0,
        ..BASE
    },
    Story {
        name: "one instance alone is slow for 15 s, its probe too",
        instances: 1,
        load: Load::Open {
            rate: 10,
            prompts: true,
        },
        steps: &[(0.0, SLOW), (15.0, QUICK)],
        ends: 18.0,
        ..BASE
    },
    Story {
        name: "weights 3 and 1, the heavy one is full",
        instances: 2,
        weights: &[3, 1],
        from_start: slots_of_eight_on_the_heavy,
        load: Load::Closed { users: 24 },
        steps: &[(0.0, NOTHING)],
        ends: 15.0,
        ..BASE
    },
    Story {
        name: "1 of 2 comes back while the other is full",
        instances: 2,
        from_start: busy_slots,
        load: Load::Closed { users: 16 },
        sick: Some(0),
        steps: &[(0.0, KILL), (4.0, RESTART)],
        ends: 18.0,
        ..BASE
    },
    Story {
        name: "1 of 3 drains for 10 s and goes on accepting",
        sick: Some(0),
        steps: &[(0.0, STOP), (13.0, RESTART)],
        ends: 17.0,
        ..BASE
    },
];
