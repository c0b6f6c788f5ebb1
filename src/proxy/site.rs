//! What the configuration says of requests: who may ask for what, what goes where, and which upstreams there are.
//!
//! A request keeps the site that it began with; a reload puts another one in its place for those that come after.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::config::{Config, Rate, RouteSettings, Target};
use crate::cutover::Overlap;
use crate::gate::alarm::Alarm;
use crate::gate::cidr::CidrSet;
use crate::gate::guard::Guard;
use crate::gate::route::{RouteRow, RouteTable};
use crate::proxy::rate::Rates;
use crate::upstream::Upstream;

/// See the module's own words.
#[derive(Debug)]
pub(crate) struct Site {
    /// Who may ask for guarded paths.
    pub(crate) guard: Guard,
    /// Whose word about clients is believed.
    pub(crate) trusted: CidrSet,
    /// Notices abnormally frequent requests for guarded paths.
    pub(crate) alarm: Arc<Mutex<Alarm>>,
    /// What goes where; its indices are those of `targets`.
    routes: RouteTable,
    /// What requests need to know while two pools live.
    pub(crate) overlap: Overlap,
    targets: Vec<Destination>,
    upstreams: Arc<[Arc<Upstream>]>,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// The route's position.
    pub(crate) position: usize,
    /// What it says.
    pub(crate) route: Arc<RouteSettings>,
    /// How often each client may ask for it.
    pub(crate) rates: Option<Arc<Rates>>,
    /// The upstream that it names, if it names one.
    pub(crate) upstream: Option<Arc<Upstream>>,
}

impl Site {
    /// What `config` says, whose upstreams are `upstreams`.
    pub(crate) fn new(
        config: &Config,
        upstreams: Arc<[Arc<Upstream>]>,
        alarm: Arc<Mutex<Alarm>>,
        before: Option<&Self>,
    ) -> Self {
        let rows = config.routes.iter().enumerate().map(|(index, route)| RouteRow {
            hosts: route.hosts.clone(),
            path: route.path.clone(),
            exact: route.exact,
            index,
        });
        let targets = config.routes.iter().enumerate().map(|(position, route)| Destination {
            position,
            route: Arc::new(route.clone()),
            rates: route.client_rate.map(|rate| {
                let known = before.and_then(|before| before.rates_of(route, rate));
                known.unwrap_or_else(|| Arc::new(Rates::new(rate)))
            }),
            upstream: match &route.target {
                Target::Upstream(name) => upstreams
                    .iter()
                    .find(|upstream| upstream.settings.name == *name)
                    .cloned(),
                Target::Redirect(..) | Target::Answer(..) => None,
            },
        });
        Self {
            guard: config.guard.clone(),
            trusted: config.trusted_proxies.clone(),
            alarm,
            routes: RouteTable::new(rows),
            overlap: config.cutover.overlap.clone(),
            targets: targets.collect(),
            upstreams,
        }
    }

    /// Where clients of a route stand with this limit, if it had it.
    fn rates_of(&self, route: &RouteSettings, rate: Rate) -> Option<Arc<Rates>> {
        let same = |of: &RouteSettings| of.path == route.path && of.hosts == route.hosts && of.exact == route.exact;
        let before = self.targets.iter().find(|target| same(&target.route))?;
        before.rates.clone().filter(|rates| rates.is(rate))
    }

    /// Where a request goes; `None` where no route takes it.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Destination> {
        self.targets.get(self.routes.find(host, path)?)
    }

    /// The gate's own `/healthz`: the contract that Dify's image has, one entry an upstream.
    pub(crate) fn summary(&self) -> (u16, String) {
        let all = self
            .upstreams
            .iter()
            .map(|upstream| (upstream.settings.name.as_str(), upstream.can_serve()));
        let failed: Vec<&str> = all.clone().filter(|(_, fit)| !fit).map(|(name, _)| name).collect();
        let details: serde_json::Map<_, _> = all.map(|(name, fit)| (name.to_owned(), fit.into())).collect();
        if failed.is_empty() {
            (200, json!({"status": "healthy", "details": details}).to_string())
        } else {
            (
                503,
                json!({"status": "unhealthy", "failed": failed, "details": details}).to_string(),
            )
        }
    }
}
