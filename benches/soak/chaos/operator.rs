//! Who does what the schedule says: faults of instances, each by a task of its own, and the operator's acts, one after the other.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use difygate::simulated_dify::{Health, Traffic};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::ledger::{EACH, Fault, Ledger, POOLS, WayBack, What, Who};
use super::schedule::{Act, After, Blow, Schedule};
use super::stage::Stage;

/// How long a cutover may take that nobody ends.
const CUTOVER: Duration = Duration::from_secs(20);

/// What stands in the switches of the instances.
#[derive(Debug, Default)]
struct Layers {
    faults: [Option<Fault>; POOLS.len() * EACH],
    outage: Option<&'static str>,
}

/// See the module's own words.
#[derive(Clone)]
pub(crate) struct Operator {
    stage: Arc<Stage>,
    ledger: Arc<Ledger>,
    layers: Arc<Mutex<Layers>>,
}

impl Operator {
    pub(crate) fn new(stage: &Arc<Stage>, ledger: &Arc<Ledger>) -> Self {
        Self {
            stage: stage.clone(),
            ledger: ledger.clone(),
            layers: Arc::default(),
        }
    }

    /// Does all of it until `end`; afterwards everything is well.
    pub(crate) async fn work(&self, schedule: &Schedule, start: Instant, end: Instant) {
        let mut blows = JoinSet::new();
        for blow in schedule.blows.iter().copied() {
            let operator = self.clone();
            blows.spawn(async move {
                sleep_until((start + blow.at).into()).await;
                operator.strike(blow).await;
            });
        }
        for (wait, act) in &schedule.acts {
            sleep(*wait).await;
            // Each act takes a while.
            if Instant::now() + Duration::from_secs(5) > end {
                break;
            }
            self.act(*act).await;
        }
        while let Some(struck) = blows.join_next().await {
            struck.unwrap();
        }
    }

    /// Lets a fault come and go.
    async fn strike(&self, blow: Blow) {
        let dify = &self.stage.difys[blow.who];
        let from = Instant::now();
        // The boot of what is started again, of every second one.
        let boot = if blow.lasts.as_millis().is_multiple_of(2) {
            blow.lasts / 3
        } else {
            Duration::ZERO
        };
        dify.set(|switches| {
            (switches.boot, switches.last_call) = (boot, Duration::from_millis(200));
            (switches.grace, switches.drains_open) = (blow.lasts, blow.fault == Fault::Drains);
        });
        match blow.fault {
            Fault::Kill => {
                dify.kill().await;
                sleep(blow.lasts).await;
                dify.restart().await.unwrap();
                sleep(boot).await;
            }
            Fault::Worker => {
                dify.kill_worker(blow.lasts).await;
                sleep(blow.lasts).await;
            }
            Fault::Freeze => {
                dify.freeze();
                sleep(blow.lasts).await;
                dify.thaw();
            }
            Fault::Stop | Fault::Drains => {
                dify.stop().await;
                sleep(Duration::from_millis(300)).await;
                dify.restart().await.unwrap();
                sleep(boot).await;
            }
            _ => {
                self.layer(|layers| layers.faults[blow.who] = Some(blow.fault));
                sleep(blow.lasts).await;
                self.layer(|layers| layers.faults[blow.who] = None);
            }
        }
        self.ledger
            .happened(What::At(blow.who, blow.fault), from, Instant::now());
    }

    /// Changes what the switches are to be, and sets them.
    fn layer(&self, change: impl FnOnce(&mut Layers)) {
        let mut layers = self.layers.lock().unwrap();
        change(&mut layers);
        for (dify, fault) in self.stage.difys.iter().zip(layers.faults) {
            let outage = layers.outage;
            dify.set(|switches| {
                switches.traffic = match fault {
                    Some(Fault::Refuses | Fault::Sick) => Traffic::Status(503),
                    Some(Fault::Closes) => Traffic::Close,
                    Some(Fault::Cuts) => Traffic::Cut,
                    _ => Traffic::Normal,
                };
                switches.health = match fault {
                    Some(Fault::Sick) => Health::failing(["core"]),
                    _ => Health::Passing,
                };
                if let Some(component) = outage {
                    switches.health = Health::failing([component]);
                    switches.traffic = match component {
                        "cache" => Traffic::RedisDown(Duration::from_secs(30)),
                        _ => Traffic::DatabaseDown,
                    };
                }
                let slow = fault == Some(Fault::Slow);
                switches.latency = Duration::from_millis(if slow { 1_500 } else { 0 });
                switches.slots = if fault == Some(Fault::Full) { 4 } else { usize::MAX };
                let limited = fault == Some(Fault::Limited);
                switches.limit_concurrency = if limited { 5 } else { usize::MAX };
                switches.workers = fault != Some(Fault::Silent);
            });
        }
    }

    async fn act(&self, act: Act) {
        let done = match act {
            Act::Upgrade => self.upgrade().await,
            Act::Reload(weight) => {
                self.stage.write(None, weight);
                self.reload().await
            }
            Act::Remove(who, lasts) => self.remove(who, lasts).await,
            Act::Switch(after) => self.switch(after).await,
            Act::Pause(lasts) => self.hold("pause", What::Paused, lasts).await,
            Act::Stop(lasts) => self.hold("stop", What::Stopped, lasts).await,
            Act::Maintain(who, lasts) => self.away(who, "maintenance", lasts).await,
            Act::Drain(who, lasts) => self.away(who, "draining", lasts).await,
            Act::Outage(name, lasts, upgrade) => self.outage(name, lasts, upgrade).await,
        };
        if let Err(why) = done {
            self.ledger.wrong(format!("{act:?}: {why}"));
        }
    }

    async fn upgrade(&self) -> Result<(), String> {
        let from = Instant::now();
        let done = self.stage.start(&["--upgrade"]).await;
        self.ledger.happened(What::Upgrade, from, Instant::now());
        done
    }

    async fn reload(&self) -> Result<(), String> {
        let answer = self
            .stage
            .order(http::Method::POST, "/api/v1/config:reload", Value::Null)
            .await?;
        expect_done(answer)
    }

    /// Takes an instance out of the configuration, and puts it back.
    async fn remove(&self, who: Who, lasts: Duration) -> Result<(), String> {
        self.stage.write(Some(who), 1);
        self.reload().await?;
        let from = Instant::now();
        sleep(lasts).await;
        self.stage.write(None, 1);
        let until = Instant::now();
        self.reload().await?;
        self.ledger.happened(What::Away(who, "removed"), from, until);
        Ok(())
    }

    /// Holds requests back for a while.
    async fn hold(&self, state: &str, what: What, lasts: Duration) -> Result<(), String> {
        expect_done(self.stage.verb("traffic", json!({"state": state})).await?)?;
        let from = Instant::now();
        sleep(lasts).await;
        let until = Instant::now();
        let ran = self.stage.verb("traffic", json!({"state": "run"})).await;
        self.ledger.happened(what, from, until);
        expect_done(ran?)
    }

    /// Takes an instance out by an order.
    async fn away(&self, who: Who, state: &'static str, lasts: Duration) -> Result<(), String> {
        let path = format!("/api/v1/overrides/{}", self.stage.difys[who].address());
        let terms = json!({"state": state, "reason": "soak"});
        expect_done(self.stage.order(http::Method::PUT, &path, terms).await?)?;
        let from = Instant::now();
        sleep(lasts).await;
        let until = Instant::now();
        let enabled = self.stage.order(http::Method::DELETE, &path, Value::Null).await;
        self.ledger.happened(What::Away(who, state), from, until);
        expect_done(enabled?)
    }

    async fn outage(&self, name: &'static str, lasts: Duration, upgrade: bool) -> Result<(), String> {
        let from = Instant::now();
        self.layer(|layers| layers.outage = Some(name));
        sleep(lasts / 2).await;
        let upgraded = if upgrade { self.upgrade().await } else { Ok(()) };
        sleep(lasts / 2).await;
        self.layer(|layers| layers.outage = None);
        self.ledger.happened(What::Shared(name), from, Instant::now());
        upgraded
    }

    /// A cutover to the other pool.
    async fn switch(&self, after: After) -> Result<(), String> {
        let active = self.stage.get("/api/v1/cutovers/dify").await?["active"].clone();
        let to = usize::from(active == POOLS[0]);
        let mut terms = json!({"to": POOLS[to], "auto": true, "bake": "3s", "supersede": true, "reason": "soak"});
        if after == After::HasSharesAndUpgrade {
            terms["steps"] = json!([{"percent": 40, "hold": "2s"}]);
        }
        expect_done(self.stage.verb("start", terms).await?)?;
        match after {
            After::IsAborted(wait) => {
                sleep(wait).await;
                self.say("abort").await?;
            }
            After::IsRolledBack(wait) => {
                self.until(CUTOVER, |view| view["cutover"]["percent"] == 100).await?;
                sleep(wait).await;
                self.say("rollback").await?;
            }
            After::IsPaused(lasts) => {
                self.until(CUTOVER, |view| view["cutover"]["percent"] == 100).await?;
                self.say("pause").await?;
                sleep(lasts).await;
                self.say("resume").await?;
            }
            After::HasSharesAndUpgrade => {
                self.until(CUTOVER, |view| view["cutover"]["percent"] != 0).await?;
                self.upgrade().await?;
            }
            After::Commits => {}
        }
        // Nobody waits for a bake that is made longer, or for a pool that is sick.
        if !self.until(CUTOVER, is_settled).await? {
            self.say("abort").await?;
        }
        if self.stage.get("/api/v1/cutovers/dify").await?["phase"] == "frozen" {
            let terms = json!({"force": true});
            expect_done(self.stage.verb("rollback", terms).await?)?;
        }
        Ok(())
    }

    /// Gives a verb that may make no sense any more.
    async fn say(&self, verb: &str) -> Result<(), String> {
        match self.stage.verb(verb, json!({})).await? {
            (200 | 409 | 422, _) => Ok(()),
            answer => expect_done(answer),
        }
    }

    /// Waits until something holds, or the cutover is over; whether it came about in time.
    async fn until(&self, longest: Duration, holds: impl Fn(&Value) -> bool) -> Result<bool, String> {
        let start = Instant::now();
        loop {
            let view = self.stage.get("/api/v1/cutovers/dify").await?;
            if holds(&view) || is_settled(&view) {
                return Ok(true);
            }
            if start.elapsed() > longest {
                return Ok(false);
            }
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// Watches where requests go, as the gate says it, and notes cutovers that go back by themselves.
    pub(crate) async fn watch(&self, end: Instant) {
        let mut since: Option<(Value, usize, Instant)> = None;
        let mut asked = Instant::now();
        let (mut flipped, mut told) = ((Value::Null, Instant::now()), Value::Null);
        while Instant::now() < end {
            let last = std::mem::replace(&mut asked, Instant::now());
            let view = match self.stage.get("/api/v1/cutovers/dify").await {
                Ok(view) => view,
                Err(why) => {
                    self.ledger.wrong(format!("{:.3} s: {why}", self.ledger.at(asked)));
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let stable = (0..POOLS.len()).find(|pool| view["weights"][POOLS[*pool]] == 100);
            let goes_on = since.as_ref().is_some_and(|(epoch, ..)| *epoch == view["epoch"]);
            if !goes_on {
                if let Some((_, pool, from)) = since.take() {
                    self.ledger.happened(What::Active(pool), from, last);
                }
                since = stable.map(|pool| (view["epoch"].clone(), pool, Instant::now()));
            }
            let cutover = &view["cutover"];
            if cutover["percent"] != 0 && flipped.0 != cutover["id"] {
                flipped = (cutover["id"].clone(), asked);
            }
            if let Some(back) = by_itself(cutover).filter(|_| told != cutover["id"] && flipped.0 == cutover["id"]) {
                told = cutover["id"].clone();
                self.ledger.went_back(WayBack {
                    to: usize::from(cutover["to"] == POOLS[1]),
                    flipped: flipped.1,
                    at: Instant::now(),
                    why: back,
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
        if let Some((_, pool, from)) = since {
            self.ledger.happened(What::Active(pool), from, asked);
        }
    }
}

fn is_settled(view: &Value) -> bool {
    let phase = view["phase"].as_str().unwrap_or_default();
    ["steady", "committed", "retired", "failed", "rolled_back", "frozen"].contains(&phase)
}

/// Why a cutover went back, unless a person said so.
fn by_itself(cutover: &Value) -> Option<String> {
    let log = cutover["log"].as_array()?;
    let back = log.iter().find(|entry| entry["phase"] == "rolling_back")?;
    (back["by"] != "soak").then(|| back["why"].to_string())
}

fn expect_done((status, said): (u16, Value)) -> Result<(), String> {
    if status == 200 {
        Ok(())
    } else {
        Err(format!("{status} {said}"))
    }
}
