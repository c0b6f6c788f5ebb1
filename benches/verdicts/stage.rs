//! One proxy and its own instances, services and users. All proxies of a row have theirs at the same time, and the same befalls them at the same moment.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use difygate::simulated_dify::{Cluster, SimulatedDify};
use tokio::time::{Instant, sleep};

use crate::launch::{Process, free_port};
use crate::proxies::{Proxy, Site};
use crate::stories::Story;
use crate::users::{Kind, Users};
use crate::watch::{Watch, Whom};

/// Between two looks at who is out.
const LOOK: Duration = Duration::from_millis(50);
/// A question that takes longer than this has failed, for nobody waits longer.
const QUESTION: Duration = Duration::from_secs(2);
/// Who waits longer than this has waited for too long, whatever was asked.
const LONG: Duration = Duration::from_secs(5);

/// What one run shows of one proxy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) asked: usize,
    /// In the order of the columns: failed, waited for too long, ran for nobody, ejected wrongly.
    pub(crate) columns: [usize; 4],
}

/// See the module's own words.
pub(crate) struct Stage {
    pub(crate) instances: Vec<SimulatedDify>,
    /// What answers `/healthz` beside each instance.
    pub(crate) services: Vec<SimulatedDify>,
    pub(crate) users: Users,
    cluster: Cluster,
    watch: (Whom, SocketAddr),
    folder: tempfile::TempDir,
    _process: Process,
}

/// Starts instances, each at an address of its own and all at one port.
async fn start(cluster: &Cluster, name: &str, count: usize) -> Vec<SimulatedDify> {
    loop {
        let (port, mut started) = (free_port().port(), Vec::new());
        for number in 0..count {
            let host = Ipv4Addr::new(127, 0, 0, 2 + number as u8);
            let at = SocketAddr::new(IpAddr::V4(host), port);
            started.extend(SimulatedDify::start_at(cluster, &format!("{name}-{number}"), at).await);
        }
        if started.len() == count {
            return started;
        }
    }
}

impl Stage {
    /// Nothing where the proxy is not installed.
    pub(crate) async fn set(story: &Story, (_, launch): Proxy, whom: Whom) -> Option<Arc<Self>> {
        let cluster = Cluster::new();
        let instances = start(&cluster, "dify", story.instances).await;
        for (index, dify) in instances.iter().enumerate() {
            dify.set(|switches| (story.from_start)(index, switches));
        }
        let services = if story.beside {
            start(&Cluster::new(), "healthz", story.instances).await
        } else {
            Vec::new()
        };
        let origins: Vec<SocketAddr> = instances.iter().map(SimulatedDify::address).collect();
        let (folder, listener, admin) = (tempfile::tempdir().expect("a folder"), free_port(), free_port());
        let process = launch(&Site {
            folder: folder.path(),
            listener,
            admin,
            origins: &origins,
            weights: story.weights,
            beside: services.first().map(|service| service.address().port()),
        })?;
        let stage = Self {
            users: Users::of(listener),
            instances,
            services,
            cluster,
            watch: (whom, admin),
            folder,
            _process: Process(process),
        };
        stage.serves().await.then(|| Arc::new(stage))
    }

    async fn serves(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let answered = tokio::time::timeout(QUESTION, self.users.one(Kind::Question)).await;
            if answered.unwrap_or(false) {
                return true;
            }
            sleep(LOOK).await;
        }
        false
    }

    /// Counts how often somebody is taken out whose absence is not right, `until` then.
    async fn watch(&self, sick: Option<usize>, until: Instant) -> usize {
        let (whom, admin) = self.watch;
        let origins: Vec<SocketAddr> = self.instances.iter().map(SimulatedDify::address).collect();
        let mut watch = Watch::over(whom, admin, &origins, self.folder.path());
        let (mut before, mut wrongly) = (watch.out().await.unwrap_or_default(), 0);
        while Instant::now() < until {
            if let Some(out) = watch.out().await {
                for index in out.difference(&before).filter(|index| Some(**index) != sick) {
                    wrongly += 1;
                    if let Some(why) = watch.why(*index).await {
                        writeln!(std::io::stderr(), "taken out wrongly: {why}").expect("a reader");
                    }
                }
                before = out;
            }
            sleep(LOOK).await;
        }
        wrongly
    }

    /// Plays a story whose first step is at `start`, and tells what came of it.
    pub(crate) async fn play(self: &Arc<Self>, story: &Story, start: Instant) -> Figures {
        let asking = self.users.ask(story.load);
        let end = start + Duration::from_secs_f64(story.ends);
        let steps = async {
            for (after, step) in story.steps {
                tokio::time::sleep_until(start + Duration::from_secs_f64(*after)).await;
                step(self);
            }
        };
        let watching = async {
            tokio::time::sleep_until(start).await;
            self.watch(story.sick, end).await
        };
        let (wrongly, ()) = tokio::join!(watching, steps);
        asking.into_iter().for_each(|asking| asking.abort());
        let all = self.users.outcomes().await;
        let answered = |kind| all.iter().filter(move |one| one.kind == kind && one.good).count() as u64;
        // What was started last has been answered by now, or never will be.
        sleep(Duration::from_millis(500)).await;
        let for_nobody = self
            .cluster
            .started()
            .saturating_sub(answered(Kind::Prompt) + answered(Kind::Stream));
        let during: Vec<_> = all.iter().filter(|one| (start..end).contains(&one.sent)).collect();
        let failed = during
            .iter()
            .filter(|one| !one.good || one.kind == Kind::Question && one.took > QUESTION);
        let late = during.iter().filter(|one| one.first > LONG);
        Figures {
            asked: during.len(),
            columns: [failed.count(), late.count(), for_nobody as usize, wrongly],
        }
    }
}
